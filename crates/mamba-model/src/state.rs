//! The recurrent state: all that a sequence's past is to the model.

use statetune_tensor::{DType, Staged, Tensor, Var};

use crate::ModelError;
use crate::config::MambaConfig;

/// The state of several sequences after some tokens, per layer: the last K - 1 inputs of the convolution
/// `[S, D, K - 1]` and the state of the scan `[S, D, N]`.
#[derive(Debug, Clone)]
pub struct State {
    layers: Vec<LayerState>,
    sequences: usize,
}

/// One layer's part.
#[derive(Debug, Clone)]
pub(crate) struct LayerState {
    pub conv: Tensor, // [S, D, K - 1]
    pub ssm: Tensor,  // [S, D, N]
}

/// A state inside a computation, through which gradients flow.
#[derive(Debug, Clone)]
pub struct StateVars {
    pub(crate) layers: Vec<(Var, Var)>, // conv, ssm
    pub(crate) row_of: Staged<usize>,   // [S]
}

impl State {
    pub(crate) fn new(layers: Vec<LayerState>, sequences: usize) -> State {
        State { layers, sequences }
    }

    /// The number of sequences.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// Layer by layer.
    #[cfg(feature = "cuda")]
    pub(crate) fn layers(&self) -> &[LayerState] {
        &self.layers
    }

    /// A copy of its own, which may be changed in place.
    ///
    /// # Errors
    /// When a device's memory does not suffice.
    #[cfg(feature = "cuda")]
    pub(crate) fn copied(&self) -> Result<State, ModelError> {
        let copy = |layer: &LayerState| Ok(LayerState { conv: layer.conv.copied()?, ssm: layer.ssm.copied()? });
        let layers = self.layers.iter().map(copy).collect::<Result<_, ModelError>>()?;
        Ok(State { layers, sequences: self.sequences })
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        let size = |t: &Tensor| t.len() * t.dtype().bytes();
        self.layers.iter().map(|layer| size(&layer.conv) + size(&layer.ssm)).sum()
    }

    /// The state of the sequences `rows`, in that order; a sequence may be taken more than once.
    ///
    /// # Errors
    /// When there is no such sequence.
    pub fn gather(&self, rows: &[usize]) -> Result<State, ModelError> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.sequences) {
            return Err(ModelError::State { reason: format!("sequence {row} of {}", self.sequences) });
        }
        let gather =
            |layer: &LayerState| Ok(LayerState { conv: layer.conv.take_rows(rows)?, ssm: layer.ssm.take_rows(rows)? });
        let layers = self.layers.iter().map(gather).collect::<Result<_, ModelError>>()?;
        Ok(State { layers, sequences: rows.len() })
    }

    /// The states of several sequences as one, in order.
    ///
    /// # Errors
    /// When they are not states of the same model, or there are none.
    pub fn concat(states: &[&State]) -> Result<State, ModelError> {
        let first = states.first().ok_or_else(|| ModelError::State { reason: "there is nothing to join".into() })?;
        if states.iter().any(|state| state.layers.len() != first.layers.len()) {
            return Err(ModelError::State { reason: "the states have different numbers of layers".into() });
        }
        let join = |part: &dyn Fn(&State) -> Tensor| -> Result<Tensor, ModelError> {
            let parts: Vec<Tensor> = states.iter().map(|state| part(state)).collect();
            if let Some(other) = parts.iter().find(|p| p.shape()[1..] != parts[0].shape()[1..]) {
                let reason =
                    format!("states of shapes {:?} and {:?} cannot be joined", parts[0].shape(), other.shape());
                return Err(ModelError::State { reason });
            }
            Ok(Tensor::stacked(&parts)?)
        };
        let layer = |i: usize| {
            Ok(LayerState {
                conv: join(&|state| state.layers[i].conv.clone())?,
                ssm: join(&|state| state.layers[i].ssm.clone())?,
            })
        };
        let layers = (0..first.layers.len()).map(layer).collect::<Result<_, ModelError>>()?;
        Ok(State { layers, sequences: states.iter().map(|state| state.sequences).sum() })
    }

    /// The tensors by name (`layers.0.conv`, `layers.0.ssm`, ...): what a file of states holds.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let named = |(i, layer): (usize, &LayerState)| {
            [(format!("layers.{i}.conv"), layer.conv.clone()), (format!("layers.{i}.ssm"), layer.ssm.clone())]
        };
        self.layers.iter().enumerate().flat_map(named).collect()
    }

    /// The inverse of [`State::tensors`] for a model of this configuration whose layers have `added_states` further state
    /// dimensions by patches (see [`Patches::added_states`](crate::Patches::added_states)).
    ///
    /// # Errors
    /// When a tensor is missing or of another shape.
    pub fn from_tensors(
        config: &MambaConfig,
        added_states: &[usize],
        dtype: DType,
        mut take: impl FnMut(&str) -> Option<Tensor>,
    ) -> Result<State, ModelError> {
        let mut sequences = None;
        let mut named = |name: String, shape: [usize; 2]| {
            let tensor = take(&name).ok_or_else(|| ModelError::State { reason: format!("`{name}` is missing") })?;
            let found = tensor.shape().first().copied().unwrap_or(0);
            let count = *sequences.get_or_insert(found);
            if tensor.shape() != [count, shape[0], shape[1]] || tensor.dtype() != dtype {
                let found = format!("{} {:?}", tensor.dtype(), tensor.shape());
                let expected = format!("{dtype} [{count}, {}, {}]", shape[0], shape[1]);
                return Err(ModelError::State { reason: format!("`{name}` is {found}, expected {expected}") });
            }
            Ok(tensor)
        };
        let mut layers = Vec::new();
        for i in 0..config.num_hidden_layers {
            layers.push(LayerState {
                conv: named(format!("layers.{i}.conv"), [config.d_inner, config.d_conv - 1])?,
                ssm: named(
                    format!("layers.{i}.ssm"),
                    [config.d_inner, config.d_state + added_states.get(i).copied().unwrap_or(0)],
                )?,
            });
        }
        Ok(State { layers, sequences: sequences.unwrap_or(0) })
    }

    /// The state as constants of a computation, sequence by sequence.
    pub fn vars(&self) -> StateVars {
        StateVars {
            layers: self.layers.iter().map(|l| (l.conv.clone().into(), l.ssm.clone().into())).collect(),
            row_of: (0..self.sequences).collect(),
        }
    }
}

impl StateVars {
    /// The state of one sequence as the start of `sequences` others: a shared prefix that was run once.
    ///
    /// # Errors
    /// When it holds more than one sequence.
    pub fn shared_by(mut self, sequences: usize) -> Result<StateVars, ModelError> {
        if self.row_of.len() != 1 {
            let reason = format!("a shared prefix is one sequence, found {}", self.row_of.len());
            return Err(ModelError::State { reason });
        }
        self.row_of = vec![self.row_of[0]; sequences].into();
        Ok(self)
    }

    /// The values, without history.
    pub fn detach(&self) -> State {
        let layer = |(conv, ssm): &(Var, Var)| LayerState { conv: conv.tensor().clone(), ssm: ssm.tensor().clone() };
        State::new(self.layers.iter().map(layer).collect(), self.row_of.len())
    }
}
