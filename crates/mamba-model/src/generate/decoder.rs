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
use crate::state::{State, StateVars};
use crate::{Mamba, ModelError};

/// The most prompt tokens of all sequences together that are processed at once (a sequence's own chunk may be longer): enough
/// for products at full speed, and the activations take half a gigabyte at mamba-130m's width.
const PREFILL: usize = 8192;

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
            return Ok(Box::new(DeviceSequences::greedy(self, device, state, logits)?));
        }
        self.sequences(state, logits)
    }

    /// Sequences in this state, whose next tokens are chosen on the host from their logits.
    pub fn sequences(&self, state: State, logits: Tensor) -> Result<Box<dyn Sequences + '_>, ModelError> {
        #[cfg(feature = "cuda")]
        if let Some(device) = &self.device {
            return Ok(Box::new(DeviceSequences::drawn(self, device, state, logits)?));
        }
        Ok(Box::new(Stepping::new(self, state, logits)))
    }

    /// Consumes prompts: of a sequence `chunk` tokens at once, and of so many sequences together that their tokens fit
    /// [`PREFILL`].
    pub fn prefill<S: AsRef<[u32]>>(&self, prompts: &[S], chunk: usize) -> Result<(State, Tensor), ModelError> {
        self.model.check_prompts(prompts, chunk)?;
        let at_once = |prompt: &S| prompt.as_ref().len().min(chunk);
        let (mut done, mut rest) = (Vec::new(), prompts);
        while !rest.is_empty() {
            let mut tokens = 0;
            let fits = rest.iter().take_while(|prompt| {
                tokens += at_once(prompt);
                tokens <= PREFILL
            });
            let (group, later) = rest.split_at(fits.count().max(1));
            done.push(self.prefill_together(group, chunk)?);
            rest = later;
        }
        if done.len() == 1 {
            return Ok(done.remove(0));
        }
        let states: Vec<&State> = done.iter().map(|(state, _)| state).collect();
        let logits: Vec<Tensor> = done.iter().map(|(_, logits)| logits.clone()).collect();
        Ok((State::concat(&states)?, Tensor::stacked(&logits)?))
    }

    fn prefill_together<S: AsRef<[u32]>>(&self, prompts: &[S], chunk: usize) -> Result<(State, Tensor), ModelError> {
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
            let (after, last) = self.advance(&batch, before.as_ref().map(State::vars).as_ref())?;
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
        self.advance(&batch, Some(&state.vars()))
    }

    /// Runs a batch without recording; returns the final states and the logits after each sequence's last token.
    pub fn advance(&self, batch: &Batch, state: Option<&StateVars>) -> Result<(State, Tensor), ModelError> {
        let output = self.model.forward(&self.tape, &self.bound, batch, state, true)?;
        let logits = self.model.logits(&self.tape, &self.bound, &output.hidden, batch.last_rows())?;
        let states = output.states.expect("asked for");
        Ok((states.detach(), logits.tensor().clone()))
    }
}
