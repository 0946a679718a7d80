//! The results of a sweep: a file with one line per finished run. It is all that going on needs, and all that has to
//! travel from the machine that computed it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::plan::{Job, Plan, Purpose};
use crate::TrainError;
use crate::error::io_error;

/// A finished run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// The task's name.
    pub task: String,
    /// The entry's name.
    pub entry: String,
    /// What it was for.
    pub purpose: Purpose,
    /// Its learning rate.
    pub learning_rate: f64,
    /// Its seed.
    pub seed: u64,
    /// The metric's value; absent where the run failed.
    pub score: Option<f64>,
    /// The loss on the same rows.
    pub loss: Option<f64>,
    /// Why there is no score: too many steps in a row were not finite.
    pub failed: Option<String>,
    /// Numbers trained.
    pub trained: usize,
    /// Rows trained on.
    pub rows: usize,
    /// Rows that it was judged on.
    pub judged_on: usize,
    /// Steps done.
    pub steps: u64,
    /// Of them skipped for a number that was not finite.
    pub skipped_steps: u64,
    /// Tokens computed in training.
    pub tokens: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// The most memory that was in use at once: on a GPU the run's own there, on the processor the process's. Absent where it
    /// cannot be told, as for one of several runs in a process.
    pub peak_memory_mib: Option<f64>,
    /// Runs that went on at once at most.
    pub workers: usize,
    /// What it was computed on.
    pub device: DeviceUsed,
    /// A fingerprint of weights, training and validation rows.
    pub inputs: String,
    /// All else that decides the result.
    pub settings: Value,
    /// Every score.
    pub evaluation: Value,
    /// The loss in training: the mean over equal stretches of steps, each at its last step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(u64, f64)>,
}

/// What a run was computed on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceUsed {
    /// Its name, for people.
    pub name: String,
    /// "cpu" or "cuda".
    pub kind: String,
    /// The type of activations.
    pub compute: String,
    /// Of a processor, the instruction set.
    pub level: Option<String>,
    /// Of a processor, what operands of products are rounded to.
    pub products: Option<String>,
}

impl DeviceUsed {
    /// How two differ apart from the name, on which results may depend but are not compared.
    fn difference(&self, other: &DeviceUsed) -> Option<(String, String, String)> {
        let timeless = |device: &DeviceUsed| {
            let mut value = serde_json::to_value(device).expect("plain data");
            value.as_object_mut().expect("a struct").remove("name");
            value
        };
        difference("device", &timeless(self), &timeless(other))
    }
}

/// Which learning rate a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Choice {
    /// It is not over.
    Open,
    /// This one.
    Rate(f64),
    /// None: every run failed.
    None,
}

/// The lines of a results file.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: Option<File>, // absent where the file is only read
    whole: u64,         // its bytes
    lines: Vec<Line>,
}

