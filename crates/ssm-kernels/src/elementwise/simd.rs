//! The elementwise functions on vectors, chunk by chunk.
//!
//! A kernel is one loop over whole vectors around the formula, and one masked vector for what is left: where an element
//! lies does not change its bits. Which formula is the same for every vector of a call, so choosing it inside the loop
//! costs nothing. The sum of squares is here too, though it needs no instructions of a level.
//!
//! Bound: memory for `add`, `mul`, `scale` and `axpy`, which gain nothing over what the compiler makes of the reference;
//! 30 to 60 instructions per vector for the functions with an exponential.

use crate::simd::Lanes;
use crate::{Level, dispatch_level};

/// A function of one operand.
#[derive(Debug, Clone, Copy)]
pub(super) enum Map {
    /// a · sigmoid(a).
    Silu,
    /// ln(1 + e^a).
    Softplus,
    /// -e^a.
    NegExp,
    /// s · a.
    Scale(f32),
}

impl Map {
    /// # Safety
    /// The lanes' instructions are enabled.
    #[inline(always)]
    unsafe fn of<L: Lanes>(self, a: L::V) -> L::V {
        // SAFETY: the caller enables the instructions.
        unsafe {
            match self {
                Map::Silu => L::silu(a),
                Map::Softplus => L::softplus(a),
                Map::NegExp => L::mul(L::splat(-1.0), L::exp(a)),
                Map::Scale(s) => L::mul(L::splat(s), a),
            }
        }
    }
}

/// A function of two operands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zip {
    /// a · d silu(b) / db.
    SiluBackward,
    /// a · sigmoid(b).
    SoftplusBackward,
    /// a + b.
    Add,
    /// a · b.
    Mul,
}

impl Zip {
    /// # Safety
    /// The lanes' instructions are enabled.
    #[inline(always)]
    unsafe fn of<L: Lanes>(self, a: L::V, b: L::V) -> L::V {
        // SAFETY: the caller enables the instructions.
        unsafe {
            match self {
                Zip::SiluBackward => {
                    let (one, s) = (L::splat(1.0), L::sigmoid(b));
                    L::mul(a, L::mul(s, L::fma(b, L::sub(one, s), one)))
                }
                Zip::SoftplusBackward => L::mul(a, L::sigmoid(b)),
                Zip::Add => L::add(a, b),
                Zip::Mul => L::mul(a, b),
            }
        }
    }
}

/// y\[i\] = f(a\[i\]).
pub(super) fn map(level: Level, y: &mut [f32], a: &[f32], f: Map) {
    let a = &a[..y.len()];
    dispatch_level!(level, map_lanes(y: &mut [f32], a: &[f32], f: Map));
}

/// y\[i\] = f(a\[i\], b\[i\]).
pub(super) fn zip(level: Level, y: &mut [f32], a: &[f32], b: &[f32], f: Zip) {
    let (a, b) = (&a[..y.len()], &b[..y.len()]);
    dispatch_level!(level, zip_lanes(y: &mut [f32], a: &[f32], b: &[f32], f: Zip));
}

/// y\[i\] += alpha · a\[i\].
pub(super) fn axpy(level: Level, y: &mut [f32], alpha: f32, a: &[f32]) {
    let a = &a[..y.len()];
    dispatch_level!(level, axpy_lanes(y: &mut [f32], alpha: f32, a: &[f32]));
}

/// # Safety
/// The lanes' instructions are enabled and the slices are equally long.
#[inline(always)]
unsafe fn map_lanes<L: Lanes>(y: &mut [f32], a: &[f32], f: Map) {
    let whole = y.len() / L::N * L::N;
    // SAFETY: whole vectors up to `whole` lie inside both slices; `load` and `store` stay inside theirs.
    unsafe {
        for at in (0..whole).step_by(L::N) {
            L::store(y.as_mut_ptr().add(at), f.of::<L>(L::load(a.as_ptr().add(at))));
        }
        store::<L>(y, whole, f.of::<L>(load::<L>(a, whole)));
    }
}

/// # Safety
/// The lanes' instructions are enabled and the slices are equally long.
#[inline(always)]
unsafe fn zip_lanes<L: Lanes>(y: &mut [f32], a: &[f32], b: &[f32], f: Zip) {
    let whole = y.len() / L::N * L::N;
    // SAFETY: whole vectors up to `whole` lie inside the slices; `load` and `store` stay inside theirs.
    unsafe {
        for at in (0..whole).step_by(L::N) {
            let (a, b) = (L::load(a.as_ptr().add(at)), L::load(b.as_ptr().add(at)));
            L::store(y.as_mut_ptr().add(at), f.of::<L>(a, b));
        }
        store::<L>(y, whole, f.of::<L>(load::<L>(a, whole), load::<L>(b, whole)));
    }
}

/// # Safety
/// The lanes' instructions are enabled and the slices are equally long.
#[inline(always)]
unsafe fn axpy_lanes<L: Lanes>(y: &mut [f32], alpha: f32, a: &[f32]) {
    let whole = y.len() / L::N * L::N;
    // SAFETY: whole vectors up to `whole` lie inside both slices; `load` and `store` stay inside theirs.
    unsafe {
        let alpha = L::splat(alpha);
        for at in (0..whole).step_by(L::N) {
            let to = y.as_mut_ptr().add(at);
            L::store(to, L::fma(alpha, L::load(a.as_ptr().add(at)), L::load(to)));
        }
        let last = L::fma(alpha, load::<L>(a, whole), load::<L>(y, whole));
        store::<L>(y, whole, last);
    }
}

/// The vector of elements from `at` on; zeros past the end of the slice.
///
/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
pub(crate) unsafe fn load<L: Lanes>(from: &[f32], at: usize) -> L::V {
    let left = from.len().saturating_sub(at);
    let p = from.as_ptr().wrapping_add(at);
    // SAFETY: `left` elements lie at p, and no more than those are read.
    unsafe { if left >= L::N { L::load(p) } else { L::load_first(p, left) } }
}

/// The counterpart of [`load`]: lanes past the end of the slice are dropped.
///
/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
pub(crate) unsafe fn store<L: Lanes>(to: &mut [f32], at: usize, v: L::V) {
    let left = to.len().saturating_sub(at);
    let p = to.as_mut_ptr().wrapping_add(at);
    // SAFETY: `left` elements lie at p, and no more than those are written.
    unsafe { if left >= L::N { L::store(p, v) } else { L::store_first(p, v, left) } }
}

/// Σ x\[i\]² in double precision: sixteen sums side by side, so that an addition does not wait for the one before, added
/// up in order. Plain Rust, with the same bits at every level.
pub(super) fn sum_of_squares(x: &[f32]) -> f64 {
    let mut sums = [0.0; 16];
    for x in x.chunks(sums.len()) {
        for (sum, &x) in sums.iter_mut().zip(x) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    sums.iter().sum()
}
