//! Softmax cross entropy of one row of logits, turned into its gradient in place.

use crate::Real;

/// logsumexp(logits) - logits[target]; with `grad_scale` the logits become grad_scale · (softmax - one-hot).
pub fn softmax_cross_entropy<T: Real>(logits: &mut [T], target: usize, grad_scale: Option<T>) -> T {
    let largest = logits.iter().fold(logits[0], |a, &b| a.max(b));
    let sum: T = logits.iter().map(|&l| (l - largest).exp()).sum();
    // The difference first: the sum of two large numbers would round the small loss away.
    let loss = sum.ln() + (largest - logits[target]);
    if let Some(scale) = grad_scale {
        for l in logits.iter_mut() {
            *l = scale * ((*l - largest).exp() / sum);
        }
        logits[target] -= scale;
    }
    loss
}

/// The lowest index of the largest logit; NaNs never win.
pub fn argmax<T: Real>(logits: &[T]) -> u32 {
    let mut best = 0;
    for (j, &l) in logits.iter().enumerate() {
        if l > logits[best] || logits[best].to_f64().is_nan() && !l.to_f64().is_nan() {
            best = j;
        }
    }
    best as u32
}
