//! The small functions that operands of patches are made of, and DoRA's norms, on a device.

use statetune_ssm_kernels::elementwise::cuda as elementwise;
use statetune_ssm_kernels::values::cuda as kernel;

use super::*;
use crate::ops::dora::{AdaptedWeight, NormAxis};

pub fn transpose(cuda: &Cuda, x: &Tensor) -> Result<Tensor> {
    let x = x.on_cuda(cuda)?.dense()?;
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    let y = DeviceTensor::unset(cuda, x.dtype(), &[columns, rows])?;
    kernel::transpose(cuda, y.view(), x.view(), rows, columns)?;
    Ok(y.into())
}

pub fn product(cuda: &Cuda, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(product_of(cuda, a.on_cuda(cuda)?, b.on_cuda(cuda)?)?.into())
}

pub fn sum_last(cuda: &Cuda, inputs: &Inputs<'_>) -> Result<(Vec<Tensor>, [usize; 2])> {
    let x = input(cuda, inputs, 0)?.dense()?;
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    let y = DeviceTensor::unset(cuda, DType::F32, &[rows])?;
    kernel::sum_last(cuda, y.view(), x.view(), rows, columns)?;
    Ok((vec![y.into()], [rows, columns]))
}

pub fn sum_last_backward(cuda: &Cuda, dy: &Tensor, rows: usize, columns: usize) -> Result<Tensor> {
    let dx = DeviceTensor::unset(cuda, DType::F32, &[rows, columns])?;
    kernel::repeat_last(cuda, dx.view(), dy.on_cuda(cuda)?.view(), rows, columns)?;
    Ok(dx.into())
}

pub fn rows_scaled(cuda: &Cuda, x: &Tensor, scale: &Tensor) -> Result<Tensor> {
    let x = x.on_cuda(cuda)?.dense()?;
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    kernel::scale_rows(cuda, y.view(), x.view(), scale.on_cuda(cuda)?.view(), x.shape()[0], x.shape()[1])?;
    Ok(y.into())
}

pub fn row_dots(cuda: &Cuda, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let (dy, x) = (dy.on_cuda(cuda)?.dense()?, x.on_cuda(cuda)?.dense()?);
    let dots = DeviceTensor::unset(cuda, DType::F32, &[dy.shape()[0]])?;
    kernel::row_dots(cuda, dots.view(), dy.view(), x.view(), dy.shape()[0], dy.shape()[1])?;
    Ok(dots.into())
}

pub fn tanh(cuda: &Cuda, x: &Tensor) -> Result<Tensor> {
    let x = x.on_cuda(cuda)?.dense()?;
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    elementwise::tanh(cuda, y.view(), x.view())?;
    Ok(y.into())
}

pub fn tanh_backward(cuda: &Cuda, dy: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (dy, y) = (dy.on_cuda(cuda)?.dense()?, y.on_cuda(cuda)?.dense()?);
    let dx = DeviceTensor::unset(cuda, dy.dtype(), dy.shape())?;
    elementwise::tanh_backward(cuda, dx.view(), dy.view(), y.view())?;
    Ok(dx.into())
}

pub fn add_row(cuda: &Cuda, x: &Tensor, row: &Tensor) -> Result<Tensor> {
    let x = x.on_cuda(cuda)?.dense()?;
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    kernel::add_row(cuda, y.view(), x.view(), row.on_cuda(cuda)?.view(), x.shape()[0], x.shape()[1])?;
    Ok(y.into())
}

pub fn add_row_backward(cuda: &Cuda, dy: &Tensor) -> Result<Tensor> {
    Ok(column_sums(cuda, dy.on_cuda(cuda)?)?.into())
}

pub fn scatter(cuda: &Cuda, values: &Tensor, entries: &Staged<u32>, shape: &[usize]) -> Result<Tensor> {
    let y = DeviceTensor::zeros(cuda, DType::F32, shape)?;
    kernel::scatter(cuda, y.view(), values.on_cuda(cuda)?.view(), entries.on(cuda)?)?;
    Ok(y.into())
}

pub fn scatter_backward(cuda: &Cuda, dy: &Tensor, entries: &Staged<u32>) -> Result<Tensor> {
    let dx = DeviceTensor::unset(cuda, DType::F32, &[entries.len()])?;
    kernel::gather(cuda, dx.view(), dy.on_cuda(cuda)?.dense()?.view(), entries.on(cuda)?)?;
    Ok(dx.into())
}

/// ‖W + sBA‖ of each row or column.
pub fn norms(cuda: &Cuda, adapted: &AdaptedWeight<'_>, axis: NormAxis) -> Result<Tensor> {
    let weight = adapted.weight.on_cuda(cuda)?.rows(adapted.rows.clone());
    let (a, b) = (adapted.a.on_cuda(cuda)?.dense()?, adapted.b.on_cuda(cuda)?.dense()?);
    let (rows, columns, rank) = (weight.shape()[0], weight.shape()[1], a.shape()[0]);
    let count = if axis == NormAxis::Rows { rows } else { columns };
    let norms = DeviceTensor::unset(cuda, DType::F32, &[count])?;
    let launch = if axis == NormAxis::Rows { kernel::adapted_row_norms } else { kernel::adapted_column_norms };
    let scale = adapted.scale as f32;
    launch(cuda, norms.view(), weight.view(), a.view(), b.view(), scale, rows, columns, rank)?;
    Ok(norms.into())
}

/// x / norms.
pub fn divided(cuda: &Cuda, x: &Tensor, norms: &Tensor) -> Result<Tensor> {
    let (x, norms) = (x.on_cuda(cuda)?.dense()?, norms.on_cuda(cuda)?);
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    kernel::divide(cuda, y.view(), x.view(), norms.view())?;
    Ok(y.into())
}
