//! See `docs/architecture.md`.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod config;
pub mod error;

pub use error::ModelError;
