//! The evaluations of a sweep beside each other: of each task that is judged by answers what `statetune compare` says of them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::plan::{Job, Plan};
use super::results::{Choice, Line, Results};
use crate::TrainError;
use crate::evaluate::{Comparison, Kept, MetricLine, Stored, compare};

/// The evaluations of a task.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The task's name.
    pub task: String,
    /// Its name in the table.
    pub title: String,
    /// All with the first, which is the untuned model where that is a row; absent where there are fewer than two.
    pub comparison: Option<Comparison>,
    /// Models that were judged, and whose evaluation is not in the folder, or is another.
    pub missing: Vec<String>,
}

/// Compares the evaluations that are in a folder: those of the models whose results are there.
///
/// # Errors
/// An evaluation's files are damaged.
pub fn compared(folder: &Path, plan: &Plan, results: &Results) -> Result<Vec<Compared>, TrainError> {
    let mut all = Vec::new();
    for (at, task) in plan.tasks.iter().enumerate().filter(|(_, task)| task.judge.is_some()) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for (job, line) in models(plan, results, at) {
            let path = folder.join(plan.place(&job));
            let stored = path.join(Kept::FILE).is_file().then(|| Stored::read(&path)).transpose()?;
            match stored.filter(|stored| is_of(stored, line)) {
                Some(stored) => found.push((plan.called(&job), stored)),
                None => missing.push(plan.called(&job)),
            }
        }
        let beside: Vec<(String, &Stored)> = found.iter().map(|(name, stored)| (name.clone(), stored)).collect();
        let comparison = (beside.len() > 1).then(|| compare(&beside)).transpose()?;
        if comparison.is_some() || !missing.is_empty() {
            all.push(Compared { task: task.name.clone(), title: task.title.clone(), comparison, missing });
        }
    }
    Ok(all)
}

/// The models of a task's table that were judged.
fn models<'a>(plan: &Plan, results: &'a Results, task: usize) -> Vec<(Job, &'a Line)> {
    let units = (0..plan.units.len()).filter(|&unit| plan.units[unit].task == task);
    let jobs = units.flat_map(|unit| match results.choice(plan, unit) {
        Choice::Rate(rate) => plan.finals(unit, rate),
        Choice::Open | Choice::None => Vec::new(),
    });
    jobs.filter_map(|job| Some((job, results.of(plan, &job).filter(|line| line.score.is_some())?))).collect()
}

/// Whether an evaluation is the one of a result, and not one of the same name from another sweep or with another rate.
fn is_of(stored: &Stored, line: &Line) -> bool {
    // A number that was written and read again may have another last digit; one that is not finite is read as none.
    let same = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs() || a.is_nan() && b.is_nan();
    let kept = &stored.kept.metrics;
    match Vec::<MetricLine>::deserialize(&line.evaluation["metrics"]) {
        Ok(told) => {
            told.len() == kept.len() && told.iter().zip(kept).all(|(a, b)| a.key == b.key && same(a.value, b.value))
        }
        // Results from before all scores were kept with them.
        Err(_) => kept.first().zip(line.score).is_some_and(|(first, score)| same(first.value, score)),
    }
}

impl Compared {
    /// A heading, the comparison, and what is missing.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n", self.title);
        if let Some(comparison) = &self.comparison {
            text += &format!("\n{}", comparison.markdown());
        }
        if !self.missing.is_empty() {
            text += &format!("\nJudged, but without an evaluation in this folder: {}.\n", self.missing.join(", "));
        }
        text
    }
}
