//! What a run folder promises on top: that its newest checkpoint is whole, and that going on from it is one thing.

use std::fs;
use std::path::Path;

use statetune_peft_methods::Adapter;

use super::{Finding, differing, same_methods};
use crate::checkpoint::{list, load};
use crate::config::TrainSettings;
use crate::error::io_error;
use crate::schedule::ScheduleKind;
use crate::{AdamW, Run, RunFolder, Silent, TrainError};

const WHOLE: &str = "checkpoint = whole";
const RESUMED: &str = "resumed = resumed";

/// Tries what the run in `run.folder` promises. `adapter` has the methods that the run began with; `scratch` is an empty
/// folder.
///
/// # Errors
/// The folder cannot be read, or `scratch` not be written. A promise that is broken is no error but a finding.
pub fn verify_run(run: &Run<'_>, adapter: &Adapter, scratch: &Path) -> Result<Vec<Finding>, TrainError> {
    let checkpoints = match run.folder {
        Some(folder) => list(&RunFolder::checkpoints(folder))?,
        None => Vec::new(),
    };
    let Some((step, path)) = checkpoints.last() else {
        let reason = "the run has no checkpoint";
        return Ok(vec![Finding::skipped(WHOLE, reason), Finding::skipped(RESUMED, reason)]);
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let loaded = match load(path, run.model, |adapter| AdamW::new(adapter, run.settings.adamw())) {
        Ok((adapter, ..)) => adapter,
        Err(error) => {
            let broken = Finding::impossible(WHOLE, error.to_string());
            return Ok(vec![broken, Finding::skipped(RESUMED, "there is no whole checkpoint to resume")]);
        }
    };
    let whole = Finding::new(WHOLE, format!("checksums of {name}"), 0.0, 0.0);
    if loaded.methods().iter().any(|method| method.warmup_steps() > 0) {
        return Ok(vec![whole, Finding::skipped(RESUMED, "the newest checkpoint is one of the warm-up")]);
    }
    // A run counts the steps of a warm-up on top of its own.
    let warm_up = adapter.methods().iter().map(|method| method.warmup_steps()).max().unwrap_or(0);
    let settings = TrainSettings {
        max_steps: step.saturating_sub(warm_up) + 1,
        schedule: ScheduleKind::Constant,
        warmup_steps: 0,
        early_stop: 0,
        metric: "loss".into(),
        ..run.settings.clone()
    };
    let resumed = |name: &str| -> Result<Adapter, TrainError> {
        let folder = scratch.join(name);
        copy(path, &RunFolder::checkpoints(&folder).join(path.file_name().unwrap_or_default()))?;
        let again = Run { validation: None, settings: &settings, folder: Some(&folder), ..*run };
        let start = Adapter::new(run.model, same_methods(adapter)?, settings.seed)?;
        Ok(again.train(start, true, &mut Silent)?.adapter)
    };
    let finding = match resumed("first").and_then(|first| Ok((first, resumed("second")?))) {
        Ok((first, second)) => {
            let compared = format!("the bits of {} tensors, step {}", first.specs().len(), step + 1);
            Finding::new(RESUMED, compared, differing(first.patches(), second.patches()) as f64, 0.0)
        }
        Err(error) => Finding::impossible(RESUMED, error.to_string()),
    };
    Ok(vec![whole, finding])
}

/// The files of a checkpoint.
fn copy(from: &Path, to: &Path) -> Result<(), TrainError> {
    fs::create_dir_all(to).map_err(|source| io_error(to, "create", source))?;
    for entry in fs::read_dir(from).map_err(|source| io_error(from, "read", source))? {
        let path = entry.map_err(|source| io_error(from, "read", source))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        fs::copy(&path, &target).map_err(|source| io_error(&target, "write", source))?;
    }
    Ok(())
}
