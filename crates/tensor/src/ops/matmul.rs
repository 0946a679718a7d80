//! The product of two small tracked matrices, as in a low-rank factorisation.

use statetune_ssm_kernels::{WeightSlice, matmul as kernel};

use crate::{Device, Inputs, Need, Op, Result, Tape, Tensor, TensorError, Var, with_float};

struct Matmul;

impl Op for Matmul {
    type Saved = (Tensor, Tensor);

    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, Self::Saved)> {
        let Device::Cpu(cpu) = device;
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        let (m, k) = a.matrix_shape("matmul", "first factor")?;
        let (inner, n) = b.matrix_shape("matmul", "second factor")?;
        if inner != k {
            return Err(TensorError::shape("matmul", "second factor", format!("[{k}, n]"), b.shape()));
        }
        let y = with_float!(a.dtype(), "matmul", T => {
            let mut y = vec![0.0 as T; m * n];
            let b = WeightSlice::of(b.as_slice::<T>()?);
            kernel::matmul_nn(cpu, &mut y, a.as_slice::<T>()?, b, 1.0, m, n, k, false);
            Tensor::from_vec(y, &[m, n])
        })?;
        Ok((vec![y], (a.clone(), b.clone())))
    }

    fn backward(
        &self,
        device: &Device,
        (a, b): Self::Saved,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Device::Cpu(cpu) = device;
        let Some(dy) = &gradients[0] else { return Ok(vec![None, None]) };
        let ((m, k), n) = (a.matrix_shape("matmul", "first factor")?, b.shape()[1]);
        with_float!(a.dtype(), "matmul", T => {
            let dy = dy.as_slice::<T>()?;
            let da = need.input(0).then(|| -> Result<Tensor> {
                let mut da = vec![0.0 as T; m * k];
                kernel::matmul_nt(cpu, &mut da, dy, WeightSlice::of(b.as_slice::<T>()?), None, 1.0, m, k, n, false);
                Tensor::from_vec(da, &[m, k])
            });
            let db = need.input(1).then(|| -> Result<Tensor> {
                let mut db = vec![0.0 as T; k * n];
                kernel::matmul_tn(cpu, &mut db, a.as_slice::<T>()?, dy, 1.0, k, n, m, false);
                Tensor::from_vec(db, &[k, n])
            });
            Ok(vec![da.transpose()?, db.transpose()?])
        })
    }
}

/// a `[m, k]` · b `[k, n]`.
///
/// # Errors
/// When the inner sizes or the element types differ.
pub fn matmul(tape: &Tape, a: &Var, b: &Var) -> Result<Var> {
    tape.apply1(Matmul, &[Some(a), Some(b)])
}
