//! Some rows times a weight, as in decoding: the weight is streamed once as it is stored, and a few of its rows are held
//! against all rows of x while they are in the first cache. Nothing is packed.
//!
//! An element's sum is cut into vector lanes and blocks of the inner size, and does not depend on the rows around it: a
//! sequence decodes to the same bits alone and among others.
//!
//! Bound: the weight's bytes over the memory's bandwidth, or 2·m·n·k operations.

mod lanes;
#[cfg(target_arch = "x86_64")]
mod pairs;

use std::ops::Range;

use super::Shape;
use crate::runtime::{DisjointSlice, Level};
use crate::simd::{Lanes, prefetch_near};
use crate::{Cpu, WeightSlice, dispatch_level};

use lanes::Widened;
#[cfg(target_arch = "x86_64")]
pub(super) use pairs::some_rows_bf16;

/// Columns of y per task: a multiple of [`GROUP`].
const TASK: usize = 32;
/// Rows of the weight that are taken together.
const GROUP: usize = 4;
/// The most of the inner size at once: that much of [`GROUP`] rows stays in the first cache.
const DEPTH: usize = 1024;

/// y `[m, n]` (+)= alpha · x `[m, k]` · w `[n, k]`ᵀ + bias, for k above 0 and a weight of at most 32 bits.
pub(super) fn some_rows(cpu: &Cpu, y: &mut [f32], x: &[f32], w: WeightSlice, bias: Option<&[f32]>, shape: Shape) {
    let y = DisjointSlice::new(y);
    let output = Output { y: &y, bias, shape };
    for_each_task(cpu, shape.n, |columns| dots(cpu.level(), &output, x, w, columns));
}

fn for_each_task(cpu: &Cpu, n: usize, task: impl Fn(Range<usize>) + Sync) {
    cpu.for_each(n.div_ceil(TASK), |i| task(i * TASK..n.min((i + 1) * TASK)));
}

