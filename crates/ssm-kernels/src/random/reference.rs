//! Dropout and initial values from Philox blocks.

use super::{DropoutKey, Philox};
use crate::Real;

/// A word below this drops its element: p as a fraction of 2³².
pub fn threshold(p: f32) -> u64 {
    (f64::from(p) * 4_294_967_296.0).round() as u64
}

/// One row: y\[j\] = x\[j\] / (1 - p) where word j of the row's stream reaches the threshold, else 0.
pub fn dropout_row<T: Real>(y: &mut [T], x: &[T], p: f32, key: &DropoutKey, example: u64, position: u32) {
    let philox = key.philox();
    let (threshold, scale) = (threshold(p), T::from_f64(1.0 / (1.0 - f64::from(p))));
    for (group, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
        let words = philox.block([example as u32, (example >> 32) as u32, position, group as u32]);
        for ((y, &x), word) in y.iter_mut().zip(x).zip(words) {
            *y = if u64::from(word) >= threshold { x * scale } else { T::ZERO };
        }
    }
}

/// The middle of a word's cell of the unit interval: never 0, never 1.
fn unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) / 4_294_967_296.0
}

/// Fills `out` four at a time with `values(words)`, the words being block i of the stream.
fn fill<T: Real>(out: &mut [T], seed: u64, stream: u64, values: impl Fn([u32; 4]) -> [f64; 4]) {
    let philox = Philox::new(seed);
    for (i, out) in out.chunks_mut(4).enumerate() {
        let i = i as u64;
        let words = philox.block([i as u32, (i >> 32) as u32, stream as u32, (stream >> 32) as u32]);
        for (out, value) in out.iter_mut().zip(values(words)) {
            *out = T::from_f64(value);
        }
    }
}

/// low + (high - low) · u.
pub fn uniform<T: Real>(out: &mut [T], low: f64, high: f64, seed: u64, stream: u64) {
    fill(out, seed, stream, |words| words.map(|w| low + (high - low) * unit(w)));
}

/// mean + std · z, two z from two words by Box and Muller (1958).
pub fn normal<T: Real>(out: &mut [T], mean: f64, std: f64, seed: u64, stream: u64) {
    let pair = |a: u32, b: u32| {
        let radius = std * (-2.0 * unit(a).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * unit(b)).sin_cos();
        (mean + radius * cos, mean + radius * sin)
    };
    fill(out, seed, stream, |[a, b, c, d]| {
        let (first, second) = (pair(a, b), pair(c, d));
        [first.0, first.1, second.0, second.1]
    });
}
