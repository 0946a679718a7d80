//! JSON as configuration files have it: strict JSON, and Python's bare words for the floats that JSON lacks.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// The key of transformers' notation for such a float: `{"__float__": "Infinity"}`.
const FLOAT_TAG: &str = "__float__";

/// Parses an object. Bare `Infinity`, `-Infinity` and `NaN` become tagged floats, which [`as_f64`] understands.
pub(super) fn parse_object(text: &str, origin: &str) -> Result<Map<String, Value>, ModelError> {
    let fail = |reason: String| ModelError::Json { origin: origin.to_string(), reason };
    match serde_json::from_str(&tag_bare_floats(text)) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => Err(fail(format!("found {}", kind(&other)))),
        Err(error) => Err(fail(error.to_string())),
    }
}

/// A number, or a tagged float.
pub(super) fn as_f64(value: &Value) -> Option<f64> {
    if let Value::Object(map) = value {
        let tag = map.get(FLOAT_TAG)?.as_str()?;
        return match (map.len(), tag) {
            (1, "Infinity") => Some(f64::INFINITY),
            (1, "-Infinity") => Some(f64::NEG_INFINITY),
            (1, "NaN") => Some(f64::NAN),
            _ => None,
        };
    }
    value.as_f64()
}

/// What a value is, for error messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Replaces the bare words outside of strings. Text without them, which is nearly all there is, is not copied.
fn tag_bare_floats(text: &str) -> Cow<'_, str> {
    let mut tagged = String::new();
    let (mut copied, mut at, mut in_string) = (0, 0, false);
    let bytes = text.as_bytes();
    while at < bytes.len() {
        match bytes[at] {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b'I' | b'N' | b'-' if !in_string => {
                if let Some(word) = ["Infinity", "-Infinity", "NaN"].iter().find(|word| text[at..].starts_with(**word))
                {
                    tagged.push_str(&text[copied..at]);
                    tagged.push_str(&format!("{{\"{FLOAT_TAG}\":\"{word}\"}}"));
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
            _ => {}
        }
        at += 1;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    tagged.push_str(&text[copied..]);
    Cow::Owned(tagged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Option<f64> {
        as_f64(&parse_object(&format!("{{\"x\": {text}}}"), "test").unwrap()["x"])
    }

    #[test]
    fn bare_and_tagged_floats_are_numbers() {
        assert_eq!(number("Infinity"), Some(f64::INFINITY));
        assert_eq!(number("-Infinity"), Some(f64::NEG_INFINITY));
        assert!(number("NaN").unwrap().is_nan());
        assert_eq!(number("{\"__float__\": \"Infinity\"}"), Some(f64::INFINITY));
        assert_eq!(number("-1.5"), Some(-1.5));
        assert_eq!(number("{\"__float__\": \"Infinity\", \"y\": 1}"), None);
    }

    #[test]
    fn words_inside_strings_stay() {
        let map = parse_object(r#"{"a \" Infinity": "NaN\\", "b": [Infinity, "-Infinity"]}"#, "test").unwrap();
        assert_eq!(map["a \" Infinity"], "NaN\\");
        assert_eq!(map["b"][1], "-Infinity");
    }

    #[test]
    fn what_is_no_object_is_named() {
        for (text, reason) in [("[1]", "an array"), ("{\"a\": ", "EOF"), ("", "EOF"), ("{\"a\": Inf}", "line 1")] {
            let message = parse_object(text, "some/config.json").unwrap_err().to_string();
            assert!(message.contains("some/config.json") && message.contains(reason), "{message}");
        }
    }
}
