//! Elementwise functions over whole slices, their gradients, and the two reductions a training step needs over every
//! tensor: the sum of squares (for clipping) and the search for a number that is not finite.
//!
//! Chunks of [`CHUNK`] elements run in parallel.

mod reference;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::{Cpu, Real};

/// Elements per task.
const CHUNK: usize = 1 << 14;

/// y = x · sigmoid(x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn silu<T: Real>(cpu: &Cpu, y: &mut [T], x: &[T]) {
    map(cpu, y, x, T::silu);
}

/// dx = dy · d silu(x) / dx.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn silu_backward<T: Real>(cpu: &Cpu, dx: &mut [T], dy: &[T], x: &[T]) {
    zip(cpu, dx, dy, x, |dy, x| dy * x.silu_derivative());
}

/// y = ln(1 + e^x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn softplus<T: Real>(cpu: &Cpu, y: &mut [T], x: &[T]) {
    map(cpu, y, x, T::softplus);
}

/// dx = dy · sigmoid(x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn softplus_backward<T: Real>(cpu: &Cpu, dx: &mut [T], dy: &[T], x: &[T]) {
    zip(cpu, dx, dy, x, |dy, x| dy * x.sigmoid());
}

/// y = a + b.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn add<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], b: &[T]) {
    zip(cpu, y, a, b, |a, b| a + b);
}

/// y = a · b, element by element.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn mul<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], b: &[T]) {
    zip(cpu, y, a, b, |a, b| a * b);
}

/// y = s · a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn scale<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], s: T) {
    map(cpu, y, a, |a| s * a);
}

/// y = -e^a: the state matrix A of `a_log`.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn neg_exp<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T]) {
    map(cpu, y, a, |a| -a.exp());
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
    cpu.for_each_chunk(y, CHUNK, |i, y| reference::add(y, &a[i * CHUNK..], |a| alpha * a));
}

/// Σ x\[i\]², accumulated in double precision chunk by chunk, the chunks then in order.
pub fn sum_of_squares<T: Real>(cpu: &Cpu, x: &[T]) -> f64 {
    let mut partial = vec![0.0; x.len().div_ceil(CHUNK)];
    cpu.for_each_chunk(&mut partial, 1, |i, out| {
        out[0] = reference::sum_of_squares(&x[i * CHUNK..x.len().min((i + 1) * CHUNK)]);
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

#[track_caller]
fn map<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], f: impl Fn(T) -> T + Sync) {
    same(y.len(), a.len());
    cpu.for_each_chunk(y, CHUNK, |i, y| reference::map(y, &a[i * CHUNK..], &f));
}

#[track_caller]
fn zip<T: Real>(cpu: &Cpu, y: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync) {
    same(y.len(), a.len());
    same(y.len(), b.len());
    cpu.for_each_chunk(y, CHUNK, |i, y| reference::zip(y, &a[i * CHUNK..], &b[i * CHUNK..], &f));
}

#[track_caller]
fn same(output: usize, input: usize) {
    assert_eq!(output, input, "output and input lengths differ");
}
