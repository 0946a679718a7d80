//! Generation for a batch of unequal prompts: prefill in chunks, then one token at a time from the recurrent state.

use statetune_ssm_kernels::random::uniform;
use statetune_tensor::{Tape, Tensor};

use crate::batch::Batch;
use crate::bound::Bound;
use crate::patch::Patches;
use crate::state::State;
use crate::{Mamba, ModelError};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The most probable token; the lowest id among equals.
    #[default]
    Greedy,
    /// A random one.
    Random {
        /// Logits are divided by it; above 0.
        temperature: f64,
        /// Only so many of the most probable tokens are considered; 0: all.
        top_k: usize,
        /// Only the most probable tokens that together reach this probability are considered; 1: all.
        top_p: f64,
        /// The draw of sequence s at step t depends on (seed, s, t) only.
        seed: u64,
    },
}

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

    /// Continues prompts. `on_token(sequence, token)` is called for each token as it is chosen.
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
        let (mut state, mut logits) = decoder.prefill(prompts, options.prefill_chunk)?;
        let mut active: Vec<usize> = (0..prompts.len()).collect();
        for step in 0..options.max_new_tokens {
            let chosen: Vec<u32> = match options.sampling {
                // Where the logits are; a draw needs them on the host.
                Sampling::Greedy => logits.argmax_rows()?,
                random => {
                    let rows = logits.to_f64_vec();
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
                state = state.gather(&going)?;
                active = going.iter().map(|&i| active[i]).collect();
            }
            let tokens: Vec<u32> = active.iter().map(|&s| *results[s].tokens.last().expect("just chosen")).collect();
            (state, logits) = decoder.step(&state, &tokens)?;
        }
        Ok(results)
    }
}

/// A model with its patches, bound once for many steps: what they are made of is not computed anew for every token.
struct Decoder<'a> {
    model: &'a Mamba,
    tape: Tape,
    bound: Bound,
}

impl Decoder<'_> {
    fn new<'a>(model: &'a Mamba, patches: &Patches) -> Result<Decoder<'a>, ModelError> {
        let tape = Tape::inference(model.device());
        let bound = Bound::new(&tape, model, patches, None)?;
        Ok(Decoder { model, tape, bound })
    }

    fn prefill<S: AsRef<[u32]>>(&self, prompts: &[S], chunk: usize) -> Result<(State, Tensor), ModelError> {
        if chunk == 0 {
            return Err(ModelError::Generation { reason: "a prefill chunk has at least one token".into() });
        }
        if let Some(empty) = prompts.iter().position(|prompt| prompt.as_ref().is_empty()) {
            let reason = format!("prompt {empty} has no tokens; start it with a begin- or end-of-text token");
            return Err(ModelError::Generation { reason });
        }
        let vocab_size = self.model.config().vocab_size;
        let mut logits = vec![0f64; prompts.len() * vocab_size];
        let mut states: Vec<Option<State>> = vec![None; prompts.len()];
        let rounds = prompts.iter().map(|p| p.as_ref().len().div_ceil(chunk)).max().unwrap_or(0);
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
            let last = last.to_f64_vec();
            for (i, &s) in active.iter().enumerate() {
                states[s] = Some(after.gather(&[i])?);
                logits[s * vocab_size..][..vocab_size].copy_from_slice(&last[i * vocab_size..][..vocab_size]);
            }
        }
        let states: Vec<&State> = states.iter().flatten().collect();
        let state = State::concat(&states)?;
        Ok((state, Tensor::from_vec(logits, &[prompts.len(), vocab_size])?.cast(self.model.compute())))
    }

    fn step(&self, state: &State, tokens: &[u32]) -> Result<(State, Tensor), ModelError> {
        let batch = Batch::new(&tokens.chunks(1).collect::<Vec<_>>())?;
        self.advance(&batch, Some(state))
    }

    /// Runs a batch without recording; returns the final states and the logits after each sequence's last token.
    fn advance(&self, batch: &Batch, state: Option<&State>) -> Result<(State, Tensor), ModelError> {
        let states = state.map(State::vars);
        let output = self.model.forward(&self.tape, &self.bound, batch, states.as_ref(), true)?;
        let logits = self.model.logits(&self.tape, &self.bound, &output.hidden, batch.last_rows())?;
        let states = output.states.expect("asked for");
        Ok((states.detach(), logits.tensor().clone()))
    }
}

impl Sampling {
    fn check(self) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Generation { reason });
        match self {
            Sampling::Random { temperature, .. } if !(temperature > 0.0 && temperature.is_finite()) => {
                fail(format!("temperature must be above 0, found {temperature}; for no randomness choose greedy"))
            }
            Sampling::Random { top_p, .. } if !(top_p > 0.0 && top_p <= 1.0) => {
                fail(format!("top_p must be above 0 and at most 1, found {top_p}"))
            }
            _ => Ok(()),
        }
    }

    /// The next token of `sequence` at `step`, given its logits.
    fn choose(self, logits: &[f64], sequence: usize, step: usize) -> u32 {
        let Sampling::Random { temperature, top_k, top_p, seed } = self else {
            let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
            return best as u32;
        };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&i, &j| logits[j].total_cmp(&logits[i]).then(i.cmp(&j)));
        if top_k > 0 {
            order.truncate(top_k);
        }
        let largest = logits[order[0]];
        let weights: Vec<f64> = order.iter().map(|&i| ((logits[i] - largest) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        // The shortest prefix that reaches top_p, the token that crosses it included.
        let mut kept = 0;
        let mut mass = 0.0;
        while kept < weights.len() && (kept == 0 || mass < top_p * total) {
            mass += weights[kept];
            kept += 1;
        }
        let mut draw = [0f64];
        uniform(&mut draw, 0.0, 1.0, seed, ((sequence as u64) << 32) | step as u64);
        let mut left = draw[0] * mass;
        for (&token, weight) in order[..kept].iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return token as u32;
            }
        }
        order[kept - 1] as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 5] = [0.0, 3.0, 1.0, 3.0, -2.0];

    fn share(sampling: Sampling, token: u32) -> f64 {
        let hits = (0..4000).filter(|&step| sampling.choose(&LOGITS, 1, step) == token).count();
        hits as f64 / 4000.0
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampling::Greedy.choose(&LOGITS, 0, 0), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampling = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 5 };
        let total: f64 = LOGITS.iter().map(|l| l.exp()).sum();
        for (token, logit) in LOGITS.iter().enumerate() {
            let expected = logit.exp() / total;
            assert!((share(sampling, token as u32) - expected).abs() < 0.03, "token {token}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let sampling = Sampling::Random { temperature: 1.0, top_k: 2, top_p: 1.0, seed: 5 };
        assert_eq!(share(sampling, 1) + share(sampling, 3), 1.0);
        let sampling = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.4, seed: 5 };
        assert_eq!(share(sampling, 1), 1.0);
        let sampling = Sampling::Random { temperature: 0.05, top_k: 0, top_p: 1.0, seed: 5 };
        assert_eq!(share(sampling, 2), 0.0);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, 1.5)] {
            assert!(Sampling::Random { temperature, top_k: 0, top_p, seed: 0 }.check().is_err());
        }
    }
}
