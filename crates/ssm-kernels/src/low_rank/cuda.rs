//! Launches of `low_rank.cu`.

use crate::args;
use crate::reduce::cuda::add_chunks;
use crate::runtime::cuda::{Arg, Array, Cuda, CudaError, Define, ElementType, Source, View};
use crate::scan::cuda::Strided;

pub(crate) static SOURCE: Source =
    Source::new("low_rank", concat!(include_str!("../mma.cuh"), include_str!("low_rank.cu")));

/// Threads of a block that has a multiprocessor for itself.
const THREADS: u32 = 512;
const ROWS: usize = 16;
const COLUMNS: usize = 32;

/// The largest rank that the kernels are written for.
pub const MOST_RANK: usize = 32;

/// Rows of a block of gradients while blocks are few: below, another launch for their sums costs more than it saves.
const ROWS_EACH: usize = 4096;

/// Some columns of rows that lie apart: bf16.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    /// Where.
    pub at: Strided<'a>,
    /// How many.
    pub count: usize,
}

impl Columns<'_> {
    /// Whether the kernels can read them, or write there: bf16 in whole groups of eight.
    pub fn fit(&self) -> bool {
        let view = &self.at.view;
        let whole = self.count.is_multiple_of(8) && self.at.stride.is_multiple_of(8);
        view.element() == ElementType::Bf16 && whole && view.pointer().is_multiple_of(16)
    }

    #[track_caller]
    fn check(&self, what: &str, rows: usize) {
        self.at.check(what, ElementType::Bf16, rows, self.count);
        assert!(self.fit(), "{what}: columns, stride and start are not multiples of eight elements");
    }
}

/// One or two matrices side by side.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// The first columns.
    pub first: Columns<'a>,
    /// What follows them.
    pub second: Option<Columns<'a>>,
}

impl Sides<'_> {
    /// The columns of both.
    pub fn count(&self) -> usize {
        self.first.count + self.second.map_or(0, |second| second.count)
    }

    #[track_caller]
    fn check(&self, what: &str, rows: usize) {
        self.first.check(what, rows);
        if let Some(second) = &self.second {
            second.check(what, rows);
        }
    }

    /// The launch's arguments: array, stride, columns of each.
    fn args(&self) -> [Arg<'_>; 6] {
        let [a, b, c] = args![self.first.at.view, self.first.at.stride as i64, self.first.count as i32];
        let [d, e, f] = match &self.second {
            Some(second) => args![second.at.view, second.at.stride as i64, second.count as i32],
            None => [Arg::Absent, Arg::I64(0), Arg::I32(0)],
        };
        [a, b, c, d, e, f]
    }
}

/// Which way activations go through the factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// x Aᵀ, times Bᵀ.
    Forward,
    /// dy B, times A.
    Backward,
}

fn defines(rank: usize, backward: bool, threads: u32) -> [Define; 4] {
    assert!((1..=MOST_RANK).contains(&rank), "ranks are 1 to {MOST_RANK}, not {rank}");
    let tiles = rank.div_ceil(8) as i64;
    [("ACT_BF16", 1), ("TILES", tiles), ("BACKWARD", i64::from(backward)), ("THREADS", i64::from(threads))]
}

/// With A `[rank, I]` and B `[O, rank]`, f32: projected `[rows, rank]` = `inner` · x · Aᵀ, rounded to bf16, and where there is a y,
/// y (+)= `outer` · projected · Bᵀ; or backward, B for Aᵀ and A for Bᵀ. `adds`: to what y holds.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn rows(
    cuda: &Cuda,
    y: Option<Columns>,
    adds: bool,
    projected: View,
    x: &Sides,
    way: Way,
    [a, b]: [View; 2],
    [inner, outer]: [f64; 2],
    rank: usize,
    rows: usize,
) -> Result<(), CudaError> {
    x.check("x", rows);
    let (inputs, outputs) = (x.count(), y.map_or(0, |y| y.count));
    let (down, up) = if way == Way::Forward { (a, b) } else { (b, a) };
    if let Some(y) = &y {
        y.check("y", rows);
        up.check("what y gets", ElementType::F32, rank * outputs);
        assert!(up.pointer().is_multiple_of(16), "the factors begin at multiples of 16 bytes");
    }
    down.check("what x is multiplied by", ElementType::F32, rank * inputs);
    assert!(down.pointer().is_multiple_of(16), "the factors begin at multiples of 16 bytes");
    projected.check("projected [rows, rank]", ElementType::Bf16, rows * rank);
    if rows == 0 {
        return Ok(());
    }
    let [x0, stride0, columns0, x1, stride1, columns1] = x.args();
    let args = [
        Arg::from(y.map(|y| y.at.view)),
        Arg::I64(y.map_or(0, |y| y.at.stride) as i64),
        Arg::I32(outputs as i32),
        Arg::I32(i32::from(adds)),
        Arg::from(projected),
        x0,
        stride0,
        columns0,
        x1,
        stride1,
        columns1,
        Arg::from(down),
        Arg::from(up),
        Arg::F32(inner as f32),
        Arg::F32(outer as f32),
        Arg::I32(rank as i32),
        Arg::I32(rows as i32),
    ];
    // Another block makes the projection again: little where x is narrow.
    let shares = if outputs >= 2 * inputs { 2 } else { 1 };
    let grid = [rows.div_ceil(ROWS) as u32, shares, 1];
    let threads = if grid[0] * grid[1] > cuda.multiprocessors() { THREADS / 2 } else { THREADS };
    cuda.launch(&SOURCE, &defines(rank, way == Way::Backward, threads), "low_rank_rows", grid, threads, 0, &args)
}