fn dots(level: Level, output: &Output<'_, '_>, x: &[f32], w: WeightSlice, columns: Range<usize>) {
    dispatch_level!(level, dots_as(output: &Output<'_, '_>, x: &[f32], w: WeightSlice<'_>, columns: Range<usize>));
}

/// # Safety
/// Runs where the lanes' instructions are enabled; the columns belong to this task alone.
#[inline(always)]
unsafe fn dots_as<L: Lanes>(output: &Output<'_, '_>, x: &[f32], w: WeightSlice<'_>, columns: Range<usize>) {
    let Shape { m, k, .. } = output.shape;
    assert!(x.len() >= m * k && w.len() >= columns.end * k);
    let x = x.as_ptr();
    // SAFETY: x and the columns' rows of the weight hold k elements each, as asserted.
    unsafe {
        match w {
            WeightSlice::F32(w) => columns_of::<Widened<L, f32>>(output, x, w.as_ptr(), columns),
            WeightSlice::Bf16(w) => columns_of::<Widened<L, half::bf16>>(output, x, w.as_ptr(), columns),
            WeightSlice::F16(w) => columns_of::<Widened<L, half::f16>>(output, x, w.as_ptr(), columns),
            WeightSlice::F64(_) => unreachable!("a weight in double precision is packed"),
        }
    }
}

/// How products are formed and summed. The functions are to be called where the instructions are enabled, with pointers to as
/// many elements as they read.
///
/// # Safety
/// As for [`Lanes`].
#[allow(clippy::missing_safety_doc)] // what is said above holds for every function
unsafe trait Dots: Copy {
    /// An element of x.
    type X: Copy;
    /// An element of the weight.
    type W: Copy;
    /// Vectors of x, of the weight, and of sums.
    type Left: Copy;
    type Right: Copy;
    type Sum: Copy;
    /// Elements in a vector.
    const STEP: usize;
    /// Rows of x in a tile: its sums and one vector of every row of the weight stay in registers.
    const ROWS: usize;

    unsafe fn zero() -> Self::Sum;
    unsafe fn left(p: *const Self::X) -> Self::Left;
    unsafe fn right(p: *const Self::W) -> Self::Right;
    /// The first `len` elements, zeros beyond.
    unsafe fn first_of_left(p: *const Self::X, len: usize) -> Self::Left;
    unsafe fn first_of_right(p: *const Self::W, len: usize) -> Self::Right;
    unsafe fn fma(left: Self::Left, right: Self::Right, sum: Self::Sum) -> Self::Sum;
    /// The sums of the lanes.
    unsafe fn totals(sums: [Self::Sum; GROUP]) -> [f32; GROUP];
}

/// Where results go.
struct Output<'a, 'y> {
    y: &'a DisjointSlice<'y, f32>,
    bias: Option<&'a [f32]>,
    shape: Shape,
}

/// The blocks of the inner size, of equal lengths but for the last.
fn depths(k: usize) -> impl Iterator<Item = Range<usize>> {
    let size = k.div_ceil(k.div_ceil(DEPTH)).next_multiple_of(32);
    (0..k).step_by(size).map(move |first| first..k.min(first + size))
}

/// # Safety
/// The instructions are enabled; x holds m rows of k elements, and the weight k for every column; the columns belong to this
/// task alone.
#[inline(always)]
unsafe fn columns_of<D: Dots>(output: &Output<'_, '_>, x: *const D::X, w: *const D::W, columns: Range<usize>) {
    let k = output.shape.k;
    // The block of x is in the second cache for all columns.
    for inner in depths(k) {
        for column in columns.clone().step_by(GROUP) {
            let count = GROUP.min(columns.end - column);
            // Of columns that are not there the last is taken once more.
            let rows = std::array::from_fn(|c| w.wrapping_add((column + c.min(count - 1)) * k + inner.start));
            // SAFETY: this function's contract.
            unsafe {
                all_rows::<D>(output, x.wrapping_add(inner.start), rows, GROUP * k, column..column + count, &inner)
            };
        }
    }
}

/// All rows of x with a block of some rows of the weight, which begin at `rows`; what is needed after them lies `next` elements
/// further on and is asked for along the way.
///
/// # Safety
/// As [`columns_of`]; x points at the block in its first row.
#[inline(always)]
unsafe fn all_rows<D: Dots>(
    output: &Output<'_, '_>,
    x: *const D::X,
    rows: [*const D::W; GROUP],
    next: usize,
    columns: Range<usize>,
    inner: &Range<usize>,
) {
    let (Shape { m, k, .. }, depth) = (output.shape, inner.len());
    let next = [0, 1, 2, 3].map(|c| rows[c].wrapping_add(next));
    // Tile by tile one row of what comes next, or at once if there are not so many tiles.
    let at_once = m <= (GROUP - 1) * D::ROWS;
    let (mut row, mut turn) = (0, 0);
    while row < m {
        let left = m - row;
        let x = x.wrapping_add(row * k);
        macro_rules! tile {
            ($rows:literal) => {{
                // SAFETY: so many rows are left.
                let sums = unsafe {
                    match at_once && turn == 0 {
                        true => tile::<D, $rows, GROUP>(x, k, rows, depth, next),
                        false => tile::<D, $rows, 1>(x, k, rows, depth, [next[turn % GROUP]]),
                    }
                };
                // SAFETY: the columns belong to this task alone.
                unsafe { write(output, &sums, row, &columns, inner.start == 0) };
                row += $rows;
            }};
        }
        match left.min(D::ROWS) {
            6.. => tile!(6),
            4 | 5 => tile!(4),
            2 | 3 => tile!(2),
            _ => tile!(1),
        }
        turn += 1;
    }
}

/// The sums over `depth` of R rows of x with some rows of the weight; meanwhile asks for what lies at `ahead`.
///
/// # Safety
/// The instructions are enabled; the rows hold `depth` elements.
#[inline(always)]
unsafe fn tile<D: Dots, const R: usize, const A: usize>(
    x: *const D::X,
    stride: usize,
    w: [*const D::W; GROUP],
    depth: usize,
    ahead: [*const D::W; A],
) -> [[f32; GROUP]; R] {
    // SAFETY: this function's contract.
    unsafe {
        let mut sums = [[D::zero(); GROUP]; R];
        let mut p = 0;
        while p + D::STEP <= depth {
            let right = [D::right(w[0].add(p)), D::right(w[1].add(p)), D::right(w[2].add(p)), D::right(w[3].add(p))];
            for ahead in ahead {
                prefetch_near(ahead.wrapping_add(p));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = D::left(x.add(r * stride + p));
                for (sum, &right) in sums.iter_mut().zip(&right) {
                    *sum = D::fma(left, right, *sum);
                }
            }
            p += D::STEP;
        }
        if p < depth {
            let len = depth - p;
            let first = [
                D::first_of_right(w[0].add(p), len),
                D::first_of_right(w[1].add(p), len),
                D::first_of_right(w[2].add(p), len),
                D::first_of_right(w[3].add(p), len),
            ];
            for (r, sums) in sums.iter_mut().enumerate() {
                let left = D::first_of_left(x.add(r * stride + p), len);
                for (sum, &right) in sums.iter_mut().zip(&first) {
                    *sum = D::fma(left, right, *sum);
                }
            }
        }
        // Loops, not closures: those would be compiled without the instructions.
        let mut totals = [[0f32; GROUP]; R];
        for (totals, &sums) in totals.iter_mut().zip(&sums) {
            *totals = D::totals(sums);
        }
        totals
    }
}

/// y = (y or 0) + alpha · sums + bias.
///
/// # Safety
/// The columns belong to this task alone.
#[inline(always)]
unsafe fn write<const R: usize>(
    output: &Output<'_, '_>,
    sums: &[[f32; GROUP]; R],
    row: usize,
    columns: &Range<usize>,
    first: bool,
) {
    let Shape { n, alpha, accumulate, .. } = output.shape;
    for (r, sums) in sums.iter().enumerate() {
        let at = (row + r) * n;
        // SAFETY: this function's contract.
        let y = unsafe { output.y.range_mut(at + columns.start..at + columns.end) };
        for (c, (y, sum)) in y.iter_mut().zip(sums).enumerate() {
            let mut start = if accumulate || !first { *y } else { 0.0 };
            if let Some(bias) = output.bias.filter(|_| first) {
                start += bias[columns.start + c];
            }
            *y = alpha.mul_add(*sum, start);
        }
    }
}
