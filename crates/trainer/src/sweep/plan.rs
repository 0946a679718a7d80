//! The runs of a sweep: for every entry and task a search over learning rates, then a run per seed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use statetune_datasets_eval::DataConfig;
use statetune_peft_methods::{METHODS, Method, methods, nearest};

use super::config::{EntrySection, SearchSection, SweepConfig};
use super::judge::Judge;
use crate::config::default_rate;
use crate::{TrainError, TrainSettings};

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// To choose a learning rate: few steps, without some of the training rows, which it is judged on.
    Search,
    /// For the table: all training rows, judged on the validation file.
    Final,
}

/// A task as it is run.
#[derive(Debug, Clone)]
pub struct PlannedTask {
    /// Its name in the configuration.
    pub name: String,
    /// Its name in the table.
    pub title: String,
    /// How it is trained; learning rate and seed are a run's.
    pub settings: TrainSettings,
    /// Its data.
    pub data: DataConfig,
    /// How a learning rate is found.
    pub search: SearchSection,
    /// What judges the runs of the table in place of `settings.metric`.
    pub judge: Option<Judge>,
}

impl PlannedTask {
    /// The data as its validation file is read: as an evaluation reads it, where that judges.
    pub fn validation(&self) -> DataConfig {
        match &self.judge {
            Some(judge) => judge.evaluation.data(&self.data),
            None => DataConfig { train: None, ..self.data.clone() },
        }
    }

    /// The data as its training file is read.
    pub fn training(&self) -> DataConfig {
        DataConfig { validation: None, ..self.data.clone() }
    }

    /// The search's share of so many steps.
    pub(super) fn share_of(&self, steps: u64) -> u64 {
        ((steps as f64 * self.search.share).ceil() as u64).max(1)
    }
}

/// An entry on a task.
#[derive(Debug, Clone)]
pub struct Unit {
    /// Index of the task.
    pub task: usize,
    /// The entry's name.
    pub name: String,
    /// Its methods, every option present; none is the untuned model.
    pub methods: Vec<Value>,
    /// The learning rates to choose from.
    pub rates: Vec<f64>,
}

impl Unit {
    /// Whether it is the untuned model, which has no run but an evaluation.
    pub fn is_base(&self) -> bool {
        self.methods.is_empty()
    }
}

/// The name of the untuned model.
const BASE: &str = "base";

/// A run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Job {
    /// Index of the unit.
    pub unit: usize,
    /// What it is for.
    pub purpose: Purpose,
    /// Its learning rate.
    pub rate: f64,
    /// Its seed.
    pub seed: u64,
}

/// Everything that follows from a configuration without looking at model and data.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration.
    pub config: SweepConfig,
    /// Its tasks.
    pub tasks: Vec<PlannedTask>,
    /// Every entry on every task: the first entry on all tasks, then the next. The untuned model is the first entry.
    pub units: Vec<Unit>,
}

