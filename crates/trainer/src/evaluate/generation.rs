//! Answers that a model writes: tokens drawn, taken or searched for, made into texts and cut at what ends them.

use std::collections::HashSet;

use statetune_datasets_eval::Tokenizer;
use statetune_mamba_model::{BeamOptions, GenerateOptions, Generated, Mamba, Patches, Sampling};

use crate::TrainError;
use crate::config::EvaluationSection;

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    /// Without what ends it and without white space around it.
    pub text: String,
    /// Tokens that were generated.
    pub tokens: usize,
    /// Whether it ended, and not the limit ended it.
    pub ended: bool,
}

/// Writes answers the way a section says.
pub(super) struct Writer<'a> {
    section: &'a EvaluationSection,
    tokenizer: &'a Tokenizer,
    /// Tokens that end a text and are none.
    ends: &'a [u32],
    /// Tokens whose text has one of the stop texts in it.
    stops: HashSet<u32>,
}

impl<'a> Writer<'a> {
    /// `ends`: the tokens that end a text; the first, which a search must have, is the one of a search.
    ///
    /// # Errors
    /// A token cannot be made into a text.
    pub fn new(
        section: &'a EvaluationSection,
        tokenizer: &'a Tokenizer,
        ends: &'a [u32],
    ) -> Result<Writer<'a>, TrainError> {
        let mut stops = HashSet::new();
        if !section.stop.is_empty() {
            for id in 0..tokenizer.ids() as u32 {
                let text = tokenizer.decode(&[id], true)?;
                if section.stop.iter().any(|stop| text.contains(stop)) {
                    stops.insert(id);
                }
            }
        }
        Ok(Writer { section, tokenizer, ends, stops })
    }

    /// Answers to prompts, in their order; `progress(done, of)` hears how many are answered, at each token and at least once for each.
    ///
    /// # Errors
    /// The model refuses a prompt or the options.
    pub fn write(
        &self,
        model: &Mamba,
        patches: &Patches,
        prompts: &[&[u32]],
        mut progress: impl FnMut(usize, usize),
    ) -> Result<Vec<Answer>, TrainError> {
        let of = prompts.len();
        let generated = if self.section.searches() {
            model.search_best(patches, prompts, &self.search(), |done: usize| progress(done, of))?
        } else {
            let options = self.options();
            let (mut done, mut tokens) = (0, vec![0; of]);
            model.generate(patches, prompts, &options, |prompt, token| {
                tokens[prompt] += 1;
                done += usize::from(tokens[prompt] == options.max_new_tokens || options.stop.contains(&token));
                progress(done, of);
            })?
        };
        generated.iter().map(|generated| self.answer(generated)).collect()
    }

    fn options(&self) -> GenerateOptions {
        let EvaluationSection { temperature, top_k, top_p, seed, .. } = *self.section;
        let sampling = match temperature {
            0.0 => Sampling::Greedy,
            temperature => Sampling::Random { temperature, top_k, top_p, seed },
        };
        let mut stop: Vec<u32> = self.stops.iter().copied().chain(self.ends.iter().copied()).collect();
        stop.sort_unstable();
        stop.dedup();
        let max_new_tokens = self.section.max_new_tokens;
        let sequences = self.section.sequences;
        GenerateOptions { max_new_tokens, sampling, stop, sequences, ..GenerateOptions::default() }
    }

    fn search(&self) -> BeamOptions {
        let section = self.section;
        BeamOptions {
            beams: section.beams,
            max_new_tokens: section.max_new_tokens,
            min_new_tokens: section.min_new_tokens,
            min_length: section.min_length,
            length_penalty: section.length_penalty,
            early_stopping: section.early_stopping,
            end: self.ends[0],
            sequences: section.sequences,
            prefill_chunk: GenerateOptions::default().prefill_chunk,
        }
    }

    fn answer(&self, generated: &Generated) -> Result<Answer, TrainError> {
        let tokens = match generated.tokens.split_last() {
            Some((last, before)) if generated.stopped && self.ends.contains(last) => before,
            _ => &generated.tokens[..],
        };
        let text = self.tokenizer.decode(tokens, false)?;
        // A stop text may have come together from several tokens, in the midst of what was generated.
        let cut = self.section.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        let ended = generated.stopped || cut.is_some();
        Ok(Answer { text: text[..cut.unwrap_or(text.len())].trim().to_owned(), tokens: generated.tokens.len(), ended })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_prompts_at_once_as_the_section_says() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../statetune/assets/mamba-tiny/tokenizer.json");
        let tokenizer = Tokenizer::open(file.as_ref()).unwrap();
        let section = EvaluationSection { sequences: 5, beams: 2, ..EvaluationSection::default() };
        let writer = Writer::new(&section, &tokenizer, &[0]).unwrap();
        assert_eq!((writer.options().sequences, writer.search().sequences), (5, 5));
        let default = EvaluationSection::default();
        let writer = Writer::new(&default, &tokenizer, &[0]).unwrap();
        assert_eq!(writer.options().sequences, GenerateOptions::default().sequences);
    }
}
