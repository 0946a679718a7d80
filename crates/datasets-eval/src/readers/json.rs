//! Rows from JSON: one object per line, or a list of objects.

use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Deserializer, Value};

use super::decode::lines;
use super::row::{Parsed, Row, kind};
use crate::error::nearest;
use crate::{DataError, Result};

/// The first `limit` rows of JSON lines.
pub(super) fn json_lines(text: &str, file: &Path, limit: usize) -> Vec<Parsed> {
    let parse = |(line, content): (usize, &str)| {
        let value = serde_json::from_str(content).map_err(|cause| {
            // It counts lines within this one.
            let found = format!("invalid JSON ({cause})").replace(" at line 1 column ", " at column ");
            no_object(file, line, found, LINES)
        });
        Parsed { line, last_line: line, row: value.and_then(|value| object(value, line, file, LINES)) }
    };
    lines(text).take(limit).map(parse).collect()
}

/// The first `limit` rows of a list, which is the whole file, or under `key` in the object that the file is.
///
/// # Errors
/// The file is no JSON up to there: what follows a mistake cannot be told.
pub(super) fn json_list(text: &str, file: &Path, key: Option<&str>, limit: usize) -> Result<Vec<Parsed>> {
    let mut scanner = Scanner { text, at: 0, line: 1, file };
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    if let Some(key) = key {
        scanner.enter(key)?;
    }
    scanner.expect('[', "a list of objects")?;
    let mut rows = Vec::new();
    if scanner.skip(']') {
        return Ok(rows);
    }
    while rows.len() < limit {
        scanner.blank();
        let line = scanner.line;
        let value = scanner.value()?;
        rows.push(Parsed { line, last_line: scanner.line, row: object(value, line, file, LIST) });
        if !scanner.skip(',') {
            scanner.expect(']', "`,` or `]` after a row")?;
            if key.is_none() {
                scanner.end()?;
            }
            break;
        }
    }
    Ok(rows)
}

const LINES: &str = "write each row as an object on a line of its own";
const LIST: &str = "write the rows as objects of one list";

fn object(value: Value, line: usize, file: &Path, hint: &'static str) -> Result<Row> {
    match value {
        Value::Object(object) => {
            let (names, values): (Vec<String>, Vec<Value>) = object.into_iter().unzip();
            Ok(Row { line, names: names.into(), values })
        }
        other => Err(no_object(file, line, kind(&other).into(), hint)),
    }
}

fn no_object(file: &Path, line: usize, found: String, hint: &'static str) -> DataError {
    DataError::Row { file: file.into(), line, expected: "one JSON object".into(), found, hint }
}

/// Where a file is read, value by value.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    file: &'a Path,
}

impl Scanner<'_> {
    fn advance(&mut self, bytes: usize) {
        self.line += self.text[self.at..self.at + bytes].matches('\n').count();
        self.at += bytes;
    }

    fn blank(&mut self) {
        let rest = &self.text[self.at..];
        self.advance(rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len());
    }

    /// Passes over this character, if it comes next.
    fn skip(&mut self, wanted: char) -> bool {
        self.blank();
        let found = self.text[self.at..].starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char, expected: &str) -> Result<()> {
        if self.skip(wanted) { Ok(()) } else { Err(self.error(expected)) }
    }

    /// Fails if anything follows.
    fn end(&mut self) -> Result<()> {
        self.blank();
        if self.at == self.text.len() { Ok(()) } else { Err(self.error("the end of the file after its list")) }
    }

    fn error(&self, expected: &str) -> DataError {
        let found = self.text[self.at..].chars().next().map_or("the end of the file".into(), |c| format!("`{c}`"));
        let hint = "give a whole JSON file, or format = \"jsonl\" for one object per line";
        DataError::Row { file: self.file.into(), line: self.line, expected: expected.into(), found, hint }
    }

    /// The next value.
    fn value<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut values = Deserializer::from_str(&self.text[self.at..]).into_iter::<T>();
        match values.next() {
            Some(Ok(value)) => {
                let bytes = values.byte_offset();
                self.advance(bytes);
                Ok(value)
            }
            Some(Err(cause)) => {
                let place = format!(" at line {} column {}", cause.line(), cause.column());
                Err(DataError::Row {
                    file: self.file.into(),
                    line: self.line + cause.line().saturating_sub(1),
                    expected: "JSON".into(),
                    found: format!("a mistake ({})", cause.to_string().replace(&place, "")),
                    hint: "correct the file; is it cut short?",
                })
            }
            None => Err(self.error("a value")),
        }
    }

    /// Goes to the value of a key in the object that comes next.
    fn enter(&mut self, wanted: &str) -> Result<()> {
        self.expect('{', &format!("an object with the key `{wanted}`"))?;
        let start = self.line;
        let mut found = Vec::new();
        if !self.skip('}') {
            loop {
                let key: String = self.value()?;
                self.expect(':', "`:` after a key")?;
                if key == wanted {
                    return Ok(());
                }
                found.push(key);
                self.value::<IgnoredAny>()?;
                if !self.skip(',') {
                    self.expect('}', "`,` or `}` after a value")?;
                    break;
                }
            }
        }
        Err(DataError::MissingField {
            file: self.file.into(),
            line: start,
            field: wanted.into(),
            nearest: nearest(wanted, found.iter().map(String::as_str)),
            found,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str, key: Option<&str>) -> Result<Vec<(usize, usize, bool)>> {
        let rows = json_list(text, Path::new("x.json"), key, usize::MAX)?;
        Ok(rows.into_iter().map(|row| (row.line, row.last_line, row.row.is_ok())).collect())
    }

    #[test]
    fn lists_with_their_lines() {
        let text = "\n[ {\"a\": [1,\n2]}\n,\n 7,{\"a\": \"]\"}\n]\n";
        let expected = [(2, 3, true), (5, 5, false), (5, 5, true)];
        assert_eq!(rows(text, None).unwrap(), expected);
        let inside = format!("{{\"v\": {{\"rows\": [1]}}, \"rows\": {text}, \"more\": 1}}");
        assert_eq!(rows(&inside, Some("rows")).unwrap(), expected);
        assert_eq!(rows(" [ ] ", None).unwrap(), []);
    }

    #[test]
    fn mistakes_with_their_lines() {
        let message = |text: &str, key| rows(text, key).unwrap_err().to_string();
        assert_eq!(
            message("[{\"a\": 1},\n{\"a\":\nx}]", None),
            "x.json:3: expected JSON, found a mistake (expected value); correct the file; is it cut short?"
        );
        let hint = "; give a whole JSON file, or format = \"jsonl\" for one object per line";
        assert_eq!(message("{\"a\": 1}\n", None), format!("x.json:1: expected a list of objects, found `{{`{hint}"));
        assert_eq!(message("[{}\n{}]", None), format!("x.json:2: expected `,` or `]` after a row, found `{{`{hint}"));
        assert_eq!(
            message("[{}\n", None),
            format!("x.json:2: expected `,` or `]` after a row, found the end of the file{hint}")
        );
        assert_eq!(
            message("[{}] ]", None),
            format!("x.json:1: expected the end of the file after its list, found `]`{hint}")
        );
        assert_eq!(
            message("{\"row\": 1}", Some("rows")),
            "x.json:1: there is no field `rows` (did you mean `row`?); found `row`"
        );
    }
}
