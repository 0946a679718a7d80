//! Metrics, one file each: numbers in, a number out. [`ClassificationReport`] scores a classifier that is a language
//! model, whose answer may be no class at all.

mod accuracy;
mod classification;
mod confusion;
mod f1;
mod matthews;
pub mod spider;
mod word_f1;

pub use accuracy::accuracy;
pub use classification::{ClassificationReport, Prediction, Scores};
pub use confusion::Confusion;
pub use f1::{F1Average, f1};
pub use matthews::matthews;
pub use word_f1::word_f1;
