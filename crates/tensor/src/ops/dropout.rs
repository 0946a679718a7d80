//! Dropout whose mask depends on what a number is, never on where it lies in the batch.

use std::sync::Arc;

use statetune_ssm_kernels::random::{self, DropoutKey};

use crate::{Device, Inputs, Need, Op, Result, Tape, Tensor, TensorError, Var, with_float};

/// Which example and which position in its sequence each row of an activation belongs to.
#[derive(Debug, Clone)]
pub struct DropoutRows {
    /// `[T]`, the example's identity in its data set.
    pub example: Arc<[u64]>,
    /// `[T]`, the position in the sequence, from 0.
    pub position: Arc<[u32]>,
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
    /// The rows' identities.
    pub rows: DropoutRows,
}

impl Dropout {
    fn apply(&self, device: &Device, x: &Tensor) -> Result<Tensor> {
        let Device::Cpu(cpu) = device;
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
