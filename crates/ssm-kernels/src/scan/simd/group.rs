//! Sixteen channels as vectors: partial loads at the edge of D, the transposition of operands stored `[D, N]`, and the
//! scratch memory of a thread.

use std::cell::RefCell;
use std::ops::Range;

use crate::simd::Lanes;
use crate::{Sequences, Table};

/// Channels worked on together: one cache line of a `[T, D]` row.
pub(crate) const GROUP: usize = 16;

/// The vectors of a group; levels with 16 lanes use the first alone.
pub(crate) type Pair<L> = [<L as Lanes>::V; 2];

/// Both vectors zero.
#[inline(always)]
pub(crate) unsafe fn zeros<L: Lanes>() -> Pair<L> {
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe { [L::splat(0.0); 2] }
}

/// Vector `w` of a group of which `valid` channels exist; zero beyond.
#[inline(always)]
pub(crate) unsafe fn load_channels<L: Lanes>(p: *const f32, w: usize, valid: usize) -> L::V {
    // SAFETY: the first `valid` elements at p are readable by the caller's promise, and no others are touched.
    unsafe {
        if valid == GROUP {
            L::load(p.add(w * L::N))
        } else {
            L::load_first(p.wrapping_add(w * L::N), valid.saturating_sub(w * L::N).min(L::N))
        }
    }
}

/// The counterpart of [`load_channels`].
#[inline(always)]
pub(crate) unsafe fn store_channels<L: Lanes>(p: *mut f32, w: usize, v: L::V, valid: usize) {
    // SAFETY: the first `valid` elements at p are writable by the caller's promise, and no others are touched.
    unsafe {
        if valid == GROUP {
            L::store(p.add(w * L::N), v);
        } else {
            L::store_first(p.wrapping_add(w * L::N), v, valid.saturating_sub(w * L::N).min(L::N));
        }
    }
}

/// The channels of group `g`.
pub(crate) fn channels(g: usize, d_inner: usize) -> Range<usize> {
    g * GROUP..d_inner.min((g + 1) * GROUP)
}

/// `to[n][i] = factor · from[i][n]` for the channels there are, zero for the others: `[N, GROUP]` from `[channels, N]`.
pub(crate) fn transpose(to: &mut [f32], from: &[f32], n: usize, factor: f32) {
    let valid = from.len() / n;
    for (j, row) in to.chunks_exact_mut(GROUP).enumerate() {
        for (i, x) in row.iter_mut().enumerate() {
            *x = if i < valid { factor * from[i * n + j] } else { 0.0 };
        }
    }
}

/// `to[i][n] = from[n][i]`, the way back.
pub(crate) fn transpose_back(to: &mut [f32], from: &[f32], n: usize) {
    for (i, row) in to.chunks_exact_mut(n).enumerate() {
        row.iter_mut().enumerate().for_each(|(j, x)| *x = from[j * GROUP + i]);
    }
}

/// `to[i][n] += from[n][i]`.
pub(crate) fn transpose_add(to: &mut [f32], from: &[f32], n: usize) {
    for (i, row) in to.chunks_exact_mut(n).enumerate() {
        row.iter_mut().enumerate().for_each(|(j, x)| *x += from[j * GROUP + i]);
    }
}

/// The channels `of` of sequence `s` in a table of rows `[D, width]`, transposed; `absent` everywhere without a table.
pub(crate) fn transpose_row(
    to: &mut [f32],
    table: Option<Table<f32>>,
    s: usize,
    of: &Range<usize>,
    d_inner: usize,
    width: usize,
    absent: f32,
) {
    match table {
        Some(table) => transpose(to, &table.row(s, d_inner * width)[of.start * width..of.end * width], width, 1.0),
        None => to.fill(absent),
    }
}

/// The boundaries saved before those of each sequence.
pub(crate) fn first_boundaries(sequences: &Sequences) -> Vec<usize> {
    let chunks = |s| crate::scan::interior_chunks(sequences, s);
    (0..sequences.len())
        .scan(0, |next, s| {
            let first = *next;
            *next += chunks(s);
            Some(first)
        })
        .collect()
}

/// Scratch memory cut into pieces, each a whole number of cache lines.
pub(crate) struct Scratch<'a>(&'a mut [f32]);

impl<'a> Scratch<'a> {
    /// The next `len` elements, holding whatever was there.
    pub(crate) fn take(&mut self, len: usize) -> &'a mut [f32] {
        let (piece, rest) = std::mem::take(&mut self.0).split_at_mut(len);
        self.0 = rest;
        piece
    }

    /// The next `len` elements, zeroed.
    pub(crate) fn take_zeroed(&mut self, len: usize) -> &'a mut [f32] {
        let piece = self.take(len);
        piece.fill(0.0);
        piece
    }
}

/// Calls `f` with `len` elements of this thread's scratch memory, which lives on between calls and grows as needed.
pub(crate) fn with_scratch(len: usize, f: impl FnOnce(&mut Scratch)) {
    thread_local!(static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    const LINE: usize = 64;
    SCRATCH.with_borrow_mut(|memory| {
        let needed = len + LINE / size_of::<f32>();
        if memory.len() < needed {
            memory.resize(needed, 0.0);
        }
        let start = memory.as_ptr().align_offset(LINE);
        f(&mut Scratch(&mut memory[start..start + len]));
    });
}
