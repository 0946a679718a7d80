//! The runs of a sweep, several at once: which is next, and what the workers share. A run's result does not depend on what
//! goes on beside it: every worker has a device and a model of its own.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use statetune_datasets_eval::Dataset;
use statetune_mamba_model::Mamba;
use statetune_peft_methods::PeftError;

use super::judge::Judging;
use super::one::{At, Rows, cut};
use super::plan::{Job, Plan, Unit};
use super::results::{Choice, DeviceUsed, Line, Results};
use super::room::Room;
use crate::TrainError;
use crate::checkpoint::fingerprint;

/// The tokenised files of a task.
pub struct TaskData {
    /// The training file.
    pub train: Dataset,
    /// The validation file.
    pub validation: Dataset,
}

/// A model on a worker's device.
pub struct Placed {
    /// The model.
    pub model: Mamba,
    /// What is recorded of the device.
    pub device: DeviceUsed,
}

/// How far to go.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Runs at once; 0 is 1.
    pub workers: usize,
    /// No run is started after this moment.
    pub until: Option<Instant>,
    /// Only these entries, on these tasks, by name; of a kind that none is named of, all.
    pub only: Vec<String>,
    /// Bytes of memory that runs on the processor may take beside the first worker's model: none is started beside others that
    /// would need more by its plan. `None`: as many as there are workers.
    pub memory: Option<usize>,
}

/// What happens in a sweep.
pub enum Event<'a> {
    /// How far a run is that is not finished.
    UnderWay(&'a Job, At),
    /// A run is finished: its line, and the results with it.
    Finished(&'a Job, &'a Line, &'a Results),
    /// Something to know: a run waits for memory.
    Note(&'a str),
}

/// Sees what happens; an error ends the sweep.
pub type Observe<'a> = dyn Fn(Event<'_>) -> Result<(), TrainError> + Sync + 'a;

/// What is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Runs whose results are there.
    pub done: usize,
    /// Runs in all, without those left out.
    pub of: usize,
    /// Entries that need a feature this program was built without, with its name.
    pub left_out: Vec<(String, &'static str)>,
}

/// What the workers share.
struct Shared<'a> {
    results: &'a mut Results,
    running: Vec<Job>,
    waiting: Option<Job>, // for memory, and it was said
    stopped: bool,
    error: Option<TrainError>,
}

pub(super) struct Sweep<'a> {
    pub plan: &'a Plan,
    pub rows: Vec<Rows<'a>>,
    /// By unit: whether it is run.
    wanted: Vec<bool>,
    pub limits: &'a Limits,
    pub tokenize: &'a (dyn Fn(&str) -> Result<Vec<u32>, String> + Sync),
    pub judging: &'a Judging<'a>,
    pub observe: &'a Observe<'a>,
    room: Room,
    shared: Mutex<Shared<'a>>,
    changed: Condvar,
}

/// Runs what is missing from the results. The first worker has the model `first`, further ones ask `place` for one.
/// `judging` is asked of every model of the table that has not diverged; `observe` sees each finished run.
///
/// # Errors
/// An entry cannot be run with this model or data; results are of another device or other data; a run fails otherwise than
/// by diverging; the results cannot be written. What is finished by then is kept.
pub fn run(
    plan: &Plan,
    data: &[TaskData],
    results: &mut Results,
    tokenize: &(dyn Fn(&str) -> Result<Vec<u32>, String> + Sync),
    judging: &Judging<'_>,
    first: &Placed,
    place: &(dyn Fn() -> Result<Placed, TrainError> + Sync),
    limits: &Limits,
    observe: &Observe<'_>,
) -> Result<Report, TrainError> {
    plan.check_names(&limits.only)?;
    let rows = plan.tasks.iter().zip(data).map(|(task, data)| {
        let (search, metric) = (&task.search, &task.settings.metric);
        if metric != "loss" && data.validation.classes.is_empty() {
            let reason = format!(
                "task `{}`: `metric` is \"{metric}\", but the validation data has no classes: use \"loss\"",
                task.name
            );
            return Err(TrainError::NothingToDo { reason });
        }
        let searched = (0..plan.units.len())
            .any(|unit| plan.task(&plan.units[unit]).name == task.name && !plan.search(unit).is_empty());
        let searched = searched.then(|| cut(&data.train, search.rows, search.seed)).transpose()?;
        let model = &first.model;
        let inputs = format!("{:016x}-{:016x}", fingerprint(model, &data.train), fingerprint(model, &data.validation));
        Ok(Rows { all: &data.train, validation: &data.validation, searched, inputs })
    });
    let rows = rows.collect::<Result<Vec<Rows>, TrainError>>()?;
    let inputs: Vec<(String, String)> =
        plan.tasks.iter().zip(&rows).map(|(task, rows)| (task.name.clone(), rows.inputs.clone())).collect();
    results.check(&first.device, &inputs)?;
    // Of each kind: those that are named, or all where none is.
    let named =
        |all: &[&str]| limits.only.iter().filter(|name| all.contains(&name.as_str())).cloned().collect::<Vec<_>>();
    let entries = named(&plan.units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>());
    let tasks = named(&plan.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>());
    let is_in = |list: &[String], name: &String| list.is_empty() || list.contains(name);
    let only = |unit: &Unit| is_in(&entries, &unit.name) && is_in(&tasks, &plan.task(unit).name);
    let mut sweep = Sweep {
        plan,
        rows,
        wanted: plan.units.iter().map(only).collect(),
        limits,
        tokenize,
        judging,
        observe,
        room: Room::new(limits.memory, plan, &first.model),
        shared: Mutex::new(Shared { results, running: Vec::new(), waiting: None, stopped: false, error: None }),
        changed: Condvar::new(),
    };
    let left_out = sweep.try_units(first)?;
    let (workers, note) = sweep.room.workers(limits.workers.max(1));
    if let Some(note) = note {
        observe(Event::Note(&note))?;
    }
    std::thread::scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|| match place() {
                Ok(placed) => sweep.work(&placed),
                Err(error) => sweep.stop(error),
            });
        }
        sweep.work(first);
    });
    let mut shared = sweep.lock();
    if let Some(error) = shared.error.take() {
        return Err(error);
    }
    let wanted = (0..plan.units.len()).filter(|&unit| sweep.wanted[unit]);
    let runs = wanted.map(|unit| shared.results.runs_of(plan, unit));
    let (done, of) = runs.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    Ok(Report { done, of, left_out })
}

