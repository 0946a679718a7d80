//! The products with operands rounded to bf16 and sums in `f32`, on AVX512-BF16: one instruction multiplies sixteen pairs
//! and adds both to sixteen sums. The loop nest is that of the `f32` products; panels hold pairs of neighbours along the
//! inner size, two bf16 in a `u32`, and an odd inner size ends with a zero.
//!
//! Bound: 2·m·n·k operations at twice the rate of the `f32` products.

use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::transmute;
use std::ops::Range;

use super::tile::{Output, write};
use super::{MC, Right, Shape, for_each_depth, for_each_task, with_scratch};
use crate::runtime::DisjointSlice;
use crate::simd::{Avx512, prefetch};
use crate::{Cpu, WeightSlice};

/// Rows of the register tile.
const MR: usize = 12;
/// Its columns: two vectors.
const NR: usize = 32;
/// Pairs in a vector.
const PAIRS: usize = 16;

thread_local! {
    static LEFT: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// y `[m, n]` (+)= alpha · x `[m, k]` · right + bias.
///
/// # Safety
/// The processor has AVX-512 with BF16.
pub(super) unsafe fn product(cpu: &Cpu, y: &mut [f32], x: &[f32], right: Right, bias: Option<&[f32]>, shape: Shape) {
    let Shape { m, n, k, .. } = shape;
    let pairs = k.div_ceil(2);
    with_scratch(&LEFT, m.div_ceil(MR) * MR * pairs, |packed| {
        // SAFETY: the caller vouches for the instructions, here and below.
        cpu.for_each_chunk(packed, MR * pairs.max(1), |i, panel| unsafe { pack_left(panel, x, i * MR, m, k) });
        let packed = &*packed;
        let y = DisjointSlice::new(y);
        for_each_task(cpu, m, n, MR, |columns, rows| {
            let width = columns.len().next_multiple_of(NR);
            with_scratch(&RIGHT, (super::KC / 2).min(pairs.max(1)) * width, |packed_right| {
                for_each_depth(k, |first, depth| {
                    // SAFETY: as above.
                    unsafe { pack_right(packed_right, right, first..first + depth, columns.clone(), n, k) };
                    let output = Output {
                        y: &y,
                        n,
                        columns: columns.clone(),
                        bias: bias.filter(|_| first == 0),
                        alpha: shape.alpha,
                        add: shape.accumulate || first > 0,
                    };
                    for row in rows.clone().step_by(MC) {
                        let rows = row..rows.end.min(row + MC);
                        // SAFETY: as above; these rows and columns belong to this task alone.
                        unsafe { sweep(&output, packed, packed_right, rows, first / 2, depth.div_ceil(2), pairs) };
                    }
                });
            });
        });
    });
}

/// Up to 32 numbers from `p` on as 16 pairs, zeros beyond.
///
/// # Safety
/// `len` numbers can be read; the instructions are enabled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pairs_f32(p: *const f32, len: usize) -> [u32; PAIRS] {
    // SAFETY: masked loads read `len` numbers; both types are 64 bytes of plain numbers.
    unsafe {
        if len >= 32 {
            return transmute::<__m512bh, [u32; PAIRS]>(_mm512_cvtne2ps_pbh(
                _mm512_loadu_ps(p.add(16)),
                _mm512_loadu_ps(p),
            ));
        }
        let mask = (1u32 << len) - 1;
        let low = _mm512_maskz_loadu_ps(mask as __mmask16, p);
        let high = _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, p.wrapping_add(16));
        transmute::<__m512bh, [u32; PAIRS]>(_mm512_cvtne2ps_pbh(high, low))
    }
}

