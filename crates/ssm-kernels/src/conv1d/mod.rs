//! Causal depthwise convolution over a packed batch, with bias, SiLU, initial and final states and all gradients.
//!
//! y\[t, d\] = act(bias\[d\] + Σ_j weight\[d, j\] · x\[t - K + 1 + j, d\])
//!
//! The window never crosses the start of a sequence: inputs before it come from `init`, or are zero. A sequence's final
//! state is the last K - 1 inputs it saw, the initial ones included, so that it can be continued. With K = 1 there is no
//! state. Nothing here mixes channels; projections belong to `matmul`.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
mod simd;

use crate::real::{as_f32, as_f32_mut};
use crate::{Cpu, Level, Real, Sequences, Table};

/// What the convolution reads. K is `width`, D is `channels`.
#[derive(Debug, Clone, Copy)]
pub struct Conv1dInputs<'a, T> {
    /// Input, `[T, D]`.
    pub x: &'a [T],
    /// Filters, `[D, K]`; the last tap meets the current token.
    pub weight: &'a [T],
    /// Bias, `[D]`.
    pub bias: Option<&'a [T]>,
    /// Inputs before the first token of each sequence, rows `[D, K - 1]`, oldest first; zeros when absent.
    pub init: Option<Table<'a, T>>,
    /// Whether SiLU is applied to the sum.
    pub silu: bool,
    /// The sequences of the batch.
    pub sequences: Sequences<'a>,
    /// D, the number of channels.
    pub channels: usize,
    /// K, the width of the window, at least 1.
    pub width: usize,
}

/// The gradients asked for; each is overwritten.
#[derive(Debug)]
pub struct Conv1dGrads<'a, T> {
    /// Of `x`, `[T, D]`.
    pub dx: Option<&'a mut [T]>,
    /// Of `weight`, `[D, K]`.
    pub dweight: Option<&'a mut [T]>,
    /// Of `bias`, `[D]`.
    pub dbias: Option<&'a mut [T]>,
    /// Of `init`, the table's rows `[D, K - 1]`, summed over the sequences that use a row.
    pub dinit: Option<&'a mut [T]>,
}

impl<T> Default for Conv1dGrads<'_, T> {
    fn default() -> Self {
        Conv1dGrads { dx: None, dweight: None, dbias: None, dinit: None }
    }
}

impl<'a, T: Real> Conv1dInputs<'a, T> {
    /// The same inputs if `T` is `f32`.
    fn as_f32(&self) -> Option<Conv1dInputs<'a, f32>> {
        Some(Conv1dInputs {
            x: as_f32(self.x)?,
            weight: as_f32(self.weight)?,
            bias: self.bias.and_then(as_f32),
            init: self.init.and_then(|t| Some(Table { values: as_f32(t.values)?, row_of: t.row_of })),
            silu: self.silu,
            sequences: self.sequences,
            channels: self.channels,
            width: self.width,
        })
    }

    /// K - 1, the inputs a sequence leaves behind.
    fn state_width(&self) -> usize {
        self.width - 1
    }

    #[track_caller]
    fn check(&self) {
        let (d, k) = (self.channels, self.width);
        assert!(d > 0 && k > 0, "conv1d: {d} channels and a window of {k}; both must be at least 1");
        assert_eq!(self.x.len(), self.sequences.tokens() * d, "conv1d: x is not [T, D]");
        assert_eq!(self.weight.len(), d * k, "conv1d: weight is not [D, K]");
        assert!(self.bias.is_none_or(|b| b.len() == d), "conv1d: bias is not [D]");
        if let Some(init) = self.init.filter(|_| k > 1) {
            init.check("conv1d: init", self.sequences.len(), d * (k - 1));
        }
    }
}

/// Writes y `[T, D]` and, if asked, the final state of every sequence `[S, D, K - 1]`, oldest input first.
///
/// # Panics
/// When a length does not fit the sizes.
#[track_caller]
pub fn conv1d_forward<T: Real>(cpu: &Cpu, y: &mut [T], final_state: Option<&mut [T]>, inputs: &Conv1dInputs<T>) {
    inputs.check();
    assert_eq!(y.len(), inputs.x.len(), "conv1d: y is not [T, D]");
    let state_len = inputs.sequences.len() * inputs.channels * inputs.state_width();
    assert!(final_state.as_ref().is_none_or(|f| f.len() == state_len), "conv1d: final_state is not [S, D, K - 1]");
    if cpu.level() != Level::Reference
        && let (Some(inputs), Some(y)) = (inputs.as_f32(), as_f32_mut(y))
    {
        return simd::forward(cpu, y, final_state.and_then(as_f32_mut), &inputs);
    }
    reference::forward(y, final_state, inputs);
}

/// Writes the gradients asked for, given `dy` `[T, D]` and, if the final states were used, `d_final` `[S, D, K - 1]`.
/// The value before SiLU is recomputed.
///
/// # Panics
/// When a length does not fit the sizes, or a gradient is asked for an operand that is absent.
#[track_caller]
pub fn conv1d_backward<T: Real>(
    cpu: &Cpu,
    grads: Conv1dGrads<T>,
    dy: &[T],
    d_final: Option<&[T]>,
    inputs: &Conv1dInputs<T>,
) {
    inputs.check();
    assert_eq!(dy.len(), inputs.x.len(), "conv1d: dy is not [T, D]");
    let state_len = inputs.sequences.len() * inputs.channels * inputs.state_width();
    assert!(d_final.is_none_or(|f| f.len() == state_len), "conv1d: d_final is not [S, D, K - 1]");
    let fits = |grad: &Option<&mut [T]>, len: Option<usize>| grad.as_ref().is_none_or(|g| Some(g.len()) == len);
    assert!(fits(&grads.dx, Some(inputs.x.len())), "conv1d: dx is not [T, D]");
    assert!(fits(&grads.dweight, Some(inputs.weight.len())), "conv1d: dweight is not [D, K]");
    assert!(fits(&grads.dbias, inputs.bias.map(<[T]>::len)), "conv1d: dbias does not fit bias");
    assert!(fits(&grads.dinit, inputs.init.map(|i| i.values.len())), "conv1d: dinit does not fit init");
    if cpu.level() != Level::Reference
        && let (Some(inputs), Some(dy)) = (inputs.as_f32(), as_f32(dy))
    {
        let as_f32_mut = |grad: Option<_>| grad.and_then(as_f32_mut);
        let Conv1dGrads { dx, dweight, dbias, dinit } = grads;
        let [dx, dweight, dbias, dinit] = [dx, dweight, dbias, dinit].map(as_f32_mut);
        let grads = Conv1dGrads { dx, dweight, dbias, dinit };
        return simd::backward(cpu, grads, dy, d_final.and_then(as_f32), &inputs);
    }
    reference::backward(grads, dy, d_final, inputs);
}

#[cfg(test)]
mod tests;
