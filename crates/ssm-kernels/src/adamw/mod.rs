//! AdamW (Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019), one fused pass per tensor.
//!
//! The update's order of operations is PyTorch's. Schedules, clipping and the choice of what decays belong to the
//! trainer.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;

use crate::runtime::DisjointSlice;
use crate::{Cpu, Real};

/// Elements per task.
const CHUNK: usize = 1 << 14;

/// The numbers of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay: the parameter shrinks by lr · weight_decay.
    pub weight_decay: f64,
    /// 1 for the first step.
    pub step: u64,
    /// Multiplies the gradient (the clip factor; 1 for none).
    pub grad_scale: f64,
}

/// Updates a parameter and its two moments in place.
///
/// # Panics
/// When the lengths differ or `step` is 0.
#[track_caller]
pub fn adamw<T: Real>(cpu: &Cpu, param: &mut [T], m: &mut [T], v: &mut [T], grad: &[T], s: &AdamWStep) {
    let len = param.len();
    assert!(m.len() == len && v.len() == len && grad.len() == len, "parameter, moments and gradient differ in length");
    assert!(s.step > 0, "steps count from 1");
    let coefficients = reference::Coefficients::of(s);
    let (m, v) = (DisjointSlice::new(m), DisjointSlice::new(v));
    cpu.for_each_chunk(param, CHUNK, |i, param| {
        let range = i * CHUNK..i * CHUNK + param.len();
        // SAFETY: chunk i belongs to task i alone.
        let (m, v) = unsafe { (m.range_mut(range.clone()), v.range_mut(range.clone())) };
        reference::adamw(param, m, v, &grad[range], &coefficients);
    });
}
