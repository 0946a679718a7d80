//! Elementwise functions over whole slices, their gradients, and the two reductions a training step needs over every
//! tensor: the sum of squares (for clipping) and the search for a number that is not finite.
//!
//! Chunks of 2^14 elements run in parallel: in `f32` on vectors at every level but the reference, and by the
//! reference otherwise. An element's bits do not depend on where it lies. The sum of squares adds in `f64` whatever the
//! type; the search for a number that is not finite is the same plain loop everywhere.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
pub(crate) mod cuda_tests;
mod reference;
pub(crate) mod simd;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::real::{as_f32, as_f32_mut};
use crate::{Cpu, Level, Real};
use simd::{Map, Zip};

/// Elements per task.
const CHUNK: usize = 1 << 14;

/// y = x · sigmoid(x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn silu<T: Real>(cpu: &Cpu, y: &mut [T], x: &[T]) {
    map(cpu, y, x, Map::Silu, T::silu);
}

/// dx = dy · d silu(x) / dx.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn silu_backward<T: Real>(cpu: &Cpu, dx: &mut [T], dy: &[T], x: &[T]) {
    zip(cpu, dx, dy, x, Zip::SiluBackward, |dy, x| dy * x.silu_derivative());
}

/// y = ln(1 + e^x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn softplus<T: Real>(cpu: &Cpu, y: &mut [T], x: &[T]) {
    map(cpu, y, x, Map::Softplus, T::softplus);
}

/// dx = dy · sigmoid(x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn softplus_backward<T: Real>(cpu: &Cpu, dx: &mut [T], dy: &[T], x: &[T]) {
    zip(cpu, dx, dy, x, Zip::SoftplusBackward, |dy, x| dy * x.sigmoid());
}

/// y = a + b.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn add<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], b: &[T]) {
    zip(cpu, y, a, b, Zip::Add, |a, b| a + b);
}

/// y = a · b, element by element.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn mul<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], b: &[T]) {
    zip(cpu, y, a, b, Zip::Mul, |a, b| a * b);
}

/// y = s · a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn scale<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], s: T) {
    map(cpu, y, a, Map::Scale(s.to_f64() as f32), |a| s * a);
}

/// y = -e^a: the state matrix A of `a_log`.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn neg_exp<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T]) {
    map(cpu, y, a, Map::NegExp, |a| -a.exp());
}

/// y += a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn add_assign<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T]) {
    axpy(cpu, y, T::ONE, a);
}

/// y += alpha · a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn axpy<T: Real>(cpu: &Cpu, y: &mut [T], alpha: T, a: &[T]) {
    same(y.len(), a.len());
    if let Some((level, y, a)) = on_vectors(cpu, y, a) {
        let alpha = alpha.to_f64() as f32;
        return cpu.for_each_chunk(y, CHUNK, |i, y| simd::axpy(level, y, alpha, &a[i * CHUNK..]));
    }
    cpu.for_each_chunk(y, CHUNK, |i, y| reference::add(y, &a[i * CHUNK..], |a| alpha * a));
}

/// Σ x\[i\]², accumulated in double precision chunk by chunk, the chunks then in order.
pub fn sum_of_squares<T: Real>(cpu: &Cpu, x: &[T]) -> f64 {
    let mut partial = vec![0.0; x.len().div_ceil(CHUNK)];
    cpu.for_each_chunk(&mut partial, 1, |i, out| {
        let x = &x[i * CHUNK..x.len().min((i + 1) * CHUNK)];
        out[0] = match as_f32(x) {
            Some(x) if cpu.level() != Level::Reference => simd::sum_of_squares(x),
            _ => reference::sum_of_squares(x),
        };
    });
    partial.iter().sum()
}

/// The index of the first element that is infinite or NaN.
pub fn first_non_finite<T: Real>(cpu: &Cpu, x: &[T]) -> Option<usize> {
    let first = AtomicUsize::new(usize::MAX);
    cpu.for_each(x.len().div_ceil(CHUNK), |i| {
        let start = i * CHUNK;
        let chunk = &x[start..x.len().min(start + CHUNK)];
        if let Some(j) = chunk.iter().position(|x| !x.is_finite()) {
            first.fetch_min(start + j, Ordering::Relaxed);
        }
    });
    Some(first.into_inner()).filter(|&i| i != usize::MAX)
}

/// y = f(a), of which `on_lanes` is the vector version.
#[track_caller]
fn map<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], on_lanes: Map, f: impl Fn(T) -> T + Sync) {
    same(y.len(), a.len());
    if let Some((level, y, a)) = on_vectors(cpu, y, a) {
        return cpu.for_each_chunk(y, CHUNK, |i, y| simd::map(level, y, &a[i * CHUNK..], on_lanes));
    }
    cpu.for_each_chunk(y, CHUNK, |i, y| reference::map(y, &a[i * CHUNK..], &f));
}

/// y = f(a, b), of which `on_lanes` is the vector version.
#[track_caller]
fn zip<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], b: &[T], on_lanes: Zip, f: impl Fn(T, T) -> T + Sync) {
    same(y.len(), a.len());
    same(y.len(), b.len());
    if let (Some((level, y, a)), Some(b)) = (on_vectors(cpu, y, a), as_f32(b)) {
        return cpu.for_each_chunk(y, CHUNK, |i, y| simd::zip(level, y, &a[i * CHUNK..], &b[i * CHUNK..], on_lanes));
    }
    cpu.for_each_chunk(y, CHUNK, |i, y| reference::zip(y, &a[i * CHUNK..], &b[i * CHUNK..], &f));
}

/// The operands of a vector version and its level, if they are `f32` and the device has vectors.
fn on_vectors<'a, T: Real>(cpu: &Cpu, y: &'a mut [T], a: &'a [T]) -> Option<(Level, &'a mut [f32], &'a [f32])> {
    let level = cpu.level();
    if level == Level::Reference { None } else { Some((level, as_f32_mut(y)?, as_f32(a)?)) }
}

#[track_caller]
fn same(output: usize, input: usize) {
    assert_eq!(output, input, "output and input lengths differ");
}
