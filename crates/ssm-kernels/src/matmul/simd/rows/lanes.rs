//! Products in single precision: the weight is widened as it is loaded.

use std::marker::PhantomData;

use half::{bf16, f16};

use super::{Dots, GROUP};
use crate::simd::Lanes;

/// A weight of elements W, on the lanes L.
#[derive(Clone, Copy)]
pub(super) struct Widened<L, W>(PhantomData<(L, W)>);

/// An element of a weight.
///
/// # Safety
/// [`Lanes`]' contract holds for its function.
pub(super) unsafe trait Element: Copy {
    /// Loads a vector.
    ///
    /// # Safety
    /// As [`Lanes::load`].
    unsafe fn load<L: Lanes>(p: *const Self) -> L::V;
    fn widen(self) -> f32;
}

// SAFETY: the lanes' own loads.
unsafe impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const f32) -> L::V {
        // SAFETY: the same contract.
        unsafe { L::load(p) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

// SAFETY: as above.
unsafe impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const bf16) -> L::V {
        // SAFETY: the same contract; a brain float is its bits.
        unsafe { L::load_bf16(p.cast()) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

// SAFETY: as above.
unsafe impl Element for f16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const f16) -> L::V {
        // SAFETY: the same contract; a half float is its bits.
        unsafe { L::load_f16(p.cast()) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

// SAFETY: the lanes' instructions only.
unsafe impl<L: Lanes, W: Element> Dots for Widened<L, W> {
    type X = f32;
    type W = W;
    type Left = L::V;
    type Right = L::V;
    type Sum = L::V;
    const STEP: usize = L::N;
    // Of 32 registers 24 hold sums, of 16 eight.
    const ROWS: usize = if L::N == 16 { 6 } else { 2 };

    #[inline(always)]
    unsafe fn zero() -> L::V {
        // SAFETY: this trait's contract, here and below.
        unsafe { L::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn left(p: *const f32) -> L::V {
        // SAFETY: as above.
        unsafe { L::load(p) }
    }
    #[inline(always)]
    unsafe fn right(p: *const W) -> L::V {
        // SAFETY: as above.
        unsafe { W::load::<L>(p) }
    }
    #[inline(always)]
    unsafe fn first_of_left(p: *const f32, len: usize) -> L::V {
        // SAFETY: as above.
        unsafe { L::load_first(p, len) }
    }
    #[inline(always)]
    unsafe fn first_of_right(p: *const W, len: usize) -> L::V {
        let mut block = [0f32; 16];
        for (i, to) in block.iter_mut().enumerate().take(len) {
            // SAFETY: `len` elements exist.
            *to = unsafe { *p.add(i) }.widen();
        }
        // SAFETY: as above; a vector has at most sixteen lanes.
        unsafe { L::load(block.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn fma(left: L::V, right: L::V, sum: L::V) -> L::V {
        // SAFETY: as above.
        unsafe { L::fma(left, right, sum) }
    }
    #[inline(always)]
    unsafe fn totals(sums: [L::V; GROUP]) -> [f32; GROUP] {
        // SAFETY: as above.
        unsafe { L::sums(sums) }
    }
}
