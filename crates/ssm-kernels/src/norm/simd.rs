//! The norm and its gradients on vectors along a row.
//!
//! A task takes a block of rows, so many by the width of a row alone. A row goes through two passes, the second from the
//! first cache: one adds up over the columns (four sums side by side, combined in a fixed order), one writes. What the
//! rows of a block give to the gradient of the weight adds up in that block's own partial sum, row by row as the first
//! pass reads them; the partial sums are then added in the order of the blocks. Means and roots, one per row, are
//! taken in `f64`.
//!
//! Bound: memory, 16 bytes per element with a residual, forward and backward.

use crate::elementwise::simd::{load, store};
use crate::runtime::DisjointSlice;
use crate::simd::Lanes;
use crate::{Cpu, dispatch_level};

/// Elements a task should have, so that starting it costs little.
const TASK: usize = 1 << 14;

/// The least rows of a task: a partial sum is small beside them.
const ROWS: usize = 8;

/// Vectors added up side by side, so that an addition does not wait for the one before.
const WAYS: usize = 4;

fn rows_per_task(cols: usize) -> usize {
    (TASK / cols.max(1)).max(ROWS)
}

/// sum = x + residual; rstd = 1 / √(mean(sum²) + eps); normed = sum · rstd · weight.
pub(super) fn add_rms_norm(
    cpu: &Cpu,
    normed: &mut [f32],
    sum: Option<&mut [f32]>,
    rstd: Option<&mut [f32]>,
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    eps: f64,
    cols: usize,
) {
    let (level, block) = (cpu.level(), rows_per_task(cols));
    let (sum, rstd) = (sum.map(DisjointSlice::new), rstd.map(DisjointSlice::new));
    cpu.for_each_chunk(normed, block * cols, |task, normed| {
        for (i, normed) in normed.chunks_exact_mut(cols).enumerate() {
            let r = task * block + i;
            let row = r * cols..(r + 1) * cols;
            // SAFETY: row r belongs to this task alone.
            let sum = sum.as_ref().map(|sum| unsafe { sum.range_mut(row.clone()) });
            let (x, residual) = (&x[row.clone()], residual.map(|residual| &residual[row]));
            let mut scale = 0.0;
            let row_rstd = &mut scale;
            dispatch_level!(
                level,
                forward_row(
                    normed: &mut [f32],
                    sum: Option<&mut [f32]>,
                    row_rstd: &mut f32,
                    x: &[f32],
                    residual: Option<&[f32]>,
                    weight: &[f32],
                    eps: f64,
                )
            );
            if let Some(rstd) = &rstd {
                // SAFETY: element r belongs to this task alone.
                unsafe { rstd.range_mut(r..r + 1)[0] = scale };
            }
        }
    });
}

/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
unsafe fn forward_row<L: Lanes>(
    normed: &mut [f32],
    mut sum: Option<&mut [f32]>,
    rstd: &mut f32,
    x: &[f32],
    residual: Option<&[f32]>,
    weight: &[f32],
    eps: f64,
) {
    let cols = normed.len();
    // SAFETY: the caller enables the instructions; `load` and `store` stay inside their slices.
    unsafe {
        let mut squares = [L::splat(0.0); WAYS];
        for at in (0..cols).step_by(WAYS * L::N) {
            for w in 0..WAYS {
                let at = at + w * L::N;
                let mut added = load::<L>(x, at);
                if let Some(residual) = residual {
                    added = L::add(added, load::<L>(residual, at));
                }
                // `normed` holds the sum until the scale is known.
                store::<L>(normed, at, added);
                if let Some(sum) = &mut sum {
                    store::<L>(sum, at, added);
                }
                squares[w] = L::fma(added, added, squares[w]);
            }
        }
        *rstd = (1.0 / (total::<L>(squares) / cols as f64 + eps).sqrt()) as f32;
        let scale = L::splat(*rstd);
        for at in (0..cols).step_by(L::N) {
            store::<L>(normed, at, L::mul(L::mul(load::<L>(normed, at), scale), load::<L>(weight, at)));
        }
    }
}

