//! A row of a file: named fields and the line it starts at.

use std::path::Path;
use std::sync::Arc;

use crate::error::nearest;
use crate::{DataError, Result};

/// A value: its text, or the kind of thing it is instead ("a list").
pub(crate) type Cell = std::result::Result<String, &'static str>;

/// Named values of one row. Rows of a table share their names.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// From 1.
    pub line: usize,
    pub names: Arc<[String]>,
    pub values: Vec<Cell>,
}

impl Row {
    /// The text of a field; fails with the nearest name there is, or with what it holds instead of text.
    pub(crate) fn get(&self, field: &str, file: &Path) -> Result<&str> {
        match self.names.iter().position(|name| name == field) {
            Some(index) => self.values[index].as_deref().map_err(|kind| DataError::Value {
                file: file.to_path_buf(),
                line: self.line,
                field: field.into(),
                expected: "text, a number or a boolean".into(),
                found: (*kind).into(),
                hint: "write its text into the row",
            }),
            None => Err(DataError::MissingField {
                file: file.to_path_buf(),
                line: self.line,
                field: field.into(),
                nearest: nearest(field, self.names.iter().map(String::as_str)),
                found: self.names.to_vec(),
            }),
        }
    }
}
