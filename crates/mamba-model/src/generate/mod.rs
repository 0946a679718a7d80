//! Generation for a batch of unequal prompts: prefill in chunks, then one token at a time from the recurrent state, or
//! several beams at once.

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
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions { max_new_tokens: 64, sampling: Sampling::Greedy, stop: Vec::new(), prefill_chunk: 2048 }
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

    /// Continues prompts. `on_token(sequence, token)` is called for each token as it is chosen. On a GPU the tokens of a greedy
    /// generation are chosen there, and the host learns of them one step late.
    ///
    /// # Errors
    /// A prompt is empty or holds an unknown token; the sampling settings are out of range.
    pub fn generate<S: AsRef<[u32]>>(
        &self,
        patches: &Patches,
        prompts: &[S],
        options: &GenerateOptions,
        mut on_token: impl FnMut(usize, u32),
    ) -> Result<Vec<Generated>, ModelError> {
        options.sampling.check()?;
        let mut results = vec![Generated::default(); prompts.len()];
        if prompts.is_empty() || options.max_new_tokens == 0 {
            return Ok(results);
        }
        let decoder = Decoder::new(self, patches)?;
        let mut sequences = decoder.begin(prompts, options)?;
        let mut active: Vec<usize> = (0..prompts.len()).collect();
        for step in 0..options.max_new_tokens {
            let chosen: Vec<u32> = match options.sampling {
                // Where the logits are; a draw needs them on the host.
                Sampling::Greedy => sequences.greedy()?,
                random => {
                    let rows = sequences.logits()?;
                    let rows = rows.chunks(self.config().vocab_size).zip(&active);
                    rows.map(|(row, &s)| random.choose(row, s, step)).collect()
                }
            };
            let mut going = Vec::new();
            for (i, token) in chosen.into_iter().enumerate() {
                let s = active[i];
                results[s].tokens.push(token);
                on_token(s, token);
                results[s].stopped = options.stop.contains(&token);
                if !results[s].stopped {
                    going.push(i);
                }
            }
            if going.is_empty() || step + 1 == options.max_new_tokens {
                break;
            }
            if going.len() < active.len() {
                sequences.keep(&going)?;
                active = going.iter().map(|&i| active[i]).collect();
            }
            let tokens: Vec<u32> = active.iter().map(|&s| *results[s].tokens.last().expect("just chosen")).collect();
            sequences.advance(&tokens)?;
        }
        Ok(results)
    }
}