/// d_sum = rstd · (g - sum · rstd² · mean(g · sum)) + d_sum_in with g = d_normed · weight, and
/// d_weight\[j\] = Σ_r d_normed\[r, j\] · sum\[r, j\] · rstd\[r\], each where asked for.
pub(super) fn rms_norm_backward(
    cpu: &Cpu,
    d_sum: Option<&mut [f32]>,
    d_weight: Option<&mut [f32]>,
    d_normed: &[f32],
    d_sum_in: Option<&[f32]>,
    sum: &[f32],
    rstd: &[f32],
    weight: &[f32],
    cols: usize,
) {
    let (level, rows, block) = (cpu.level(), rstd.len(), rows_per_task(cols));
    let tasks = rows.div_ceil(block);
    let mut partials = d_weight.as_ref().map(|_| vec![0f32; tasks * cols]); // [tasks, cols]
    let d_sum = d_sum.map(DisjointSlice::new);
    let shared = partials.as_deref_mut().map(DisjointSlice::new);
    cpu.for_each(tasks, |task| {
        // SAFETY: partial sum number `task` belongs to this task alone.
        let mut partial = shared.as_ref().map(|p| unsafe { p.range_mut(task * cols..(task + 1) * cols) });
        for r in task * block..rows.min((task + 1) * block) {
            let row = r * cols..(r + 1) * cols;
            // SAFETY: row r belongs to this task alone.
            let d_sum = d_sum.as_ref().map(|d_sum| unsafe { d_sum.range_mut(row.clone()) });
            let d_weight = partial.as_deref_mut();
            let (d_normed, sum, rstd) = (&d_normed[row.clone()], &sum[row.clone()], rstd[r]);
            let d_sum_in = d_sum_in.map(|d_sum_in| &d_sum_in[row]);
            dispatch_level!(
                level,
                backward_row(
                    d_sum: Option<&mut [f32]>,
                    d_weight: Option<&mut [f32]>,
                    d_normed: &[f32],
                    d_sum_in: Option<&[f32]>,
                    sum: &[f32],
                    rstd: f32,
                    weight: &[f32],
                )
            );
        }
    });
    if let (Some(d_weight), Some(partials)) = (d_weight, partials) {
        d_weight.fill(0.0);
        for partial in partials.chunks_exact(cols.max(1)) {
            d_weight.iter_mut().zip(partial).for_each(|(d, p)| *d += p);
        }
    }
}

/// Writes a row of d_sum and adds what the row gives to d_weight.
///
/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
unsafe fn backward_row<L: Lanes>(
    d_sum: Option<&mut [f32]>,
    mut d_weight: Option<&mut [f32]>,
    d_normed: &[f32],
    d_sum_in: Option<&[f32]>,
    sum: &[f32],
    rstd: f32,
    weight: &[f32],
) {
    let cols = d_normed.len();
    // SAFETY: the caller enables the instructions; `load` and `store` stay inside their slices.
    unsafe {
        let scale = L::splat(rstd);
        let mut dot = [L::splat(0.0); WAYS];
        for at in (0..cols).step_by(WAYS * L::N) {
            for w in 0..WAYS {
                let at = at + w * L::N;
                let product = L::mul(load::<L>(d_normed, at), load::<L>(sum, at));
                dot[w] = L::fma(product, load::<L>(weight, at), dot[w]);
                if let Some(d_weight) = &mut d_weight {
                    store::<L>(d_weight, at, L::fma(product, scale, load::<L>(d_weight, at)));
                }
            }
        }
        let Some(d_sum) = d_sum else { return };
        let along = f64::from(rstd) * f64::from(rstd) * total::<L>(dot) / cols as f64;
        let against = L::splat(-along as f32);
        for at in (0..cols).step_by(L::N) {
            let g = L::mul(load::<L>(d_normed, at), load::<L>(weight, at));
            let across = L::fma(load::<L>(sum, at), against, g);
            // Not `map_or`: intrinsics in a closure would not be inlined.
            let d_in = if let Some(d_in) = d_sum_in { load::<L>(d_in, at) } else { L::splat(0.0) };
            store::<L>(d_sum, at, L::fma(scale, across, d_in));
        }
    }
}

/// The sum of all lanes of all vectors, in a fixed order.
///
/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
unsafe fn total<L: Lanes>([a, b, c, d]: [L::V; WAYS]) -> f64 {
    // SAFETY: the caller enables the instructions.
    unsafe { f64::from(L::sum(L::add(L::add(a, b), L::add(c, d)))) }
}
