//! One token of every sequence on a device: states are changed where they lie, and a step is one captured graph.
//!
//! There are three ways, by what is patched. Where no linear site is, a step of few sequences is four launches a layer, of many
//! five to eight (`fused.rs`); where the scan's readout is the plain one or has offsets, projections go through the patched layers and only
//! convolution and scan take a step (`stepped.rs`); anything else runs as a batch of sequences of one token, whose final states
//! are copied back.

mod fused;
mod sequences;
mod stepped;

use statetune_ssm_kernels::decode::cuda as kernel;
use statetune_ssm_kernels::runtime::cuda::{Cuda, View};
use statetune_tensor::cuda::DeviceTensor;
use statetune_tensor::{Staged, Tape};

use super::decoder::Decoder;
use crate::batch::Batch;
use crate::bound::Bound;
use crate::site::Operand;
use crate::state::State;
use crate::{Mamba, ModelError};

use fused::Fused;
pub(super) use sequences::DeviceSequences;

/// How a step is taken.
pub(super) struct DeviceStep {
    cuda: Cuda,
    fused: Option<Fused>,
    stepped: bool,
}

/// What a step leaves.
#[derive(Clone, Copy)]
enum Want<'a> {
    /// The logits `[S, V]`.
    Logits(&'a DeviceTensor),
    /// The most probable token of each sequence `[S]` (u32).
    Chosen(View<'a>),
}

impl DeviceStep {
    pub fn new(cuda: &Cuda, model: &Mamba, tape: &Tape, bound: &Bound) -> Result<DeviceStep, ModelError> {
        let stepped = (0..model.config().num_hidden_layers).all(|layer| {
            let read = [Operand::StateScale, Operand::StateExtra, Operand::PreviousMap];
            bound.added_state(layer).is_none() && read.iter().all(|&operand| bound.operand(layer, operand).is_none())
        });
        let fused = if stepped { Fused::of(cuda, model, tape, bound)? } else { None };
        Ok(DeviceStep { cuda: cuda.clone(), fused, stepped })
    }

    /// One token of every sequence, with a new state.
    pub fn step(
        &self,
        decoder: &Decoder<'_>,
        batch: &Batch,
        state: &State,
    ) -> Result<(State, statetune_tensor::Tensor), ModelError> {
        decoder.model.check_batch(batch, Some((state.layers().len(), state.sequences())))?;
        let after = state.copied()?;
        let shape = [batch.sequences(), decoder.model.config().vocab_size];
        let logits = DeviceTensor::unset(&self.cuda, decoder.model.compute(), &shape)?;
        let rows = (0..batch.sequences() as u32).collect();
        self.take(decoder, batch, &rows, &after, Want::Logits(&logits))?;
        Ok((after, logits.into()))
    }

    /// Takes the states on by the batch's tokens, one of each sequence. `rows` counts the sequences.
    fn take(
        &self,
        decoder: &Decoder<'_>,
        batch: &Batch,
        rows: &Staged<u32>,
        state: &State,
        want: Want<'_>,
    ) -> Result<(), ModelError> {
        let (cuda, sequences) = (&self.cuda, batch.sequences());
        if let Some(fused) = &self.fused {
            return Ok(fused.take(cuda, batch.ids().on(cuda)?, state, sequences, want)?);
        }
        let (model, tape, bound) = (decoder.model, &decoder.tape, &decoder.bound);
        let hidden = match self.stepped {
            true => stepped::hidden(cuda, model, tape, bound, batch, state)?,
            false => {
                let output = model.forward(tape, bound, batch, Some(&state.vars()), true)?;
                for (own, new) in state.layers().iter().zip(output.states.expect("asked for").detach().layers()) {
                    for (own, new) in [(&own.conv, &new.conv), (&own.ssm, &new.ssm)] {
                        let new = new.on_cuda(cuda)?.dense()?;
                        cuda.copy(own.on_cuda(cuda)?.view(), new.view())?;
                    }
                }
                output.hidden
            }
        };
        let logits = model.logits(tape, bound, &hidden, rows.clone())?;
        let logits = logits.tensor().on_cuda(cuda)?.dense()?;
        let vocab = model.config().vocab_size;
        match want {
            Want::Logits(to) => cuda.copy(to.view(), logits.view()),
            Want::Chosen(to) => kernel::argmax(cuda, to, logits.view(), sequences, vocab),
        }?;
        Ok(())
    }
}
