//! Sums over rows on a device: in chunks, whose number depends on the sizes alone, and then over the chunks in order. The
//! processor's sums are beside the operations that need them.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
