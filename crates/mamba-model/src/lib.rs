//! Mamba language models whose parts have names that fine-tuning methods patch.
//!
//! - [`config`], [`checkpoint`]: model folders in both common layouts, in and out.
//! - [`Mamba`]: the tensors in memory and the forward pass over a packed [`Batch`].
//! - [`site`], [`patch`]: what can be touched, and how; [`Bound`] puts patches on a tape.
//! - [`State`]: what a sequence's past is to the model; [`generate`]: prefill and steps.
//! - [`ops`]: the convolution and the scan as operations of the tape.
//!
//! Nothing here knows a fine-tuning method, a data set or an optimiser.
#![forbid(unsafe_code)]

mod batch;
mod block;
mod bound;
pub mod checkpoint;
pub mod config;
pub mod error;
pub mod generate;
mod head;
mod init;
mod leaf_values;
mod model;
pub mod ops;
mod parameters;
pub mod patch;
mod patched_linear;
pub mod site;
mod state;

pub use batch::Batch;
pub use bound::{Bound, DropoutStep, Held};
pub use error::ModelError;
pub use generate::{BeamOptions, GenerateOptions, Generated, Hypothesis, Sampling};
pub use model::{Mamba, Output};
pub use parameters::Parameter;
pub use patch::Patches;
pub use site::{LinearSite, linear_sites};
pub use state::{State, StateGradient, StateVars};
