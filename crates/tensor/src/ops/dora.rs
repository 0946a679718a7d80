//! DoRA's gain: a trained magnitude over the norm of the adapted weight (Liu et al. 2024, arXiv 2402.09353, equation 5).
//!
//! The norm counts as a constant in backward, as published (section 4.3), so W and the low-rank factors are no inputs of
//! the operation. W + sBA exists for a block of rows at a time.

use statetune_ssm_kernels::embedding::gather_rows;
use statetune_ssm_kernels::{Cpu, WeightSlice, matmul as kernel};

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::weight::weight_slice;
use crate::{Device, Float, Inputs, Need, Op, Result, Tape, Tensor, TensorError, Var, cpu_or, with_float};

/// Rows of W + sBA that exist at once.
const BLOCK: usize = 256;

struct Gain {
    norms: Tensor,
}

impl Op for Gain {
    type Saved = ();

    fn name(&self) -> &'static str {
        "dora_gain"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, ())> {
        let magnitude = inputs.required(0)?;
        if magnitude.shape() != self.norms.shape() {
            return Err(TensorError::shape(
                "dora_gain",
                "magnitude",
                format!("[{}]", self.norms.len()),
                magnitude.shape(),
            ));
        }
        Ok((vec![self.divide(device, magnitude)?], ()))
    }

    fn backward(
        &self,
        device: &Device,
        (): (),
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        gradients.iter().map(|dy| dy.as_ref().map(|dy| self.divide(device, dy)).transpose()).collect()
    }
}

impl Gain {
    fn divide(&self, device: &Device, x: &Tensor) -> Result<Tensor> {
        cpu_or!(device, cuda => on_cuda::divided(cuda, x, &self.norms));
        with_float!(x.dtype(), "dora_gain", T => {
            let y = x.as_slice::<T>()?.iter().zip(self.norms.as_slice::<f64>()?).map(|(x, norm)| x / (*norm as T)).collect();
            Tensor::from_vec::<T>(y, x.shape())
        })
    }
}

/// Along which axis the norm is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormAxis {
    /// One norm per row: an output of a linear layer.
    Rows,
    /// One norm per column: a hidden unit of an embedding.
    Columns,
}

/// The rows of W, and what a low-rank patch adds to them.
pub struct AdaptedWeight<'a> {
    /// W `[m, n]`, of any element type, with trained values in place if it is trained.
    pub weight: &'a Tensor,
    /// The rows of `weight` that are meant.
    pub rows: std::ops::Range<usize>,
    /// A `[r, n]`.
    pub a: &'a Tensor,
    /// B `[rows, r]`.
    pub b: &'a Tensor,
    /// s.
    pub scale: f64,
}

impl AdaptedWeight<'_> {
    /// ‖W + sBA‖ of each row `[rows]` or column `[n]`, summed in double precision; in it on the processor, in single
    /// precision on a CUDA device.
    ///
    /// # Errors
    /// When the factors are of a storage type.
    pub fn norms(&self, device: &Device, axis: NormAxis) -> Result<Tensor> {
        let cpu = cpu_or!(device, cuda => on_cuda::norms(cuda, self, axis));
        let norms = with_float!(self.a.dtype(), "dora_gain", T => self.norms_typed::<T>(cpu, axis))?;
        let count = norms.len();
        Tensor::from_vec(norms, &[count])
    }

    fn norms_typed<T: Float>(&self, cpu: &Cpu, axis: NormAxis) -> Result<Vec<f64>> {
        let (_, n) = self.weight.matrix_shape("dora_gain", "weight")?;
        let (rank, count) = (self.a.shape()[0], self.rows.len());
        let (a, b) = (WeightSlice::of(self.a.as_slice::<T>()?), self.b.as_slice::<T>()?);
        let s = <T as crate::Element>::from_f64(self.scale);
        let mut squares = vec![0f64; if axis == NormAxis::Rows { count } else { n }];
        let mut block = vec![T::ZERO; count.min(BLOCK) * n];
        for start in (0..count).step_by(BLOCK) {
            let rows = BLOCK.min(count - start);
            let ids: Vec<u32> = (0..rows).map(|i| (self.rows.start + start + i) as u32).collect();
            let block = &mut block[..rows * n];
            gather_rows(cpu, block, weight_slice(self.weight), &ids, n);
            kernel::matmul_nn(cpu, block, &b[start * rank..(start + rows) * rank], a, s, rows, n, rank, true);
            let square = |x: &T| crate::Element::to_f64(*x).powi(2);
            match axis {
                NormAxis::Rows => cpu.for_each_chunk(&mut squares[start..start + rows], 16, |task, sums| {
                    let rows = block[task * 16 * n..].chunks_exact(n);
                    sums.iter_mut().zip(rows).for_each(|(sum, row)| *sum = row.iter().map(square).sum());
                }),
                NormAxis::Columns => {
                    for row in block.chunks_exact(n) {
                        squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += square(x));
                    }
                }
            }
        }
        Ok(squares.into_iter().map(f64::sqrt).collect())
    }
}

/// g = m / ‖W + sBA‖ with m `[n]` trained and the norms `[n]` (see [`AdaptedWeight::norms`]) constant.
///
/// # Errors
/// When m has not one number per norm.
pub fn dora_gain(tape: &Tape, magnitude: &Var, norms: &Tensor) -> Result<Var> {
    tape.apply1(Gain { norms: norms.clone() }, &[Some(magnitude)])
}
