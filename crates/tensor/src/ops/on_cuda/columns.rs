//! Columns of activations and of matrices on a device.

use std::ops::Range;

use statetune_ssm_kernels::columns::cuda as kernel;

use super::*;

/// Rows, and the widths of the parts.
type Joined = (usize, Vec<usize>);

pub fn join(cuda: &Cuda, inputs: &Inputs<'_>) -> Result<(Vec<Tensor>, Joined)> {
    let first = input(cuda, inputs, 0)?;
    let rows = first.shape()[0];
    let widths: Vec<usize> =
        (0..inputs.len()).map(|i| Ok(input(cuda, inputs, i)?.shape()[1])).collect::<Result<_>>()?;
    let width = widths.iter().sum();
    let y = DeviceTensor::unset(cuda, first.dtype(), &[rows, width])?;
    let side = |(i, &part): (usize, &usize)| input(cuda, inputs, i).map(|x| (x.spread(), x.stride(), part));
    let sides = widths.iter().enumerate().map(side).collect::<Result<Vec<_>>>()?;
    kernel::join_columns(cuda, y.view(), rows, width, &sides)?;
    Ok((vec![y.into()], (rows, widths)))
}

/// A range of columns shares the memory of the whole.
pub fn take(cuda: &Cuda, x: &Tensor, columns: Range<usize>) -> Result<Tensor> {
    Ok(x.on_cuda(cuda)?.columns(columns).into())
}

pub fn place(cuda: &Cuda, x: &Tensor, at: usize, width: usize) -> Result<Tensor> {
    let x = x.on_cuda(cuda)?;
    let (rows, part) = (x.shape()[0], x.shape()[1]);
    let y = DeviceTensor::zeros(cuda, x.dtype(), &[rows, width])?;
    kernel::put_columns(cuda, y.view(), rows, width, at, x.spread(), x.stride(), part)?;
    Ok(y.into())
}

pub fn gather(cuda: &Cuda, inputs: &Inputs<'_>, columns: &Staged<u32>) -> Result<(Vec<Tensor>, [usize; 2])> {
    let x = input(cuda, inputs, 0)?;
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let y = DeviceTensor::unset(cuda, x.dtype(), &[rows, columns.len()])?;
    kernel::gather_columns(cuda, y.view(), x.spread(), x.stride(), rows, width, columns.on(cuda)?)?;
    Ok((vec![y.into()], [rows, width]))
}

pub fn gather_backward(
    cuda: &Cuda,
    gradients: &[Option<Tensor>],
    columns: &Staged<u32>,
    rows: usize,
    width: usize,
) -> Result<Vec<Option<Tensor>>> {
    let Some(dy) = gradient(cuda, gradients)? else { return Ok(vec![None]) };
    let dx = DeviceTensor::zeros(cuda, dy.dtype(), &[rows, width])?;
    kernel::scatter_add_columns(cuda, dx.view(), rows, width, dy.dense()?.view(), columns.on(cuda)?)?;
    Ok(vec![Some(dx.into())])
}

type Scaled = (Option<Tensor>, Option<Tensor>);

pub fn scale(cuda: &Cuda, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Scaled)> {
    let (x, gain) = (input(cuda, inputs, 0)?, input(cuda, inputs, 1)?);
    let y = scaled_columns(cuda, x, gain)?;
    let kept = (need.input(1).then(|| x.clone().into()), need.input(0).then(|| gain.clone().into()));
    Ok((vec![y.into()], kept))
}

fn scaled_columns(cuda: &Cuda, x: &DeviceTensor, gain: &DeviceTensor) -> Result<DeviceTensor> {
    let (rows, width) = (x.shape()[0], x.shape()[1]);
    let y = DeviceTensor::unset(cuda, x.dtype(), &[rows, width])?;
    kernel::scale_columns(cuda, y.view(), x.dense()?.view(), gain.view(), rows, width)?;
    Ok(y)
}

pub fn scale_backward(
    cuda: &Cuda,
    x: Option<Tensor>,
    gain: Option<Tensor>,
    gradients: &[Option<Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    let Some(dy) = gradient(cuda, gradients)? else { return Ok(vec![None, None]) };
    let dx = gain.map(|gain| -> Result<Tensor> { Ok(scaled_columns(cuda, dy, gain.on_cuda(cuda)?)?.into()) });
    let dgain = x.map(|x| -> Result<Tensor> {
        let (rows, width) = (dy.shape()[0], dy.shape()[1]);
        let dgain = DeviceTensor::unset(cuda, DType::F32, &[width])?;
        let x = x.on_cuda(cuda)?.dense()?;
        kernel::scale_columns_gain_gradient(cuda, dgain.view(), dy.dense()?.view(), x.view(), rows, width)?;
        Ok(dgain.into())
    });
    Ok(vec![dx.transpose()?, dgain.transpose()?])
}
