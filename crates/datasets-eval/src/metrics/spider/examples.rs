//! Examples from the official evaluator's files: golds as `query<TAB>db_id`, predictions one a line.

use std::path::{Path, PathBuf};

use crate::{DataError, Result};

/// A prediction, what it should have been, and where that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiderExample {
    /// The prediction.
    pub prediction: String,
    /// The gold query.
    pub gold: String,
    /// The database.
    pub db_id: String,
    /// The file of the gold query.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
}

/// Reads a file of golds and one of predictions. Lines of the first without text are passed over. Of the second they are
/// predictions of nothing (the official evaluator would take the next line for them), but for those at the end that are
/// too many; what follows a tab is passed over.
///
/// # Errors
///
/// A file cannot be read or is not UTF-8, a gold has no `db_id`, or there are more or fewer predictions than golds.
pub fn read_examples(golds: &Path, predictions: &Path) -> Result<Vec<SpiderExample>> {
    let mut examples = Vec::new();
    for (index, line) in read(golds)?.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let Some((gold, db_id)) = line.split_once('\t').filter(|(_, db_id)| !db_id.contains('\t')) else {
            return Err(DataError::Row {
                file: golds.into(),
                line: index + 1,
                expected: "a query, a tab and a db_id".into(),
                found: format!("`{line}`"),
                hint: "give a file of golds as the official evaluator reads it",
            });
        };
        examples.push(SpiderExample {
            prediction: String::new(),
            gold: gold.into(),
            db_id: db_id.trim().into(),
            file: golds.into(),
            line: index + 1,
        });
    }
    let text = read(predictions)?;
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    while lines.len() > examples.len() && lines.last().is_some_and(|line| line.is_empty()) {
        lines.pop();
    }
    if lines.len() != examples.len() {
        return Err(DataError::Row {
            file: predictions.into(),
            line: lines.len(),
            expected: format!("{} predictions, one for each gold of {}", examples.len(), golds.display()),
            found: format!("{} lines", lines.len()),
            hint: "write one prediction a line, an empty one as an empty line",
        });
    }
    for (example, line) in examples.iter_mut().zip(lines) {
        example.prediction = line.split('\t').next().unwrap_or_default().into();
    }
    Ok(examples)
}

fn read(file: &Path) -> Result<String> {
    let hint = "give the path of a readable file";
    let bytes = std::fs::read(file).map_err(|source| DataError::Io { file: file.into(), source, hint })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        DataError::Row {
            file: file.into(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            expected: "UTF-8".into(),
            found: "other bytes".into(),
            hint: "write the file as UTF-8",
        }
    })
}
