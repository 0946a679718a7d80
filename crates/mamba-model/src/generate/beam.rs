//! Beam search on states: the beams of a prompt share the state after it, and a beam that continues another takes over its
//! state; what does not move is not copied.
//!
//! The procedure is that of the beam scorer of Hugging Face transformers 4.40, by which the State-offset paper's texts were
//! generated.

use super::decoder::Decoder;
use super::{Generated, check_sequences};
use crate::patch::Patches;
use crate::{Mamba, ModelError};

/// How beams are searched.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamOptions {
    /// Continuations that are followed at once, at least 1.
    pub beams: usize,
    /// The most tokens to add to a prompt.
    pub max_new_tokens: usize,
    /// So many tokens come before the end token may.
    pub min_new_tokens: usize,
    /// The end token may not come while prompt and continuation together are shorter: a minimum that counts the prompt, as
    /// the paper's code has it, and does nothing for a longer one.
    pub min_length: usize,
    /// A hypothesis's score is the sum of its tokens' log-probabilities over their number to this power: 0 favours short
    /// ones, 1 is their mean.
    pub length_penalty: f64,
    /// Stop a prompt as soon as there are as many hypotheses as beams, though an open beam might still come to more.
    pub early_stopping: bool,
    /// Ends a hypothesis; part of it.
    pub end: u32,
    /// Prompt tokens of a sequence that are processed at once: bounds the memory of a long prompt.
    pub prefill_chunk: usize,
    /// The most beams of all prompts that are followed at once; one prompt's always are. Bounds the memory of their states:
    /// prompts are searched group by group. No result depends on it.
    pub sequences: usize,
}

/// A finished continuation.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// The new tokens, the end token included.
    pub tokens: Vec<u32>,
    /// See [`BeamOptions::length_penalty`].
    pub score: f64,
    /// Whether the end token ended it, and not the limit.
    pub ended: bool,
}

/// A continuation that goes on.
struct Beam {
    tokens: Vec<u32>,
    sum: f64, // of log-probabilities
}

/// A prompt whose search goes on.
struct Search {
    prompt: usize,
    length: usize, // of the prompt
    beams: Vec<Beam>,
    finished: Vec<Hypothesis>, // the best come first
}

/// A token that may come next.
#[derive(Clone, Copy)]
struct Candidate {
    beam: usize,
    token: u32,
    sum: f64,
}

impl Mamba {
    /// The best hypotheses of each prompt, the best first, at most as many as beams.
    ///
    /// # Errors
    /// A prompt is empty or holds an unknown token; the options are out of range.
    pub fn beam_search<S: AsRef<[u32]>>(
        &self,
        patches: &Patches,
        prompts: &[S],
        options: &BeamOptions,
    ) -> Result<Vec<Vec<Hypothesis>>, ModelError> {
        self.searched(patches, prompts, options, |_| {})
    }

    /// The best hypothesis of each prompt, as [`Mamba::generate`] gives a continuation. `progress` hears how many prompts are
    /// finished.
    ///
    /// # Errors
    /// As [`Mamba::beam_search`].
    pub fn search_best<S: AsRef<[u32]>>(
        &self,
        patches: &Patches,
        prompts: &[S],
        options: &BeamOptions,
        progress: impl FnMut(usize),
    ) -> Result<Vec<Generated>, ModelError> {
        let best = |found: Vec<Hypothesis>| match found.into_iter().next() {
            Some(best) => Generated { tokens: best.tokens, stopped: best.ended },
            None => Generated::default(),
        };
        Ok(self.searched(patches, prompts, options, progress)?.into_iter().map(best).collect())
    }

