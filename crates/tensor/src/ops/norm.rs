//! RMSNorm fused with the residual addition before it.

use statetune_ssm_kernels::norm as kernel;

#[cfg(feature = "cuda")]
use super::on_cuda;
#[cfg(feature = "cuda")]
use crate::DType;
use crate::{Device, Inputs, Need, Op, Result, Tape, Tensor, TensorError, Var, cpu_or, with_float};

/// sum = x + residual; normed = sum / sqrt(mean(sum²) + eps) · weight (Zhang and Sennrich 2019).
///
/// Inputs: x `[T, d_model]`, residual (optional, same shape), weight `[d_model]`. Outputs: normed, sum.
pub struct AddRmsNorm {
    /// Added to the mean square.
    pub eps: f64,
}

/// The sum, the reciprocal root mean squares `[T]` and the weight.
pub struct Saved {
    pub(super) sum: Tensor,
    pub(super) rstd: Tensor,
    pub(super) weight: Tensor,
    /// x's type: on a device the sum is of another.
    #[cfg(feature = "cuda")]
    pub(super) branch: DType,
}

impl Op for AddRmsNorm {
    type Saved = Option<Saved>;

    fn name(&self) -> &'static str {
        "add_rms_norm"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Option<Saved>)> {
        let cpu = cpu_or!(device, cuda => on_cuda::norm(cuda, self.eps, inputs, need));
        let (x, residual, weight) = (inputs.required(0)?, inputs.optional(1), inputs.required(2)?);
        let (rows, cols) = x.matrix_shape("add_rms_norm", "x")?;
        if let Some(r) = residual.filter(|r| r.shape() != x.shape()) {
            return Err(TensorError::shape("add_rms_norm", "residual", format!("{:?}", x.shape()), r.shape()));
        }
        if weight.shape() != [cols] {
            return Err(TensorError::shape("add_rms_norm", "weight", format!("[{cols}]"), weight.shape()));
        }
        let (normed, sum, rstd) = with_float!(x.dtype(), "add_rms_norm", T => {
            let mut normed = vec![0.0 as T; x.len()];
            let mut sum = residual.map(|_| vec![0.0 as T; x.len()]);
            let mut rstd = vec![0.0 as T; rows];
            let r = residual.map(|r| r.as_slice::<T>()).transpose()?;
            let w = weight.as_slice::<T>()?;
            kernel::add_rms_norm(
                cpu, &mut normed, sum.as_deref_mut(), Some(&mut rstd), x.as_slice::<T>()?, r, w, self.eps, rows, cols,
            );
            let sum = sum.map_or(Ok(x.clone()), |sum| Tensor::from_vec(sum, x.shape()))?;
            Ok((Tensor::from_vec(normed, x.shape())?, sum, Tensor::from_vec(rstd, &[rows])?))
        })?;
        let saved = need.any().then(|| Saved {
            sum: sum.clone(),
            rstd,
            weight: weight.clone(),
            #[cfg(feature = "cuda")]
            branch: x.dtype(),
        });
        Ok((vec![normed, sum], saved))
    }

    fn backward(
        &self,
        device: &Device,
        saved: Option<Saved>,
        mut gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::norm_backward(cuda, saved, gradients, need));
        let Saved { sum, rstd, weight, .. } = saved.expect("saved, since an input is tracked");
        let (rows, cols) = sum.matrix_shape("add_rms_norm", "sum")?;
        let d_sum_in = gradients.remove(1);
        let Some(d_normed) = gradients.remove(0) else {
            // Only the sum was used: its gradient passes through.
            let pass = |i| if need.input(i) { d_sum_in.clone() } else { None };
            return Ok(vec![pass(0), pass(1), None]);
        };
        let (dx, dw) = with_float!(sum.dtype(), "add_rms_norm", T => {
            let mut dx = (need.input(0) || need.input(1)).then(|| vec![0.0 as T; sum.len()]);
            let mut dw = need.input(2).then(|| vec![0.0 as T; cols]);
            let d_sum_in = d_sum_in.as_ref().map(|d| d.as_slice::<T>()).transpose()?;
            let (sum_values, rstd) = (sum.as_slice::<T>()?, rstd.as_slice::<T>()?);
            kernel::rms_norm_backward(
                cpu, dx.as_deref_mut(), dw.as_deref_mut(), d_normed.as_slice::<T>()?, d_sum_in, sum_values, rstd,
                weight.as_slice::<T>()?, rows, cols,
            );
            let dx = dx.map(|dx| Tensor::from_vec(dx, sum.shape())).transpose()?;
            Ok((dx, dw.map(|dw| Tensor::from_vec(dw, &[cols])).transpose()?))
        })?;
        Ok(vec![dx.clone().filter(|_| need.input(0)), dx.filter(|_| need.input(1)), dw])
    }
}

/// Returns (normed, sum) of x `[T, d_model]` and an optional residual.
///
/// # Errors
/// When shapes or element types differ.
pub fn add_rms_norm(tape: &Tape, x: &Var, residual: Option<&Var>, weight: &Var, eps: f64) -> Result<(Var, Var)> {
    let mut outputs = tape.apply(AddRmsNorm { eps }, &[Some(x), residual, Some(weight)])?;
    let sum = outputs.remove(1);
    Ok((outputs.remove(0), sum))
}
