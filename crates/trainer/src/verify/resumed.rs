//! What a run folder promises on top: that its newest checkpoint is whole, and that going on from it is one thing.

use std::fs;
use std::path::Path;

use statetune_mamba_model::Mamba;
use statetune_peft_methods::{Adapter, Method, methods};

use super::{Finding, differing};
use crate::checkpoint::{list, load};
use crate::config::TrainSettings;
use crate::error::io_error;
use crate::schedule::ScheduleKind;
use crate::{AdamW, Run, RunFolder, Silent, TrainError};

/// The promise of a run's newest checkpoint.
pub const WHOLE: &str = "checkpoint = whole";
/// The promise of going on from it.
pub const RESUMED: &str = "resumed = repeated";

/// Reads the newest checkpoint in a run's folder, checksums and all.
///
/// # Errors
/// The folder cannot be read. A damaged checkpoint is no error but a finding.
pub fn checkpoint_is_whole(model: &Mamba, settings: &TrainSettings, folder: &Path) -> Result<Finding, TrainError> {
    let Some((_, path)) = list(&RunFolder::checkpoints(folder))?.pop() else {
        return Ok(Finding::skipped(WHOLE, "the run has no checkpoint"));
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(match load(&path, model, |adapter| AdamW::new(adapter, settings.adamw())) {
        Ok(_) => Finding::new(WHOLE, format!("the checksums of {name}"), 0.0, 0.0),
        Err(error) => Finding::impossible(WHOLE, error.to_string()),
    })
}

/// Takes the step after the newest checkpoint in `run.folder` twice. `began_with` are the run's methods at its start;
/// `scratch` is an empty folder.
///
/// # Errors
/// The folder cannot be read, or `scratch` not be written. A run that cannot go on is no error but a finding.
pub fn resumed_is_resumed(
    run: &Run<'_>,
    began_with: &[Box<dyn Method>],
    scratch: &Path,
) -> Result<Finding, TrainError> {
    let newest = run.folder.map(|folder| list(&RunFolder::checkpoints(folder))).transpose()?;
    let Some((step, path)) = newest.and_then(|mut all| all.pop()) else {
        return Ok(Finding::skipped(RESUMED, "the run has no checkpoint"));
    };
    let read = || load(&path, run.model, |adapter| AdamW::new(adapter, run.settings.adamw()));
    match read() {
        Err(_) => return Ok(Finding::skipped(RESUMED, "there is no whole checkpoint to resume")),
        Ok((adapter, ..)) if methods::warmup_steps(adapter.methods()) > 0 => {
            return Ok(Finding::skipped(RESUMED, "the newest checkpoint is one of the warm-up"));
        }
        Ok(_) => {}
    }
    // A run counts the steps of a warm-up on top of its own.
    let warm_up = methods::warmup_steps(began_with);
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
        copy(&path, &RunFolder::checkpoints(&folder).join(path.file_name().unwrap_or_default()))?;
        let again = Run { validation: None, settings: &settings, folder: Some(&folder), ..*run };
        let start = match warm_up {
            0 => read()?.0,
            _ => Adapter::new(run.model, methods::copies(began_with)?, settings.seed)?,
        };
        Ok(again.train(start, true, &mut Silent)?.adapter)
    };
    Ok(match resumed("first").and_then(|first| Ok((first, resumed("second")?))) {
        Ok((first, second)) => {
            let compared = format!("the bits of {} tensors after step {}, taken twice", first.specs().len(), step + 1);
            Finding::new(RESUMED, compared, differing(first.patches(), second.patches()) as f64, 0.0)
        }
        Err(error) => Finding::impossible(RESUMED, error.to_string()),
    })
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
