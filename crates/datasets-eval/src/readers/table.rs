//! Rows from the text of a file: JSON lines, CSV, and the tsv files of GLUE.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::row::{Cell, Row};
use crate::tasks::glue::GlueTask;
use crate::{DataError, Result};

/// The text of a file without its byte-order mark; fails at the first line that is not UTF-8.
pub(super) fn decode<'a>(bytes: &'a [u8], file: &Path) -> Result<&'a str> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| DataError::Row {
        file: file.into(),
        line: 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count(),
        expected: "UTF-8 text".into(),
        found: format!("byte 0x{:02x}", bytes[error.valid_up_to()]),
        hint: "convert the file to UTF-8, and decompress it if it is compressed",
    })
}

/// Lines with their numbers from 1, without line ends; blank ones are left out.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered =
        text.split('\n').enumerate().map(|(index, line)| (index + 1, line.strip_suffix('\r').unwrap_or(line)));
    numbered.filter(|(_, line)| !line.trim().is_empty())
}

/// The first `limit` rows of JSON lines: objects whose values are texts, numbers or booleans where they are used.
pub(super) fn json_rows(text: &str, file: &Path, limit: usize) -> Result<Vec<Row>> {
    lines(text).take(limit).map(|(line, content)| json_row(content, line, file)).collect()
}

fn json_row(content: &str, line: usize, file: &Path) -> Result<Row> {
    let error = |found: String| DataError::Row {
        file: file.into(),
        line,
        expected: "one JSON object".into(),
        found,
        hint: "write each row as an object on a line of its own",
    };
    let object = match serde_json::from_str(content) {
        Ok(Value::Object(object)) => object,
        Ok(other) => return Err(error(kind(&other).into())),
        // It counts lines within this one.
        Err(cause) => {
            return Err(error(format!("invalid JSON ({cause})").replace(" at line 1 column ", " at column ")));
        }
    };
    let mut names = Vec::with_capacity(object.len());
    let mut values = Vec::with_capacity(object.len());
    for (name, value) in object {
        names.push(name);
        values.push(match value {
            Value::String(text) => Ok(text),
            Value::Number(number) => Ok(number.to_string()),
            Value::Bool(truth) => Ok(truth.to_string()),
            other => Err(kind(&other)),
        });
    }
    Ok(Row { line, names: names.into(), values })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The first `limit` rows of a CSV file with a header (RFC 4180: quoted fields may hold commas and line ends).
pub(super) fn csv_rows(text: &str, file: &Path, limit: usize) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut record = csv::StringRecord::new();
    next_record(&mut reader, &mut record, text, file)?;
    let names: Arc<[String]> = record.iter().map(String::from).collect();
    let mut rows = Vec::new();
    while rows.len() < limit {
        let Some(line) = next_record(&mut reader, &mut record, text, file)? else { break };
        check_width(file, line, names.len(), record.len(), "quote fields that hold commas or line ends")?;
        rows.push(Row { line, names: names.clone(), values: record.iter().map(|value| Ok(value.into())).collect() });
    }
    Ok(rows)
}

/// Reads the next record, whose line it returns; `None` at the end.
fn next_record(
    reader: &mut csv::Reader<&[u8]>,
    record: &mut csv::StringRecord,
    text: &str,
    file: &Path,
) -> Result<Option<usize>> {
    let start = reader.position().clone();
    let read = reader.read_record(record);
    // The reader still has the end of the line before, and blank lines, in front of it.
    let ahead = &text[start.byte() as usize..reader.position().byte() as usize];
    let source = ahead.trim_start_matches(['\r', '\n']);
    let line = start.line() as usize + ahead[..ahead.len() - source.len()].matches('\n').count();
    let error = |expected: &str, found: String, hint: &'static str| {
        Err(DataError::Row { file: file.into(), line, expected: expected.into(), found, hint })
    };
    match read {
        Ok(false) => Ok(None),
        Ok(true) if is_well_quoted(record, source) => Ok(Some(line)),
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
pub(super) fn glue_rows(text: &str, file: &Path, task: &GlueTask, limit: usize) -> Result<Vec<Row>> {
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
        let values: Vec<Cell> = content.split('\t').map(|value| Ok(value.into())).collect();
        check_width(file, line, names.len(), values.len(), "correct or remove the row; a field cannot hold a tab")?;
        Ok(Row { line, names: names.clone(), values })
    };
    lines.take(limit).map(row).collect()
}

fn check_width(file: &Path, line: usize, expected: usize, found: usize, hint: &'static str) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    let (expected, found) = (format!("{expected} fields"), found.to_string());
    Err(DataError::Row { file: file.into(), line, expected, found, hint })
}
