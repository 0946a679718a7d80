//! Text-to-SQL scores as the official Spider evaluator gives them (`taoyds/spider`, `evaluation.py` of May 2020, the last
//! one): hardness, exact set match whole and per component, and execution match. Beside it stands a strict execution
//! match, since the official one ignores the aggregate around a selected column, takes only the first column of `*` and
//! so lets wrong queries pass.
//!
//! Predictions are untrusted. They run read-only and within [`RunLimits`]; one that cannot be parsed or run is wrong, and
//! its record says why. Nothing here reads a prediction as anything but a statement.

mod database;
mod evaluator;
mod examples;
mod hardness;
mod matching;
mod normal;
mod parse;
mod query;
mod report;
mod rows;
mod schema;
mod tokens;
mod words;

pub use database::{RunFailure, RunLimits};
pub use evaluator::{
    BadGold, ExecutionMatch, OnBadGold, SpiderEvaluation, SpiderEvaluator, SpiderOptions, SpiderRecord,
};
pub use examples::{SpiderExample, read_examples};
pub use hardness::Hardness;
pub use matching::{COMPONENTS, ComponentMatch, TableRule};
pub use report::{ComponentScores, LevelScores, SpiderReport};
