//! RMSNorm with the residual addition before it on a device: the residual stream is f32, the branch is of the compute type.

use statetune_ssm_kernels::norm::cuda as kernel;

use super::*;
use crate::ops::norm::Saved;

pub fn norm(cuda: &Cuda, eps: f64, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Option<Saved>)> {
    let (x, weight) = (input(cuda, inputs, 0)?.dense()?, input(cuda, inputs, 2)?);
    let residual = inputs.optional(1).map(|residual| residual.on_cuda(cuda)).transpose()?;
    let (rows, cols) = (x.shape()[0], x.shape()[1]);
    if let Some(r) = residual.filter(|r| r.shape() != x.shape()) {
        return Err(TensorError::shape("add_rms_norm", "residual", format!("{:?}", x.shape()), r.shape()));
    }
    if weight.shape() != [cols] {
        return Err(TensorError::shape("add_rms_norm", "weight", format!("[{cols}]"), weight.shape()));
    }
    let normed = DeviceTensor::unset(cuda, x.dtype(), x.shape())?;
    let sum = DeviceTensor::unset(cuda, DType::F32, x.shape())?;
    // The sum lives until the next one is made; what outlives it is of half the size where activations are.
    let apart = need.any() && x.dtype() != DType::F32;
    let kept = apart.then(|| DeviceTensor::unset(cuda, x.dtype(), x.shape())).transpose()?;
    let rstd = DeviceTensor::unset(cuda, DType::F32, &[rows])?;
    let residual = residual.map(DeviceTensor::view);
    kernel::add_rms_norm(
        cuda,
        normed.view(),
        Some(sum.view()),
        kept.as_ref().map(DeviceTensor::view),
        Some(rstd.view()),
        x.view(),
        residual,
        weight.view(),
        eps,
        rows,
        cols,
    )?;
    let sum = Tensor::from(sum);
    let saved = need.any().then(|| Saved {
        sum: kept.map_or_else(|| sum.clone(), Tensor::from),
        rstd: rstd.into(),
        weight: weight.clone().into(),
        branch: x.dtype(),
    });
    Ok((vec![normed.into(), sum], saved))
}

pub fn norm_backward(
    cuda: &Cuda,
    saved: Option<Saved>,
    gradients: Vec<Option<Tensor>>,
    need: &Need,
) -> Result<Vec<Option<Tensor>>> {
    let Saved { sum, rstd, weight, branch } = saved.expect("saved, since an input is tracked");
    let (sum, rstd, weight) = (sum.on_cuda(cuda)?, rstd.on_cuda(cuda)?, weight.on_cuda(cuda)?);
    let (rows, cols) = (sum.shape()[0], sum.shape()[1]);
    let d_sum_in = gradients[1].as_ref().map(|d| d.on_cuda(cuda)).transpose()?;
    let Some(d_normed) = &gradients[0] else {
        // Only the sum was used: its gradient passes through.
        let dx = d_sum_in.filter(|_| need.input(0)).map(|d| d.cast(branch)).transpose()?;
        let d_residual = d_sum_in.filter(|_| need.input(1)).cloned();
        return Ok(vec![dx.map(Tensor::from), d_residual.map(Tensor::from), None]);
    };
    let d_normed = d_normed.on_cuda(cuda)?.dense()?;
    let output =
        |i: usize, dtype, shape: &[usize]| need.input(i).then(|| DeviceTensor::unset(cuda, dtype, shape)).transpose();
    let dx = output(0, branch, sum.shape())?;
    let d_residual = output(1, DType::F32, sum.shape())?;
    let d_weight = output(2, DType::F32, &[cols])?;
    fn view(tensor: &Option<DeviceTensor>) -> Option<View<'_>> {
        tensor.as_ref().map(DeviceTensor::view)
    }
    kernel::rms_norm_backward(
        cuda,
        view(&dx),
        view(&d_residual),
        view(&d_weight),
        d_normed.view(),
        d_sum_in.map(DeviceTensor::view),
        sum.view(),
        rstd.view(),
        weight.view(),
        rows,
        cols,
    )?;
    Ok([dx, d_residual, d_weight].map(|tensor| tensor.map(Tensor::from)).into())
}
