//! The recurrent state: all that a sequence's past is to the model.

#[cfg(feature = "cuda")]
use statetune_tensor::cuda::DeviceTensor;
use statetune_tensor::{DType, Gradients, Staged, Tape, Tensor, Var};

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

/// The gradient of a [`StateVars`], per layer; `None` where it is zero.
#[derive(Debug, Clone)]
pub struct StateGradient {
    layers: Vec<(Option<Tensor>, Option<Tensor>)>, // conv, ssm
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

    /// Copies the states of the sequences `from` over those of `to`, in place on a device; one may be a source and a target.
    #[cfg(feature = "cuda")]
    pub(crate) fn move_rows(
        &self,
        cuda: &statetune_ssm_kernels::runtime::cuda::Cuda,
        from: &[usize],
        to: &[usize],
    ) -> Result<(), ModelError> {
        use statetune_ssm_kernels::embedding::cuda::{gather_rows, put_rows};
        let index = |rows: &[usize]| cuda.upload(&rows.iter().map(|&row| row as u32).collect::<Vec<_>>());
        let (from, to) = (index(from)?, index(to)?);
        for tensor in self.layers.iter().flat_map(|layer| [&layer.conv, &layer.ssm]) {
            let own = tensor.on_cuda(cuda)?;
            let width = own.len() / self.sequences;
            // All are read before the first is written.
            let lifted = DeviceTensor::unset(cuda, own.dtype(), &[from.len(), width])?;
            gather_rows(cuda, lifted.view(), own.view(), from.view(), self.sequences, width)?;
            put_rows(cuda, own.view(), lifted.view(), to.view(), self.sequences, width)?;
        }
        Ok(())
    }

