//! Reading typed fields out of a JSON object, each at most once, so that what is left over can be reported.

use serde_json::{Map, Value};

use super::json;
use crate::error::ModelError;

/// The largest dimension taken from a file. Far above any model; low enough that no product of dimensions overflows.
pub(super) const MAX_DIMENSION: usize = 1 << 24;

/// The fields of one object that have not been read yet.
pub(super) struct Fields {
    origin: String,
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    pub fn new(origin: &str, map: Map<String, Value>) -> Fields {
        Fields { origin: origin.to_string(), prefix: String::new(), map }
    }

    /// The object under `key`; its fields are named `key.field` in messages. Absent or null counts as empty.
    pub fn object(&mut self, key: &str) -> Result<Fields, ModelError> {
        let map = match self.take(key) {
            None => Map::new(),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(self.mismatch(key, "an object", other.to_string())),
        };
        Ok(Fields { origin: self.origin.clone(), prefix: format!("{}{key}.", self.prefix), map })
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Removes and returns a field; null counts as absent.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.shift_remove(key).filter(|value| !value.is_null())
    }

    /// A dimension: a whole number from 1 to [`MAX_DIMENSION`].
    pub fn dimension(&mut self, key: &str, default: usize) -> Result<usize, ModelError> {
        let Some(value) = self.take(key) else { return Ok(default) };
        match value.as_u64().map(usize::try_from) {
            Some(Ok(n)) if (1..=MAX_DIMENSION).contains(&n) => Ok(n),
            _ => Err(self.mismatch(key, &format!("a whole number from 1 to {MAX_DIMENSION}"), value.to_string())),
        }
    }

    /// A dimension, or "auto" (and absence) for `automatic`.
    pub fn dimension_or_auto(&mut self, key: &str, automatic: usize) -> Result<usize, ModelError> {
        if self.map.get(key).is_some_and(|value| value == "auto") {
            self.map.shift_remove(key);
        }
        self.dimension(key, automatic)
    }

    /// A number; bare and tagged infinities count.
    pub fn number(&mut self, key: &str, default: f64) -> Result<f64, ModelError> {
        let Some(value) = self.take(key) else { return Ok(default) };
        json::as_f64(&value).ok_or_else(|| self.mismatch(key, "a number", value.to_string()))
    }

    /// Two numbers.
    pub fn pair(&mut self, key: &str, default: (f64, f64)) -> Result<(f64, f64), ModelError> {
        let Some(value) = self.take(key) else { return Ok(default) };
        let numbers = value.as_array().map(|items| items.iter().map(json::as_f64).collect::<Vec<_>>());
        match numbers.as_deref() {
            Some([Some(low), Some(high)]) => Ok((*low, *high)),
            _ => Err(self.mismatch(key, "a list of two numbers", value.to_string())),
        }
    }

    pub fn flag(&mut self, key: &str, default: bool) -> Result<bool, ModelError> {
        let Some(value) = self.take(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.mismatch(key, "true or false", value.to_string()))
    }

    pub fn text(&mut self, key: &str) -> Result<Option<String>, ModelError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.mismatch(key, "a string", other.to_string())),
        }
    }

    /// A token id, a list of them, or null for none; absence gives the default.
    pub fn token_ids(&mut self, key: &str, default: Option<u32>) -> Result<Vec<u32>, ModelError> {
        let Some(value) = self.map.shift_remove(key) else { return Ok(default.into_iter().collect()) };
        let items = match &value {
            Value::Null => return Ok(Vec::new()),
            Value::Array(items) => items.as_slice(),
            single => std::slice::from_ref(single),
        };
        let ids: Option<Vec<u32>> =
            items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok())).collect();
        ids.ok_or_else(|| self.mismatch(key, "a token id, a list of token ids, or null", value.to_string()))
    }

    /// One token id, null for none; absence gives the default.
    pub fn token_id(&mut self, key: &str, default: Option<u32>) -> Result<Option<u32>, ModelError> {
        let found = self.map.get(key).map(Value::to_string).unwrap_or_default();
        match self.token_ids(key, default)?.as_slice() {
            [] => Ok(None),
            [id] => Ok(Some(*id)),
            _ => Err(self.mismatch(key, "one token id or null", found)),
        }
    }

    pub fn mismatch(&self, key: &str, expected: &str, found: String) -> ModelError {
        ModelError::ConfigField {
            origin: self.origin.clone(),
            field: format!("{}{key}", self.prefix),
            expected: expected.to_string(),
            found,
        }
    }

    pub fn unsupported(&self, feature: String, supported: String) -> ModelError {
        ModelError::UnsupportedFeature {
            origin: self.origin.clone(),
            feature: format!("{}{feature}", self.prefix),
            supported,
        }
    }

    pub fn unknown_architecture(&self, found: String) -> ModelError {
        ModelError::UnknownArchitecture { origin: self.origin.clone(), found }
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The keys nobody read, in the file's order.
    pub fn into_unused(self) -> Vec<String> {
        self.map.into_iter().map(|(key, _)| format!("{}{key}", self.prefix)).collect()
    }
}
