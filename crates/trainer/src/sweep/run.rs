//! The runs of a sweep, several at once. A run's result does not depend on what goes on beside it: every worker has a
//! device and a model of its own.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use statetune_datasets_eval::Dataset;
use statetune_mamba_model::{Mamba, Patches};
use statetune_peft_methods::{Adapter, Method, PeftError, Tokenize, methods};
use statetune_ssm_kernels::random::{stream_of, uniform};
use statetune_tensor::Device;

use super::curve::Curve;
use super::judge::{Candidate, Judging};
use super::plan::{Job, Plan, Purpose, Unit};
use super::results::{Choice, DeviceUsed, Line, Results};
use super::room::Room;
use crate::checkpoint::fingerprint;
use crate::{Evaluation, Run, TrainError, TrainSettings, evaluate, memory};

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
    /// A run is finished; the results with it.
    Finished(&'a Line, &'a Results),
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

/// A task's data as runs take it.
struct Rows<'a> {
    all: &'a Dataset,
    validation: &'a Dataset,
    /// The training rows without those that a search is judged on, and these.
    searched: Option<(Dataset, Dataset)>,
    inputs: String,
}

/// What the workers share.
struct Shared<'a> {
    results: &'a mut Results,
    running: Vec<Job>,
    waiting: Option<Job>, // for memory, and it was said
    stopped: bool,
    error: Option<TrainError>,
}

