//! The general operations. Each file holds one [`Op`](crate::Op) and a function that applies it to a tape.

mod columns;
mod cross_entropy;
mod dora;
mod dropout;
mod elementwise;
mod embedding;
mod linear;
mod matmul;
mod norm;
#[cfg(feature = "cuda")]
mod on_cuda;
#[cfg(feature = "cuda")]
pub(crate) use on_cuda::LateGradients;
mod rows;
mod values;

pub use columns::{gather_columns, join_columns, place_columns, scale_columns, take_columns};
pub use cross_entropy::{Divisor, HeadAddition, LinearCrossEntropy, LossOutput, linear_cross_entropy};
pub use dora::{AdaptedWeight, NormAxis, dora_gain};
pub use dropout::{Dropout, DropoutRows, dropout};
pub use elementwise::{add, cast, neg_exp, reshape, scale};
pub use embedding::embedding;
pub use linear::{Factor, Linear, LowRankInput, as_factors, linear};
pub use matmul::matmul;
pub use norm::{AddRmsNorm, add_rms_norm};
pub use rows::select_rows;
pub use values::{add_row, mul, scale_rows, scatter, sum_last, tanh, transpose};

/// a + b on a device.
#[cfg(feature = "cuda")]
pub(crate) fn sum_on_cuda(
    cuda: &statetune_ssm_kernels::runtime::Cuda,
    a: &crate::Tensor,
    b: &crate::Tensor,
) -> crate::Result<crate::Tensor> {
    Ok(on_cuda::sum(cuda, a.on_cuda(cuda)?, b.on_cuda(cuda)?)?.into())
}
