//! The convolution as its formula says, one channel at a time, for `f32` and `f64`.

use super::{Conv1dGrads, Conv1dInputs};
use crate::Real;

/// Channel `d` of sequence `s` with its K - 1 earlier inputs in front: `[K - 1 + len]`.
fn extended<T: Real>(inputs: &Conv1dInputs<T>, s: usize, d: usize) -> Vec<T> {
    let (channels, k) = (inputs.channels, inputs.width);
    let mut extended = vec![T::ZERO; k - 1];
    if let Some(init) = inputs.init.filter(|_| k > 1) {
        extended.copy_from_slice(&init.row(s, channels * (k - 1))[d * (k - 1)..][..k - 1]);
    }
    extended.extend(inputs.sequences.range(s).map(|t| inputs.x[t * channels + d]));
    extended
}

/// bias + Σ_j weight_j · extended_{i + j}
fn sum_at<T: Real>(inputs: &Conv1dInputs<T>, extended: &[T], d: usize, i: usize) -> T {
    let k = inputs.width;
    let mut sum = inputs.bias.map_or(T::ZERO, |b| b[d]);
    for j in 0..k {
        sum += inputs.weight[d * k + j] * extended[i + j];
    }
    sum
}

pub(super) fn forward<T: Real>(y: &mut [T], mut final_state: Option<&mut [T]>, inputs: &Conv1dInputs<T>) {
    let (channels, k) = (inputs.channels, inputs.width);
    for s in 0..inputs.sequences.len() {
        let tokens = inputs.sequences.range(s);
        for d in 0..channels {
            let extended = extended(inputs, s, d);
            for (i, t) in tokens.clone().enumerate() {
                let sum = sum_at(inputs, &extended, d, i);
                y[t * channels + d] = if inputs.silu { sum.silu() } else { sum };
            }
            if let Some(state) = &mut final_state {
                state[(s * channels + d) * (k - 1)..][..k - 1].copy_from_slice(&extended[tokens.len()..]);
            }
        }
    }
}

pub(super) fn backward<T: Real>(mut grads: Conv1dGrads<T>, dy: &[T], d_final: Option<&[T]>, inputs: &Conv1dInputs<T>) {
    let (channels, k) = (inputs.channels, inputs.width);
    for grad in [&mut grads.dx, &mut grads.dweight, &mut grads.dbias, &mut grads.dinit].into_iter().flatten() {
        grad.fill(T::ZERO);
    }
    for s in 0..inputs.sequences.len() {
        let tokens = inputs.sequences.range(s);
        for d in 0..channels {
            let extended = extended(inputs, s, d);
            let mut d_extended = vec![T::ZERO; extended.len()];
            if let Some(d_final) = d_final {
                d_extended[tokens.len()..].copy_from_slice(&d_final[(s * channels + d) * (k - 1)..][..k - 1]);
            }
            for (i, t) in tokens.clone().enumerate() {
                let mut d_sum = dy[t * channels + d];
                if inputs.silu {
                    d_sum *= sum_at(inputs, &extended, d, i).silu_derivative();
                }
                for j in 0..k {
                    d_extended[i + j] += inputs.weight[d * k + j] * d_sum;
                    if let Some(dweight) = &mut grads.dweight {
                        dweight[d * k + j] += extended[i + j] * d_sum;
                    }
                }
                if let Some(dbias) = &mut grads.dbias {
                    dbias[d] += d_sum;
                }
            }
            if let Some(dx) = &mut grads.dx {
                for (i, t) in tokens.clone().enumerate() {
                    dx[t * channels + d] = d_extended[k - 1 + i];
                }
            }
            if let (Some(dinit), Some(init)) = (&mut grads.dinit, inputs.init) {
                for i in 0..k - 1 {
                    dinit[(init.row_of[s] * channels + d) * (k - 1) + i] += d_extended[i];
                }
            }
        }
    }
}
