//! The operations on a CUDA device: the shapes have been checked by the operation's own file; here the launches are.
//!
//! Activations are f32 or bf16, parameters and all that is trained f32. A gradient has the type of its operand.

mod columns;
mod extended;
mod late;
mod linear;
mod loss;
mod low_rank;
mod norm;
mod small;
mod values;

pub(super) use columns::*;
pub(super) use extended::Extended;
pub(crate) use late::LateGradients;
pub(super) use linear::*;
pub(super) use loss::*;
pub(super) use norm::*;
pub(super) use small::*;
pub(super) use values::*;

pub(super) use statetune_ssm_kernels::runtime::cuda::{Cuda, Matrix, Product, View};

pub(super) use crate::cuda::DeviceTensor;
pub(super) use crate::{DType, Inputs, Need, Result, Staged, Tensor, TensorError};

/// Input `i` where this device computes.
pub(super) fn input<'a>(cuda: &Cuda, inputs: &Inputs<'a>, i: usize) -> Result<&'a DeviceTensor> {
    inputs.required(i)?.on_cuda(cuda)
}

/// The gradient of the only output, if anything flowed back.
pub(super) fn gradient<'a>(cuda: &Cuda, gradients: &'a [Option<Tensor>]) -> Result<Option<&'a DeviceTensor>> {
    gradients[0].as_ref().map(|dy| dy.on_cuda(cuda)).transpose()
}

/// y `[m, n]` (+)= alpha · x · w, with both operands in one type.
pub(super) fn multiply(
    cuda: &Cuda,
    y: &DeviceTensor,
    x: Matrix,
    w: Matrix,
    k: usize,
    alpha: f32,
    accumulate: bool,
) -> Result<()> {
    let (m, n) = (y.shape()[0], y.shape()[1]);
    if k == 0 {
        // A sum of nothing.
        return if accumulate { Ok(()) } else { Ok(cuda.clear(y.view())?) };
    }
    let beta = if accumulate { 1.0 } else { 0.0 };
    Ok(cuda.product(y.matrix(), x, w, Product { m, n, k, alpha, beta })?)
}

/// The sums of the columns of x `[m, n]`, `[n]`, in single precision.
pub(super) fn column_sums(cuda: &Cuda, x: &DeviceTensor) -> Result<DeviceTensor> {
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    let sums = DeviceTensor::unset(cuda, DType::F32, &[columns])?;
    statetune_ssm_kernels::reduce::cuda::column_sums(cuda, sums.view(), x.dense()?.view(), rows, columns)?;
    Ok(sums)
}
