//! Evaluation: the loss over the labelled tokens and, for classification, scores over all vocabulary and over the
//! labels.

use serde::Serialize;
use statetune_datasets_eval::metrics::{ClassificationReport, Prediction};
use statetune_datasets_eval::{Dataset, evaluation_batches};
use statetune_mamba_model::{Bound, Mamba, Patches};
use statetune_tensor::{Staged, Tape, Tensor, ops};

use crate::TrainError;
use crate::data::micro_batch;
use crate::long::{self, CHUNK_TOKENS};
use crate::step::hidden_states;

/// What an evaluation found.
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
/// of the larger of these. `progress(done, of)` is called with examples.
///
/// # Errors
/// The data set is empty, or the model refuses a batch.
pub fn evaluate(
    model: &Mamba,
    patches: &Patches,
    dataset: &Dataset,
    micro_batch_tokens: usize,
    share_prefix: bool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Evaluation, TrainError> {
    let of = dataset.examples.len();
    if of == 0 {
        return Err(TrainError::NothingToDo { reason: "there is no example to evaluate on".into() });
    }
    let (mut loss, mut labelled, mut done) = (0.0, 0, 0);
    let mut predictions = Vec::new();
    let class_tokens: Staged<u32> = dataset.classes.iter().map(|class| class.token).collect();
    for indices in evaluation_batches(&dataset.lengths(), micro_batch_tokens) {
        let micro = micro_batch(dataset, &indices, share_prefix)?;
        let _working = model.device().working();
        let tape = Tape::inference(model.device());
        let bound = Bound::new(&tape, model, patches, None)?;
        let (parts, mut behind) = (long::parts(micro, micro_batch_tokens.max(CHUNK_TOKENS))?, None);
        let last = parts.len() - 1;
        for (i, micro) in parts.iter().enumerate() {
            let hidden = if last == 0 {
                hidden_states(model, &tape, &bound, micro.prefix.as_ref(), &micro.batch)?
            } else {
                // A long sequence goes on from the state behind the chunk before.
                let output = model.forward(&tape, &bound, &micro.batch, behind.as_ref(), i < last)?;
                behind = output.states;
                output.hidden
            };
            if micro.rows.is_empty() {
                continue;
            }
            let (rows, targets) = (micro.rows.as_slice(), micro.targets.as_slice());
            let output = model.loss(&tape, &bound, &micro.batch, &hidden, rows, targets, 1.0)?;
            loss += output.row_losses()?.iter().sum::<f64>();
            labelled += micro.rows.len();
            if !dataset.classes.is_empty() {
                // A label is one token: one row per example, in order.
                let logits = model.logits(&tape, &bound, &hidden, &micro.rows)?;
                let of_classes = ops::gather_columns(&tape, &logits, &class_tokens)?;
                predict(dataset, &indices, &output.argmax()?, of_classes.tensor(), &mut predictions);
            }
        }
        done += indices.len();
        progress(done, of);
    }
    let loss = loss / labelled as f64;
    let classification = match dataset.classes.len() {
        0 => None,
        classes => Some(ClassificationReport::new(&predictions, classes)?),
    };
    Ok(Evaluation { loss, perplexity: loss.exp(), labelled, examples: of, classification })
}

/// `logits` `[R, classes]` are those of the classes' tokens.
fn predict(dataset: &Dataset, indices: &[usize], argmax: &[u32], logits: &Tensor, predictions: &mut Vec<Prediction>) {
    let logits = logits.to_f64_vec();
    for ((&index, &token), row) in indices.iter().zip(argmax).zip(logits.chunks(dataset.classes.len())) {
        let of = |class: usize| row[class];
        // The first of equals, as over the vocabulary.
        let best = (1..dataset.classes.len()).fold(0, |best, class| if of(class) > of(best) { class } else { best });
        predictions.push(Prediction {
            gold: dataset.examples[index].class.expect("a classification data set"),
            over_all_vocabulary: dataset.classes.iter().position(|class| class.token == token),
            over_labels: best,
        });
    }
}
