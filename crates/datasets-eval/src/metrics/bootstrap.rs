//! How far a score might be off for the choice of examples: the bootstrap (Efron and Tibshirani, 1993), and the paired one
//! for two systems on the same examples (Koehn, "Statistical significance tests for machine translation evaluation", EMNLP
//! 2004).
//!
//! Draws are a function of seed, sample and place, so that a seed gives the same interval everywhere, and two systems meet
//! the same draws.

use serde::Serialize;

use super::metric::{Metric, TextScore, sums};
use crate::world::rng::Rng;
use crate::{DataError, Result};

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Samples drawn; at least 1.
    pub samples: usize,
    /// The share of the samples' scores that lies within the interval, above 0 and below 1.
    pub confidence: f64,
    /// What the draws follow from.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 1,000 samples and 95 %, as sacrebleu and rouge-score have it.
    fn default() -> Bootstrap {
        Bootstrap { samples: 1000, confidence: 0.95, seed: 0 }
    }
}

/// A score and where resampled scores lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The score of the examples as they are.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// The middle sample, which rouge-score reports in place of the mean.
    pub median: f64,
    /// Upper end.
    pub high: f64,
}

/// How two systems differ on the same examples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PairedDifference {
    /// The first system's score less the second's, with its interval.
    pub difference: Interval,
    /// The chance of a difference at least as large between systems that are equally good; two-sided, by the samples'
    /// differences moved to a mean of zero, as sacrebleu 2.6 computes it.
    pub p_value: f64,
}

impl PairedDifference {
    /// Whether zero lies outside the interval.
    pub fn is_clear(&self) -> bool {
        self.difference.low > 0.0 || self.difference.high < 0.0
    }
}

impl Bootstrap {
    /// The interval of any statistic of `examples` examples, given the places of those drawn.
    ///
    /// # Errors
    ///
    /// There are no examples, or the numbers of this value are out of range.
    pub fn interval(&self, examples: usize, statistic: impl Fn(&[usize]) -> f64) -> Result<Interval> {
        let all: Vec<usize> = (0..examples).collect();
        Ok(self.around(statistic(&all), &self.sampled(examples, statistic)?))
    }

    /// The interval of a mean.
    ///
    /// # Errors
    ///
    /// As [`Bootstrap::interval`].
    pub fn mean(&self, values: &[f64]) -> Result<Interval> {
        self.interval(values.len(), |draw| draw.iter().map(|&place| values[place]).sum::<f64>() / draw.len() as f64)
    }

    /// The interval of a corpus' score.
    ///
    /// # Errors
    ///
    /// As [`Bootstrap::interval`].
    pub fn score(&self, metric: &dyn Metric, score: &TextScore) -> Result<Interval> {
        self.interval(score.statistics.len(), of(metric, score))
    }

    /// How two systems' scores by one metric differ on the same examples.
    ///
    /// # Errors
    ///
    /// The scores are of different numbers of examples or of different metrics, or as [`Bootstrap::interval`].
    pub fn paired(&self, metric: &dyn Metric, first: &TextScore, second: &TextScore) -> Result<PairedDifference> {
        let (a, b) = (first.statistics.len(), second.statistics.len());
        if first.signature != second.signature || a != b {
            return Err(DataError::Argument {
                what: "scores to compare",
                expected: format!("{a} examples of `{}`", first.signature),
                found: format!("{b} of `{}`", second.signature),
            });
        }
        let (first, second) = (of(metric, first), of(metric, second));
        self.paired_by(a, |draw| first(draw) - second(draw))
    }

    /// The same for any difference of two statistics of the drawn examples.
    ///
    /// # Errors
    ///
    /// As [`Bootstrap::interval`].
    pub fn paired_by(&self, examples: usize, difference: impl Fn(&[usize]) -> f64) -> Result<PairedDifference> {
        let all: Vec<usize> = (0..examples).collect();
        let value = difference(&all);
        let samples = self.sampled(examples, difference)?;
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let as_large = samples.iter().filter(|sample| (**sample - mean).abs() >= value.abs()).count();
        let p_value = (as_large + 1) as f64 / (samples.len() + 1) as f64;
        Ok(PairedDifference { difference: self.around(value, &samples), p_value })
    }

    /// The statistic of every sample, in order.
    fn sampled(&self, examples: usize, statistic: impl Fn(&[usize]) -> f64) -> Result<Vec<f64>> {
        let refuse =
            |what, expected: &str, found: String| Err(DataError::Argument { what, expected: expected.into(), found });
        if examples == 0 {
            return refuse("examples to resample", "at least 1", "0".into());
        }
        if self.samples == 0 {
            return refuse("bootstrap samples", "at least 1", "0".into());
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return refuse("bootstrap confidence", "a share above 0 and below 1", self.confidence.to_string());
        }
        let mut draw = vec![0; examples];
        let mut found = Vec::with_capacity(self.samples);
        for sample in 0..self.samples {
            let mut rng = Rng::new(self.seed, "bootstrap", sample as u64);
            draw.fill_with(|| rng.below(examples));
            found.push(statistic(&draw));
        }
        found.sort_by(f64::total_cmp);
        Ok(found)
    }

    fn around(&self, value: f64, samples: &[f64]) -> Interval {
        let outside = (1.0 - self.confidence) / 2.0;
        let at = |share| quantile(samples, share);
        Interval { value, low: at(outside), median: at(0.5), high: at(1.0 - outside) }
    }
}

/// The score of drawn examples.
fn of<'s>(metric: &'s dyn Metric, score: &'s TextScore) -> impl Fn(&[usize]) -> f64 + 's {
    |draw| metric.corpus(&sums(&score.statistics, draw.iter().copied()))
}

/// Between the two values nearest, in proportion, as numpy's default has it.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}
