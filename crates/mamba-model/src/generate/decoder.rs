//! A model with its patches, bound once for many steps: what they are made of is not computed anew for every token.

#[cfg(feature = "cuda")]
use statetune_tensor::Device;
use statetune_tensor::{Tape, Tensor};

use super::GenerateOptions;
#[cfg(feature = "cuda")]
use super::Sampling;
#[cfg(feature = "cuda")]
use super::on_device::{DeviceSequences, DeviceStep};
use super::sequences::{Sequences, Stepping};
use crate::batch::Batch;
use crate::bound::Bound;
use crate::patch::Patches;
use crate::state::State;
use crate::{Mamba, ModelError};

pub(super) struct Decoder<'a> {
    pub model: &'a Mamba,
    pub tape: Tape,
    pub bound: Bound,
    /// How one token is taken on a device.
    #[cfg(feature = "cuda")]
    device: Option<DeviceStep>,
}

impl Decoder<'_> {
    pub fn new<'a>(model: &'a Mamba, patches: &Patches) -> Result<Decoder<'a>, ModelError> {
        let tape = Tape::inference(model.device());
        let bound = Bound::new(&tape, model, patches, None)?;
        #[cfg(feature = "cuda")]
        let device = match model.device() {
            Device::Cuda(cuda) => Some(DeviceStep::new(cuda, model, &tape, &bound)?),
            Device::Cpu(_) => None,
        };
        Ok(Decoder {
            model,
            tape,
            bound,
            #[cfg(feature = "cuda")]
            device,
        })
    }

    /// Sequences that have consumed their prompts.
    pub fn begin<S: AsRef<[u32]>>(
        &self,
        prompts: &[S],
        options: &GenerateOptions,
    ) -> Result<Box<dyn Sequences + '_>, ModelError> {
        let (state, logits) = self.prefill(prompts, options.prefill_chunk)?;
        #[cfg(feature = "cuda")]
        if let (Some(device), Sampling::Greedy) = (&self.device, options.sampling) {
            return Ok(Box::new(DeviceSequences::greedy(self, device, state, logits, options.max_new_tokens)?));
        }
        self.sequences(state, logits, options.max_new_tokens)
    }

    /// Sequences in this state, whose next tokens are chosen on the host from their logits, at most so many.
    pub fn sequences(
        &self,
        state: State,
        logits: Tensor,
        max_new_tokens: usize,
    ) -> Result<Box<dyn Sequences + '_>, ModelError> {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.device {
            return Ok(Box::new(DeviceSequences::drawn(self, device, state, logits, max_new_tokens)?));
        }
        let _ = max_new_tokens; // a device plans for them
        Ok(Box::new(Stepping { decoder: self, state, logits }))
    }

    pub fn prefill<S: AsRef<[u32]>>(&self, prompts: &[S], chunk: usize) -> Result<(State, Tensor), ModelError> {
        if chunk == 0 {
            return Err(ModelError::Generation { reason: "a prefill chunk has at least one token".into() });
        }
        if let Some(empty) = prompts.iter().position(|prompt| prompt.as_ref().is_empty()) {
            let reason = format!("prompt {empty} has no tokens; start it with a begin- or end-of-text token");
            return Err(ModelError::Generation { reason });
        }
        let rounds = prompts.iter().map(|p| p.as_ref().len().div_ceil(chunk)).max().unwrap_or(0);
        if rounds == 1 {
            return self.advance(&Batch::new(prompts)?, None);
        }
        let mut logits: Vec<Option<Tensor>> = vec![None; prompts.len()];
        let mut states: Vec<Option<State>> = vec![None; prompts.len()];
        for round in 0..rounds {
            let start = round * chunk;
            let active: Vec<usize> = (0..prompts.len()).filter(|&s| prompts[s].as_ref().len() > start).collect();
            let part = |s: usize| {
                let prompt = prompts[s].as_ref();
                &prompt[start..prompt.len().min(start + chunk)]
            };
            let batch = Batch::new(&active.iter().map(|&s| part(s)).collect::<Vec<_>>())?;
            let before: Option<Vec<&State>> = active.iter().map(|&s| states[s].as_ref()).collect();
            let before = before.map(|states| State::concat(&states)).transpose()?;
            let (after, last) = self.advance(&batch, before.as_ref())?;
            for (i, &s) in active.iter().enumerate() {
                states[s] = Some(after.gather(&[i])?);
                logits[s] = Some(last.take_rows(&[i])?);
            }
        }
        let states: Vec<&State> = states.iter().flatten().collect();
        let logits: Vec<Tensor> = logits.into_iter().flatten().collect();
        Ok((State::concat(&states)?, Tensor::stacked(&logits)?))
    }

    pub fn step(&self, state: &State, tokens: &[u32]) -> Result<(State, Tensor), ModelError> {
        let batch = Batch::new(&tokens.chunks(1).collect::<Vec<_>>())?;
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.device {
            return device.step(self, &batch, state);
        }
        self.advance(&batch, Some(state))
    }

    /// Runs a batch without recording; returns the final states and the logits after each sequence's last token.
    pub fn advance(&self, batch: &Batch, state: Option<&State>) -> Result<(State, Tensor), ModelError> {
        let states = state.map(State::vars);
        let output = self.model.forward(&self.tape, &self.bound, batch, states.as_ref(), true)?;
        let logits = self.model.logits(&self.tape, &self.bound, &output.hidden, batch.last_rows())?;
        let states = output.states.expect("asked for");
        Ok((states.detach(), logits.tensor().clone()))
    }
}
