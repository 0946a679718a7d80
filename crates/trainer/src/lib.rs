//! Training: optimiser, schedule, the loop with its checkpoints and records, evaluation, reports.
//!
//! - [`config`]: a run's TOML file, a pretraining's; [`authors_experiment`]: one from an experiment of the methods' authors.
//! - [`Run`]: the loop; [`step`]: gradients of a step; [`AdamW`], [`schedule`]: the update.
//! - [`checkpoint`]: what resume needs; [`record`]: the log; [`report`]: a page of it.
//! - [`mod@sweep`]: every method on every task, and a table.
//! - [`evaluate()`]: loss and scores on a data set; [`evaluate::Scorer`]: answers, metrics, intervals; [`verify()`]: the promises, on a model and an adapter.
//!
//! Models, methods and data come from their own crates; the command line is in `statetune`.
#![forbid(unsafe_code)]

pub mod authors_experiment;
pub mod checkpoint;
pub mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod data;
mod effect;
mod error;
pub mod evaluate;
mod long;
pub mod memory;
mod optimizer;
pub mod record;
pub mod report;
pub mod run;
pub mod schedule;
pub mod step;
pub mod sweep;
pub mod verify;

pub use config::{PretrainConfig, RunConfig, TrainSettings};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use optimizer::{AdamW, AdamWSettings};
pub use run::{Observer, Run, RunFolder, Silent, Summary};
pub use verify::verify;