    fn searched<S: AsRef<[u32]>>(
        &self,
        patches: &Patches,
        prompts: &[S],
        options: &BeamOptions,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Vec<Hypothesis>>, ModelError> {
        options.check(self.config().vocab_size)?;
        self.check_prompts(prompts, options.prefill_chunk)?;
        if prompts.is_empty() || options.max_new_tokens == 0 {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let decoder = Decoder::new(self, patches)?;
        let mut found = Vec::with_capacity(prompts.len());
        for group in prompts.chunks((options.sequences / options.beams).max(1)) {
            found.extend(decoder.search(group, options)?);
            progress(found.len());
        }
        Ok(found)
    }
}

impl Decoder<'_> {
    /// The best hypotheses of prompts that are searched together.
    fn search<S: AsRef<[u32]>>(
        &self,
        prompts: &[S],
        options: &BeamOptions,
    ) -> Result<Vec<Vec<Hypothesis>>, ModelError> {
        let (width, vocab) = (options.beams, self.model.config().vocab_size);
        let mut results = vec![Vec::new(); prompts.len()];
        let (state, logits) = self.prefill(prompts, options.prefill_chunk)?;
        let first = |(prompt, tokens): (usize, &S)| Search {
            prompt,
            length: tokens.as_ref().len(),
            beams: vec![Beam { tokens: Vec::new(), sum: 0.0 }],
            finished: Vec::new(),
        };
        let mut searches: Vec<Search> = prompts.iter().enumerate().map(first).collect();
        let every_beam: Vec<usize> = (0..prompts.len() * width).map(|row| row / width).collect();
        let mut rows = logits.to_f64_vec();
        let mut sequences = self.sequences(state.gather(&every_beam)?, logits.take_rows(&every_beam)?)?;
        for step in 1..=options.max_new_tokens {
            let (mut going, mut kept, mut from, mut tokens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            let mut at = 0;
            for (i, mut search) in searches.into_iter().enumerate() {
                let own = &rows[at..at + search.beams.len() * vocab];
                at += own.len();
                let next = search.take_step(own, step, options);
                if next.is_empty() {
                    results[search.prompt] = search.finished;
                    continue;
                }
                kept.extend(i * width..(i + 1) * width);
                let base = going.len() * width;
                from.extend(next.iter().map(|candidate| base + candidate.beam));
                tokens.extend(next.iter().map(|candidate| candidate.token));
                search.follow(&next);
                going.push(search);
            }
            searches = going;
            if searches.is_empty() {
                break;
            }
            sequences.keep(&kept, false)?;
            sequences.reorder(&from)?;
            sequences.advance(&tokens)?;
            rows = sequences.logits()?;
        }
        Ok(results)
    }
}

impl BeamOptions {
    fn check(&self, vocab: usize) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Generation { reason });
        if self.beams == 0 || self.beams * 2 > vocab {
            let most = vocab / 2;
            return fail(format!("expected 1 to {most} beams (half of the vocabulary), found {}", self.beams));
        }
        check_sequences(self.sequences)?;
        if self.end as usize >= vocab {
            return fail(format!("the end token {} is not below the vocabulary of {vocab}", self.end));
        }
        if !self.length_penalty.is_finite() {
            return fail(format!("the length penalty is {}", self.length_penalty));
        }
        Ok(())
    }

    fn score(&self, sum: f64, tokens: usize) -> f64 {
        sum / (tokens as f64).powf(self.length_penalty)
    }
}

impl Search {
    /// Judges the continuations of all beams, given their logits; returns the beams of the next step, or none if the search
    /// is over.
    fn take_step(&mut self, logits: &[f64], step: usize, options: &BeamOptions) -> Vec<Candidate> {
        let before = step - 1; // tokens so far
        let may_end = before >= options.min_new_tokens && self.length + before >= options.min_length;
        let candidates = self.candidates(logits, 2 * options.beams, (!may_end).then_some(options.end));
        let mut next = Vec::new();
        for (rank, candidate) in candidates.iter().enumerate() {
            if candidate.token == options.end {
                if rank < options.beams {
                    self.finish(candidate, options);
                }
            } else if next.len() < options.beams {
                next.push(*candidate);
            }
        }
        let best = candidates.first().map_or(f64::NEG_INFINITY, |candidate| candidate.sum);
        let enough = self.finished.len() >= options.beams
            && (options.early_stopping
                || self.finished.last().is_some_and(|worst| worst.score >= options.score(best, step)));
        if !enough && step < options.max_new_tokens {
            return next;
        }
        if !enough {
            next.iter().for_each(|candidate| self.finish(candidate, options));
        }
        Vec::new()
    }

    /// The most probable continuations over all beams, the best first; of equals the first.
    fn candidates(&self, logits: &[f64], count: usize, forbidden: Option<u32>) -> Vec<Candidate> {
        let vocab = logits.len() / self.beams.len();
        let mut best: Vec<Candidate> = Vec::with_capacity(count + 1);
        for (beam, (own, row)) in self.beams.iter().zip(logits.chunks_exact(vocab)).enumerate() {
            let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let normaliser = largest + row.iter().map(|logit| (logit - largest).exp()).sum::<f64>().ln();
            for (token, logit) in row.iter().enumerate().filter(|(token, _)| forbidden != Some(*token as u32)) {
                let sum = own.sum + (logit - normaliser);
                if best.len() == count && best[count - 1].sum >= sum {
                    continue;
                }
                let place = best.partition_point(|other| other.sum >= sum);
                best.insert(place, Candidate { beam, token: token as u32, sum });
                best.truncate(count);
            }
        }
        best
    }

    /// Takes a continuation among the finished ones, if it is among the best of them.
    fn finish(&mut self, last: &Candidate, options: &BeamOptions) {
        let mut tokens = self.beams[last.beam].tokens.clone();
        tokens.push(last.token);
        let score = options.score(last.sum, tokens.len());
        let place = self.finished.partition_point(|other| other.score >= score);
        self.finished.insert(place, Hypothesis { ended: last.token == options.end, tokens, score });
        self.finished.truncate(options.beams);
    }

    fn follow(&mut self, next: &[Candidate]) {
        let longer = |candidate: &Candidate| {
            let mut tokens = self.beams[candidate.beam].tokens.clone();
            tokens.push(candidate.token);
            Beam { tokens, sum: candidate.sum }
        };
        self.beams = next.iter().map(longer).collect();
    }
}
