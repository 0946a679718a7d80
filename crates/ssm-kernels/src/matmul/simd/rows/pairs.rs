//! Products with operands rounded to bf16, on AVX512-BF16: of x once, of the weight as its rows are taken, where it is not
//! stored so. One instruction multiplies sixteen pairs and adds both to sixteen sums.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::transmute;
use std::ops::Range;

use half::bf16;

use super::{DEPTH, Dots, GROUP, Output, Shape, all_rows, columns_of, depths, for_each_task};
use crate::runtime::DisjointSlice;
use crate::simd::{Avx512, Lanes};
use crate::{Cpu, WeightSlice};

thread_local! {
    static ROUNDED: Cell<Vec<u16>> = const { Cell::new(Vec::new()) };
}

/// y `[m, n]` (+)= alpha · x `[m, k]` · w `[n, k]`ᵀ + bias, for k above 0 and a weight of at most 32 bits.
///
/// # Safety
/// The processor has AVX-512 with BF16.
pub(in super::super) unsafe fn some_rows_bf16(
    cpu: &Cpu,
    y: &mut [f32],
    x: &[f32],
    w: WeightSlice,
    bias: Option<&[f32]>,
    shape: Shape,
) {
    let y = DisjointSlice::new(y);
    let output = Output { y: &y, bias, shape };
    super::super::with_scratch(&ROUNDED, x.len(), |rounded| {
        // SAFETY: the caller vouches for the instructions, here and below.
        unsafe { round(rounded, x) };
        let x = &*rounded;
        // SAFETY: as above.
        for_each_task(cpu, shape.n, |columns| unsafe { dots(&output, x, w, columns) });
    });
}

/// # Safety
/// The instructions are enabled; the columns belong to this task alone.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn dots(output: &Output<'_, '_>, x: &[u16], w: WeightSlice<'_>, columns: Range<usize>) {
    let Shape { m, k, .. } = output.shape;
    assert!(x.len() >= m * k && w.len() >= columns.end * k);
    if let WeightSlice::Bf16(w) = w {
        // SAFETY: x and the columns' rows of the weight hold k elements each, as asserted; a brain float is its bits.
        return unsafe { columns_of::<Pairs>(output, x.as_ptr(), w.as_ptr().cast(), columns) };
    }
    let mut block = [[0u16; DEPTH + 32]; GROUP];
    for inner in depths(k) {
        for column in columns.clone().step_by(GROUP) {
            let count = GROUP.min(columns.end - column);
            for (c, row) in block.iter_mut().enumerate().take(count) {
                let at = (column + c) * k + inner.start;
                let row = &mut row[..inner.len()];
                match w {
                    // SAFETY: this function's contract.
                    WeightSlice::F32(w) => unsafe { round(row, &w[at..at + row.len()]) },
                    w => row.iter_mut().enumerate().for_each(|(i, to)| *to = bf16::from_f32(w.get(at + i)).to_bits()),
                }
            }
            let rows: [*const u16; GROUP] = std::array::from_fn(|c| block[c.min(count - 1)].as_ptr());
            let x = x.as_ptr().wrapping_add(inner.start);
            // SAFETY: the block holds the inner size's part of every row; there is nothing to ask for ahead.
            unsafe { all_rows::<Pairs>(output, x, rows, 0, column..column + count, &inner) };
        }
    }
}

/// x to bf16.
///
/// # Safety
/// The instructions are enabled.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
unsafe fn round(to: &mut [u16], x: &[f32]) {
    assert!(to.len() >= x.len());
    let whole = x.len() - x.len() % 32;
    for i in (0..whole).step_by(32) {
        // SAFETY: 32 elements from i on are inside both.
        unsafe {
            let p = x.as_ptr().add(i);
            let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(p.add(16)), _mm512_loadu_ps(p));
            _mm512_storeu_si512(to.as_mut_ptr().add(i).cast(), transmute::<__m512bh, __m512i>(pairs));
        }
    }
    for i in whole..x.len() {
        to[i] = bf16::from_f32(x[i]).to_bits();
    }
}

/// Pairs of brain floats, as their bits.
#[derive(Clone, Copy)]
struct Pairs;

// SAFETY: AVX-512 with BF16 only.
unsafe impl Dots for Pairs {
    type X = u16;
    type W = u16;
    type Left = __m512bh;
    type Right = __m512bh;
    type Sum = __m512;
    const STEP: usize = 32;
    const ROWS: usize = 6;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: this trait's contract, here and below.
        unsafe { Avx512::splat(0.0) }
    }
    #[inline(always)]
    unsafe fn left(p: *const u16) -> __m512bh {
        // SAFETY: as above; both types are 64 bytes of plain numbers.
        unsafe { transmute::<__m512i, __m512bh>(p.cast::<__m512i>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn right(p: *const u16) -> __m512bh {
        // SAFETY: as above.
        unsafe { Self::left(p) }
    }
    #[inline(always)]
    unsafe fn first_of_left(p: *const u16, len: usize) -> __m512bh {
        let mut block = [0u16; 32];
        // SAFETY: `len` elements, fewer than 32, exist.
        unsafe {
            block.as_mut_ptr().copy_from_nonoverlapping(p, len);
            Self::left(block.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn first_of_right(p: *const u16, len: usize) -> __m512bh {
        // SAFETY: as above.
        unsafe { Self::first_of_left(p, len) }
    }
    #[inline(always)]
    unsafe fn fma(left: __m512bh, right: __m512bh, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_dpbf16_ps(sum, left, right) }
    }
    #[inline(always)]
    unsafe fn totals(sums: [__m512; GROUP]) -> [f32; GROUP] {
        // SAFETY: as above.
        unsafe { Avx512::sums(sums) }
    }
}