impl Plan {
    /// Of a configuration.
    ///
    /// # Errors
    /// An unknown method or option; an entry without methods or with a name that is taken.
    pub fn new(config: SweepConfig) -> Result<Plan, TrainError> {
        let fail = |reason: String| TrainError::NothingToDo { reason };
        let mut tasks = Vec::new();
        for task in &config.tasks {
            tasks.push(PlannedTask {
                name: task.name.clone(),
                title: task.title.clone().unwrap_or_else(|| task.name.clone()),
                settings: config.settings(task).map_err(fail)?,
                data: task.data.clone(),
                search: config.search_on(task),
                judge: task.judge().map_err(fail)?,
            });
        }
        let mut entries: Vec<(String, EntrySection)> = Vec::new();
        for info in METHODS.iter().filter(|_| config.every_method) {
            let methods = vec![Map::from_iter([("method".to_owned(), info.tag.into())])];
            entries.push((info.tag.to_owned(), EntrySection { methods, ..EntrySection::default() }));
        }
        let listed = entries.len();
        for entry in &config.entries {
            let tags = entry.methods.iter().filter_map(|method| method.get("method")?.as_str());
            let name = entry.name.clone().unwrap_or_else(|| tags.collect::<Vec<_>>().join(" + "));
            if entry.methods.is_empty() {
                return Err(fail(format!("the entry `{name}` has no methods")));
            }
            match entries.iter().position(|(other, _)| *other == name) {
                Some(at) if at < listed => entries[at].1 = entry.clone(),
                Some(_) => return Err(fail(format!("two entries are called `{name}`: give one another `name`"))),
                None => entries.push((name, entry.clone())),
            }
        }
        if let Some(reference) = config.references.iter().find(|r| !entries.iter().any(|(name, _)| *name == r.entry)) {
            return Err(fail(format!("`references`: there is no entry `{}`", reference.entry)));
        }
        if entries.is_empty() {
            return Err(fail("there is nothing to run: set `every_method`, or name `entries`".into()));
        }
        let mut units = Vec::new();
        if config.base {
            if entries.iter().any(|(name, _)| name == BASE) {
                return Err(fail(format!("`{BASE}` is the untuned model: give the entry another `name`")));
            }
            let of = |task| Unit { task, name: BASE.to_owned(), methods: Vec::new(), rates: vec![0.0] };
            units.extend((0..tasks.len()).map(of));
        }
        for (name, entry) in &entries {
            for (at, task) in tasks.iter().enumerate() {
                units.push(unit(at, task, name, entry)?);
            }
        }
        let plan = Plan { config, tasks, units };
        plan.check_places().map_err(fail)?;
        Ok(plan)
    }

