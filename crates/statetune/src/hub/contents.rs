//! Which files of a repository make a model or an adapter: those that are read here, and no others.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::name::{Name, is_inside};
use super::{Hub, HubError, Progress};
use crate::model_folder::COMPANIONS;

const MODEL: &str = "config.json";
const ADAPTER: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// Kinds of weights in the order in which a model folder is read: one file, and the index of several.
const WEIGHTS: [[&str; 2]; 2] =
    [["model.safetensors", "model.safetensors.index.json"], ["pytorch_model.bin", "pytorch_model.bin.index.json"]];
/// A folder of a repository at a commit.
pub(super) struct Contents<'a> {
    pub hub: &'a Hub,
    pub name: &'a Name,
    pub progress: Progress<'a>,
    /// Once it had to be asked for.
    pub listed: Option<BTreeSet<String>>,
}

impl Contents<'_> {
    /// Has all that is needed in the cache.
    pub(super) fn folder(mut self) -> Result<PathBuf, HubError> {
        let (model, adapter) = (self.has(MODEL)?, self.has(ADAPTER)?);
        let mut wanted = Vec::new();
        if adapter {
            wanted.extend([ADAPTER, ADAPTER_WEIGHTS].map(String::from));
        }
        if model {
            wanted.push(MODEL.into());
            wanted.extend(self.weights()?);
        }
        if !model && !adapter {
            return Err(self.absent(&format!("{MODEL} or {ADAPTER}"), "name the folder of a model or adapter in it"));
        }
        for companion in COMPANIONS {
            if self.has(companion)? {
                wanted.push(companion.into());
            }
        }
        self.get(&wanted)?;
        Ok(self.hub.repository(self.name).snapshot(self.name.asked(), &self.name.path))
    }

    /// The files of the first kind of weights there is.
    fn weights(&mut self) -> Result<Vec<String>, HubError> {
        for [single, index] in WEIGHTS {
            if self.has(single)? {
                return Ok(vec![single.into()]);
            }
            if self.has(index)? {
                self.get(&[index.into()])?;
                let mut files = self.shards(index)?;
                files.insert(index.into());
                return Ok(files.into_iter().collect());
            }
        }
        let all = WEIGHTS.concat().join(", ");
        Err(self.absent(&all, "it holds no weights that can be read; look for a conversion to safetensors"))
    }

    /// The files that an index names.
    fn shards(&self, index: &str) -> Result<BTreeSet<String>, HubError> {
        let repository = self.hub.repository(self.name);
        let file = repository.snapshot(self.name.asked(), &self.name.below(index));
        let text = fs::read_to_string(&file).map_err(|source| repository.failed("read", &file, source))?;
        let wrong = || HubError::Protocol {
            what: format!("{}, {index}", self.name.what()),
            problem: "it is no index of files in the same folder".into(),
        };
        let index: Value = serde_json::from_str(&text).map_err(|_| wrong())?;
        let map = index["weight_map"].as_object().ok_or_else(wrong)?;
        map.values()
            .map(|file| file.as_str().filter(|file| is_inside(file)).map(String::from).ok_or_else(wrong))
            .collect()
    }

    /// Whether there is such a file: as the cache knows, else as the hub says. Offline only the cache is asked.
    fn has(&mut self, file: &str) -> Result<bool, HubError> {
        let (commit, path) = (self.name.asked(), self.name.below(file));
        let repository = self.hub.repository(self.name);
        if repository.snapshot(commit, &path).exists() {
            return Ok(true);
        }
        if self.hub.settings.offline || repository.lacks(commit, &path) {
            return Ok(false);
        }
        let listed = match &mut self.listed {
            Some(listed) => listed,
            None => self.listed.insert(self.hub.client.revision(self.name)?.files.into_iter().collect()),
        };
        let found = listed.contains(&path);
        if !found {
            repository.note_absent(commit, &path);
        }
        Ok(found)
    }

    /// Has files in the cache.
    fn get(&mut self, files: &[String]) -> Result<(), HubError> {
        let names: Vec<Name> = files.iter().map(|file| self.name.with_path(&self.name.below(file))).collect();
        self.hub.files(&names, self.progress)
    }

    fn absent(&self, missing: &str, hint: &str) -> HubError {
        if self.hub.settings.offline {
            return self.hub.offline(self.name, missing.into());
        }
        let place = if self.name.path.is_empty() { String::new() } else { format!(", {}", self.name.path) };
        let what = format!("{} at {}{place}", self.name.what(), self.name.asked());
        HubError::Absent { what, missing: missing.into(), hint: hint.into() }
    }
}
