//! A number against a golden one.

use serde_json::Value;

/// Fails with what was expected and how much of the tolerance the difference is.
#[track_caller]
pub fn close(what: &str, found: f64, expected: &Value, tolerance: f64) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}: no expected value"));
    let percent = 100.0 * (found - expected).abs() / tolerance;
    assert!(
        percent <= 100.0,
        "{what}: expected {expected}, found {found}; {percent:.0}% of the tolerance {tolerance:e}"
    );
}
