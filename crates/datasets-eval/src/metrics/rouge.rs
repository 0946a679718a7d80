//! ROUGE (Lin, "ROUGE: a package for automatic evaluation of summaries", 2004) as rouge-score 0.1.2 computes it: 0 to 1.
//! The score of a corpus is the mean of its examples'; for the interval around it see [`Bootstrap`](super::Bootstrap).

use std::collections::HashMap;

use super::metric::{Metric, mean, reference_count, yes};
use super::ngrams::Ngrams;
use super::tokens::rouge_tokens;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RougeKind {
    /// Runs of n tokens: ROUGE-1, ROUGE-2.
    N(usize),
    /// The longest common subsequence of the texts.
    L,
    /// For every sentence of the reference, the union of its common subsequences with the prediction's sentences. Sentences
    /// are lines.
    Lsum,
}

/// ROUGE of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rouge {
    /// What is compared.
    pub kind: RougeKind,
    /// Tokens are reduced to their stems (Porter).
    pub stemmer: bool,
    /// Of several references the one with the best F-score counts; otherwise the first.
    pub best_reference: bool,
}

/// Precision, recall and their harmonic mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RougeScore {
    /// The share of the prediction that the reference has.
    pub precision: f64,
    /// The share of the reference that the prediction has.
    pub recall: f64,
    /// 2 P R / (P + R), 0 where both are 0.
    pub f: f64,
}

impl Rouge {
    /// Without stemmer, against the best reference.
    pub fn new(kind: RougeKind) -> Rouge {
        Rouge { kind, stemmer: false, best_reference: true }
    }

    /// The score against one reference.
    pub fn pair(&self, prediction: &str, reference: &str) -> RougeScore {
        let tokens = |text: &str| rouge_tokens(text, self.stemmer);
        match self.kind {
            RougeKind::N(n) => {
                let (own, other) = (Ngrams::new(tokens(prediction), n), Ngrams::new(tokens(reference), n));
                let totals = (own.total(n), other.total(n));
                RougeScore::new(own.shared(&[other], n), totals.0, totals.1)
            }
            RougeKind::L => {
                let (own, other) = numbered(&[tokens(prediction)], &[tokens(reference)]);
                let length = Subsequences::new(&other[0], &own[0]).longest();
                RougeScore::new(length, own[0].len(), other[0].len())
            }
            RougeKind::Lsum => {
                let lines = |text: &str| text.split('\n').map(&tokens).collect::<Vec<_>>();
                let (own, other) = numbered(&lines(prediction), &lines(reference));
                let total = |lines: &[Vec<u32>]| lines.iter().map(Vec::len).sum();
                RougeScore::new(hits(&own, &other), total(&own), total(&other))
            }
        }
    }

    /// The score of an example.
    pub fn example_score(&self, prediction: &str, references: &[String]) -> RougeScore {
        let counted = if self.best_reference { references } else { &references[..references.len().min(1)] };
        let mut scores = counted.iter().map(|reference| self.pair(prediction, reference));
        let first = scores.next().unwrap_or_default();
        // Of equally good ones the first.
        scores.fold(first, |best, score| if score.f > best.f { score } else { best })
    }
}

impl RougeScore {
    fn new(hits: usize, own: usize, other: usize) -> RougeScore {
        let (precision, recall) = (hits as f64 / own.max(1) as f64, hits as f64 / other.max(1) as f64);
        let f = if precision + recall > 0.0 { 2.0 * precision * recall / (precision + recall) } else { 0.0 };
        RougeScore { precision, recall, f }
    }
}

/// Tokens as numbers, which compare faster.
fn numbered(own: &[Vec<String>], other: &[Vec<String>]) -> (Vec<Vec<u32>>, Vec<Vec<u32>>) {
    fn lines<'t>(lines: &'t [Vec<String>], known: &mut HashMap<&'t str, u32>) -> Vec<Vec<u32>> {
        let mut number = |token: &'t String| {
            let next = known.len() as u32;
            *known.entry(token).or_insert(next)
        };
        lines.iter().map(|line| line.iter().map(&mut number).collect()).collect()
    }
    let mut known = HashMap::new();
    (lines(own, &mut known), lines(other, &mut known))
}

/// Lengths of the longest common subsequences of all beginnings of two texts.
struct Subsequences<'t> {
    reference: &'t [u32],
    prediction: &'t [u32],
    /// `[reference + 1, prediction + 1]`
    lengths: Vec<u32>,
}

impl<'t> Subsequences<'t> {
    fn new(reference: &'t [u32], prediction: &'t [u32]) -> Subsequences<'t> {
        let width = prediction.len() + 1;
        let mut lengths = vec![0u32; (reference.len() + 1) * width];
        for (i, token) in reference.iter().enumerate() {
            let (above, row) = lengths[i * width..(i + 2) * width].split_at_mut(width);
            for (j, other) in prediction.iter().enumerate() {
                row[j + 1] = if token == other { above[j] + 1 } else { above[j + 1].max(row[j]) };
            }
        }
        Subsequences { reference, prediction, lengths }
    }

    fn at(&self, i: usize, j: usize) -> u32 {
        self.lengths[i * (self.prediction.len() + 1) + j]
    }

    fn longest(&self) -> usize {
        self.at(self.reference.len(), self.prediction.len()) as usize
    }

    /// Marks the places in the reference of one longest subsequence: which one, among several, the tool's walk decides.
    fn mark(&self, used: &mut [bool]) {
        let (mut i, mut j) = (self.reference.len(), self.prediction.len());
        while i > 0 && j > 0 {
            if self.reference[i - 1] == self.prediction[j - 1] {
                used[i - 1] = true;
                (i, j) = (i - 1, j - 1);
            } else if self.at(i, j - 1) > self.at(i - 1, j) {
                j -= 1;
            } else {
                i -= 1;
            }
        }
    }
}

/// Tokens of the reference in the unions of common subsequences, each token no more often than either text has it.
fn hits(own: &[Vec<u32>], other: &[Vec<u32>]) -> usize {
    let count = |lines: &[Vec<u32>]| {
        let mut counts = HashMap::<u32, usize>::new();
        lines.iter().flatten().for_each(|token| *counts.entry(*token).or_default() += 1);
        counts
    };
    // A token counts where both texts have one left.
    let (mut left, theirs) = (count(own), count(other));
    for (token, count) in &mut left {
        *count = (*count).min(theirs.get(token).copied().unwrap_or(0));
    }
    let mut hits = 0;
    for line in other {
        let mut used = vec![false; line.len()];
        own.iter().for_each(|prediction| Subsequences::new(line, prediction).mark(&mut used));
        for (token, _) in line.iter().zip(used).filter(|(_, used)| *used) {
            if let Some(count) = left.get_mut(token).filter(|count| **count > 0) {
                *count -= 1;
                hits += 1;
            }
        }
    }
    hits
}

impl Metric for Rouge {
    fn name(&self) -> String {
        match self.kind {
            RougeKind::N(n) => format!("ROUGE-{n}"),
            RougeKind::L => "ROUGE-L".into(),
            RougeKind::Lsum => "ROUGE-Lsum".into(),
        }
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        format!(
            "nrefs:{}|refs:{}|stem:{}|value:f|as:rouge-score-0.1.2",
            reference_count(references),
            if self.best_reference { "best" } else { "first" },
            yes(self.stemmer)
        )
    }

    /// F and 1.
    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        vec![self.example_score(prediction, references).f, 1.0]
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        mean(sums)
    }
}
