//! A foreign configuration read key by key: wrong types are errors that name the file, keys without effect are told.

use std::cell::RefCell;
use std::path::Path;

use serde_json::{Map, Value};

use crate::PeftError;
use crate::adapter::bad;
use crate::foreign::hugging_face::is_neutral;

/// Keys that every PEFT configuration may have and that say nothing about what is computed.
const COMMON: [&str; 8] = [
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
    "megatron_core",
];

/// A configuration, or a table in one, and which of its keys were looked at.
pub(super) struct Keys<'a> {
    path: &'a Path,
    /// What messages call the table: the `peft_type`, with the key of a table in it.
    kind: String,
    /// What stands before the table's keys in messages: `scan_state.`.
    prefix: String,
    map: &'a Map<String, Value>,
    seen: RefCell<Vec<String>>,
}

impl<'a> Keys<'a> {
    pub fn new(path: &'a Path, kind: &str, map: &'a Map<String, Value>) -> Keys<'a> {
        let seen = COMMON.iter().map(|key| key.to_string()).collect();
        Keys { path, kind: kind.to_owned(), prefix: String::new(), map, seen: RefCell::new(seen) }
    }

    /// The value of a key that is there and not null.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.seen.borrow_mut().push(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key asks for something.
    pub fn asks(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !is_neutral(value) && value.as_f64() != Some(0.0))
    }

    pub fn wrong(&self, key: &str, expected: &str) -> PeftError {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        bad(self.path, format!("`{}{key}` of {} should be {expected}, found {found}", self.prefix, self.kind))
    }

    /// An error that names a key whose value cannot be had here.
    pub fn unsupported(&self, key: &str, why: &str) -> PeftError {
        let found = self.map.get(key).map_or("nothing".to_owned(), Value::to_string);
        let feature = format!("`{}{key}` = {found} of {} ({why})", self.prefix, self.kind);
        PeftError::Unsupported { path: self.path.to_path_buf(), feature }
    }

    /// Fails if a key asks for what cannot be had here.
    pub fn refuse(&self, keys: &[&str], why: &str) -> Result<(), PeftError> {
        match keys.iter().find(|key| self.asks(key)) {
            Some(key) => Err(self.unsupported(key, why)),
            None => Ok(()),
        }
    }

    /// A whole number above 0, if there is one.
    pub fn count(&self, key: &str) -> Result<Option<u64>, PeftError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().filter(|&number| number > 0);
        number.map(Some).ok_or_else(|| self.wrong(key, "a whole number above 0"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, PeftError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(key, "a number"))
    }

    pub fn flag(&self, key: &str) -> Result<bool, PeftError> {
        self.get(key).map_or(Some(false), Value::as_bool).ok_or_else(|| self.wrong(key, "true or false"))
    }

    /// One of a few words.
    pub fn word(&self, key: &str, words: &[&str]) -> Result<Option<&'a str>, PeftError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let word = value.as_str().filter(|word| words.contains(word));
        let expected = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ");
        word.map(Some).ok_or_else(|| self.wrong(key, &expected))
    }

    /// A list of names, empty where there is none.
    pub fn names(&self, key: &str) -> Result<Vec<&'a str>, PeftError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let names = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        names.ok_or_else(|| self.wrong(key, "a list of names"))
    }

    /// A table in the table.
    pub fn table(&self, key: &str) -> Result<Option<Keys<'a>>, PeftError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "a table"))?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok(Some(Keys { path: self.path, kind: self.kind.clone(), prefix, map, seen: RefCell::default() }))
    }

    /// `key` of KIND, for a sentence about it.
    pub fn name(&self, key: &str) -> String {
        format!("`{}{key}` of {}", self.prefix, self.kind)
    }

    /// A sentence for each of these keys that asks for something: nothing comes of it in the authors' code.
    pub fn idle(&self, keys: &[&str], notes: &mut Vec<String>) {
        for key in keys.iter().filter(|key| self.asks(key)) {
            notes.push(format!("{} has no effect in the authors' code, and none here", self.name(key)));
        }
    }

    /// A sentence for each key that nobody looked at.
    pub fn rest(&self, notes: &mut Vec<String>) {
        let seen = self.seen.borrow();
        for key in self.map.keys().filter(|key| !seen.contains(key)) {
            notes.push(format!("{} is not known here and has no effect", self.name(key)));
        }
    }
}
