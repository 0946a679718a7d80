//! The names on the hub that a configuration holds: pinned to commits before anything is done with them, and as a run
//! recorded them when it goes on.

use std::path::{Path, PathBuf};

use statetune_datasets_eval::{CorpusConfig, DataConfig};
use statetune_trainer::config::ModelSection;
use statetune_trainer::sweep::SweepConfig;
use statetune_trainer::{PretrainConfig, RunConfig, TrainError};

use crate::hub::{self, HubError};

/// A configuration with paths that may be names on the hub.
pub(super) trait HubPaths: Clone {
    /// Where they stand, always in the same order.
    fn paths(&mut self) -> Vec<&mut PathBuf>;
}

fn of_model(model: &mut ModelSection) -> impl Iterator<Item = &mut PathBuf> {
    std::iter::once(&mut model.path).chain(&mut model.tokenizer)
}

fn of_data(data: &mut DataConfig) -> impl Iterator<Item = &mut PathBuf> {
    let DataConfig { train, validation, tables, databases, chat_template, .. } = data;
    [train, validation, tables, databases, chat_template].into_iter().flatten()
}

impl HubPaths for RunConfig {
    fn paths(&mut self) -> Vec<&mut PathBuf> {
        of_model(&mut self.model).chain(of_data(&mut self.data)).collect()
    }
}

impl HubPaths for PretrainConfig {
    fn paths(&mut self) -> Vec<&mut PathBuf> {
        let model = [&mut self.model.config, &mut self.model.path, &mut self.model.tokenizer].into_iter().flatten();
        model.chain(&mut self.data.train).chain(&mut self.data.validation).collect()
    }
}

impl HubPaths for SweepConfig {
    fn paths(&mut self) -> Vec<&mut PathBuf> {
        of_model(&mut self.model).chain(self.tasks.iter_mut().flat_map(|task| of_data(&mut task.data))).collect()
    }
}

/// The configuration with a commit in every name. Where a run has recorded its configuration in `recorded`, a name stands
/// for the commit that it stood for then, wherever its branch has moved.
///
/// # Errors
/// A name is not well formed or cannot be looked up.
pub(super) fn pinned<C: HubPaths>(
    config: &C,
    recorded: Option<&Path>,
    read: impl FnOnce(&Path) -> Result<C, TrainError>,
) -> Result<C, HubError> {
    let mut config = config.clone();
    if !config.paths().iter().any(|path| hub::is_name(path)) {
        return Ok(config);
    }
    // A configuration that cannot be read is somebody else's error.
    let mut before = recorded.filter(|file| file.is_file()).and_then(|file| read(file).ok());
    let before: Vec<&mut PathBuf> = before.iter_mut().flat_map(HubPaths::paths).collect();
    for path in config.paths() {
        let known = before.iter().find_map(|known| hub::answered(path, known));
        *path = known.map_or_else(|| hub::pinned(path), |known| Ok(known.to_path_buf()))?;
    }
    Ok(config)
}

/// The data of a configuration with files on disk in place of names on the hub.
///
/// # Errors
/// One cannot be downloaded.
pub(super) fn local_data(data: &DataConfig) -> Result<DataConfig, HubError> {
    let mut data = data.clone();
    for path in of_data(&mut data) {
        *path = hub::file(path)?;
    }
    Ok(data)
}

/// The same of text to pretrain on.
///
/// # Errors
/// One cannot be downloaded.
pub(super) fn local_corpus(data: &CorpusConfig) -> Result<CorpusConfig, HubError> {
    let mut data = data.clone();
    for path in data.train.iter_mut().chain(&mut data.validation) {
        *path = hub::file(path)?;
    }
    Ok(data)
}
