//! Selecting rows: the labelled positions before the language-model head.

use statetune_ssm_kernels::{WeightSlice, embedding as kernel};

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::{Device, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, cpu_or, with_float};

struct SelectRows {
    rows: Staged<u32>,
}

impl Op for SelectRows {
    type Saved = [usize; 2];

    fn name(&self) -> &'static str {
        "select_rows"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, [usize; 2])> {
        let cpu = cpu_or!(device, cuda => on_cuda::select_rows(cuda, inputs, &self.rows));
        let x = inputs.required(0)?;
        let (count, width) = x.matrix_shape("select_rows", "input")?;
        if let Some(&row) = self.rows.iter().find(|&&row| row as usize >= count) {
            return Err(TensorError::shape("select_rows", "row", format!("below {count}"), &[row as usize]));
        }
        let y = with_float!(x.dtype(), "select_rows", T => {
            let mut y = vec![0.0 as T; self.rows.len() * width];
            kernel::gather_rows(cpu, &mut y, WeightSlice::of(x.as_slice::<T>()?), &self.rows, width);
            Tensor::from_vec(y, &[self.rows.len(), width])
        })?;
        Ok((vec![y], [count, width]))
    }

    fn backward(
        &self,
        device: &Device,
        [count, width]: [usize; 2],
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::select_rows_backward(cuda, &gradients, &self.rows, count, width));
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        let dx = with_float!(dy.dtype(), "select_rows", T => {
            let mut dx = vec![0.0 as T; count * width];
            kernel::scatter_add_rows(cpu, &mut dx, dy.as_slice::<T>()?, &self.rows, width);
            Tensor::from_vec(dx, &[count, width])
        })?;
        Ok(vec![Some(dx)])
    }
}

/// The rows `rows` of x `[T, features]`, as `[R, features]`.
///
/// # Errors
/// When a row is not below T.
pub fn select_rows(tape: &Tape, x: &Var, rows: &Staged<u32>) -> Result<Var> {
    tape.apply1(SelectRows { rows: rows.clone() }, &[Some(x)])
}