/// What the gradient of a factor is made of.
#[derive(Debug, Clone, Copy)]
pub struct Outer<'a> {
    /// Where it goes: of B `[columns, rank]`, of A `[rank, columns]`, f32.
    pub gradient: View<'a>,
    /// The activations `[rows, columns]`.
    pub x: Sides<'a>,
    /// What they are multiplied with, `[rows, rank]`, bf16.
    pub projected: View<'a>,
}

/// d_up `[columns, rank]` = `scale` · dyᵀ · projected and d_down `[rank, columns]` = projectedᵀ · x, each where asked for; the x of
/// d_down is one matrix. Sums are in an order that the sizes alone decide.
///
/// # Errors
/// When the device refuses a launch, or its memory does not suffice.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn gradients(
    cuda: &Cuda,
    d_up: Option<&Outer>,
    d_down: Option<&Outer>,
    scale: f64,
    rank: usize,
    rows: usize,
) -> Result<(), CudaError> {
    for (what, outer) in [("d_up", d_up), ("d_down", d_down)] {
        let Some(outer) = outer else { continue };
        outer.x.check(what, rows);
        outer.gradient.check(what, ElementType::F32, outer.x.count() * rank);
        outer.projected.check("projected [rows, rank]", ElementType::Bf16, rows * rank);
    }
    assert!(d_down.is_none_or(|outer| outer.x.second.is_none()), "the gradient of A is of one matrix");
    let wanted = || [d_up, d_down].into_iter().flatten();
    if rows == 0 {
        return wanted().try_for_each(|outer| cuda.clear(outer.gradient));
    }
    let blocks_of = |sides: &Sides| {
        sides.first.count.div_ceil(COLUMNS) + sides.second.map_or(0, |second| second.count.div_ceil(COLUMNS))
    };
    let blocks: usize = wanted().map(|outer| blocks_of(&outer.x)).sum();
    if blocks == 0 {
        return Ok(());
    }
    let parts = rows.div_ceil(ROWS_EACH).min((2 * cuda.multiprocessors() as usize).div_ceil(blocks));
    let rows_each = rows.div_ceil(parts).next_multiple_of(16);
    let parts = rows.div_ceil(rows_each);
    let partial = |outer: Option<&Outer>| -> Result<Option<Array>, CudaError> {
        let Some(outer) = outer.filter(|_| parts > 1) else { return Ok(None) };
        cuda.array(ElementType::F32, parts * outer.gradient.len()).map(Some)
    };
    let (partial_up, partial_down) = (partial(d_up)?, partial(d_down)?);
    fn target<'a>(outer: Option<&Outer<'a>>, partial: &'a Option<Array>) -> Option<View<'a>> {
        partial.as_ref().map_or(outer.map(|outer| outer.gradient), |partial| Some(partial.view()))
    }
    let none = [Arg::Absent, Arg::I64(0), Arg::I32(0), Arg::Absent, Arg::I64(0), Arg::I32(0)];
    let [dy0, stride0, columns0, dy1, stride1, columns1] = d_up.map_or(none, |outer| outer.x.args());
    let [x, x_stride, x_columns, ..] = d_down.map_or(none, |outer| outer.x.args());
    let args = [
        Arg::from(target(d_up, &partial_up)),
        Arg::from(target(d_down, &partial_down)),
        dy0,
        stride0,
        columns0,
        dy1,
        stride1,
        columns1,
        Arg::from(d_up.map(|outer| outer.projected)),
        x,
        x_stride,
        x_columns,
        Arg::from(d_down.map(|outer| outer.projected)),
        Arg::F32(scale as f32),
        Arg::I32(rank as i32),
        Arg::I32(rows as i32),
        Arg::I32(rows_each as i32),
    ];
    // Where blocks are more than multiprocessors, two share one: none waits for a second turn.
    let threads = if blocks * parts > cuda.multiprocessors() as usize { THREADS / 2 } else { THREADS };
    let defines = defines(rank, true, threads);
    cuda.launch(&SOURCE, &defines, "low_rank_gradients", [blocks as u32, parts as u32, 1], threads, 0, &args)?;
    for (outer, partial) in [(d_up, partial_up), (d_down, partial_down)] {
        if let (Some(outer), Some(partial)) = (outer, partial) {
            add_chunks(cuda, outer.gradient, partial.view(), parts, outer.gradient.len())?;
        }
    }
    Ok(())
}