/// The same of a weight's elements from `at` on.
///
/// # Safety
/// `len` elements are inside the weight; the instructions are enabled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pairs_of(weight: WeightSlice<'_>, at: usize, len: usize) -> [u32; PAIRS] {
    // SAFETY: the caller vouches for the elements; a masked load reads no others.
    unsafe {
        match weight {
            WeightSlice::F32(w) => pairs_f32(w.as_ptr().add(at), len),
            WeightSlice::Bf16(w) => {
                let mask = if len >= 32 { u32::MAX } else { (1u32 << len) - 1 };
                transmute::<__m512i, [u32; PAIRS]>(_mm512_maskz_loadu_epi16(mask, w.as_ptr().add(at).cast()))
            }
            WeightSlice::F16(_) | WeightSlice::F64(_) => {
                let mut numbers = [0f32; 2 * PAIRS];
                for (i, number) in numbers.iter_mut().enumerate().take(len) {
                    *number = weight.get(at + i);
                }
                pairs_f32(numbers.as_ptr(), 2 * PAIRS)
            }
        }
    }
}

/// Fills one panel of the left operand, `[pairs, MR]`, from `row` on.
///
/// # Safety
/// The instructions are enabled.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_left(panel: &mut [u32], x: &[f32], row: usize, m: usize, k: usize) {
    for r in 0..MR {
        if row + r >= m {
            panel[r..].iter_mut().step_by(MR).for_each(|to| *to = 0);
            continue;
        }
        let source = &x[(row + r) * k..][..k];
        for (i, part) in source.chunks(2 * PAIRS).enumerate() {
            // SAFETY: the part has its length.
            let pairs = unsafe { pairs_f32(part.as_ptr(), part.len()) };
            let to = panel[i * PAIRS * MR + r..].iter_mut().step_by(MR);
            to.zip(pairs).take(part.len().div_ceil(2)).for_each(|(to, pair)| *to = pair);
        }
    }
}

/// Fills panels of the right operand, each `[pairs of depth, NR]`, for some columns and a part of the inner size that
/// begins at an even place.
///
/// # Safety
/// The ranges are inside the operand; the instructions are enabled.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_right(packed: &mut [u32], right: Right, inner: Range<usize>, columns: Range<usize>, n: usize, k: usize) {
    let pairs = inner.len().div_ceil(2);
    for (i, panel) in packed.chunks_mut((pairs * NR).max(1)).enumerate() {
        let column = columns.start + i * NR;
        if column >= columns.end || pairs == 0 {
            break;
        }
        let width = NR.min(columns.end - column);
        // SAFETY: rows and columns of the ranges are inside the operand.
        unsafe {
            match right {
                Right::Transposed(w) => pack_rows(panel, w, column * k + inner.start, inner.len(), k, width),
                Right::Plain(w) => pack_columns(panel, w, inner.clone(), column, n, width),
            }
        }
    }
}

/// Rows of the weight become columns of the panel: sixteen pairs of every row, then the block is turned.
///
/// # Safety
/// `width` rows of `depth` elements, `stride` apart, are inside the weight; the instructions are enabled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_rows(panel: &mut [u32], w: WeightSlice<'_>, at: usize, depth: usize, stride: usize, width: usize) {
    let mut block = [[0u32; PAIRS]; NR];
    for start in (0..depth).step_by(2 * PAIRS) {
        let len = (depth - start).min(2 * PAIRS);
        for (j, row) in block.iter_mut().enumerate().take(width) {
            let from = at + j * stride + start;
            prefetch(w.address(from + 3 * 2 * PAIRS));
            // SAFETY: `len` elements of row j are inside the weight.
            *row = unsafe { pairs_of(w, from, len) };
        }
        for i in 0..len.div_ceil(2) {
            let to = &mut panel[(start / 2 + i) * NR..][..NR];
            to.iter_mut().zip(&block).for_each(|(to, row)| *to = row[i]);
        }
    }
}

