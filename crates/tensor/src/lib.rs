//! Tensors, devices and an autograd tape that records only what a gradient will need.
//!
//! - [`Tensor`]: a contiguous, row-major, immutable value. No strides, no broadcasting.
//! - [`Weight`]: a frozen matrix in its storage type, which offers products and row ranges, never a gradient.
//! - [`Buffer`]: what changes between steps (parameters, optimiser state), outside the tape.
//! - [`Op`] and [`Tape`]: one open trait for small and fused operations, and the loop that differentiates them.
//! - [`ops`]: the general operations; those of a Mamba block live in `statetune-mamba-model`.
//!
//! The arithmetic is in `statetune-ssm-kernels`. Nothing here knows a model.
#![forbid(unsafe_code)]

mod buffer;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod dtype;
mod error;
pub mod gradient_check;
pub mod ops;
pub mod optim;
mod staged;
mod tape;
mod tensor;
mod weight;

pub use buffer::Buffer;
pub use device::Device;
pub use dtype::{DType, Element, Float};
pub use error::{Result, TensorError};
pub use staged::{Stage, Staged};
pub use tape::{Gradients, Inputs, Need, Op, Tape, Var};
pub use tensor::Tensor;
pub use weight::Weight;
