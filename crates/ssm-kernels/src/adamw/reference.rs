//! One AdamW step over a chunk, in the order of operations of PyTorch's single-tensor implementation.

use super::AdamWStep;
use crate::Real;

/// The step's coefficients, computed once in double precision.
#[derive(Clone, Copy)]
pub struct Coefficients<T> {
    /// 1 - lr · weight_decay.
    pub decay: T,
    /// 1 - beta1.
    pub one_minus_beta1: T,
    /// beta2.
    pub beta2: T,
    /// 1 - beta2.
    pub one_minus_beta2: T,
    /// lr / (1 - beta1^t).
    pub step_size: T,
    /// √(1 - beta2^t).
    pub root_correction2: T,
    /// Added to the denominator.
    pub eps: T,
    /// Multiplies the gradient.
    pub grad_scale: T,
}

impl<T: Real> Coefficients<T> {
    /// Of one step.
    pub fn of(s: &AdamWStep) -> Self {
        let t = s.step as f64;
        Coefficients {
            decay: T::from_f64(1.0 - s.lr * s.weight_decay),
            one_minus_beta1: T::from_f64(1.0 - s.beta1),
            beta2: T::from_f64(s.beta2),
            one_minus_beta2: T::from_f64(1.0 - s.beta2),
            step_size: T::from_f64(s.lr / (1.0 - s.beta1.powf(t))),
            root_correction2: T::from_f64((1.0 - s.beta2.powf(t)).sqrt()),
            eps: T::from_f64(s.eps),
            grad_scale: T::from_f64(s.grad_scale),
        }
    }
}

/// θ ← θ (1 - lr λ); m ← m + (g - m)(1 - β1); v ← β2 v + (1 - β2) g²; θ ← θ - lr / (1 - β1^t) · m / (√v / √(1 - β2^t) + ε).
pub fn adamw<T: Real>(param: &mut [T], m: &mut [T], v: &mut [T], grad: &[T], c: &Coefficients<T>) {
    for (((param, m), v), &grad) in param.iter_mut().zip(m).zip(v).zip(grad) {
        let g = grad * c.grad_scale;
        let decayed = *param * c.decay;
        *m += (g - *m) * c.one_minus_beta1;
        *v = *v * c.beta2 + g * g * c.one_minus_beta2;
        *param = decayed - c.step_size * (*m / (v.sqrt() / c.root_correction2 + c.eps));
    }
}
