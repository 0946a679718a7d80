//! One Mamba-1 block (Gu and Dao 2023, figure 3): in_proj, convolution, the selective scan with its projections,
//! out_proj. It knows sites and operands, no method.

use statetune_tensor::ops::{self, DropoutRows};
use statetune_tensor::{Staged, Tape, Var};

use crate::batch::Batch;
use crate::bound::Bound;
use crate::ops::{Conv1d, ScanOperands, Table, conv1d, scan};
use crate::parameters::Id;
use crate::patched_linear::{PatchedLinear, product};
use crate::site::{Operand, VirtualPlace};
use crate::{Mamba, ModelError};

/// What a forward pass needs besides activations.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub tape: &'a Tape,
    pub model: &'a Mamba,
    pub bound: &'a Bound,
    pub batch: &'a Batch,
}

/// A layer's states on the way in.
pub(crate) struct InitialStates<'a> {
    pub conv: &'a Var,
    pub ssm: &'a Var,
    pub row_of: &'a Staged<usize>,
}

/// The tables that convolution and scan start from; zeros where absent.
#[derive(Clone, Default)]
struct Start {
    conv: Option<Table>,
    ssm: Option<Table>,
}

/// The final states of convolution and scan.
type FinalStates = (Var, Var);

impl Context<'_> {
    /// A parameter that enters operations as a value: trained, or constant.
    pub fn value(&self, id: Id) -> Var {
        self.bound.trained(id).cloned().unwrap_or_else(|| self.model.value(id).clone().into())
    }

    /// x Wᵀ + bias with everything patched onto W, cut into `splits`.
    pub fn linear(&self, id: Id, bias: Option<Id>, x: &Var, splits: &[usize]) -> Result<Vec<Var>, ModelError> {
        let rows: &DropoutRows = self.batch.dropout_rows();
        let layer = PatchedLinear {
            weight: self.model.weight(id)?,
            trained: self.bound.trained(id),
            bias: bias.map(|id| self.value(id)),
            low_rank: self.bound.low_rank(id),
            columns: self.bound.columns(id),
            biases: self.bound.biases(id),
        };
        layer.apply(self.tape, x, splits, rows)
    }

    /// An operand with one row, that all sequences share.
    fn shared(&self, layer: usize, operand: Operand) -> Result<Option<Table>, ModelError> {
        let Some(value) = self.bound.operand(layer, operand) else { return Ok(None) };
        let mut shape = vec![1];
        shape.extend_from_slice(value.shape());
        let values = ops::reshape(self.tape, value, &shape)?;
        Ok(Some(Table { values, row_of: self.batch.shared_row().clone() }))
    }

    /// The bias of a layer's convolution, with those patched onto it.
    pub fn conv_bias(&self, layer: usize) -> Result<Option<Var>, ModelError> {
        let ids = &self.model.ids().layers[layer];
        let mut sum = ids.conv_bias.map(|id| self.value(id));
        for (_, bias) in self.bound.biases(ids.conv_weight) {
            sum = Some(sum.map_or_else(|| Ok(bias.clone()), |stored| ops::add(self.tape, &stored, bias))?);
        }
        Ok(sum)
    }

    /// What sequences of a layer begin from: the trained initial states, then the virtual inputs, run once for all.
    fn start(&self, layer: usize) -> Result<Start, ModelError> {
        let conv = self.shared(layer, Operand::ConvInitial)?;
        let mut start = Start { conv, ssm: self.shared(layer, Operand::ScanInitial)? };
        for (place, inputs) in self.bound.virtual_inputs(layer) {
            let inputs = &ops::cast(self.tape, inputs, self.model.compute())?;
            let alone = Batch::virtual_inputs(inputs.shape()[0]);
            let context = Context { batch: &alone, ..*self };
            let x = match place {
                VirtualPlace::BeforeConv => inputs.clone(),
                VirtualPlace::BeforeInProj => {
                    let (ids, d_inner) = (&self.model.ids().layers[layer], self.model.config().d_inner);
                    context.linear(ids.in_proj, ids.in_proj_bias, inputs, &[d_inner, d_inner])?.remove(0)
                }
            };
            let first = |table: Table| Table { row_of: alone.shared_row().clone(), ..table };
            let from = Start { conv: start.conv.take().map(first), ssm: start.ssm.take().map(first) };
            let (_, states) = context.convolve_and_scan(layer, &x, None, from, true)?;
            let (conv, ssm) = states.expect("asked for");
            let shared = |values: Var| Some(Table { values, row_of: self.batch.shared_row().clone() });
            start = Start { conv: shared(conv), ssm: shared(ssm) };
        }
        Ok(start)
    }

    /// The mixer of a layer: x `[T, d_model]` to `[T, d_model]`, and the final states if asked for.
    pub fn mixer(
        &self,
        layer: usize,
        x: &Var,
        initial: Option<InitialStates<'_>>,
        final_states: bool,
    ) -> Result<(Var, Option<FinalStates>), ModelError> {
        let (config, ids) = (self.model.config(), &self.model.ids().layers[layer]);
        let d_inner = config.d_inner;
        let mut xz = self.linear(ids.in_proj, ids.in_proj_bias, x, &[d_inner, d_inner])?.into_iter();
        let (x, z) = (xz.next().expect("split in two"), xz.next().expect("split in two"));
        // Given states continue sequences; the trained ones begin them.
        let start = match initial {
            Some(given) => {
                let table = |values: &Var| Some(Table { values: values.clone(), row_of: given.row_of.clone() });
                Start { conv: table(given.conv), ssm: table(given.ssm) }
            }
            None => self.start(layer)?,
        };
        let (y, states) = self.convolve_and_scan(layer, &x, Some(&z), start, final_states)?;
        let out = self.linear(ids.out_proj, ids.out_proj_bias, &y, &[config.d_model])?.remove(0);
        Ok((out, states))
    }

    /// From x `[T, D]` to the readout, gated by z if there is one.
    fn convolve_and_scan(
        &self,
        layer: usize,
        x: &Var,
        z: Option<&Var>,
        start: Start,
        final_states: bool,
    ) -> Result<(Var, Option<FinalStates>), ModelError> {
        let (config, ids) = (self.model.config(), &self.model.ids().layers[layer]);
        let (tape, offsets) = (self.tape, self.batch.offsets());
        let (d_inner, d_state) = (config.d_inner, config.d_state);
        let (conv_weight, conv_bias) = (self.value(ids.conv_weight), self.conv_bias(layer)?);
        let initial_row = start.conv.as_ref().map_or(self.batch.shared_row(), |table| &table.row_of).clone();
        let sequence_of = self.batch.sequence_of().clone();
        let conv = Conv1d { offsets: offsets.clone(), sequence_of, initial_row, final_state: final_states };
        let conv_initial = start.conv.as_ref().map(|table| &table.values);
        let (u, conv_state) = conv1d(tape, conv, x, &conv_weight, conv_bias.as_ref(), conv_initial)?;

        let mut parts = self.linear(ids.x_proj, None, &u, &[config.dt_rank, d_state, d_state])?.into_iter();
        let mut part = || parts.next().expect("split in three");
        let (dt, mut b, mut c) = (part(), part(), part());
        let delta = self.linear(ids.dt_proj, None, &dt, &[d_inner])?.remove(0);
        let mut a = match self.bound.trained(ids.a_log) {
            Some(a_log) => ops::neg_exp(tape, a_log)?,
            None => self.model.a(layer).clone().into(),
        };
        if let Some(added) = self.bound.added_state(layer) {
            a = ops::join_columns(tape, &[&a, &added.a])?;
            b = ops::join_columns(tape, &[&b, &product(tape, &u, &added.b)?])?;
            c = ops::join_columns(tape, &[&c, &product(tape, &u, &added.c)?])?;
        }
        let c_previous = match self.bound.operand(layer, Operand::PreviousMap) {
            // Of further state dimensions it reads nothing.
            Some(map) => Some(ops::place_columns(tape, &product(tape, &u, map)?, 0, a.shape()[1])?),
            None => None,
        };
        let (delta_bias, d_skip) = (self.value(ids.dt_bias), self.value(ids.d));
        let operands = ScanOperands {
            u: &u,
            delta: &delta,
            a: &a,
            b: &b,
            c: &c,
            delta_bias: Some(&delta_bias),
            d_skip: Some(&d_skip),
            z,
            initial: start.ssm,
            state_scale: self.shared(layer, Operand::StateScale)?,
            state_extra: self.shared(layer, Operand::StateExtra)?,
            state_offset: self.shared(layer, Operand::StateOffset)?,
            output_offset: self.shared(layer, Operand::OutputOffset)?,
            c_previous: c_previous.as_ref(),
        };
        let (y, ssm_state) = scan(tape, offsets, final_states, &operands)?;
        Ok((y, conv_state.zip(ssm_state)))
    }
}
