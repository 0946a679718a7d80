//! Decoding on a device: one token of every sequence, with states updated where they lie.
//!
//! The processor decodes with the kernels of whole batches; what is here computes the same in fewer launches, and its tests
//! hold it to their references. Nothing here has a gradient.

pub mod cuda;
#[cfg(test)]
mod cuda_tests;