    /// Copies the states of all sequences of another over those of `to`, in place on a device.
    #[cfg(feature = "cuda")]
    pub(crate) fn put_rows(
        &self,
        cuda: &statetune_ssm_kernels::runtime::cuda::Cuda,
        other: &State,
        to: &[usize],
    ) -> Result<(), ModelError> {
        use statetune_ssm_kernels::embedding::cuda::put_rows;
        let to = cuda.upload(&to.iter().map(|&row| row as u32).collect::<Vec<_>>())?;
        for (own, other) in self.layers.iter().zip(&other.layers) {
            for (own, other) in [(&own.conv, &other.conv), (&own.ssm, &other.ssm)] {
                let (own, other) = (own.on_cuda(cuda)?, other.on_cuda(cuda)?.dense()?);
                put_rows(cuda, own.view(), other.view(), to.view(), self.sequences, own.len() / self.sequences)?;
            }
        }
        Ok(())
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

    /// The state with memory of its own, which may be changed in place: itself, as far as nobody shares it.
    ///
    /// # Errors
    /// When a device's memory does not suffice.
    #[cfg(feature = "cuda")]
    pub(crate) fn unshared(self, cuda: &statetune_ssm_kernels::runtime::cuda::Cuda) -> Result<State, ModelError> {
        let own = |tensor: Tensor| -> Result<Tensor, ModelError> {
            Ok(if tensor.on_cuda(cuda)?.is_alone() { tensor } else { tensor.copied()? })
        };
        let layer = |layer: LayerState| Ok(LayerState { conv: own(layer.conv)?, ssm: own(layer.ssm)? });
        let layers = self.layers.into_iter().map(layer).collect::<Result<_, ModelError>>()?;
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
        self.vars_of(&(0..self.sequences).collect::<Vec<_>>())
    }

    /// The same of the sequences `rows`, in that order, without a copy; one may be taken more than once, and all exist.
    pub(crate) fn vars_of(&self, rows: &[usize]) -> StateVars {
        StateVars {
            layers: self.layers.iter().map(|l| (l.conv.clone().into(), l.ssm.clone().into())).collect(),
            row_of: rows.into(),
        }
    }

    /// The same as leaves of a recording where `like`, a state that came about in the same way, depends on one: elsewhere
    /// nobody asks for a gradient.
    ///
    /// # Panics
    /// When the other has another number of layers.
    #[track_caller]
    pub fn leaves(&self, tape: &Tape, like: &StateVars) -> StateVars {
        assert_eq!(self.layers.len(), like.layers.len(), "states of different models");
        let leaf = |tensor: &Tensor, like: &Var| match like.is_tracked() {
            true => tape.leaf(tensor.clone()),
            false => tensor.clone().into(),
        };
        let layers = self.layers.iter().zip(&like.layers);
        StateVars {
            layers: layers.map(|(own, (conv, ssm))| (leaf(&own.conv, conv), leaf(&own.ssm, ssm))).collect(),
            row_of: (0..self.sequences).collect(),
        }
    }

    /// Room on a CUDA device for the state of one sequence, for [`State::copy_to`], in the pool that is in use now.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    #[cfg(feature = "cuda")]
    pub fn room(
        config: &MambaConfig,
        added_states: &[usize],
        cuda: &statetune_ssm_kernels::runtime::Cuda,
    ) -> Result<State, ModelError> {
        let unset = |width: usize| -> Result<Tensor, ModelError> {
            let shape = [1, config.d_inner, width];
            Ok(statetune_tensor::cuda::DeviceTensor::unset(cuda, DType::F32, &shape)?.into())
        };
        let layer = |i: usize| {
            let added = added_states.get(i).copied().unwrap_or(0);
            Ok(LayerState { conv: unset(config.d_conv - 1)?, ssm: unset(config.d_state + added)? })
        };
        let layers = (0..config.num_hidden_layers).map(layer).collect::<Result<_, ModelError>>()?;
        Ok(State { layers, sequences: 1 })
    }

    /// Copies the values to where another state of the same shape is kept on the device.
    ///
    /// # Errors
    /// When the device fails, or one of the states is not there.
    ///
    /// # Panics
    /// When the shapes differ.
    #[cfg(feature = "cuda")]
    #[track_caller]
    pub fn copy_to(&self, room: &State, cuda: &statetune_ssm_kernels::runtime::Cuda) -> Result<(), ModelError> {
        assert_eq!(self.layers.len(), room.layers.len(), "states of different models");
        for (from, to) in self.layers.iter().zip(&room.layers) {
            for (from, to) in [(&from.conv, &to.conv), (&from.ssm, &to.ssm)] {
                let copied = cuda.copy(to.on_cuda(cuda)?.view(), from.on_cuda(cuda)?.view());
                copied.map_err(statetune_tensor::TensorError::from)?;
            }
        }
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl StateGradient {
    /// The same where a state of the same shape was kept that is not needed again.
    ///
    /// # Errors
    /// When the device fails, or one of the two is not there.
    ///
    /// # Panics
    /// When the shapes differ.
    pub fn moved_to(
        self,
        room: State,
        cuda: &statetune_ssm_kernels::runtime::Cuda,
    ) -> Result<StateGradient, ModelError> {
        let moved = |gradient: Option<Tensor>, to: Tensor| -> Result<Option<Tensor>, ModelError> {
            let Some(gradient) = gradient else { return Ok(None) };
            let copied = cuda.copy(to.on_cuda(cuda)?.view(), gradient.on_cuda(cuda)?.view());
            copied.map_err(statetune_tensor::TensorError::from)?;
            Ok(Some(to))
        };
        assert_eq!(self.layers.len(), room.layers.len(), "the gradient of another model's state");
        let layers = self.layers.into_iter().zip(room.layers);
        let layers = layers.map(|((conv, ssm), room)| Ok((moved(conv, room.conv)?, moved(ssm, room.ssm)?)));
        Ok(StateGradient { layers: layers.collect::<Result<_, ModelError>>()? })
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

    /// Whether any of it depends on a leaf.
    pub fn is_tracked(&self) -> bool {
        self.layers.iter().any(|(conv, ssm)| conv.is_tracked() || ssm.is_tracked())
    }

    /// The gradients of leaves, taken out of those of a backward pass.
    pub fn gradient(&self, gradients: &mut Gradients) -> StateGradient {
        let layers = self.layers.iter().map(|(conv, ssm)| (gradients.take(conv), gradients.take(ssm))).collect();
        StateGradient { layers }
    }

    /// What a backward pass begins from where the gradient of these final states is known.
    ///
    /// # Panics
    /// When the gradient is one of another number of layers.
    #[track_caller]
    pub fn seeds(&self, gradient: StateGradient) -> Vec<(&Var, Tensor)> {
        assert_eq!(self.layers.len(), gradient.layers.len(), "the gradient of another model's state");
        let layers = self.layers.iter().zip(gradient.layers);
        let pairs = layers.flat_map(|((conv, ssm), (d_conv, d_ssm))| [(conv, d_conv), (ssm, d_ssm)]);
        pairs.filter_map(|(var, gradient)| Some((var, gradient?))).collect()
    }
}
