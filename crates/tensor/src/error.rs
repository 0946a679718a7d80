//! What can go wrong with tensors and operations.

use crate::{DType, Tensor};

/// The crate's result.
pub type Result<T, E = TensorError> = std::result::Result<T, E>;

/// An operation was given something it cannot work with.
#[derive(Debug, thiserror::Error)]
pub enum TensorError {
    /// A shape differs from what the operation needs.
    #[error("{op}: {what} has shape {found:?}, expected {expected}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// The operand.
        what: &'static str,
        /// What was needed, in letters or numbers.
        expected: String,
        /// The shape given.
        found: Vec<usize>,
    },
    /// An element type differs from what the operation needs.
    #[error("{what} has element type {found}, expected {expected}")]
    DType {
        /// The operand.
        what: String,
        /// The type needed.
        expected: DType,
        /// The type given.
        found: DType,
    },
    /// Nothing is computed in this element type.
    #[error("{op}: {found} is a storage type; compute in f32 (or f64 on the reference path)")]
    NotComputed {
        /// The operation.
        op: &'static str,
        /// The type given.
        found: DType,
    },
    /// No element type has this name.
    #[error("unknown element type `{found}` (expected f32, bf16, f16 or f64)")]
    UnknownDType {
        /// The name given.
        found: String,
    },
    /// An input that the operation cannot do without is absent.
    #[error("{op}: input {index} is required")]
    MissingInput {
        /// The operation.
        op: &'static str,
        /// Its place in the list of inputs.
        index: usize,
    },
    /// A gradient was asked for through an operation that has none.
    #[error("{op} has no backward, but its input {input} requires a gradient")]
    NoBackward {
        /// The operation.
        op: &'static str,
        /// The tracked input.
        input: usize,
    },
    /// A backward pass was started from something the tape does not know.
    #[error("backward: {reason}")]
    Backward {
        /// Why it cannot start.
        reason: &'static str,
    },
    /// A tensor is on another device than the computation.
    #[error("{what} is on {found}, but the computation on {expected}")]
    Device {
        /// What it is.
        what: String,
        /// Where it is.
        found: String,
        /// Where it should be.
        expected: String,
    },
    /// The CUDA device failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] statetune_ssm_kernels::runtime::cuda::CudaError),
    /// The kernels' runtime failed.
    #[error(transparent)]
    Runtime(#[from] statetune_ssm_kernels::RuntimeError),
}

impl TensorError {
    /// A shape error.
    pub fn shape(op: &'static str, what: &'static str, expected: impl Into<String>, found: &[usize]) -> Self {
        TensorError::Shape { op, what, expected: expected.into(), found: found.to_vec() }
    }

    /// Fails unless a trained weight has the element type that the operation computes in: its gradient will.
    pub(crate) fn check_trained(trained: Option<&Tensor>, compute: DType) -> Result<()> {
        match trained.map(Tensor::dtype) {
            Some(found) if found != compute => {
                Err(TensorError::DType { what: "trained weight".into(), expected: compute, found })
            }
            _ => Ok(()),
        }
    }

    /// The error with the operation's name in front, where it does not have one.
    pub(crate) fn in_op(self, op: &'static str) -> Self {
        match self {
            TensorError::DType { what, expected, found } => {
                TensorError::DType { what: format!("{op}: {what}"), expected, found }
            }
            other => other,
        }
    }
}
