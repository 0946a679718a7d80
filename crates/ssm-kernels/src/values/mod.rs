//! Small functions of which operands of patches are made, and the largest logit of a row: on a CUDA device only. On the
//! CPU they are plain loops beside the operations of the tensor crate.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
