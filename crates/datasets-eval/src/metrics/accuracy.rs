//! Accuracy.

use super::Confusion;

/// The share of predictions that are right; one outside the classes is wrong.
pub fn accuracy(confusion: &Confusion) -> f64 {
    confusion.right() as f64 / confusion.total() as f64
}
