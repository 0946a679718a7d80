//! The files of an evaluation: `evaluation.json` (what was evaluated, how, and the scores), `predictions.jsonl` (a line for
//! each example), `statistics.jsonl` (what each example adds to each measure, from which evaluations are compared).

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use statetune_datasets_eval::metrics::Interval;
use statetune_datasets_eval::{Counts, DataConfig, Dataset};

use super::measure::Measure;
use super::scoring::{Examination, Measured};
use crate::TrainError;
use crate::config::EvaluationSection;
use crate::error::io_error;

/// What is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// What it is called in tables.
    pub name: String,
    /// The base model's folder.
    pub model: PathBuf,
    /// The folders of the adapters on it, in their order.
    pub adapters: Vec<PathBuf>,
}

/// On what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DataUsed {
    /// The configuration, the validation file alone.
    pub config: DataConfig,
    /// Rows that were asked for an answer; windows of running text.
    pub rows: usize,
    /// See [`Dataset::answers_digest`].
    pub answers: String,
    /// See [`Dataset::tokens_digest`].
    pub tokens: String,
    /// Classes.
    pub classes: usize,
    /// What became of the rows of the file.
    pub counts: Counts,
    /// The first rows that cannot be used, with file and line.
    pub bad_rows: Vec<String>,
    /// Gold queries that cannot be used, with file and line.
    pub bad_golds: Vec<String>,
}

/// A score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricLine {
    /// Its name in configurations.
    pub key: String,
    /// Its name in tables.
    pub name: String,
    /// What was computed.
    pub signature: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// Examples.
    pub examples: usize,
    /// The score.
    #[serde(deserialize_with = "number")]
    pub value: f64,
    /// Lower end of the interval.
    #[serde(deserialize_with = "number")]
    pub low: f64,
    /// The middle sample.
    #[serde(deserialize_with = "number")]
    pub median: f64,
    /// Upper end.
    #[serde(deserialize_with = "number")]
    pub high: f64,
}

/// What `evaluation.json` holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The form of the files.
    pub version: u32,
    /// What was evaluated.
    pub subject: Subject,
    /// On what.
    pub data: DataUsed,
    /// How.
    pub settings: EvaluationSection,
    /// Loss, and scores of a classifier.
    pub evaluation: Value,
    /// The scores.
    pub metrics: Vec<MetricLine>,
}

/// An evaluation whose files were read.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where they are.
    pub folder: PathBuf,
    /// What was found.
    pub kept: Kept,
    /// The measures.
    pub measured: Vec<Measured>,
}

/// A line of `statistics.jsonl`.
#[derive(Serialize, Deserialize)]
struct Statistics {
    key: String,
    rows: Vec<u64>,
    #[serde(serialize_with = "short", deserialize_with = "numbers")]
    statistics: Vec<Vec<f64>>,
}

/// The form of the files that this version writes and reads.
const VERSION: u32 = 1;
const STATISTICS: &str = "statistics.jsonl";

impl Kept {
    /// Its file.
    pub const FILE: &'static str = "evaluation.json";
    /// The file of the examples.
    pub const PREDICTIONS: &'static str = "predictions.jsonl";

    /// Of an evaluation on a data set that was read by `config`.
    pub fn new(
        subject: Subject,
        config: DataConfig,
        dataset: &Dataset,
        settings: &EvaluationSection,
        found: &Examination,
    ) -> Kept {
        let data = DataUsed {
            config,
            rows: found.lines.len(),
            answers: dataset.answers_digest(),
            tokens: dataset.tokens_digest(),
            classes: dataset.classes.len(),
            counts: dataset.counts,
            bad_rows: dataset.bad_rows.clone(),
            bad_golds: found.bad_golds.clone(),
        };
        let scored = |measured: &Measured| {
            let Interval { value, low, median, high } = measured.interval;
            MetricLine {
                key: measured.measure.key(),
                name: measured.name.clone(),
                signature: measured.signature.clone(),
                higher_is_better: measured.measure.higher_is_better(),
                examples: measured.rows.len(),
                value,
                low,
                median,
                high,
            }
        };
        let evaluation = serde_json::to_value(&found.evaluation).expect("numbers");
        let metrics = found.measured.iter().map(scored).collect();
        Kept { version: VERSION, subject, data, settings: settings.clone(), evaluation, metrics }
    }

