//! Bytes to text: UTF-8 with or without a byte-order mark, and lines.

use std::borrow::Cow;
use std::path::Path;

use super::row::Parsed;
use crate::{DataError, Result};

/// A byte that begins no character, and its line.
pub(super) type Invalid = (usize, u8);

fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The text of a file without its byte-order mark; fails at the first line that is not UTF-8.
pub(super) fn decode<'a>(bytes: &'a [u8], file: &Path) -> Result<&'a str> {
    let bytes = without_mark(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
        no_utf8(file, (line, bytes[error.valid_up_to()]))
    })
}

/// The same with U+FFFD for what is not UTF-8, and where that is.
pub(super) fn decode_lossy(bytes: &[u8]) -> (Cow<'_, str>, Vec<Invalid>) {
    let bytes = without_mark(bytes);
    let mut line = 1;
    let mut invalid: Vec<Invalid> = Vec::new();
    for chunk in bytes.utf8_chunks() {
        line += chunk.valid().matches('\n').count();
        invalid.extend(chunk.invalid().first().map(|&byte| (line, byte)));
    }
    (String::from_utf8_lossy(bytes), invalid)
}

/// Makes an error of every row on whose lines something is not UTF-8.
///
/// # Errors
/// It stands before the first row, such as in a header.
pub(super) fn refuse_invalid(rows: &mut [Parsed], invalid: &[Invalid], file: &Path) -> Result<()> {
    let first = rows.first().map_or(usize::MAX, |row| row.line);
    if let Some(&at) = invalid.first().filter(|(line, _)| *line < first) {
        return Err(no_utf8(file, at));
    }
    for row in rows {
        let next = invalid.partition_point(|(line, _)| *line < row.line);
        if let Some(&at) = invalid.get(next).filter(|(line, _)| *line <= row.last_line) {
            row.row = Err(no_utf8(file, at));
        }
    }
    Ok(())
}

/// The error of a place that is not UTF-8.
pub(super) fn no_utf8(file: &Path, (line, byte): Invalid) -> DataError {
    DataError::Row {
        file: file.into(),
        line,
        expected: "UTF-8 text".into(),
        found: format!("byte 0x{byte:02x}"),
        hint: "convert the file to UTF-8, and decompress it if it is compressed",
    }
}

/// Lines with their numbers from 1, without line ends; blank ones are left out.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered =
        text.split('\n').enumerate().map(|(index, line)| (index + 1, line.strip_suffix('\r').unwrap_or(line)));
    numbered.filter(|(_, line)| !line.trim().is_empty())
}
