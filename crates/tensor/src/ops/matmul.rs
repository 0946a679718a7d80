//! The product of two small tracked matrices, as in a low-rank factorisation.

use statetune_ssm_kernels::{WeightSlice, matmul as kernel};

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::{Device, Inputs, Need, Op, Result, Tape, Tensor, TensorError, Var, cpu_or, with_float};

struct Matmul;

/// Each factor, if the other's gradient is needed, and the sizes m, k, n.
pub(super) struct Saved {
    pub(super) a: Option<Tensor>,
    pub(super) b: Option<Tensor>,
    pub(super) sizes: [usize; 3],
}

impl Op for Matmul {
    type Saved = Saved;

    fn name(&self) -> &'static str {
        "matmul"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Saved)> {
        let cpu = cpu_or!(device, cuda => on_cuda::matmul(cuda, inputs, need));
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        let (m, k) = a.matrix_shape("matmul", "first factor")?;
        let (inner, n) = b.matrix_shape("matmul", "second factor")?;
        if inner != k {
            return Err(TensorError::shape("matmul", "second factor", format!("[{k}, n]"), b.shape()));
        }
        let y = with_float!(a.dtype(), "matmul", T => {
            let mut y = vec![0.0 as T; m * n];
            let values = WeightSlice::of(b.as_slice::<T>()?);
            kernel::matmul_nn(cpu, &mut y, a.as_slice::<T>()?, values, 1.0, m, n, k, false);
            Tensor::from_vec(y, &[m, n])
        })?;
        let (a, b) = (need.input(1).then(|| a.clone()), need.input(0).then(|| b.clone()));
        Ok((vec![y], Saved { a, b, sizes: [m, k, n] }))
    }

    fn backward(
        &self,
        device: &Device,
        Saved { a, b, sizes: [m, k, n] }: Saved,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::matmul_backward(cuda, a, b, &gradients));
        let Some(dy) = &gradients[0] else { return Ok(vec![None, None]) };
        with_float!(dy.dtype(), "matmul", T => {
            let dy = dy.as_slice::<T>()?;
            let da = b.map(|b| -> Result<Tensor> {
                let mut da = vec![0.0 as T; m * k];
                kernel::matmul_nt(cpu, &mut da, dy, WeightSlice::of(b.as_slice::<T>()?), None, 1.0, m, k, n, false);
                Tensor::from_vec(da, &[m, k])
            });
            let db = a.map(|a| -> Result<Tensor> {
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