/// Two rows of the weight become one row of the panel.
///
/// # Safety
/// The rows `inner` hold `width` elements from `column` on; the instructions are enabled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack_columns(
    panel: &mut [u32],
    w: WeightSlice<'_>,
    inner: Range<usize>,
    column: usize,
    n: usize,
    width: usize,
) {
    const ROWS_AHEAD: usize = 24;
    for (p, to) in panel.chunks_exact_mut(NR).enumerate().take(inner.len().div_ceil(2)) {
        let row = inner.start + 2 * p;
        prefetch(w.address((row + ROWS_AHEAD) * n + column));
        prefetch(w.address((row + ROWS_AHEAD + 1) * n + column));
        for (half, to) in to.chunks_exact_mut(PAIRS).enumerate() {
            let at = row * n + column + half * PAIRS;
            let len = width.saturating_sub(half * PAIRS).min(PAIRS);
            // SAFETY: `len` elements of both rows are inside the weight; the second row exists where it is read.
            unsafe {
                let low = bits(w, at, len);
                let high = if row + 1 < inner.end { bits(w, at + n, len) } else { _mm512_setzero_si512() };
                _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_or_si512(low, _mm512_slli_epi32::<16>(high)));
            }
        }
    }
}

/// Up to sixteen elements as bf16, each in the lower half of a lane, zeros beyond.
///
/// # Safety
/// `len` elements are inside the weight; the instructions are enabled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn bits(weight: WeightSlice<'_>, at: usize, len: usize) -> __m512i {
    let mask = ((1u32 << len) - 1) as __mmask16;
    // SAFETY: the caller vouches for the elements; a masked load reads no others. Both types are 32 bytes of numbers.
    unsafe {
        let narrow: __m256i = match weight {
            WeightSlice::Bf16(w) => _mm256_maskz_loadu_epi16(mask, w.as_ptr().wrapping_add(at).cast()),
            WeightSlice::F32(w) => transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(
                mask,
                w.as_ptr().wrapping_add(at),
            ))),
            WeightSlice::F16(_) | WeightSlice::F64(_) => {
                let mut numbers = [0f32; PAIRS];
                for (i, number) in numbers.iter_mut().enumerate().take(len) {
                    *number = weight.get(at + i);
                }
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(numbers.as_ptr())))
            }
        };
        _mm512_cvtepu16_epi32(narrow)
    }
}

/// Multiplies the left panels of `rows` with all right panels of the task.
///
/// # Safety
/// The instructions are enabled; `rows` and the task's columns belong to this task alone.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn sweep(
    output: &Output<'_, '_>,
    left: &[u32],
    right: &[u32],
    rows: Range<usize>,
    first: usize,
    depth: usize,
    pairs: usize,
) {
    let columns = output.columns.clone().step_by(NR);
    for (column, right) in columns.zip(right.chunks((depth * NR).max(1))) {
        let width = NR.min(output.columns.end - column);
        for row in rows.clone().step_by(MR) {
            let height = MR.min(rows.end - row);
            // Panel row / MR starts at row · pairs; its part for this depth at first · MR.
            let left = &left[row * pairs + first * MR..][..depth * MR];
            debug_assert!(right.len() >= depth * NR);
            // SAFETY: both panels hold `depth` pairs; the tile's elements of y belong to this task.
            unsafe {
                let sums = multiply(left.as_ptr(), right.as_ptr(), depth);
                write::<Avx512, MR>(output, sums, row, column, height, width);
            }
        }
    }
}

/// The sums over `depth` pairs of left column times right row.
///
/// # Safety
/// `left` holds depth · MR pairs, `right` depth · NR; the instructions are enabled.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn multiply(left: *const u32, right: *const u32, depth: usize) -> [[__m512; 2]; MR] {
    let mut sums = [[_mm512_setzero_ps(); 2]; MR];
    let (mut a, mut b) = (left, right);
    for _ in 0..depth {
        // SAFETY: the caller vouches for the panels; vectors of pairs are 64 bytes under either name.
        unsafe {
            let b0 = transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.cast()));
            let b1 = transmute::<__m512i, __m512bh>(_mm512_loadu_si512(b.add(PAIRS).cast()));
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(*a.add(i) as i32));
                sum[0] = _mm512_dpbf16_ps(sum[0], x, b0);
                sum[1] = _mm512_dpbf16_ps(sum[1], x, b1);
            }
            a = a.add(MR);
            b = b.add(NR);
        }
    }
    sums
}
