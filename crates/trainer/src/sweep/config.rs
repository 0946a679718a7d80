//! The configuration of a sweep: one TOML file, unknown keys refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use statetune_datasets_eval::DataConfig;
use statetune_peft_methods::nearest;

use super::judge::Judge;
use crate::config::{DeviceSection, EvaluationSection, METRICS, ModelSection, explain, from_toml, text_of};
use crate::{TrainError, TrainSettings};

/// A whole sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SweepConfig {
    /// Seeds of the runs with the rate that was found.
    #[serde(default = "three_seeds")]
    pub seeds: Vec<u64>,
    /// Compare every method of the list with its default options; `entries` add to them, or replace one by its name.
    #[serde(default = "yes")]
    pub every_method: bool,
    /// The untuned model is a row too, the first.
    #[serde(default)]
    pub base: bool,
    /// The base model.
    pub model: ModelSection,
    /// The tasks.
    pub tasks: Vec<TaskSection>,
    /// What else is compared.
    #[serde(default)]
    pub entries: Vec<EntrySection>,
    /// The training, as in a run's configuration, without what the sweep sets itself.
    #[serde(default)]
    pub train: toml::Table,
    /// How a learning rate is found.
    #[serde(default)]
    pub search: SearchSection,
    /// The processor.
    #[serde(default)]
    pub device: DeviceSection,
    /// Where results go.
    #[serde(default)]
    pub output: SweepOutput,
    /// Numbers of others, put beside ours.
    #[serde(default)]
    pub references: Vec<Reference>,
}

/// `[[tasks]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSection {
    /// Its name here.
    pub name: String,
    /// Its name in the table; default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The metric, on a part of the training rows in the search and on the validation file afterwards.
    pub metric: String,
    /// What is otherwise than in `[train]`.
    #[serde(default)]
    pub train: toml::Table,
    /// How the search is otherwise than in `[search]`.
    #[serde(default, skip_serializing_if = "SearchOnTask::is_empty")]
    pub search: SearchOnTask,
    /// How the model's answers judge the runs of the table, by the first of its `metrics`, in place of `metric`; the search goes
    /// by `metric`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationSection>,
    /// The data; both files are needed.
    pub data: DataConfig,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SweepOutput {
    /// The folder of results; default: `runs/<name of the configuration file>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// The adapters of the runs for the table are kept there as well.
    pub keep_adapters: bool,
}

/// `[[entries]]`: a row of the table.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntrySection {
    /// Its name; default: that of its methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The methods, applied together.
    pub methods: Vec<Map<String, Value>>,
    /// Learning rates to choose from; default: the methods' own times `search.factors`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Vec<f64>>,
    /// What is otherwise on a task, by its name.
    pub tasks: BTreeMap<String, EntryOnTask>,
}

/// `[entries.tasks.NAME]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntryOnTask {
    /// The methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<Map<String, Value>>>,
    /// The learning rates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rates: Option<Vec<f64>>,
}

/// `[search]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSection {
    /// Training rows that are cut off to choose by; what is left is trained on meanwhile.
    pub rows: usize,
    /// The share of a run's steps that a run of the search has.
    pub share: f64,
    /// What the methods' learning rate is multiplied with. A single one: nothing is searched.
    pub factors: Vec<f64>,
    /// Seed of the search's runs and of the choice of rows.
    pub seed: u64,
}

impl Default for SearchSection {
    fn default() -> SearchSection {
        SearchSection { rows: 1000, share: 0.25, factors: vec![1.0 / 3.0, 1.0, 3.0], seed: 0 }
    }
}

/// `[tasks.search]`: what is otherwise than in `[search]`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchOnTask {
    /// See [`SearchSection::rows`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<usize>,
    /// See [`SearchSection::share`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// See [`SearchSection::factors`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factors: Option<Vec<f64>>,
}

impl SearchOnTask {
    fn is_empty(&self) -> bool {
        *self == SearchOnTask::default()
    }
}

impl SearchSection {
    fn check(&self) -> Result<(), String> {
        if !above_zero(&self.factors) {
            return Err(format!("search.factors: expected numbers above 0, found {:?}", self.factors));
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(format!("`search.share` must be above 0 and at most 1, found {}", self.share));
        }
        if self.rows == 0 {
            return Err("`search.rows` must be at least 1".into());
        }
        Ok(())
    }
}

/// Whether there are numbers, all of them above 0.
fn above_zero(list: &[f64]) -> bool {
    !list.is_empty() && list.iter().all(|x| x.is_finite() && *x > 0.0)
}

/// `[[references]]`: what somebody else measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// The entry it is to be put beside.
    pub entry: String,
    /// The task.
    pub task: String,
    /// The learning rate.
    pub rate: f64,
    /// Its scores, in the table's units.
    pub scores: Vec<f64>,
}

fn three_seeds() -> Vec<u64> {
    vec![0, 1, 2]
}

fn yes() -> bool {
    true
}

