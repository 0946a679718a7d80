//! METEOR (Banerjee and Lavie, 2005; parameters of Lavie and Agarwal, 2007) as NLTK 3.9 and, over it, the evaluate library
//! compute it: 0 to 1, words matched in stages: as they are, by stem, and by synonym.
//!
//! Synonyms need a dictionary, which is not part of this crate. Without one the metric is called METEOR (exact+stem).

use std::collections::HashSet;
use std::sync::Arc;

use super::metric::{Metric, mean, reference_count};
use super::tokens::{porter_stem, word_tokenize, word_tokenize_preserve_line};
use super::wordnet::WordNet;

/// Where synonyms come from.
#[derive(Clone, Debug, Default)]
pub enum Synonyms {
    /// There are none: the stages are exact and stem.
    #[default]
    None,
    /// WordNet.
    WordNet(Arc<WordNet>),
    /// Sets of words that mean the same.
    Sets(Vec<HashSet<String>>),
}

/// Mean METEOR over the examples, each against the reference that fits best.
#[derive(Clone, Debug)]
pub struct Meteor {
    /// Weight of precision against recall in their harmonic mean.
    pub alpha: f64,
    /// Power of the share of chunks in the penalty.
    pub beta: f64,
    /// The largest penalty.
    pub gamma: f64,
    /// Sentences are cut before words, as `word_tokenize` does by default; otherwise `preserve_line`.
    pub split_sentences: bool,
    /// The third stage.
    pub synonyms: Synonyms,
}

impl Default for Meteor {
    fn default() -> Meteor {
        Meteor { alpha: 0.9, beta: 3.0, gamma: 0.5, split_sentences: true, synonyms: Synonyms::None }
    }
}

/// How the words of a prediction and of a reference stand against each other.
#[derive(Clone, Debug, PartialEq)]
pub struct MeteorAlignment {
    /// Places of matched words, in the prediction and in the reference; in the prediction's order.
    pub matches: Vec<(usize, usize)>,
    /// Runs of matches that are neighbours in both.
    pub chunks: usize,
    /// The score, 0 to 1.
    pub score: f64,
}

/// Words that no stage has matched yet, with their places.
type Free = Vec<(usize, String)>;

impl Meteor {
    fn stages(&self) -> &'static str {
        match self.synonyms {
            Synonyms::None => "exact+stem",
            Synonyms::WordNet(_) => "exact+stem+WordNet",
            Synonyms::Sets(_) => "exact+stem+sets",
        }
    }

    fn tokens(&self, text: &str) -> Vec<String> {
        if self.split_sentences { word_tokenize(text) } else { word_tokenize_preserve_line(text) }
    }

    /// Aligns and scores tokens; case does not matter.
    pub fn align(&self, prediction: &[String], reference: &[String]) -> MeteorAlignment {
        let lower = |words: &[String]| words.iter().map(|word| word.to_lowercase()).enumerate().collect::<Free>();
        let (mut own, mut other) = (lower(prediction), lower(reference));
        let mut matches = Vec::new();
        stage(&mut own, &mut other, &mut matches, |a, b| a == b);
        // From here on the words left over are their stems, also in the stage of synonyms, as in NLTK.
        for word in own.iter_mut().chain(&mut other) {
            word.1 = porter_stem(&word.1);
        }
        stage(&mut own, &mut other, &mut matches, |a, b| a == b);
        self.synonym_stage(&mut own, &mut other, &mut matches);
        matches.sort_unstable();
        let together = |pair: &[(usize, usize)]| pair[1] == (pair[0].0 + 1, pair[0].1 + 1);
        let chunks = matches.len() - matches.windows(2).filter(|pair| together(pair)).count();
        let score = self.score(matches.len(), chunks, prediction.len(), reference.len());
        MeteorAlignment { matches, chunks, score }
    }

    fn synonym_stage(&self, own: &mut Free, other: &mut Free, matches: &mut Vec<(usize, usize)>) {
        match &self.synonyms {
            Synonyms::None => {}
            Synonyms::Sets(sets) => {
                let share = |a: &str, b: &str| a == b || sets.iter().any(|set| set.contains(a) && set.contains(b));
                stage(own, other, matches, share);
            }
            Synonyms::WordNet(dictionary) => {
                // Looked up once for every word of the prediction.
                let known: Vec<(String, HashSet<&str>)> =
                    own.iter().map(|(_, word)| (word.clone(), dictionary.synonyms(word))).collect();
                let of = |word: &str| known.iter().find(|(known, _)| known == word);
                let share = |a: &str, b: &str| a == b || of(a).is_some_and(|(_, synonyms)| synonyms.contains(b));
                stage(own, other, matches, share);
            }
        }
    }

    fn score(&self, matches: usize, chunks: usize, own: usize, other: usize) -> f64 {
        if matches == 0 {
            return 0.0;
        }
        let matches = matches as f64;
        let (precision, recall) = (matches / own as f64, matches / other as f64);
        let mean = precision * recall / (self.alpha * precision + (1.0 - self.alpha) * recall);
        let penalty = self.gamma * (chunks as f64 / matches).powf(self.beta);
        (1.0 - penalty) * mean
    }
}

/// Matches words, from the prediction's last to its first, each with the last free one of the reference that fits.
fn stage(own: &mut Free, other: &mut Free, matches: &mut Vec<(usize, usize)>, fits: impl Fn(&str, &str) -> bool) {
    for i in (0..own.len()).rev() {
        if let Some(j) = other.iter().rposition(|(_, word)| fits(&own[i].1, word)) {
            matches.push((own.remove(i).0, other.remove(j).0));
        }
    }
}

impl Metric for Meteor {
    fn name(&self) -> String {
        format!("METEOR ({})", self.stages())
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        format!(
            "nrefs:{}|stages:{}|tok:nltk-{}|alpha:{}|beta:{}|gamma:{}|as:nltk-3.9",
            reference_count(references),
            self.stages(),
            if self.split_sentences { "word_tokenize" } else { "preserve_line" },
            self.alpha,
            self.beta,
            self.gamma
        )
    }

    /// The score and 1.
    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        let own = self.tokens(prediction);
        let scores = references.iter().map(|reference| self.align(&own, &self.tokens(reference)).score);
        vec![scores.fold(0.0, f64::max), 1.0]
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        mean(sums)
    }
}
