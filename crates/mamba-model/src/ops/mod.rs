//! The two operations that make a Mamba block more than linear layers, as [`Op`](statetune_tensor::Op)s on a tape: the
//! causal convolution and the selective scan. Their arithmetic is in `statetune-ssm-kernels`; here are shapes, what is
//! saved, and which gradients are asked for.

mod conv1d;
#[cfg(feature = "cuda")]
mod on_cuda;
mod scan;

pub use conv1d::{Conv1d, conv1d};
pub use scan::{SCAN_INPUTS, Scan, ScanOperands, Table, scan};
