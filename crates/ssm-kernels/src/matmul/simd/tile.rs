//! The register tile: MR rows by two vectors of columns, held in registers over the whole packed depth.

use std::ops::Range;

use super::PanelsOf;
use crate::runtime::DisjointSlice;
use crate::simd::Lanes;

/// Where a task's results go.
pub(super) struct Output<'a, 'y> {
    pub y: &'a DisjointSlice<'y, f32>,
    /// Columns of y.
    pub n: usize,
    /// The task's columns.
    pub columns: Range<usize>,
    /// Added once.
    pub bias: Option<&'a [f32]>,
    pub alpha: f32,
    /// Whether to add to y.
    pub add: bool,
}

/// Multiplies the left panels of `rows` with all right panels of the task.
///
/// # Safety
/// Runs where the lanes' instructions are enabled; `rows` and the task's columns belong to this task alone.
#[inline(always)]
pub(super) unsafe fn sweep<L: Lanes>(output: &Output<'_, '_>, panels: PanelsOf<'_>, right: &[f32], rows: Range<usize>) {
    // SAFETY: same contract as this function's.
    unsafe {
        if L::N == 16 {
            sweep_rows::<L, 12>(output, panels, right, rows);
        } else {
            sweep_rows::<L, 6>(output, panels, right, rows);
        }
    }
}

#[inline(always)]
unsafe fn sweep_rows<L: Lanes, const MR: usize>(
    output: &Output<'_, '_>,
    panels: PanelsOf<'_>,
    right: &[f32],
    rows: Range<usize>,
) {
    let (nr, PanelsOf { packed, k, first, depth }) = (2 * L::N, panels);
    let mut column = output.columns.start;
    for right in right.chunks(depth.max(1) * nr) {
        if column >= output.columns.end {
            break;
        }
        let width = nr.min(output.columns.end - column);
        let mut row = rows.start;
        while row < rows.end {
            let height = MR.min(rows.end - row);
            // Panel row / MR starts at row · k; its part for this depth at first · MR.
            let left = &packed[row * k + first * MR..][..depth * MR];
            debug_assert!(right.len() >= depth * nr);
            // SAFETY: both panels hold `depth` rows; the tile's elements of y belong to this task.
            unsafe {
                let sums = multiply::<L, MR>(left.as_ptr(), right.as_ptr(), depth);
                write::<L, MR>(output, sums, row, column, height, width);
            }
            row += MR;
        }
        column += nr;
    }
}

/// The sums over `depth` of left column times right row.
///
/// # Safety
/// `left` holds depth · MR elements, `right` depth · 2 · N; the lanes' instructions are enabled.
#[inline(always)]
unsafe fn multiply<L: Lanes, const MR: usize>(left: *const f32, right: *const f32, depth: usize) -> [[L::V; 2]; MR] {
    // SAFETY: same contract as this function's.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; MR];
        let (mut a, mut b) = (left, right);
        for _ in 0..depth {
            let (b0, b1) = (L::load(b), L::load(b.add(L::N)));
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = L::splat(*a.add(i));
                sum[0] = L::fma(x, b0, sum[0]);
                sum[1] = L::fma(x, b1, sum[1]);
            }
            a = a.add(MR);
            b = b.add(2 * L::N);
        }
        sums
    }
}

/// y = (y or 0) + alpha · sums + bias, for the part of the tile that exists.
///
/// # Safety
/// The tile's `height` by `width` elements belong to this task; the lanes' instructions are enabled.
#[inline(always)]
pub(super) unsafe fn write<L: Lanes, const MR: usize>(
    output: &Output<'_, '_>,
    sums: [[L::V; 2]; MR],
    row: usize,
    column: usize,
    height: usize,
    width: usize,
) {
    // SAFETY: same contract as this function's; masked accesses touch existing columns only.
    unsafe {
        let alpha = L::splat(output.alpha);
        let widths = [width.min(L::N), width.saturating_sub(L::N)];
        for (i, sum) in sums.iter().enumerate().take(height) {
            let at = (row + i) * output.n + column;
            let y = output.y.range_mut(at..at + width).as_mut_ptr();
            for (half, &width) in widths.iter().enumerate() {
                if width == 0 {
                    continue;
                }
                let y = y.add(half * L::N);
                let mut start = if output.add { L::load_first(y, width) } else { L::splat(0.0) };
                if let Some(bias) = output.bias {
                    let bias = &bias[column + half * L::N..][..width];
                    start = L::add(start, L::load_first(bias.as_ptr(), width));
                }
                L::store_first(y, L::fma(alpha, sum[half], start), width);
            }
        }
    }
}