struct Sweep<'a> {
    plan: &'a Plan,
    rows: Vec<Rows<'a>>,
    /// By unit: whether it is run.
    wanted: Vec<bool>,
    limits: &'a Limits,
    tokenize: &'a (dyn Fn(&str) -> Result<Vec<u32>, String> + Sync),
    judging: &'a Judging<'a>,
    observe: &'a Observe<'a>,
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
    if let Some(name) = limits.only.iter().find(|name| !plan.units.iter().any(|unit| plan.is_called(unit, name))) {
        return Err(TrainError::NothingToDo { reason: format!("there is no entry and no task `{name}`") });
    }
    let rows = plan.tasks.iter().zip(data).map(|(task, data)| {
        let search = &task.search;
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
    let units = || (0..plan.units.len()).filter(|&unit| sweep.wanted[unit]);
    let of = units().map(|unit| plan.runs_of(unit)).sum();
    let done = units().map(|unit| sweep.finished(&shared, unit)).sum();
    Ok(Report { done, of, left_out })
}

impl Plan {
    fn is_called(&self, unit: &Unit, name: &str) -> bool {
        unit.name == name || self.task(unit).name == name
    }
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
            let finished = self.finished(&self.lock(), unit);
            if !self.wanted[unit] || finished == self.plan.runs_of(unit) || self.plan.units[unit].is_base() {
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

    /// The runs of a unit whose results are there.
    fn finished(&self, shared: &Shared, unit: usize) -> usize {
        let there = |jobs: Vec<Job>| jobs.iter().filter(|job| shared.results.of(self.plan, job).is_some()).count();
        let finals = match shared.results.choice(self.plan, unit) {
            Choice::Rate(rate) => there(self.plan.finals(unit, rate)),
            Choice::Open => 0,
            // There is no rate to run them with.
            Choice::None => self.plan.in_table(&self.plan.units[unit]),
        };
        there(self.plan.search(unit)) + finals
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
                (self.observe)(Event::Finished(&line, shared.results))
            });
            drop(shared);
            if let Err(error) = seen {
                self.stop(self.named(&job, error));
            }
            drop(running);
        }
    }

    /// No further run is started; the first error is kept.
    fn stop(&self, error: TrainError) {
        let mut shared = self.lock();
        shared.stopped = true;
        shared.error.get_or_insert(error);
        drop(shared);
        self.changed.notify_all();
    }

    /// Makes a run and its adapter for somebody.
    fn with_run<R>(
        &self,
        placed: &Placed,
        job: &Job,
        act: impl FnOnce(&Run<'_>, Adapter) -> Result<R, TrainError>,
    ) -> Result<R, TrainError> {
        let unit = &self.plan.units[job.unit];
        let (rows, task) = (&self.rows[unit.task], self.plan.task(unit));
        let mut settings = TrainSettings { learning_rate: job.rate, seed: job.seed, ..task.settings.clone() };
        let (train, validation) = match job.purpose {
            Purpose::Final => (rows.all, rows.validation),
            Purpose::Search => {
                let (rest, part) = rows.searched.as_ref().expect("cut where there is a search");
                let steps = match settings.max_steps {
                    0 => settings.epochs * rows.all.examples.len().div_ceil(settings.batch_size) as u64,
                    steps => steps,
                };
                settings.max_steps = task.share_of(steps);
                (rest, part)
            }
        };
        let run = Run {
            model: &placed.model,
            base_model: "",
            train,
            validation: Some(validation),
            settings: &settings,
            folder: None,
            keeps_adapters: false,
        };
        let tokenize: Tokenize<'_> = &|text| (self.tokenize)(text);
        let methods = self.plan.methods(job).into_iter().map(|method| {
            let method = methods::parse_value(method)?;
            Ok(method.with_text(tokenize)?.unwrap_or(method))
        });
        let methods = methods.collect::<Result<Vec<Box<dyn Method>>, PeftError>>()?;
        act(&run, Adapter::new(&placed.model, methods, job.seed)?)
    }

    /// Runs it.
    fn line(&self, placed: &Placed, job: &Job) -> Result<Line, TrainError> {
        let unit = &self.plan.units[job.unit];
        let task = self.plan.task(unit);
        let workers = self.limits.workers.max(1);
        // Other runs of this process would be counted too.
        let measured = match placed.model.device() {
            Device::Cpu(_) => workers == 1 && memory::start_process_peak(),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                cuda.start_peak();
                true
            }
        };
        let mut line = Line {
            task: task.name.clone(),
            entry: unit.name.clone(),
            purpose: job.purpose,
            learning_rate: job.rate,
            seed: job.seed,
            score: None,
            loss: None,
            failed: None,
            trained: 0,
            rows: 0,
            judged_on: 0,
            steps: 0,
            skipped_steps: 0,
            tokens: 0,
            seconds: 0.0,
            peak_memory_mib: None,
            workers,
            device: placed.device.clone(),
            inputs: self.rows[unit.task].inputs.clone(),
            settings: self.plan.settings(job),
            evaluation: serde_json::Value::Null,
            curve: Vec::new(),
        };
        if unit.is_base() {
            let validation = self.rows[unit.task].validation;
            let (tokens, shares) = (task.settings.micro_batch_tokens, task.settings.share_prefix);
            let found = evaluate(&placed.model, &Patches::none(), validation, tokens, shares, |_, _| {})?;
            line.judged_on = validation.examples.len();
            self.judge(&mut line, placed, job, Some(&found), None)?;
            return Ok(line);
        }
        self.with_run(placed, job, |run, adapter| {
            line.rows = run.train.examples.len();
            line.judged_on = run.validation.map_or(0, |validation| validation.examples.len());
            line.trained = adapter.trainable();
            let mut curve = Curve::default();
            let trained = run.train(adapter, false, &mut curve);
            line.curve = curve.into_points();
            let summary = match trained {
                Err(error @ TrainError::NonFinite { .. }) => {
                    line.failed = Some(error.to_string());
                    return Ok(());
                }
                other => other?,
            };
            line.trained = summary.adapter.trainable();
            (line.steps, line.skipped_steps) = (summary.steps, summary.skipped_steps);
            (line.tokens, line.seconds) = (summary.tokens, summary.seconds);
            self.judge(&mut line, placed, job, summary.evaluation.as_ref(), Some(&summary.adapter))
        })?;
        line.peak_memory_mib = match placed.model.device() {
            Device::Cpu(_) => memory::process_peak_mib().filter(|_| measured),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let peak: usize = cuda.memory_use().peak.iter().map(|bytes| bytes.0).sum();
                Some(peak as f64 / (1 << 20) as f64).filter(|_| measured)
            }
        };
        Ok(line)
    }

    /// Notes what a model scored.
    fn judge(
        &self,
        line: &mut Line,
        placed: &Placed,
        job: &Job,
        evaluation: Option<&Evaluation>,
        adapter: Option<&Adapter>,
    ) -> Result<(), TrainError> {
        let unit = &self.plan.units[job.unit];
        let task = self.plan.task(unit);
        if let Some(evaluation) = evaluation {
            line.score = evaluation.metric(&task.settings.metric).map(|(value, _)| value);
            line.loss = Some(evaluation.loss).filter(|loss| loss.is_finite());
            line.evaluation = serde_json::to_value(evaluation).expect("plain data");
        }
        if line.loss.is_none() {
            (line.score, line.failed) = (None, Some("the loss of the evaluation is not finite".into()));
        } else if job.purpose == Purpose::Final {
            let candidate = Candidate {
                task,
                name: &self.plan.called(job),
                place: &self.plan.place(job),
                model: &placed.model,
                adapter,
                dataset: self.rows[unit.task].validation,
            };
            if let Some(judgement) = (self.judging)(&candidate)? {
                line.score = Some(judgement.score);
                line.evaluation["metrics"] = serde_json::to_value(&judgement.metrics).expect("plain data");
            }
        }
        Ok(())
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

/// The rows of a data set without `count` of them, drawn by the seed, and these; both in the order of the file.
fn cut(train: &Dataset, count: usize, seed: u64) -> Result<(Dataset, Dataset), TrainError> {
    let of = train.examples.len();
    if 2 * count > of {
        let reason = format!("`search.rows` is {count}, more than half of the {of} training rows: take fewer");
        return Err(TrainError::NothingToDo { reason });
    }
    let mut draws = vec![0f64; of];
    uniform(&mut draws, 0.0, 1.0, seed, stream_of("rows that a search is judged on"));
    let mut order: Vec<usize> = (0..of).collect();
    order.sort_by(|&a, &b| draws[a].total_cmp(&draws[b]).then(a.cmp(&b)));
    let drawn: BTreeSet<usize> = order[..count].iter().copied().collect();
    let part = |drawn_ones: bool| Dataset {
        examples: (0..of).filter(|i| drawn.contains(i) == drawn_ones).map(|i| train.examples[i].clone()).collect(),
        items: Vec::new(),
        classes: train.classes.clone(),
        counts: train.counts,
        bad_rows: train.bad_rows.clone(),
    };
    Ok((part(false), part(true)))
}
