//! Dropout whose mask depends on what a number is, never on where it lies in the batch.

use statetune_ssm_kernels::random::{self, DropoutKey};

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::{Device, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, cpu_or, with_float};

/// Which example and which position in its sequence each row of an activation belongs to.
#[derive(Debug, Clone)]
pub struct DropoutRows {
    /// `[T]`, the example's identity in its data set.
    pub example: Staged<u64>,
    /// `[T]`, the position in the sequence, from 0.
    pub position: Staged<u32>,
}

/// Inverted dropout: an element is kept with probability 1 - p and then divided by it.
///
/// The mask is a counter-based function of (seed, step, site, example, position, feature), so recomputation, packing,
/// accumulation, any number of threads and a resumed run draw the same one.
pub struct Dropout {
    /// The probability of dropping, in [0, 1).
    pub probability: f32,
    /// The counter's key.
    pub key: DropoutKey,
    /// The step where a captured graph finds it, in place of the key's.
    pub step: Option<Staged<u64>>,
    /// The rows' identities.
    pub rows: DropoutRows,
}

impl Dropout {
    fn apply(&self, device: &Device, x: &Tensor) -> Result<Tensor> {
        let cpu = cpu_or!(device, cuda => on_cuda::dropout(cuda, self, x));
        let (count, width) = x.matrix_shape("dropout", "input")?;
        if self.rows.example.len() != count || self.rows.position.len() != count {
            let found = [self.rows.example.len(), self.rows.position.len()];
            return Err(TensorError::shape("dropout", "row identities", format!("[{count}] twice"), &found));
        }
        with_float!(x.dtype(), "dropout", T => {
            let mut y = vec![0.0 as T; x.len()];
            let (example, position) = (&self.rows.example, &self.rows.position);
            random::dropout(cpu, &mut y, x.as_slice::<T>()?, self.probability, self.key, example, position, count, width);
            Tensor::from_vec(y, x.shape())
        })
    }
}

impl Op for Dropout {
    type Saved = ();

    fn name(&self) -> &'static str {
        "dropout"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        Ok((vec![self.apply(device, inputs.required(0)?)?], ()))
    }

    fn backward(
        &self,
        device: &Device,
        (): (),
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        gradients.iter().map(|dy| dy.as_ref().map(|dy| self.apply(device, dy)).transpose()).collect()
    }
}

/// Applies [`Dropout`] to x `[T, features]`.
///
/// # Errors
/// When the rows' identities do not match x.
pub fn dropout(tape: &Tape, x: &Var, op: Dropout) -> Result<Var> {
    tape.apply1(op, &[Some(x)])
}
