//! A few rows times a weight, as in decoding: the weight is streamed once and every element used for all rows.
//!
//! Bound: the weight's bytes over the memory's bandwidth.

use std::ops::Range;

use super::{FEW_ROWS, Shape};
use crate::runtime::{DisjointSlice, Level};
use crate::simd::Lanes;
use crate::{Cpu, WeightSlice, dispatch_level};

/// Columns of y per task.
const TASK: usize = 64;

/// y `[m, n]` (+)= alpha · x `[m, k]` · w `[n, k]`ᵀ + bias, for m up to [`FEW_ROWS`].
pub(super) fn few_rows(cpu: &Cpu, y: &mut [f32], x: &[f32], w: WeightSlice, bias: Option<&[f32]>, shape: Shape) {
    let Shape { m, n, k, alpha, accumulate } = shape;
    let y = DisjointSlice::new(y);
    cpu.for_each(n.div_ceil(TASK), |task| {
        let columns = task * TASK..n.min((task + 1) * TASK);
        let mut sums = [0f32; FEW_ROWS * TASK];
        dots(cpu.level(), &mut sums, x, w, columns.clone(), m, k);
        for i in 0..m {
            // SAFETY: these columns belong to this task alone.
            let y = unsafe { y.range_mut(i * n + columns.start..i * n + columns.end) };
            for (j, y) in y.iter_mut().enumerate() {
                let start = if accumulate { *y } else { 0.0 } + bias.map_or(0.0, |b| b[columns.start + j]);
                *y = alpha.mul_add(sums[i * TASK + j], start);
            }
        }
    });
}

fn dots(level: Level, sums: &mut [f32], x: &[f32], w: WeightSlice, columns: Range<usize>, m: usize, k: usize) {
    dispatch_level!(level, dot_rows(sums: &mut [f32], x: &[f32], w: WeightSlice<'_>, columns: Range<usize>, m: usize, k: usize));
}

/// sums `[FEW_ROWS, TASK]` of x rows with w rows.
///
/// # Safety
/// Runs where the lanes' instructions are enabled.
#[inline(always)]
unsafe fn dot_rows<L: Lanes>(
    sums: &mut [f32],
    x: &[f32],
    w: WeightSlice<'_>,
    columns: Range<usize>,
    m: usize,
    k: usize,
) {
    assert!(m <= FEW_ROWS && x.len() >= m * k && w.len() >= columns.end * k);
    for (j, column) in columns.enumerate() {
        let at = column * k;
        // SAFETY: row `column` of w and m rows of x hold k elements each.
        unsafe {
            let (mut low, mut high) = ([L::splat(0.0); FEW_ROWS], [L::splat(0.0); FEW_ROWS]);
            let step = 2 * L::N;
            let mut p = 0;
            while p + step <= k {
                let (w0, w1) = (load::<L>(w, at + p), load::<L>(w, at + p + L::N));
                for i in 0..m {
                    let x = x.as_ptr().add(i * k + p);
                    low[i] = L::fma(L::load(x), w0, low[i]);
                    high[i] = L::fma(L::load(x.add(L::N)), w1, high[i]);
                }
                p += step;
            }
            for i in 0..m {
                let mut sum = L::sum(L::add(low[i], high[i]));
                for p in p..k {
                    sum = x[i * k + p].mul_add(w.get::<f32>(at + p), sum);
                }
                sums[i * TASK + j] = sum;
            }
        }
    }
}

/// N elements of a weight, widened.
///
/// # Safety
/// They are inside the weight; the lanes' instructions are enabled.
#[inline(always)]
unsafe fn load<L: Lanes>(w: WeightSlice<'_>, at: usize) -> L::V {
    // SAFETY: same contract as this function's.
    unsafe {
        match w {
            WeightSlice::F32(w) => L::load(w.as_ptr().add(at)),
            WeightSlice::Bf16(w) => L::load_bf16(w.as_ptr().add(at).cast()),
            WeightSlice::F16(w) => L::load_f16(w.as_ptr().add(at).cast()),
            WeightSlice::F64(w) => {
                let mut block = [0f32; 16];
                for (i, to) in block.iter_mut().enumerate().take(L::N) {
                    *to = *w.get_unchecked(at + i) as f32;
                }
                L::load(block.as_ptr())
            }
        }
    }
}
