//! Rows from tables: CSV, and the tsv files of GLUE.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::decode::lines;
use super::row::{Parsed, Row};
use crate::tasks::glue::GlueTask;
use crate::{DataError, Result};

/// The first `limit` rows of a CSV file with a header (RFC 4180: quoted fields may hold commas and line ends).
///
/// # Errors
/// The header has a quote out of place.
pub(super) fn csv_rows(text: &str, file: &Path, limit: usize) -> Result<Vec<Parsed>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    if let Some((_, well_quoted)) = next_record(&mut reader, &mut record, text, file) {
        well_quoted?;
    }
    let names: Arc<[String]> = record.iter().map(String::from).collect();
    let mut rows = Vec::new();
    while rows.len() < limit {
        let Some((line, well_quoted)) = next_record(&mut reader, &mut record, text, file) else { break };
        let hint = "quote fields that hold commas or line ends";
        let row = well_quoted.and_then(|()| {
            check_width(file, line, names.len(), record.len(), hint)?;
            Ok(Row { line, names: names.clone(), values: record.iter().map(Value::from).collect() })
        });
        let ends_with_line = text[..reader.position().byte() as usize].ends_with('\n');
        let last_line = (reader.position().line() as usize - usize::from(ends_with_line)).max(line);
        rows.push(Parsed { line, last_line, row });
    }
    Ok(rows)
}

/// Reads the next record; its line, and whether it is one; `None` at the end.
fn next_record(
    reader: &mut csv::Reader<&[u8]>,
    record: &mut csv::StringRecord,
    text: &str,
    file: &Path,
) -> Option<(usize, Result<()>)> {
    let start = reader.position().clone();
    let read = reader.read_record(record);
    // The reader still has the end of the line before, and blank lines, in front of it.
    let ahead = &text[start.byte() as usize..reader.position().byte() as usize];
    let source = ahead.trim_start_matches(['\r', '\n']);
    let line = start.line() as usize + ahead[..ahead.len() - source.len()].matches('\n').count();
    let error = |expected: &str, found: String, hint: &'static str| {
        Some((line, Err(DataError::Row { file: file.into(), line, expected: expected.into(), found, hint })))
    };
    match read {
        Ok(false) => None,
        Ok(true) if is_well_quoted(record, source) => Some((line, Ok(()))),
        Ok(true) => error(
            "fields without quotes, or quoted with those inside written twice",
            "a quote out of place, or none to close one".into(),
            "correct the quotes; is the file cut short?",
        ),
        Err(cause) => error("comma-separated values", cause.to_string(), "correct the row"),
    }
}

/// Whether a record is written as RFC 4180 has it. The reader itself makes what it can of broken quotes, such as one row
/// of two.
fn is_well_quoted(record: &csv::StringRecord, source: &str) -> bool {
    let mut rest = source;
    for value in record {
        let written = match rest.starts_with('"') {
            true => format!("\"{}\"", value.replace('"', "\"\"")),
            false if value.contains('"') => return false,
            false => value.to_owned(),
        };
        let Some(after) = rest.strip_prefix(&written) else { return false };
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    true
}

/// The first `limit` rows of a GLUE file: tabs, no quoting (a quote is a character, as in the benchmark's own reader).
pub(super) fn glue_rows(text: &str, file: &Path, task: &GlueTask, limit: usize) -> Result<Vec<Parsed>> {
    let mut lines = lines(text);
    let columns: Vec<String> = match task.has_header {
        true => lines.next().into_iter().flat_map(|(_, header)| header.split('\t')).map(String::from).collect(),
        false => task.layouts[0].iter().map(|&name| name.into()).collect(),
    };
    if !task.layouts.iter().any(|layout| columns.iter().map(String::as_str).eq(layout.iter().copied())) {
        let layouts: Vec<String> = task.layouts.iter().map(|layout| layout.join(", ")).collect();
        return Err(DataError::Columns {
            file: file.into(),
            task: task.name.into(),
            expected: layouts.join("; or "),
            found: columns,
        });
    }
    let names: Arc<[String]> = columns.into();
    let row = |(line, content): (usize, &str)| {
        let values: Vec<Value> = content.split('\t').map(Value::from).collect();
        let hint = "correct or remove the row; a field cannot hold a tab";
        let row = check_width(file, line, names.len(), values.len(), hint);
        Parsed { line, last_line: line, row: row.map(|()| Row { line, names: names.clone(), values }) }
    };
    Ok(lines.take(limit).map(row).collect())
}

fn check_width(file: &Path, line: usize, expected: usize, found: usize, hint: &'static str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (format!("{expected} fields"), found.to_string());
    Err(DataError::Row { file: file.into(), line, expected, found, hint })
}