impl Results {
    /// Opens the file for further results, or begins it. A last line that was cut off is taken away: its run is run again. No
    /// other process may do the same until these results are dropped: it would write the same evaluations at the same time.
    ///
    /// # Errors
    /// The system refuses; another process has it open; a line is not one of this plan's, made with the same settings.
    pub fn open(path: &Path, plan: &Plan) -> Result<Results, TrainError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|source| io_error(folder, "create", source))?;
        }
        let refuse = |action| move |source| io_error(path, action, source);
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path).map_err(refuse("open"))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(fail(path, "another sweep is writing it: let that one end, or end it".into()));
            }
            // A file system without locks.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(source)) => return Err(io_error(path, "lock", source)),
            Ok(()) => {}
        }
        let (lines, whole, all) = whole_lines(path, plan)?;
        if whole < all {
            file.set_len(whole).and_then(|()| file.sync_data()).map_err(refuse("shorten"))?;
        }
        Ok(Results { path: path.to_path_buf(), file: Some(file), whole, lines })
    }

    /// Reads a file to make a table of it.
    ///
    /// # Errors
    /// The file is missing; a line is not one of this plan's.
    pub fn read(path: &Path, plan: &Plan) -> Result<Results, TrainError> {
        let (lines, whole, _) = whole_lines(path, plan)?;
        Ok(Results { path: path.to_path_buf(), file: None, whole, lines })
    }

    /// Appends a finished run; when this returns it is on the disk. Of a line that cannot be written whole nothing is left, so
    /// that another may come after it.
    ///
    /// # Errors
    /// The system refuses, or the file was opened to be read.
    pub fn append(&mut self, line: &Line) -> Result<(), TrainError> {
        let text = serde_json::to_string(line).expect("plain data") + "\n";
        // What is compared later is what a later reader will find, to the last digit.
        let line = serde_json::from_str(&text).expect("just written");
        let Some(file) = &mut self.file else { return Err(fail(&self.path, "it was opened to be read".into())) };
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
        if let Err(source) = written {
            // The error that matters is the first; if the rest of a line stays after all, it is refused when it is read.
            let _ = file.set_len(self.whole);
            return Err(io_error(&self.path, "write", source));
        }
        self.whole += text.len() as u64;
        self.lines.push(line);
        Ok(())
    }

    /// The lines that the plan asks for, in the order of the file: all but those for the table with a rate that the search, made
    /// anew with other settings, has not chosen.
    pub fn lines<'a>(&'a self, plan: &Plan) -> Vec<&'a Line> {
        let wanted: Vec<Job> = (0..plan.units.len()).flat_map(|unit| planned(&self.lines, plan, unit)).collect();
        self.lines.iter().filter(|line| wanted.iter().any(|job| job.is_of(plan, line))).collect()
    }

    /// Runs finished, and runs in all.
    pub fn runs(&self, plan: &Plan) -> (usize, usize) {
        let of_units = (0..plan.units.len()).map(|unit| self.runs_of(plan, unit));
        of_units.fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1))
    }

    /// The same of a unit: where every run of its search has failed there is no rate to run others with.
    pub(super) fn runs_of(&self, plan: &Plan, unit: usize) -> (usize, usize) {
        let of = match self.choice(plan, unit) {
            Choice::None => plan.search(unit).len(),
            Choice::Open | Choice::Rate(_) => plan.runs_of(unit),
        };
        (planned(&self.lines, plan, unit).iter().filter(|job| self.of(plan, job).is_some()).count(), of)
    }

    /// The result of a run, if it is there.
    pub fn of(&self, plan: &Plan, job: &Job) -> Option<&Line> {
        self.lines.iter().find(|line| job.is_of(plan, line))
    }

    /// What the search of a unit found: the best score, of equals that with the lowest loss, of equals the first.
    pub fn choice(&self, plan: &Plan, unit: usize) -> Choice {
        choice(&self.lines, plan, unit)
    }

    /// Checks that the lines are from such a device and such inputs.
    ///
    /// # Errors
    /// Which line is not, and how.
    pub fn check(&self, device: &DeviceUsed, inputs: &[(String, String)]) -> Result<(), TrainError> {
        for (i, line) in self.lines.iter().enumerate() {
            if let Some((key, was, is)) = line.device.difference(device) {
                return Err(other_settings(&self.path, i, line, &key, &was, &is));
            }
            if inputs.iter().any(|(task, inputs)| *task == line.task && *inputs != line.inputs) {
                let reason = format!(
                    "line {}: {} on {} was computed with another model or other data: restore them, or name another folder \
                     by --set output.folder=...",
                    i + 1,
                    line.entry,
                    line.task
                );
                return Err(fail(&self.path, reason));
            }
        }
        Ok(())
    }
}

impl Job {
    /// Whether a line is this run's.
    pub(super) fn is_of(&self, plan: &Plan, line: &Line) -> bool {
        let unit = &plan.units[self.unit];
        line.entry == unit.name
            && line.task == plan.task(unit).name
            && (line.purpose, line.seed) == (self.purpose, self.seed)
            && same_rate(line.learning_rate, self.rate)
    }
}

