//! Generation for any number of unequal prompts, some of them at once: prefill in chunks, then one token at a time from the
//! recurrent state, or several beams at once. When a sequence ends, the next prompt takes its place.

mod beam;
mod decoder;
#[cfg(feature = "cuda")]
mod on_device;
mod sampling;
mod sequences;

use statetune_tensor::Tensor;

use crate::patch::Patches;
use crate::state::State;
use crate::{Mamba, ModelError};

pub use beam::{BeamOptions, Hypothesis};
use decoder::Decoder;
pub use sampling::Sampling;

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// The most tokens to add to each prompt.
    pub max_new_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// A sequence ends after any of these; the token is part of the result.
    pub stop: Vec<u32>,
    /// Prompt tokens of a sequence that are processed at once: bounds the memory of a long prompt.
    pub prefill_chunk: usize,
    /// The most sequences that run at once, at least 1: bounds the memory of their states. When one ends, the next prompt takes
    /// its place. No result depends on it.
    pub sequences: usize,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions {
            max_new_tokens: 64,
            sampling: Sampling::Greedy,
            stop: Vec::new(),
            prefill_chunk: 2048,
            sequences: 64,
        }
    }
}

/// One sequence's result.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generated {
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Whether a stop token ended it, and not the limit.
    pub stopped: bool,
}

impl Mamba {
    /// Consumes prompts in chunks; returns the state after them and the logits `[S, vocab_size]` of the next tokens.
    ///
    /// # Errors
    /// A prompt is empty or holds an unknown token, or `chunk` is 0.
    pub fn prefill<S: AsRef<[u32]>>(
        &self,
        patches: &Patches,
        prompts: &[S],
        chunk: usize,
    ) -> Result<(State, Tensor), ModelError> {
        Decoder::new(self, patches)?.prefill(prompts, chunk)
    }

    /// One token for every sequence: the state after it and the logits `[S, vocab_size]` of the next.
    ///
    /// # Errors
    /// There are not as many tokens as sequences, or one is unknown.
    pub fn step(&self, patches: &Patches, state: &State, tokens: &[u32]) -> Result<(State, Tensor), ModelError> {
        Decoder::new(self, patches)?.step(state, tokens)
    }

    /// Continues prompts, as many at once as the options say. `on_token(sequence, token)` is called for each token as it is
    /// chosen, of one sequence in order. On a GPU the tokens of a greedy generation are chosen there, and the host learns of
    /// them one step late.
    ///
    /// # Errors
    /// A prompt is empty or holds an unknown token; the options are out of range.
    pub fn generate<S: AsRef<[u32]>>(
        &self,
        patches: &Patches,
        prompts: &[S],
        options: &GenerateOptions,
        mut on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Generated>, ModelError> {
        options.sampling.check()?;
        check_sequences(options.sequences)?;
        self.check_prompts(prompts, options.prefill_chunk)?;
        let mut results = vec![Generated::default(); prompts.len()];
        if prompts.is_empty() || options.max_new_tokens == 0 {
            return Ok(results);
        }
        let decoder = Decoder::new(self, patches)?;
        let mut begun = prompts.len().min(options.sequences);
        let mut sequences = decoder.begin(&prompts[..begun], options)?;
        let mut active: Vec<usize> = (0..begun).collect();
        while !active.is_empty() {
            let more = active.iter().any(|&s| results[s].tokens.len() + 1 < options.max_new_tokens);
            let chosen: Vec<u32> = match options.sampling {
                // Where the logits are; a draw needs them on the host.
                Sampling::Greedy => sequences.greedy(more)?,
                random => {
                    let rows = sequences.logits()?;
                    let rows = rows.chunks(self.config().vocab_size).zip(&active);
                    rows.map(|(row, &s)| random.choose(row, s, results[s].tokens.len())).collect()
                }
            };
            let mut going = Vec::new();
            for (i, token) in chosen.into_iter().enumerate() {
                let s = active[i];
                results[s].tokens.push(token);
                on_token(s, token);
                results[s].stopped = options.stop.contains(&token);
                if !results[s].stopped && results[s].tokens.len() < options.max_new_tokens {
                    going.push(i);
                }
            }
            let waiting = prompts.len() - begun;
            if going.len() < active.len() {
                sequences.keep(&going, waiting > 0)?;
                active = going.iter().map(|&i| active[i]).collect();
            }
            if !active.is_empty() {
                let last = |&s: &usize| *results[s].tokens.last().expect("just chosen");
                sequences.advance(&active.iter().map(last).collect::<Vec<_>>())?;
            }
            let joining = newcomers(options.sequences, active.len(), waiting);
            if joining > 0 {
                let next = begun..begun + joining;
                let (state, logits) = decoder.prefill(&prompts[next.clone()], options.prefill_chunk)?;
                sequences.join(state, logits)?;
                begun = next.end;
                active.extend(next);
            }
        }
        Ok(results)
    }

    /// Refuses prompts before time is spent on the first.
    fn check_prompts<S: AsRef<[u32]>>(&self, prompts: &[S], chunk: usize) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Generation { reason });
        if chunk == 0 {
            return fail("a prefill chunk has at least one token".into());
        }
        let vocab = self.config().vocab_size;
        for (i, prompt) in prompts.iter().map(AsRef::as_ref).enumerate() {
            if prompt.is_empty() {
                return fail(format!("prompt {i} has no tokens; start it with a begin- or end-of-text token"));
            }
            if let Some(at) = prompt.iter().position(|&id| id as usize >= vocab) {
                let id = prompt[at];
                return fail(format!(
                    "prompt {i}: token id {id} at position {at} is not below the vocabulary of {vocab}"
                ));
            }
        }
        Ok(())
    }
}

fn check_sequences(at_once: usize) -> Result<(), ModelError> {
    match at_once {
        0 => Err(ModelError::Generation { reason: "at least one sequence runs at once, found 0".into() }),
        _ => Ok(()),
    }
}

/// How many prompts begin now. A prefill of one prompt costs almost that of a few, so places are filled when an eighth of them
/// is free.
fn newcomers(places: usize, taken: usize, waiting: usize) -> usize {
    let free = places - taken;
    match free * 8 >= places || waiting <= free {
        true => waiting.min(free),
        false => 0,
    }
}
