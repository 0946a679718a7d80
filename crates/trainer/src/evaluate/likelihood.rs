//! The probabilities of the right answers: the loss of every example, and what a classifier says.

use statetune_datasets_eval::metrics::{ClassificationReport, Prediction};
use statetune_datasets_eval::{Dataset, evaluation_batches};
use statetune_mamba_model::{Bound, Mamba, Patches};
use statetune_tensor::{Staged, Tape, Tensor, ops};

use super::Evaluation;
use crate::TrainError;
use crate::data::micro_batch;
use crate::long::{self, CHUNK_TOKENS};
use crate::step::hidden_states;

/// What was found, whole and of each example in the order of the data set.
pub(super) struct Likelihood {
    pub evaluation: Evaluation,
    /// Summed -ln p of an example's labelled tokens.
    pub losses: Vec<f64>,
    /// What a classifier said, and the most probable token of the vocabulary; empty without classes.
    pub predictions: Vec<(Prediction, u32)>,
}

/// See [`evaluate`](super::evaluate()).
pub(super) fn examine(
    model: &Mamba,
    patches: &Patches,
    dataset: &Dataset,
    micro_batch_tokens: usize,
    share_prefix: bool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Likelihood, TrainError> {
    let of = dataset.examples.len();
    if of == 0 {
        return Err(TrainError::NothingToDo { reason: "there is no example to evaluate on".into() });
    }
    let (mut loss, mut labelled, mut done) = (0.0, 0, 0);
    let (mut losses, mut predictions) = (vec![0.0; of], vec![None; of]);
    let class_tokens: Staged<u32> = dataset.classes.iter().map(|class| class.token).collect();
    for indices in evaluation_batches(&dataset.lengths(), micro_batch_tokens) {
        let micro = micro_batch(dataset, &indices, share_prefix)?;
        let _working = model.device().working();
        let tape = Tape::inference(model.device());
        let bound = Bound::new(&tape, model, patches, None)?;
        let (parts, mut behind) = (long::parts(micro, micro_batch_tokens.max(CHUNK_TOKENS))?, None);
        let last = parts.len() - 1;
        // The example that each labelled row is of, in the order of rows.
        let targets = |index: &usize| dataset.examples[*index].tokens.len() - dataset.examples[*index].labelled_from;
        let mut owners = indices.iter().flat_map(|index| std::iter::repeat_n(*index, targets(index)));
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
            let row_losses = output.row_losses()?;
            loss += row_losses.iter().sum::<f64>();
            row_losses.iter().zip(&mut owners).for_each(|(loss, owner)| losses[owner] += loss);
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
    let predictions: Vec<(Prediction, u32)> = predictions.into_iter().flatten().collect();
    let classification = match dataset.classes.len() {
        0 => None,
        classes => {
            let predictions: Vec<Prediction> = predictions.iter().map(|(prediction, _)| *prediction).collect();
            Some(ClassificationReport::new(&predictions, classes)?)
        }
    };
    let evaluation = Evaluation { loss, perplexity: loss.exp(), labelled, examples: of, classification };
    Ok(Likelihood { evaluation, losses, predictions })
}

/// `logits` `[R, classes]` are those of the classes' tokens.
fn predict(
    dataset: &Dataset,
    indices: &[usize],
    argmax: &[u32],
    logits: &Tensor,
    predictions: &mut [Option<(Prediction, u32)>],
) {
    let logits = logits.to_f64_vec();
    for ((&index, &token), row) in indices.iter().zip(argmax).zip(logits.chunks(dataset.classes.len())) {
        let of = |class: usize| row[class];
        // The first of equals, as over the vocabulary.
        let best = (1..dataset.classes.len()).fold(0, |best, class| if of(class) > of(best) { class } else { best });
        let prediction = Prediction {
            gold: dataset.examples[index].class.expect("a classification data set"),
            over_all_vocabulary: dataset.classes.iter().position(|class| class.token == token),
            over_labels: best,
        };
        predictions[index] = Some((prediction, token));
    }
}
