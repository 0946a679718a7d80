//! The run's log: one JSON object per line in `metrics.jsonl`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::TrainError;
use crate::error::io_error;
use crate::evaluate::Evaluation;

const FILE: &str = "metrics.jsonl";

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// Some steps of training.
    Step(StepRecord),
    /// An evaluation.
    Evaluation {
        /// Steps done.
        step: u64,
        /// What was found.
        #[serde(flatten)]
        evaluation: Evaluation,
    },
    /// A step that was skipped.
    Skipped {
        /// The step, from 1.
        step: u64,
        /// What was not finite.
        reason: String,
    },
    /// Something to know, counted rows among it.
    Note {
        /// Steps done.
        step: u64,
        /// The text.
        note: String,
    },
}

/// What is logged of training steps.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRecord {
    /// Steps done.
    pub step: u64,
    /// Passes over the data, with fractions.
    pub epoch: f64,
    /// Mean loss of the steps since the last line.
    pub loss: f64,
    /// Learning rate of the last step.
    pub learning_rate: f64,
    /// Global norm of the last step's gradient, before clipping.
    pub gradient_norm: f64,
    /// Tokens computed since the run began.
    pub tokens: u64,
    /// Seconds of training since the run began.
    pub seconds: f64,
    /// Tokens computed per second of training since the last line.
    pub tokens_per_second: f64,
}

impl Record {
    /// Steps done when it was written.
    pub fn step(&self) -> u64 {
        match self {
            Record::Step(record) => record.step,
            Record::Evaluation { step, .. } | Record::Skipped { step, .. } | Record::Note { step, .. } => *step,
        }
    }
}

/// The file of records.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log of a run folder: a new one for a run at its beginning; the old one for a run resumed after some
    /// steps, without its later lines, which the run will write again.
    ///
    /// # Errors
    /// The system refuses, or a line is no JSON object.
    pub fn open(folder: &Path, resumed_after: Option<u64>) -> Result<Log, TrainError> {
        let path = folder.join(FILE);
        let kept: String = match resumed_after {
            // As they are written: a number that is read and written again may have another last digit.
            Some(step) => lines(folder)?
                .into_iter()
                .filter(|(_, line)| line["step"].as_u64().is_some_and(|s| s <= step))
                .map(|(text, _)| text + "\n")
                .collect(),
            None => String::new(),
        };
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, kept).map_err(|source| io_error(&temporary, "write", source))?;
        fs::rename(&temporary, &path).map_err(|source| io_error(&path, "replace", source))?;
        let file = OpenOptions::new().create(true).append(true).open(&path);
        Ok(Log { file: file.map_err(|source| io_error(&path, "open", source))?, path })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&mut self, record: &Record) -> Result<(), TrainError> {
        let line = serde_json::to_string(record).expect("records are plain data") + "\n";
        self.file.write_all(line.as_bytes()).map_err(|source| io_error(&self.path, "write", source))
    }
}

/// The lines of a run folder's log; a last line that was cut off by a crash is left out.
///
/// # Errors
/// The file cannot be read, or a line before the last is no JSON object.
pub fn read(folder: &Path) -> Result<Vec<Value>, TrainError> {
    Ok(lines(folder)?.into_iter().map(|(_, record)| record).collect())
}

/// The same, each with its text.
fn lines(folder: &Path) -> Result<Vec<(String, Value)>, TrainError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).map_err(|source| io_error(&path, "read", source))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(record) => found.push(((*line).to_owned(), record)),
            Err(_) if i + 1 == lines.len() => break,
            Err(error) => {
                let reason = format!("line {}: {error}", i + 1);
                return Err(TrainError::RunFolder { folder: path, reason });
            }
        }
    }
    Ok(found)
}