/// A number that was written and read again may have another last digit.
fn same_rate(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

/// The runs of a unit, as far as lines say which they are.
fn planned(lines: &[Line], plan: &Plan, unit: usize) -> Vec<Job> {
    let mut jobs = plan.search(unit);
    if let Choice::Rate(rate) = choice(lines, plan, unit) {
        jobs.extend(plan.finals(unit, rate));
    }
    jobs
}

fn choice(lines: &[Line], plan: &Plan, unit: usize) -> Choice {
    let jobs = plan.search(unit);
    if jobs.is_empty() {
        return Choice::Rate(plan.units[unit].rates[0]);
    }
    let higher_is_better = plan.task(&plan.units[unit]).settings.metric != "loss";
    let mut best: Option<(f64, f64, f64)> = None;
    for job in &jobs {
        let Some(line) = lines.iter().find(|line| job.is_of(plan, line)) else { return Choice::Open };
        let (Some(score), Some(loss)) = (line.score, line.loss) else { continue };
        let score = if higher_is_better { score } else { -score };
        if best.is_none_or(|(top, lowest, _)| score > top || score == top && loss < lowest) {
            best = Some((score, loss, job.rate));
        }
    }
    best.map_or(Choice::None, |(_, _, rate)| Choice::Rate(rate))
}

/// The lines of a file but a last one that was cut off, the bytes that they take, and those of the file.
fn whole_lines(path: &Path, plan: &Plan) -> Result<(Vec<Line>, u64, u64), TrainError> {
    let bytes = fs::read(path).map_err(|source| io_error(path, "read", source))?;
    // Before it is a text: the cut may be inside a letter.
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let text = std::str::from_utf8(&bytes[..whole]).map_err(|error| {
        let at = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        fail(path, format!("line {at} is no text in UTF-8: take it out, and its run is run again"))
    })?;
    Ok((checked(path, text, plan)?, whole as u64, bytes.len() as u64))
}

/// The lines of a text, each one of the plan's. Those of a search that was made with another `[search]` are left out, so that it is
/// run anew.
fn checked(path: &Path, text: &str, plan: &Plan) -> Result<Vec<Line>, TrainError> {
    let mut lines: Vec<Line> = Vec::new();
    let (mut jobs, mut searched_anew) = (Vec::new(), BTreeSet::new());
    for (i, text) in text.lines().enumerate() {
        let line: Line = serde_json::from_str(text).map_err(|error| fail(path, format!("line {}: {error}", i + 1)))?;
        let place = format!("line {}: {} on {}", i + 1, line.entry, line.task);
        let another = "name another folder by --set output.folder=..., or use the configuration it was begun with";
        let unit = plan.units.iter().position(|unit| unit.name == line.entry && plan.task(unit).name == line.task);
        let unit = unit.ok_or_else(|| fail(path, format!("{place} is not in this configuration: {another}")))?;
        let job = Job { unit, purpose: line.purpose, rate: line.learning_rate, seed: line.seed };
        // Through a text, as the line has come.
        let now: Value = serde_json::from_str(&plan.settings(&job).to_string()).expect("just written");
        if line.purpose == Purpose::Search && line.settings["search"] != now["search"] {
            searched_anew.insert(unit);
            continue;
        }
        if let Some((key, was, is)) = difference("", &pathless(&line.settings), &pathless(&now)) {
            return Err(other_settings(path, i, &line, &key, &was, &is));
        }
        if let Some((key, was, is)) = lines.first().and_then(|first| first.device.difference(&line.device)) {
            return Err(other_settings(path, i, &line, &key, &was, &is));
        }
        if let Some(same) = lines.iter().position(|other| job.is_of(plan, other)) {
            // Two files put together; the same run has the same result.
            if lines[same].score != line.score {
                let reason = format!("{place} has another result than the same run before it: keep one of the two");
                return Err(fail(path, reason));
            }
            continue;
        }
        lines.push(line);
        jobs.push((job, place));
    }
    for (job, place) in jobs {
        // The rate of the search before may be that of the new one as well.
        let may_be_another = job.purpose == Purpose::Final && searched_anew.contains(&job.unit);
        let is_this =
            |other: &Job| (other.purpose, other.seed) == (job.purpose, job.seed) && same_rate(other.rate, job.rate);
        if !may_be_another && !planned(&lines, plan, job.unit).iter().any(is_this) {
            let found = format!("rate {}, seed {}", job.rate, job.seed);
            let reason =
                format!("{place}, {found}: no such run follows from this configuration and the search's results");
            return Err(fail(path, reason));
        }
    }
    Ok(lines)
}

/// Settings without where files lie: only whether there are such decides a result, beside what they hold.
fn pathless(settings: &Value) -> Value {
    let mut settings = settings.clone();
    for place in ["/data/tables", "/data/databases", "/data/chat_template", "/evaluation/wordnet"] {
        if let Some(path) = settings.pointer_mut(place).filter(|path| !path.is_null()) {
            *path = "a path".into();
        }
    }
    settings
}

fn fail(path: &Path, reason: String) -> TrainError {
    TrainError::RunFolder { folder: path.to_path_buf(), reason }
}

fn other_settings(path: &Path, at: usize, line: &Line, key: &str, was: &str, is: &str) -> TrainError {
    let (place, task, entry) = (at + 1, &line.task, &line.entry);
    let reason = format!(
        "line {place}: {entry} on {task} was computed with other settings: `{key}` was {was} then, is {is} now; restore it, or \
         name another folder by --set output.folder=..."
    );
    fail(path, reason)
}

/// The first key that two values differ in, with what it is in both.
fn difference(key: &str, was: &Value, is: &Value) -> Option<(String, String, String)> {
    let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match (was, is) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let at = |map: &serde_json::Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or_default();
            keys.into_iter().find_map(|key| difference(&below(key), &at(a, key), &at(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| difference(&below(&i.to_string()), a, b))
        }
        (was, is) => (was != is).then(|| (key.to_owned(), was.to_string(), is.to_string())),
    }
}
