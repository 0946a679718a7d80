//! Evaluation: what can be scored from the probabilities of the right answers (`likelihood`: loss, classes), and what
//! from answers that the model writes (`generation`, `scoring`), with intervals; its files (`files`), and evaluations
//! beside each other (`compare`). What is scored, by name, is in `measure`.

mod compare;
mod files;
mod generation;
mod likelihood;
mod lines;
mod measure;
mod scoring;

use serde::Serialize;
use statetune_datasets_eval::Dataset;
use statetune_datasets_eval::metrics::ClassificationReport;
use statetune_mamba_model::{Mamba, Patches};

use crate::TrainError;

pub use compare::{Cell, Comparison, Difference, compare};
pub use files::{DataUsed, Kept, MetricLine, Stored, Subject};
pub use measure::{Answers, ClassScore, Measure, Reducer, SqlScore};
pub use scoring::{Examination, Measured, Scorer, Stage};

/// What an evaluation found without generating.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Mean -ln p(token) over the labelled tokens.
    pub loss: f64,
    /// e^loss.
    pub perplexity: f64,
    /// The labelled tokens.
    pub labelled: usize,
    /// Examples.
    pub examples: usize,
    /// Scores, for classification.
    pub classification: Option<ClassificationReport>,
}

impl Evaluation {
    /// The value of a metric by its name in configurations, and whether higher is better.
    pub fn metric(&self, name: &str) -> Option<(f64, bool)> {
        let scores = self.classification.as_ref();
        match name {
            "loss" => Some((self.loss, false)),
            "accuracy" => Some((scores?.over_all_vocabulary.accuracy, true)),
            "f1" => Some((scores?.over_all_vocabulary.f1, true)),
            "matthews" => Some((scores?.over_all_vocabulary.matthews, true)),
            "label_accuracy" => Some((scores?.over_labels.accuracy, true)),
            _ => None,
        }
    }
}

/// Evaluates a model with patches on a data set, a sequence that is longer than 8192 tokens and `micro_batch_tokens` by chunks
/// of the larger of these. `progress(done, of)` is called with examples. Nothing is generated: see [`Scorer`].
///
/// # Errors
/// The data set is empty, or the model refuses a batch.
pub fn evaluate(
    model: &Mamba,
    patches: &Patches,
    dataset: &Dataset,
    micro_batch_tokens: usize,
    share_prefix: bool,
    progress: impl FnMut(usize, usize),
) -> Result<Evaluation, TrainError> {
    Ok(likelihood::examine(model, patches, dataset, micro_batch_tokens, share_prefix, progress)?.evaluation)
}
