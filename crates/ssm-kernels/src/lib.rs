//! Kernels for state space models: slices in, slices out.
//!
//! One folder per operation: a plain reference that reads like the formula (`reference.rs`, generic over `f32` and
//! `f64`), a CPU SIMD version chosen at run time (`simd`), and the public function in `mod.rs` that checks lengths
//! and picks one of them. Nothing here knows a tensor, a tape or a model. This is the only crate with `unsafe`.
//!
//! Letters: T tokens, D `d_inner`, N `d_state`, K convolution width, S sequences, V vocabulary, I and O the input and
//! output features of a linear layer. See the legend in `docs/architecture.md`.

pub mod adamw;
#[cfg(all(test, feature = "cuda"))]
mod builds;
pub mod columns;
pub mod conv1d;
pub mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod decode;
pub mod elementwise;
pub mod embedding;
pub mod low_rank;
pub mod matmul;
pub mod norm;
pub mod random;
pub mod real;
pub mod reduce;
pub mod runtime;
pub mod scan;
pub mod sequences;
pub mod simd;
#[cfg(test)]
mod testing;
pub mod values;
pub mod weight;

pub use real::Real;
pub use runtime::{Counts, Cpu, Level, Products, RuntimeError};
pub use sequences::{Sequences, Table};
pub use weight::WeightSlice;
