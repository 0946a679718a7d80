//! A row of a file: named values and the lines it stands on.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use crate::error::nearest;
use crate::{DataError, Result};

/// Named values of one row. Rows of a table share their names.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// From 1.
    pub line: usize,
    pub names: Arc<[String]>,
    pub values: Vec<Value>,
}

/// A row, or why there is none, with the lines of the file that it stands on.
#[derive(Debug)]
pub(super) struct Parsed {
    /// From 1.
    pub line: usize,
    /// At least `line`.
    pub last_line: usize,
    pub row: Result<Row>,
}

impl Row {
    /// The value of a field; fails with the nearest name there is.
    pub(crate) fn value(&self, field: &str, file: &Path) -> Result<&Value> {
        match self.names.iter().position(|name| name == field) {
            Some(index) => Ok(&self.values[index]),
            None => Err(DataError::MissingField {
                file: file.to_path_buf(),
                line: self.line,
                field: field.into(),
                nearest: nearest(field, self.names.iter().map(String::as_str)),
                found: self.names.to_vec(),
            }),
        }
    }

    /// The text of a field; fails with the nearest name there is, or with what it holds instead of text.
    pub(crate) fn get(&self, field: &str, file: &Path) -> Result<Cow<'_, str>> {
        let value = self.value(field, file)?;
        text_of(value).ok_or_else(|| {
            self.wrong(field, file, "text, a number or a boolean", kind(value), "write its text into the row")
        })
    }

    /// The error of a field that holds something else than it should.
    pub(crate) fn wrong(
        &self,
        field: &str,
        file: &Path,
        expected: impl Into<String>,
        found: impl Into<String>,
        hint: &'static str,
    ) -> DataError {
        let (expected, found) = (expected.into(), found.into());
        DataError::Value { file: file.into(), line: self.line, field: field.into(), expected, found, hint }
    }
}

/// A value as text; `None` for null, lists and objects.
fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Number(number) => Some(number.to_string().into()),
        Value::Bool(truth) => Some(truth.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// What sort of value it is, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