impl<'a> Sweep<'a> {
    fn lock(&self) -> MutexGuard<'_, Shared<'a>> {
        self.shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Makes what every unit would train before hours are spent: a mistake in the last entry is found now. Returns those that
    /// need a feature that is missing, and does not want them any more.
    fn try_units(&mut self, placed: &Placed) -> Result<Vec<(String, &'static str)>, TrainError> {
        let mut left_out = BTreeSet::new();
        for unit in 0..self.plan.units.len() {
            let (finished, of) = self.lock().results.runs_of(self.plan, unit);
            if !self.wanted[unit] || finished == of || self.plan.units[unit].is_base() {
                continue;
            }
            let rate = self.plan.units[unit].rates[0];
            for job in
                self.plan.search(unit).into_iter().take(1).chain(self.plan.finals(unit, rate).into_iter().take(1))
            {
                let checked = self.with_run(placed, &job, |run, adapter| {
                    run.check(&adapter)?;
                    Ok((adapter, run.settings.clone()))
                });
                let checked =
                    checked.map(|(adapter, settings)| self.room.plan(unit, &placed.model, &adapter, &settings));
                match checked {
                    Err(TrainError::Peft(PeftError::MissingFeature { feature, .. })) => {
                        left_out.insert((self.plan.units[unit].name.clone(), feature));
                        self.wanted[unit] = false;
                        break;
                    }
                    other => other.map_err(|error| self.named(&job, error))?,
                }
            }
        }
        Ok(left_out.into_iter().collect())
    }

    /// An error with the run it is of.
    fn named(&self, job: &Job, error: TrainError) -> TrainError {
        let unit = &self.plan.units[job.unit];
        let (entry, task) = (unit.name.clone(), self.plan.task(unit).name.clone());
        TrainError::Sweep { entry, task, source: Box::new(error) }
    }

    /// The next run; waits where one depends on a search that is still going on. `None`: there is nothing more to do.
    fn next(&self) -> Option<Job> {
        let mut shared = self.lock();
        loop {
            if shared.stopped || self.limits.until.is_some_and(|until| Instant::now() >= until) {
                return None;
            }
            let startable = self.startable(&shared);
            if let Some(job) = startable.iter().find(|job| self.room.fits(&shared.running, job)).copied() {
                self.say(&mut shared, &job);
                shared.running.push(job);
                return Some(job);
            }
            if let Some(job) = startable.first().filter(|job| shared.waiting != Some(**job)) {
                self.say(&mut shared, job);
                shared.waiting = Some(*job);
            }
            if shared.running.is_empty() {
                return None;
            }
            shared = self.changed.wait(shared).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    /// The next run of every unit that has one that is neither finished nor under way.
    fn startable(&self, shared: &Shared) -> Vec<Job> {
        let next = |unit: usize| {
            let finals = match shared.results.choice(self.plan, unit) {
                Choice::Rate(rate) => self.plan.finals(unit, rate),
                Choice::Open | Choice::None => Vec::new(),
            };
            let mut jobs = self.plan.search(unit).into_iter().chain(finals);
            jobs.find(|job| !shared.running.contains(job) && shared.results.of(self.plan, job).is_none())
        };
        (0..self.plan.units.len()).filter(|&unit| self.wanted[unit]).filter_map(next).collect()
    }

    /// Says what there is to say of a run's memory.
    fn say(&self, shared: &mut Shared, job: &Job) {
        let unit = &self.plan.units[job.unit];
        let name = format!("{} on {}", unit.name, self.plan.task(unit).name);
        if let Some(note) = self.room.note(&shared.running, job, &name)
            && let Err(error) = (self.observe)(Event::Note(&note))
        {
            shared.stopped = true;
            shared.error.get_or_insert(error);
        }
    }

    fn work(&self, placed: &Placed) {
        while let Some(job) = self.next() {
            let running = Running { sweep: self, job };
            let line = self.line(placed, &job);
            let mut shared = self.lock();
            let seen = line.and_then(|line| {
                shared.results.append(&line)?;
                (self.observe)(Event::Finished(&job, &line, shared.results))
            });
            drop(shared);
            if let Err(error) = seen {
                self.stop(self.named(&job, error));
            }
            drop(running);
        }
    }

    /// No further run is started; the first error is kept.
    pub fn stop(&self, error: TrainError) {
        let mut shared = self.lock();
        shared.stopped = true;
        shared.error.get_or_insert(error);
        drop(shared);
        self.changed.notify_all();
    }
}

/// A run under way. When it goes, whatever the reason, those who wait look again.
struct Running<'a, 'b> {
    sweep: &'a Sweep<'b>,
    job: Job,
}

impl Drop for Running<'_, '_> {
    fn drop(&mut self) {
        let mut shared = self.sweep.lock();
        shared.running.retain(|job| *job != self.job);
        shared.stopped |= std::thread::panicking();
        drop(shared);
        self.sweep.changed.notify_all();
    }
}
