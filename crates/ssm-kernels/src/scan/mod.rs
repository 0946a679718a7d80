//! The selective scan of Mamba-1 with its whole readout, forward and backward, over a packed batch.
//!
//! Per channel d and state n, with Δ = softplus(delta + delta_bias) (Gu and Dao, arXiv 2312.00752, equation 2 with the
//! zero-order hold on A and the simplified Euler step on B that the authors' code uses):
//!
//! h_t\[d,n\] = exp(Δ_t\[d\] a\[d,n\]) h_{t-1}\[d,n\] + Δ_t\[d\] u_t\[d\] B_t\[n\]
//!
//! y_t\[d\] = Σ_n h_t\[d,n\] (S\[d,n\] C_t\[n\] + E\[d,n\]) + Σ_n h_{t-1}\[d,n\] C'_t\[n\] + Σ_n O\[d,n\] C_t\[n\] + y'\[d\] + D_skip\[d\] u_t\[d\]
//!
//! out_t\[d\] = y_t\[d\] · silu(z_t\[d\])
//!
//! Every operand but u, delta, a, B and C may be absent. States start afresh at each sequence, from its row of `initial`
//! or from zero. What the forward saves for the backward is the state at every [`CHUNK`]th token; nothing here ever
//! holds T·D·N values. Projections, the convolution and the norms around the scan live elsewhere.

#[cfg(feature = "cuda")]
pub mod cuda;
mod gradients;
mod inputs;
mod reference;
pub(crate) mod simd;

pub use gradients::ScanGrads;
pub use inputs::ScanInputs;

use crate::real::{as_f32, as_f32_mut};
use crate::{Cpu, Level, Real, Sequences};

/// Tokens between two saved states: the backward recomputes the states of one chunk at a time from the state before it.
pub const CHUNK: usize = 32;

/// The number of values the forward saves for the backward: D·N for every chunk of a sequence but its first, which
/// starts from the initial state. The order within is the kernel's own: `[chunk, N, D]`.
pub fn scan_boundaries_len(sequences: &Sequences, d_inner: usize, d_state: usize) -> usize {
    (0..sequences.len()).map(|s| interior_chunks(sequences, s)).sum::<usize>() * d_inner * d_state
}

/// Chunks of sequence `s` after its first.
fn interior_chunks(sequences: &Sequences, s: usize) -> usize {
    (sequences.range(s).len() - 1) / CHUNK
}

/// Writes out `[T, D]` and, if asked, every sequence's final state `[S, D, N]` and the states that
/// [`scan_backward`] starts from ([`scan_boundaries_len`] values).
///
/// # Panics
/// When a length does not fit the sizes.
#[track_caller]
pub fn scan_forward<T: Real>(
    cpu: &Cpu,
    out: &mut [T],
    final_state: Option<&mut [T]>,
    boundaries: Option<&mut [T]>,
    inputs: &ScanInputs<T>,
) {
    inputs.check();
    assert_eq!(out.len(), inputs.u.len(), "scan: out is not [T, D]");
    if let Some(state) = &final_state {
        assert_eq!(state.len(), inputs.states_len(), "scan: final_state is not [S, D, N]");
    }
    if let Some(boundaries) = &boundaries {
        assert_eq!(boundaries.len(), inputs.boundaries_len(), "scan: boundaries do not fit scan_boundaries_len");
    }
    if cpu.level() != Level::Reference
        && let (Some(inputs), Some(out)) = (inputs.as_f32(), as_f32_mut(out))
    {
        let as_f32_mut = |slice: Option<_>| slice.and_then(as_f32_mut);
        return simd::forward(cpu, out, as_f32_mut(final_state), as_f32_mut(boundaries), &inputs);
    }
    reference::forward(out, final_state, boundaries, inputs);
}

/// Writes the gradients asked for, and computes nothing else, given `dout` `[T, D]`, the boundaries that the forward
/// saved and, if the final states were used, their gradient `d_final` `[S, D, N]`.
///
/// # Panics
/// When a length does not fit the sizes, or a gradient is asked for an operand that is absent.
#[track_caller]
pub fn scan_backward<T: Real>(
    cpu: &Cpu,
    mut grads: ScanGrads<T>,
    dout: &[T],
    d_final: Option<&[T]>,
    boundaries: &[T],
    inputs: &ScanInputs<T>,
) {
    inputs.check();
    grads.check(inputs);
    assert_eq!(dout.len(), inputs.u.len(), "scan: dout is not [T, D]");
    assert!(d_final.is_none_or(|d| d.len() == inputs.states_len()), "scan: d_final is not [S, D, N]");
    assert_eq!(boundaries.len(), inputs.boundaries_len(), "scan: boundaries do not fit scan_boundaries_len");
    if cpu.level() != Level::Reference
        && let (Some(inputs), Some(dout), Some(boundaries)) = (inputs.as_f32(), as_f32(dout), as_f32(boundaries))
    {
        return simd::backward(cpu, grads.into_f32(), dout, d_final.and_then(as_f32), boundaries, &inputs);
    }
    reference::backward(grads, dout, d_final, inputs);
}

#[cfg(all(test, feature = "cuda"))]
pub(crate) mod cuda_tests;
#[cfg(test)]
mod tests;
