//! Packing: operands into the order in which the tile reads them, padded with zeros to whole panels.

use std::ops::Range;

use super::{Left, Right};
use crate::runtime::Level;
use crate::simd::{Lanes, prefetch};
use crate::{WeightSlice, dispatch_level};

/// Fills panels of the left operand: `packed` holds whole panels of `mr` rows from `first_row` on, each `[k, mr]`.
pub(super) fn pack_left(packed: &mut [f32], left: Left, first_row: usize, mr: usize, m: usize, k: usize) {
    if k == 0 {
        return;
    }
    for (i, panel) in packed.chunks_exact_mut(mr * k).enumerate() {
        let row = first_row + i * mr;
        let rows = mr.min(m - row);
        match left {
            Left::Rows(x) => {
                for r in 0..mr {
                    if r < rows {
                        let source = &x[(row + r) * k..][..k];
                        panel[r..].iter_mut().step_by(mr).zip(source).for_each(|(to, from)| *to = *from);
                    } else {
                        panel[r..].iter_mut().step_by(mr).for_each(|to| *to = 0.0);
                    }
                }
            }
            Left::Columns(x) => {
                for (p, to) in panel.chunks_exact_mut(mr).enumerate() {
                    to[..rows].copy_from_slice(&x[p * m + row..][..rows]);
                    to[rows..].fill(0.0);
                }
            }
        }
    }
}

/// Fills panels of the right operand, each `[depth, nr]`, for some columns and a part of the inner size.
pub(super) fn pack_right(
    level: Level,
    packed: &mut [f32],
    right: Right,
    inner: Range<usize>,
    columns: Range<usize>,
    nr: usize,
    n: usize,
    k: usize,
) {
    let depth = inner.len();
    for (i, panel) in packed.chunks_mut(depth.max(1) * nr).enumerate() {
        let column = columns.start + i * nr;
        if column >= columns.end || depth == 0 {
            break;
        }
        let width = nr.min(columns.end - column);
        let source = match right {
            Right::Transposed(w) => Source { weight: w, at: column * k + inner.start, stride: k, transposed: true },
            Right::Plain(w) => Source { weight: w, at: inner.start * n + column, stride: n, transposed: false },
        };
        dispatch_level!(level, pack_panel(panel: &mut [f32], source: Source<'_>, depth: usize, width: usize, nr: usize));
    }
}

/// How far ahead a stored matrix is asked for, in rows and in blocks of a row: the pieces that are read of a row are too
/// short for the hardware to see where they go on.
const ROWS_AHEAD: usize = 24;
const BLOCKS_AHEAD: usize = 3;

/// A block of a stored matrix: element (i, j) is at `at + i · stride + j`.
#[derive(Clone, Copy)]
struct Source<'a> {
    weight: WeightSlice<'a>,
    at: usize,
    stride: usize,
    /// Whether i counts columns of the panel (and j its depth), or the reverse.
    transposed: bool,
}

/// Packs one panel `[depth, nr]`, of which `width` columns exist.
///
/// # Safety
/// Runs where the lanes' instructions are enabled.
#[inline(always)]
unsafe fn pack_panel<L: Lanes>(panel: &mut [f32], source: Source<'_>, depth: usize, width: usize, nr: usize) {
    let Source { at, stride, transposed, .. } = source;
    assert!(panel.len() >= depth * nr && width <= nr && nr <= 32);
    let last = if transposed { at + (width - 1) * stride + depth } else { at + (depth - 1) * stride + width };
    assert!(last <= source.weight.len());
    if !transposed {
        for p in 0..depth {
            let row = &mut panel[p * nr..][..nr];
            prefetch(source.weight.address(at + (p + ROWS_AHEAD) * stride));
            prefetch(source.weight.address(at + (p + ROWS_AHEAD) * stride + 16));
            // SAFETY: `width` elements from at + p · stride on are inside the weight, as asserted.
            unsafe { widen::<L>(&mut row[..width], source.weight, at + p * stride) };
            row[width..].fill(0.0);
        }
        return;
    }
    // Rows of the weight are columns of the panel: widen 16 elements of every row, then turn the block.
    const BLOCK: usize = 16;
    let mut block = [0f32; 32 * BLOCK];
    let mut p = 0;
    while p < depth {
        let len = BLOCK.min(depth - p);
        for j in 0..width {
            prefetch(source.weight.address(at + j * stride + p + BLOCKS_AHEAD * BLOCK));
            // SAFETY: `len` elements of row j from p on are inside the weight, as asserted.
            unsafe { widen::<L>(&mut block[j * BLOCK..][..len], source.weight, at + j * stride + p) };
        }
        for i in 0..len {
            let row = &mut panel[(p + i) * nr..][..nr];
            for (j, to) in row.iter_mut().enumerate() {
                *to = block[j * BLOCK + i];
            }
        }
        p += len;
    }
}

/// Copies `to.len()` elements from `at` on as `f32`.
///
/// # Safety
/// The elements are inside the weight; the lanes' instructions are enabled.
#[inline(always)]
unsafe fn widen<L: Lanes>(to: &mut [f32], weight: WeightSlice<'_>, at: usize) {
    let len = to.len();
    let whole = len - len % L::N;
    // SAFETY: the caller vouches for `len` elements from `at` on; whole vectors are read while they last.
    unsafe {
        match weight {
            // Most rows are a whole block or panel: copies of a constant size are moves, others a call of memcpy, which
            // here costs more than the copy.
            WeightSlice::F32(w) => match len {
                16 => to.as_mut_ptr().copy_from_nonoverlapping(w.as_ptr().add(at), 16),
                32 => to.as_mut_ptr().copy_from_nonoverlapping(w.as_ptr().add(at), 32),
                _ => to.copy_from_slice(w.get_unchecked(at..at + len)),
            },
            WeightSlice::Bf16(w) => {
                let from = w.as_ptr().add(at).cast::<u16>();
                for i in (0..whole).step_by(L::N) {
                    L::store(to.as_mut_ptr().add(i), L::load_bf16(from.add(i)));
                }
                for i in whole..len {
                    to[i] = w.get_unchecked(at + i).to_f32();
                }
            }
            WeightSlice::F16(w) => {
                let from = w.as_ptr().add(at).cast::<u16>();
                for i in (0..whole).step_by(L::N) {
                    L::store(to.as_mut_ptr().add(i), L::load_f16(from.add(i)));
                }
                for i in whole..len {
                    to[i] = w.get_unchecked(at + i).to_f32();
                }
            }
            WeightSlice::F64(w) => {
                for (to, from) in to.iter_mut().zip(w.get_unchecked(at..at + len)) {
                    *to = *from as f32;
                }
            }
        }
    }
}
