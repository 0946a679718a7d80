//! What every metric of generated texts is: numbers for each example, added up over the corpus, and a score from the sums.
//!
//! Means (ROUGE, METEOR) and corpus statistics (BLEU, chrF, TER) have the same form, so that one bootstrap serves all.

use serde::Serialize;

use crate::{DataError, Result};

/// A metric of predicted texts against one or more references each.
pub trait Metric: Send + Sync {
    /// What it is called in a table; says what was left out, where something was.
    fn name(&self) -> String;

    /// Everything a number depends on, in sacrebleu's form: `key:value` parts between bars.
    fn signature(&self, references: &[Vec<String>]) -> String;

    /// What one example adds to the sums of the corpus; always of the same length. At least one reference is expected.
    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64>;

    /// The score of summed statistics.
    fn corpus(&self, sums: &[f64]) -> f64;

    /// The score of one example's statistics.
    fn example(&self, statistics: &[f64]) -> f64 {
        self.corpus(statistics)
    }

    /// Whether more is better.
    fn higher_is_better(&self) -> bool {
        true
    }
}

/// The score of a corpus.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextScore {
    /// The metric's name.
    pub name: String,
    /// What was computed.
    pub signature: String,
    /// The corpus' score. Not the mean of `examples` in metrics that add up counts.
    pub value: f64,
    /// Each example's score.
    pub examples: Vec<f64>,
    /// What each example added, for resampling.
    #[serde(skip)]
    pub statistics: Vec<Vec<f64>>,
}

/// Scores predictions, each against its references.
///
/// # Errors
///
/// There are no predictions, their number is not that of the lists of references, or a list is empty.
pub fn score(metric: &dyn Metric, predictions: &[String], references: &[Vec<String>]) -> Result<TextScore> {
    let refuse = |what, expected: String, found: String| Err(DataError::Argument { what, expected, found });
    if predictions.len() != references.len() {
        let expected = format!("{}, one for each list of references", references.len());
        return refuse("predictions", expected, predictions.len().to_string());
    }
    if predictions.is_empty() {
        return refuse("predictions", "at least 1".into(), "none".into());
    }
    if let Some(example) = references.iter().position(Vec::is_empty) {
        return refuse("references", "at least 1 for each example".into(), format!("none for example {example}"));
    }
    let pairs = predictions.iter().zip(references);
    let statistics: Vec<Vec<f64>> = pairs.map(|(text, references)| metric.statistics(text, references)).collect();
    Ok(TextScore {
        name: metric.name(),
        signature: metric.signature(references),
        value: metric.corpus(&sums(&statistics, 0..statistics.len())),
        examples: statistics.iter().map(|statistics| metric.example(statistics)).collect(),
        statistics,
    })
}

/// The sums of the rows at these places.
pub fn sums(statistics: &[Vec<f64>], places: impl IntoIterator<Item = usize>) -> Vec<f64> {
    let mut sums = vec![0.0; statistics.first().map_or(0, Vec::len)];
    for place in places {
        for (sum, x) in sums.iter_mut().zip(&statistics[place]) {
            *sum += x;
        }
    }
    sums
}

/// The mean of a value that stands before its count.
pub(super) fn mean(sums: &[f64]) -> f64 {
    sums[0] / sums[sums.len() - 1]
}

/// `nrefs` of a signature: how many references every example has, or `var`.
pub(super) fn reference_count(references: &[Vec<String>]) -> String {
    let first = references.first().map_or(0, Vec::len);
    if references.iter().all(|list| list.len() == first) { first.to_string() } else { "var".into() }
}

/// `yes` or `no`.
pub(super) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}
