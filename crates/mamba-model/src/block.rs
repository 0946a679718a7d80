//! One Mamba-1 block (Gu and Dao 2023, figure 3): in_proj, convolution, the selective scan with its projections,
//! out_proj. It knows sites and operands, no method.

use std::sync::Arc;

use statetune_tensor::ops::{self, LowRankInput};
use statetune_tensor::{Tape, Var};

use crate::batch::Batch;
use crate::bound::Bound;
use crate::ops::{Conv1d, ScanOperands, Table, conv1d, scan};
use crate::parameters::Id;
use crate::site::Operand;
use crate::{Mamba, ModelError};

/// What a forward pass needs besides activations.
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
    pub row_of: &'a Arc<[usize]>,
}

impl Context<'_> {
    /// A parameter that enters operations as a value: trained, or constant.
    pub fn value(&self, id: Id) -> Var {
        self.bound.trained(id).cloned().unwrap_or_else(|| self.model.value(id).clone().into())
    }

    /// x Wᵀ + bias with everything patched onto W, cut into `splits`.
    fn linear(&self, id: Id, bias: Option<Id>, x: &Var, splits: &[usize]) -> Result<Vec<Var>, ModelError> {
        let bias = bias.map(|id| self.value(id));
        let low_rank = self.bound.low_rank(id);
        let dropped = low_rank
            .iter()
            .map(|part| part.dropped(self.tape, x, self.batch.dropout_rows()))
            .collect::<Result<Vec<_>, _>>()?;
        let parts: Vec<LowRankInput<'_>> = low_rank
            .iter()
            .zip(&dropped)
            .map(|(part, x)| LowRankInput {
                rows: part.rows.clone(),
                scale: part.scale,
                x: x.as_ref(),
                a: &part.a,
                b: &part.b,
            })
            .collect();
        let weight = self.model.weight(id)?;
        Ok(ops::linear(self.tape, x, &weight, self.bound.trained(id), bias.as_ref(), splits, &parts)?)
    }

    /// An operand with one row, that all sequences share.
    fn shared(&self, layer: usize, operand: Operand) -> Result<Option<Table>, ModelError> {
        let Some(value) = self.bound.operand(layer, operand) else { return Ok(None) };
        let mut shape = vec![1];
        shape.extend_from_slice(value.shape());
        let values = ops::reshape(self.tape, value, &shape)?;
        Ok(Some(Table { values, row_of: self.batch.shared_row().clone() }))
    }

    /// The mixer of a layer: x `[T, d_model]` to `[T, d_model]`, and the final states if asked for.
    pub fn mixer(
        &self,
        layer: usize,
        x: &Var,
        initial: Option<InitialStates<'_>>,
        final_states: bool,
    ) -> Result<(Var, Option<(Var, Var)>), ModelError> {
        let (config, ids) = (self.model.config(), &self.model.ids().layers[layer]);
        let (tape, offsets) = (self.tape, self.batch.offsets());
        let (d_inner, d_state) = (config.d_inner, config.d_state);
        let mut xz = self.linear(ids.in_proj, ids.in_proj_bias, x, &[d_inner, d_inner])?.into_iter();
        let (x, z) = (xz.next().expect("split in two"), xz.next().expect("split in two"));

        // Given states continue sequences; the trained ones begin them.
        let (conv_initial, scan_initial) = match initial {
            Some(given) => {
                let table = |values: &Var| Table { values: values.clone(), row_of: given.row_of.clone() };
                (Some(table(given.conv)), Some(table(given.ssm)))
            }
            None => (self.shared(layer, Operand::ConvInitial)?, self.shared(layer, Operand::ScanInitial)?),
        };
        let (conv_weight, conv_bias) = (self.value(ids.conv_weight), ids.conv_bias.map(|id| self.value(id)));
        let initial_row = conv_initial.as_ref().map_or(self.batch.shared_row(), |table| &table.row_of).clone();
        let conv = Conv1d { offsets: offsets.clone(), initial_row, final_state: final_states };
        let conv_initial = conv_initial.as_ref().map(|table| &table.values);
        let (u, conv_state) = conv1d(tape, conv, &x, &conv_weight, conv_bias.as_ref(), conv_initial)?;

        let mut parts = self.linear(ids.x_proj, None, &u, &[config.dt_rank, d_state, d_state])?.into_iter();
        let mut part = || parts.next().expect("split in three");
        let (dt, b, c) = (part(), part(), part());
        let delta = self.linear(ids.dt_proj, None, &dt, &[d_inner])?.remove(0);
        let a = match self.bound.trained(ids.a_log) {
            Some(a_log) => ops::neg_exp(tape, a_log)?,
            None => self.model.a(layer).clone().into(),
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
            z: Some(&z),
            initial: scan_initial,
            state_scale: self.shared(layer, Operand::StateScale)?,
            state_extra: self.shared(layer, Operand::StateExtra)?,
            state_offset: self.shared(layer, Operand::StateOffset)?,
            output_offset: self.shared(layer, Operand::OutputOffset)?,
            c_previous: None,
        };
        let (y, ssm_state) = scan(tape, offsets, final_states, &operands)?;
        let out = self.linear(ids.out_proj, ids.out_proj_bias, &y, &[config.d_model])?.remove(0);
        Ok((out, conv_state.zip(ssm_state)))
    }
}
