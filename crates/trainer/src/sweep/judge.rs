//! Runs of the table that are judged by what the model answers.

use statetune_datasets_eval::{Dataset, Tokenizer};
use statetune_mamba_model::{Mamba, Patches};

use super::plan::PlannedTask;
use crate::TrainError;
use crate::config::EvaluationSection;
use crate::evaluate::{Measure, Scorer};

/// A score of the model's own answers.
#[derive(Debug, Clone)]
pub struct Judge {
    /// How they are made and compared.
    pub evaluation: EvaluationSection,
    /// The score.
    pub measure: Measure,
}

/// The score of a task's judge for a model with patches, on the validation file.
pub type Judging<'a> = dyn Fn(&Judge, &PlannedTask, &Mamba, &Patches, &Dataset) -> Result<f64, TrainError> + Sync + 'a;

/// Such a score, by the tokens that `tokenizer` makes; `ends` are those that end a text for the model.
///
/// # Errors
/// A file that the score takes cannot be read; the model refuses; there is nothing to judge on.
pub fn judged(
    judge: &Judge,
    task: &PlannedTask,
    tokenizer: &Tokenizer,
    ends: &[u32],
    model: &Mamba,
    patches: &Patches,
    dataset: &Dataset,
) -> Result<f64, TrainError> {
    let (data, settings) = (judge.evaluation.data(&task.data), &task.settings);
    let scorer = Scorer::new(&judge.evaluation, &data, tokenizer, ends)?;
    let (tokens, shares) = (settings.micro_batch_tokens, settings.share_prefix);
    let found = scorer.examine(model, patches, dataset, tokens, shares, &mut |_, _, _| {})?;
    let measured = found.measured.iter().find(|measured| measured.measure == judge.measure);
    let measured = measured.ok_or_else(|| TrainError::NothingToDo {
        reason: format!("no row of the validation file asks for an answer that `{}` could score", judge.measure.key()),
    })?;
    Ok(measured.interval.value)
}
