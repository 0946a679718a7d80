//! Sums, scalings, lookups and dropout on a device.

use statetune_ssm_kernels::elementwise::cuda as elementwise;
use statetune_ssm_kernels::embedding::cuda as embedding_kernel;

use super::*;
use crate::ops::dropout::Dropout;
use crate::ops::embedding::Embedding;

/// a + b in the type of a.
pub fn sum(cuda: &Cuda, a: &DeviceTensor, b: &DeviceTensor) -> Result<DeviceTensor> {
    let y = DeviceTensor::unset(cuda, a.dtype(), a.shape())?;
    elementwise::add(cuda, y.view(), a.dense()?.view(), b.dense()?.view())?;
    Ok(y)
}

pub fn add(cuda: &Cuda, inputs: &Inputs<'_>) -> Result<(Vec<Tensor>, ())> {
    let (a, b) = (input(cuda, inputs, 0)?, input(cuda, inputs, 1)?);
    if a.shape() != b.shape() {
        return Err(TensorError::shape("add", "second input", format!("{:?}", a.shape()), b.shape()));
    }
    Ok((vec![sum(cuda, a, b)?.into()], ()))
}

pub fn scaled(cuda: &Cuda, x: &Tensor, factor: f64) -> Result<Tensor> {
    let x = x.on_cuda(cuda)?.dense()?;
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    elementwise::scale(cuda, y.view(), x.view(), factor as f32)?;
    Ok(y.into())
}

/// x times a number that may be on the device.
pub fn scaled_by(cuda: &Cuda, x: Tensor, factor: &Tensor) -> Result<Tensor> {
    if factor.is_on_host() {
        let factor = factor.item()?;
        return if factor == 1.0 { Ok(x) } else { scaled(cuda, &x, factor) };
    }
    let x = x.on_cuda(cuda)?.dense()?;
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    elementwise::scale_by(cuda, y.view(), x.view(), factor.on_cuda(cuda)?.view())?;
    Ok(y.into())
}

pub fn neg_exp(cuda: &Cuda, inputs: &Inputs<'_>) -> Result<(Vec<Tensor>, Tensor)> {
    let x = input(cuda, inputs, 0)?.dense()?;
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    elementwise::neg_exp(cuda, y.view(), x.view())?;
    let y = Tensor::from(y);
    Ok((vec![y.clone()], y))
}

pub fn neg_exp_backward(cuda: &Cuda, y: &Tensor, gradients: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
    let Some(dy) = gradient(cuda, gradients)? else { return Ok(vec![None]) };
    Ok(vec![Some(product_of(cuda, dy, y.on_cuda(cuda)?)?.into())])
}

/// a ∘ b.
pub fn product_of(cuda: &Cuda, a: &DeviceTensor, b: &DeviceTensor) -> Result<DeviceTensor> {
    let y = DeviceTensor::unset(cuda, a.dtype(), a.shape())?;
    elementwise::mul(cuda, y.view(), a.dense()?.view(), b.dense()?.view())?;
    Ok(y)
}

pub fn dropout(cuda: &Cuda, op: &Dropout, x: &Tensor) -> Result<Tensor> {
    let x = x.on_cuda(cuda)?.dense()?;
    let (rows, columns) = (x.shape()[0], x.shape()[1]);
    let y = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    let (example, position) = (op.rows.example.on(cuda)?, op.rows.position.on(cuda)?);
    let step = op.step.as_ref().map(|step| step.on(cuda)).transpose()?;
    statetune_ssm_kernels::random::cuda::dropout(
        cuda,
        y.view(),
        x.view(),
        op.probability,
        op.key,
        step,
        example,
        position,
        rows,
        columns,
    )?;
    Ok(y.into())
}

pub fn embedding(cuda: &Cuda, op: &Embedding, inputs: &Inputs<'_>) -> Result<(Vec<Tensor>, [usize; 2])> {
    let weight = match &op.frozen {
        Some(weight) => weight.values(),
        None => inputs.required(0)?,
    };
    let weight = weight.on_cuda(cuda)?;
    let (vocab, width) = (weight.shape()[0], weight.shape()[1]);
    if let Some(&id) = op.ids.iter().find(|&&id| id as usize >= vocab) {
        return Err(TensorError::shape("embedding", "token id", format!("below {vocab}"), &[id as usize]));
    }
    let y = DeviceTensor::unset(cuda, op.compute, &[op.ids.len(), width])?;
    embedding_kernel::gather_rows(cuda, y.view(), weight.dense()?.view(), op.ids.on(cuda)?, vocab, width)?;
    Ok((vec![y.into()], [vocab, width]))
}

pub fn embedding_backward(
    cuda: &Cuda,
    ids: &Staged<u32>,
    gradients: &[Option<Tensor>],
    vocab: usize,
    width: usize,
) -> Result<Vec<Option<Tensor>>> {
    let Some(dy) = gradient(cuda, gradients)? else { return Ok(vec![None]) };
    let dw = DeviceTensor::zeros(cuda, DType::F32, &[vocab, width])?;
    embedding_kernel::scatter_add_rows(cuda, dw.view(), dy.dense()?.view(), ids.on(cuda)?, vocab, width)?;
    Ok(vec![Some(dw.into())])
}

/// Stands for no row, in a list that was filled up for a captured graph: zeros are read, nothing is written.
const NO_ROW: u32 = u32::MAX;

pub fn select_rows(cuda: &Cuda, inputs: &Inputs<'_>, rows: &Staged<u32>) -> Result<(Vec<Tensor>, [usize; 2])> {
    let x = input(cuda, inputs, 0)?.dense()?;
    let (count, width) = (x.shape()[0], x.shape()[1]);
    if let Some(&row) = rows.iter().find(|&&row| row as usize >= count && row != NO_ROW) {
        return Err(TensorError::shape("select_rows", "row", format!("below {count}"), &[row as usize]));
    }
    let y = DeviceTensor::unset(cuda, x.dtype(), &[rows.len(), width])?;
    embedding_kernel::gather_rows(cuda, y.view(), x.view(), rows.on(cuda)?, count, width)?;
    Ok((vec![y.into()], [count, width]))
}

pub fn select_rows_backward(
    cuda: &Cuda,
    gradients: &[Option<Tensor>],
    rows: &Staged<u32>,
    count: usize,
    width: usize,
) -> Result<Vec<Option<Tensor>>> {
    let Some(dy) = gradient(cuda, gradients)? else { return Ok(vec![None]) };
    let distinct = rows.windows(2).all(|pair| pair[0] < pair[1] || pair[1] == NO_ROW);
    if distinct {
        let dx = DeviceTensor::unset(cuda, dy.dtype(), &[count, width])?;
        embedding_kernel::scatter_rows(cuda, dx.view(), dy.dense()?.view(), rows.on(cuda)?, count, width)?;
        return Ok(vec![Some(dx.into())]);
    }
    let dx = DeviceTensor::zeros(cuda, DType::F32, &[count, width])?;
    embedding_kernel::scatter_add_rows(cuda, dx.view(), dy.dense()?.view(), rows.on(cuda)?, count, width)?;
    let dx = dx.cast(dy.dtype())?;
    Ok(vec![Some(dx.into())])
}