/// Keys of `[train]` that the sweep sets.
const OURS: [&str; 8] =
    ["learning_rate", "seed", "metric", "log_every", "eval_every", "save_every", "keep_checkpoints", "early_stop"];

impl TaskSection {
    /// What judges the runs of the table, if the model's answers do.
    pub(super) fn judge(&self) -> Result<Option<Judge>, String> {
        let Some(evaluation) = self.evaluation.clone() else { return Ok(None) };
        let first = evaluation.measures(&self.data)?.first().copied();
        let measure = first.ok_or("`evaluation.metrics` names no score: name some, or leave `evaluation` out")?;
        Ok(Some(Judge { evaluation, measure }))
    }
}

impl SweepConfig {
    /// Reads a file and applies `key=value` settings to it.
    ///
    /// # Errors
    /// The file is missing or no TOML; a key is unknown; a value is of the wrong type or out of range.
    pub fn read(path: &Path, settings: &[String]) -> Result<SweepConfig, TrainError> {
        SweepConfig::parse(&text_of(path)?, path, settings)
    }

    /// The same from a text; `path` is named in messages.
    ///
    /// # Errors
    /// As [`SweepConfig::read`].
    pub fn parse(text: &str, path: &Path, settings: &[String]) -> Result<SweepConfig, TrainError> {
        let config: SweepConfig = from_toml(text, path, settings)?;
        config.check().map_err(|reason| TrainError::Config { path: path.to_path_buf(), reason })?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.search.check()?;
        if self.tasks.is_empty() {
            return Err("`tasks` is empty: name at least one task".into());
        }
        for (i, task) in self.tasks.iter().enumerate() {
            let (name, fail) = (&task.name, |reason: String| Err(format!("task `{}`: {reason}", task.name)));
            if name.is_empty() {
                return Err(format!("task {}: `name` is empty: give it one", i + 1));
            }
            if self.tasks[..i].iter().any(|other| other.name == *name) {
                return fail("the name is taken by a task before".into());
            }
            if !METRICS.contains(&task.metric.as_str()) {
                let near =
                    nearest(&task.metric, METRICS).map_or(String::new(), |n| format!(" (did you mean \"{n}\"?)"));
                return fail(format!("`metric` must be one of {METRICS:?}, found \"{}\"{near}", task.metric));
            }
            task.data.check().or_else(|error| fail(error.to_string()))?;
            if task.data.train.is_none() || task.data.validation.is_none() {
                return fail("`data.train` and `data.validation` are both needed".into());
            }
            if let Some(evaluation) = &task.evaluation {
                evaluation.check(&task.data).or_else(fail)?;
                task.judge().map(drop).or_else(fail)?;
            }
            self.search_on(task).check().or_else(fail)?;
            self.settings(task)?;
        }
        let mut rates = self.entries.iter().flat_map(|entry| {
            let on_tasks = entry.tasks.values().filter_map(|on_task| on_task.rates.as_ref());
            entry.rates.iter().chain(on_tasks)
        });
        if let Some(list) = rates.find(|list| !above_zero(list)) {
            return Err(format!("entries: `rates`: expected numbers above 0, found {list:?}"));
        }
        let mut seeds = self.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        if seeds.is_empty() || seeds.len() != self.seeds.len() {
            return Err(format!("`seeds` must be different numbers, at least one, found {:?}", self.seeds));
        }
        let known = |name: &String| self.tasks.iter().any(|task| task.name == *name);
        let named = self.entries.iter().flat_map(|entry| entry.tasks.keys());
        if let Some(name) = named.chain(self.references.iter().map(|r| &r.task)).find(|name| !known(name)) {
            return Err(format!("there is no task `{name}`"));
        }
        Ok(())
    }

    /// How a learning rate is found on a task.
    pub(super) fn search_on(&self, task: &TaskSection) -> SearchSection {
        let SearchOnTask { rows, share, factors } = task.search.clone();
        SearchSection {
            rows: rows.unwrap_or(self.search.rows),
            share: share.unwrap_or(self.search.share),
            factors: factors.unwrap_or_else(|| self.search.factors.clone()),
            seed: self.search.seed,
        }
    }

    /// The training of a task; learning rate and seed are a run's.
    ///
    /// # Errors
    /// An unknown key, one that the sweep sets, or a value out of range.
    pub(super) fn settings(&self, task: &TaskSection) -> Result<TrainSettings, String> {
        let mut table = self.train.clone();
        table.extend(task.train.clone());
        if let Some(key) = OURS.iter().find(|key| table.contains_key(**key)) {
            return Err(format!("`train.{key}`: a sweep sets it itself, leave it out"));
        }
        let settings: TrainSettings = table.try_into().map_err(|error| format!("train: {}", explain(&error)))?;
        // There is one evaluation, after the last step; nothing is logged or saved on the way.
        let settings = TrainSettings {
            metric: task.metric.clone(),
            log_every: u64::MAX,
            eval_every: u64::MAX,
            save_every: u64::MAX,
            ..settings
        };
        settings.check().map(|()| settings)
    }
}
