//! Data sets for fine-tuning: readers, prompt forms, tokenising with its cache, packing, metrics.
//!
//! This crate knows no tensor and no model: text, token ids and numbers go in and come out.
//! See `docs/architecture.md`.
#![forbid(unsafe_code)]

mod cache;
mod config;
mod digest;
mod error;
mod example;
pub mod metrics;
pub mod packing;
mod readers;
pub mod tasks;
mod tokenizer;
pub mod world;

pub use config::{CorpusConfig, DataConfig, Format, Loss, OnBadRow, OnTooLong, Preset, Split, TemplateLanguage};
pub use error::{DataError, Result};
pub use example::{ClassLabel, Counts, Dataset, Example, Item};
pub use packing::{PackedBatch, PackingPlan, evaluation_batches};
pub use readers::{load, load_corpus, load_watched};
pub use tokenizer::{END_OF_TEXT, Pool, Tokenizer, Watch};