    /// Writes the files into a folder that is there.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, found: &Examination, folder: &Path) -> Result<(), TrainError> {
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| io_error(&path, "write", source))
        };
        let statistics = found.measured.iter().map(|measured| Statistics {
            key: measured.measure.key(),
            rows: measured.rows.clone(),
            statistics: measured.statistics.clone(),
        });
        write(STATISTICS, statistics.map(|statistics| line(&statistics)).collect())?;
        write(Kept::PREDICTIONS, found.lines.iter().map(line).collect())?;
        write(Kept::FILE, serde_json::to_string_pretty(self).expect("plain data") + "\n")
    }

    /// Reads the file of a folder.
    ///
    /// # Errors
    /// There is none, it is of another version, or it is none of an evaluation.
    pub fn read(folder: &Path) -> Result<Kept, TrainError> {
        let path = folder.join(Kept::FILE);
        let fail = |reason: String| TrainError::RunFolder { folder: path.clone(), reason };
        let text = fs::read_to_string(&path).map_err(|source| io_error(&path, "read", source))?;
        let value: Value = serde_json::from_str(&text).map_err(|error| fail(format!("no JSON: {error}")))?;
        match value["version"].as_u64() {
            Some(version) if version == u64::from(VERSION) => {}
            Some(other) => return Err(fail(format!("version {other} of these files; this program reads {VERSION}"))),
            None => return Err(fail("not the file of an evaluation: it has no `version`".into())),
        }
        serde_json::from_value(value).map_err(|error| fail(format!("not the file of an evaluation: {error}")))
    }
}

impl Stored {
    /// Reads an evaluation's folder.
    ///
    /// # Errors
    /// A file is missing, damaged, or not of the others.
    pub fn read(folder: &Path) -> Result<Stored, TrainError> {
        let kept = Kept::read(folder)?;
        let path = folder.join(STATISTICS);
        let text = fs::read_to_string(&path).map_err(|source| io_error(&path, "read", source))?;
        let mut measured = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let fail = |reason: String| {
                let reason = format!("line {}: {reason}; evaluate again", index + 1);
                TrainError::RunFolder { folder: path.clone(), reason }
            };
            let line: Statistics = serde_json::from_str(line).map_err(|error| fail(error.to_string()))?;
            let measure = Measure::of_key(&line.key).ok_or_else(|| fail(format!("unknown metric `{}`", line.key)))?;
            let metric = kept.metrics.get(index).filter(|metric| metric.key == line.key);
            let metric =
                metric.ok_or_else(|| fail(format!("`{}` is not metric {} of {}", line.key, index, Kept::FILE)))?;
            let width = line.statistics.first().map_or(0, Vec::len);
            if line.rows.is_empty()
                || line.rows.len() != line.statistics.len()
                || line.statistics.iter().any(|row| row.len() != width)
            {
                let (rows, statistics) = (line.rows.len(), line.statistics.len());
                return Err(fail(format!("expected as many numbers for each row, found {statistics} for {rows}")));
            }
            let MetricLine { value, low, median, high, .. } = *metric;
            measured.push(Measured {
                measure,
                name: metric.name.clone(),
                signature: metric.signature.clone(),
                interval: Interval { value, low, median, high },
                rows: line.rows,
                statistics: line.statistics,
            });
        }
        if measured.len() != kept.metrics.len() {
            let (expected, found) = (kept.metrics.len(), measured.len());
            let reason = format!("expected {expected} lines, as {} has metrics, found {found}", Kept::FILE);
            return Err(TrainError::RunFolder { folder: path, reason });
        }
        Ok(Stored { folder: folder.to_path_buf(), kept, measured })
    }
}

/// A number; JSON has none that is not finite, such as the loss of a model that has diverged, and `null` in its place.
fn number<'d, D: Deserializer<'d>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn numbers<'d, D: Deserializer<'d>>(deserializer: D) -> Result<Vec<Vec<f64>>, D::Error> {
    let rows = Vec::<Vec<Option<f64>>>::deserialize(deserializer)?;
    Ok(rows.into_iter().map(|row| row.into_iter().map(|x| x.unwrap_or(f64::NAN)).collect()).collect())
}

/// Counts without the `.0` that makes most of the file.
fn short<S: Serializer>(rows: &[Vec<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    let number = |x: &f64| match *x {
        x if x.fract() == 0.0 && x.abs() < 1e15 => Value::from(x as i64),
        x => Value::from(x),
    };
    serializer.collect_seq(rows.iter().map(|row| row.iter().map(number).collect::<Vec<Value>>()))
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain data") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_and_those_that_are_not_finite_are_none() {
        let written = Statistics {
            key: "loss".into(),
            rows: vec![3],
            statistics: vec![vec![0.1, 2.0, -1.0, 1e300, f64::NAN, f64::INFINITY]],
        };
        let text = line(&written);
        assert_eq!(text, "{\"key\":\"loss\",\"rows\":[3],\"statistics\":[[0.1,2,-1,1e+300,null,null]]}\n");
        let read: Statistics = serde_json::from_str(&text).unwrap();
        assert_eq!(read.statistics[0][..4], written.statistics[0][..4]);
        assert!(read.statistics[0][4..].iter().all(|x| x.is_nan()));
    }
}
