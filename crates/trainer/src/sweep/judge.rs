//! Models of the table that are judged by what they answer.

use std::path::Path;

use statetune_datasets_eval::Dataset;
use statetune_mamba_model::{Mamba, Patches};
use statetune_peft_methods::Adapter;

use super::plan::PlannedTask;
use crate::TrainError;
use crate::config::EvaluationSection;
use crate::evaluate::{Examination, Measure, MetricLine, Scorer, Stage};

/// A score of the model's own answers.
#[derive(Debug, Clone)]
pub struct Judge {
    /// How they are made, and all that they are scored by.
    pub evaluation: EvaluationSection,
    /// The score that judges, the first of these.
    pub measure: Measure,
}

/// A model of the table: one whose training is over, or the untuned one.
pub struct Candidate<'a> {
    /// What it is judged on.
    pub task: &'a PlannedTask,
    /// What it is called: see [`Plan::called`](super::Plan::called).
    pub name: &'a str,
    /// Where its files belong, from the folder of their kind: see [`Plan::place`](super::Plan::place).
    pub place: &'a Path,
    /// The base model.
    pub model: &'a Mamba,
    /// What was trained.
    pub adapter: Option<&'a Adapter>,
    /// The validation rows.
    pub dataset: &'a Dataset,
    /// Hears how far its evaluation is: what is done there, how much of it, of how much.
    pub progress: &'a dyn Fn(Stage, usize, usize),
}

/// What the answers of a model come to.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// The score that judges.
    pub score: f64,
    /// Every score, with intervals.
    pub metrics: Vec<MetricLine>,
}

/// Judges a model of the table if its task has a judge, and keeps of it what is to be kept.
pub type Judging<'a> = dyn Fn(&Candidate<'_>) -> Result<Option<Judgement>, TrainError> + Sync + 'a;

impl Candidate<'_> {
    /// The answers of the model and what they score; `scorer` is one by the task's judge.
    ///
    /// # Errors
    /// Those of [`Scorer::examine`].
    pub fn examine(&self, scorer: &Scorer<'_>) -> Result<Examination, TrainError> {
        let none = Patches::none();
        let patches = self.adapter.map_or(&none, Adapter::patches);
        let (tokens, shares) = (self.task.settings.micro_batch_tokens, self.task.settings.share_prefix);
        scorer.examine(self.model, patches, self.dataset, tokens, shares, &mut |stage, done, of| {
            (self.progress)(stage, done, of)
        })
    }
}

impl Judge {
    /// What an evaluation comes to.
    ///
    /// # Errors
    /// No row asks for what the score is of.
    pub fn judgement(&self, found: &Examination, metrics: &[MetricLine]) -> Result<Judgement, TrainError> {
        let measured = found.measured.iter().find(|measured| measured.measure == self.measure);
        let measured = measured.ok_or_else(|| TrainError::NothingToDo {
            reason: format!(
                "no row of the validation file asks for an answer that `{}` could score",
                self.measure.key()
            ),
        })?;
        Ok(Judgement { score: measured.interval.value, metrics: metrics.to_vec() })
    }
}