    /// No two models of the table may have one folder.
    fn check_places(&self) -> Result<(), String> {
        let mut places = BTreeMap::new();
        for (at, unit) in self.units.iter().enumerate() {
            let task = &self.task(unit).name;
            for job in self.finals(at, unit.rates[0]) {
                if let Some((other, on)) = places.insert(self.place(&job), (&unit.name, task)) {
                    return Err(format!(
                        "`{other}` on `{on}` and `{}` on `{task}` would have the same folder: give one another `name`",
                        unit.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks that there are entries or tasks of these names.
    ///
    /// # Errors
    /// Which there is not.
    pub fn check_names(&self, names: &[String]) -> Result<(), TrainError> {
        let all = || self.units.iter().flat_map(|unit| [&*unit.name, &*self.task(unit).name]);
        let Some(name) = names.iter().find(|name| !all().any(|known| known == **name)) else { return Ok(()) };
        let near = nearest(name, all()).map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        Err(TrainError::NothingToDo { reason: format!("there is no entry and no task `{name}`{near}") })
    }

    /// The task of a unit.
    pub fn task(&self, unit: &Unit) -> &PlannedTask {
        &self.tasks[unit.task]
    }

    /// The runs of a unit's search; none where there is one rate only.
    pub fn search(&self, unit: usize) -> Vec<Job> {
        let rates = &self.units[unit].rates;
        let seed = self.task(&self.units[unit]).search.seed;
        let jobs = rates.iter().map(|&rate| Job { unit, purpose: Purpose::Search, rate, seed });
        if rates.len() > 1 { jobs.collect() } else { Vec::new() }
    }

    /// The runs of a unit with the rate that was found.
    pub fn finals(&self, unit: usize, rate: f64) -> Vec<Job> {
        // Nothing of the untuned model depends on a seed.
        let seeds = if self.units[unit].is_base() { &[0][..] } else { &self.config.seeds };
        seeds.iter().map(|&seed| Job { unit, purpose: Purpose::Final, rate, seed }).collect()
    }

    /// The number of runs of a unit for the table.
    pub fn in_table(&self, unit: &Unit) -> usize {
        if unit.is_base() { 1 } else { self.config.seeds.len() }
    }

    /// The number of all runs of a unit.
    pub fn runs_of(&self, unit: usize) -> usize {
        self.search(unit).len() + self.in_table(&self.units[unit])
    }

    /// The number of all runs.
    pub fn runs(&self) -> usize {
        (0..self.units.len()).map(|unit| self.runs_of(unit)).sum()
    }

    /// What a model of the table is called beside others: its entry, and its seed where there are several.
    pub fn called(&self, job: &Job) -> String {
        let unit = &self.units[job.unit];
        match self.in_table(unit) {
            1 => unit.name.clone(),
            _ => format!("{}-{}", unit.name, job.seed),
        }
    }

    /// Where the files of a model of the table belong, from the folder of their kind: `TASK/ENTRY-SEED`, `TASK/base`.
    pub fn place(&self, job: &Job) -> PathBuf {
        let unit = &self.units[job.unit];
        let own = match unit.is_base() {
            true => unit.name.clone(),
            false => format!("{}-{}", unit.name, job.seed),
        };
        [&self.task(unit).name, &own].map(|name| as_file_name(name)).iter().collect()
    }

    /// The configurations of a run's methods. What a method chooses by is cut like the run.
    pub fn methods(&self, job: &Job) -> Vec<Value> {
        let mut methods = self.units[job.unit].methods.clone();
        if job.purpose == Purpose::Search {
            for method in &mut methods {
                if let Some(steps) = method.get("warmup_steps").and_then(Value::as_u64).filter(|steps| *steps > 0) {
                    method["warmup_steps"] = self.task(&self.units[job.unit]).share_of(steps).into();
                }
            }
        }
        methods
    }

    /// All that decides a run's result but rate, seed and the files' contents, as it is kept with the result. Paths are
    /// no part of what is compared.
    pub(super) fn settings(&self, job: &Job) -> Value {
        let unit = &self.units[job.unit];
        let task = self.task(unit);
        let mut train = serde_json::to_value(&task.settings).expect("plain data");
        let object = train.as_object_mut().expect("a struct");
        for key in ["learning_rate", "seed", "log_every", "eval_every", "save_every", "keep_checkpoints", "early_stop"]
        {
            object.remove(key);
        }
        if unit.is_base() {
            object.retain(|key, _| ["metric", "micro_batch_tokens", "share_prefix"].contains(&key.as_str()));
        }
        let data = DataConfig { train: None, validation: None, ..task.data.clone() };
        let mut settings = json!({"methods": self.methods(job), "train": train, "data": data});
        if let (Purpose::Final, Some(judge)) = (job.purpose, &task.judge) {
            let mut evaluation = serde_json::to_value(&judge.evaluation).expect("plain data");
            // No result depends on how many prompts are answered at once.
            evaluation.as_object_mut().expect("a struct").remove("sequences");
            settings["evaluation"] = evaluation;
        }
        if job.purpose == Purpose::Search {
            let search = &task.search;
            settings["search"] = json!({"rows": search.rows, "share": search.share, "seed": search.seed});
        }
        settings
    }
}

fn unit(at: usize, task: &PlannedTask, name: &str, entry: &EntrySection) -> Result<Unit, TrainError> {
    let on_task = entry.tasks.get(&task.name);
    let methods = on_task.and_then(|on_task| on_task.methods.as_ref()).unwrap_or(&entry.methods);
    if methods.is_empty() {
        let reason = format!("the entry `{name}` has no methods on `{}`", task.name);
        return Err(TrainError::NothingToDo { reason });
    }
    let parsed: Vec<Box<dyn Method>> =
        methods.iter().map(|method| methods::parse(method.clone())).collect::<Result<_, _>>()?;
    let rates = match on_task.and_then(|on_task| on_task.rates.as_ref()).or(entry.rates.as_ref()) {
        Some(rates) => rates.clone(),
        None => task.search.factors.iter().map(|factor| rounded(default_rate(&parsed) * factor)).collect(),
    };
    let methods = parsed.iter().map(|method| methods::to_config(method.as_ref())).collect();
    Ok(Unit { task: at, name: name.to_owned(), methods, rates })
}

/// A name as one part of a path that nobody overlooks.
fn as_file_name(name: &str) -> String {
    let name = name.replace(['/', '\\'], "_");
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None => name,
    }
}

/// To three digits: a rate is read by people.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.2e}").parse().expect("a number")
}

#[cfg(test)]
mod tests;
