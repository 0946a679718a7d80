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

/// Where x Aᵀ comes from.
#[derive(Debug, Clone, Copy)]
pub enum Projection<'a> {
    /// It is `inner` · x · Aᵀ.
    Of(Sides<'a>),
    /// It is there already, `[rows, rank]`.
    Given(Columns<'a>),
}

/// Another place for x Aᵀ: columns of a wider matrix.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    /// The columns, `[rows, rank]`.
    pub at: Columns<'a>,
    /// Whether x, which has one side then, is copied to the columns in front of them.
    pub copies: bool,
}

/// Activations on their way through the factors A `[rank, I]` and B `[O, rank]`, f32.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// x Aᵀ; backward, dy B.
    pub from: Projection<'a>,
    /// Where it is written, `[rows, rank]`, rounded to bf16.
    pub projected: View<'a>,
    /// Where it is written too.
    pub beside: Option<Beside<'a>>,
    /// y, which gets `outer` · projected · Bᵀ (backward, A for Bᵀ), and whether that is added to what it holds.
    pub into: Option<(Columns<'a>, bool)>,
    /// Forward or backward.
    pub way: Way,
    /// A and B.
    pub factors: [View<'a>; 2],
    /// `inner` and `outer`.
    pub scales: [f64; 2],
    /// Rank of the factors.
    pub rank: usize,
    /// Rows of the activations.
    pub rows: usize,
}

impl Rows<'_> {
    #[track_caller]
    fn check(&self) {
        let (rank, rows, y) = (self.rank, self.rows, self.into.map(|(y, _)| y));
        let (down, up) = self.down_and_up();
        match &self.from {
            Projection::Of(x) => {
                x.check("x", rows);
                down.check("what x is multiplied by", ElementType::F32, rank * x.count());
                assert!(down.pointer().is_multiple_of(16), "the factors begin at multiples of 16 bytes");
            }
            Projection::Given(given) => given.at.check("given [rows, rank]", ElementType::Bf16, rows, rank),
        }
        if let Some(y) = &y {
            y.check("y", rows);
            up.check("what y gets", ElementType::F32, rank * y.count);
            assert!(up.pointer().is_multiple_of(16), "the factors begin at multiples of 16 bytes");
        }
        if let Some(beside) = &self.beside {
            beside.at.at.check("beside [rows, rank]", ElementType::Bf16, rows, rank);
            let whole = matches!(&self.from, Projection::Of(Sides { second: None, .. })) && beside.at.fit();
            assert!(!beside.copies || whole, "only one matrix is copied, to groups of eight");
        }
        self.projected.check("projected [rows, rank]", ElementType::Bf16, rows * rank);
    }

    fn down_and_up(&self) -> (View<'_>, View<'_>) {
        let [a, b] = self.factors;
        if self.way == Way::Forward { (a, b) } else { (b, a) }
    }

    /// Does it.
    ///
    /// # Errors
    /// When the device refuses the launch.
    ///
    /// # Panics
    /// When a view does not have its shape.
    #[track_caller]
    pub fn run(&self, cuda: &Cuda) -> Result<(), CudaError> {
        self.check();
        if self.rows == 0 {
            return Ok(());
        }
        let nothing = [Arg::Absent, Arg::I64(0), Arg::I32(0), Arg::Absent, Arg::I64(0), Arg::I32(0)];
        let (x, inputs, given) = match &self.from {
            Projection::Of(x) => (x.args(), x.count(), args![None::<View>, 0i64]),
            Projection::Given(given) => (nothing, 0, args![given.at.view, given.at.stride as i64]),
        };
        let (y, outputs) = (self.into.map(|(y, _)| y.at), self.into.map_or(0, |(y, _)| y.count));
        let adds = self.into.is_some_and(|(_, adds)| adds);
        let beside = self.beside.map(|beside| beside.at.at);
        let copies = self.beside.is_some_and(|beside| beside.copies);
        let (down, up) = self.down_and_up();
        let [inner, outer] = self.scales.map(|scale| scale as f32);
        let mut args = Vec::from(args![
            y.map(|y| y.view),
            y.map_or(0, |y| y.stride) as i64,
            outputs as i32,
            i32::from(adds),
            self.projected
        ]);
        args.extend(x);
        args.extend(given);
        args.extend(args![beside.map(|at| at.view), beside.map_or(0, |at| at.stride) as i64, i32::from(copies)]);
        args.extend(args![down, up, inner, outer, self.rank as i32, self.rows as i32]);
        let blocks = self.rows.div_ceil(ROWS) as u32;
        // Another block makes the projection again: little where x is narrow, as long as blocks are few.
        let shares = if outputs >= 2 * inputs && blocks <= 2 * cuda.multiprocessors() { 2 } else { 1 };
        let threads = if blocks * shares > cuda.multiprocessors() { THREADS / 2 } else { THREADS };
        let defines = defines(self.rank, self.way == Way::Backward, threads);
        cuda.launch(&SOURCE, &defines, "low_rank_rows", [blocks, shares, 1], threads, 0, &args)
    }
}

/// Which side of a matrix its factor is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// `[W | scale · B]`: with B `[O, rank]`, `[O, I + rank]`.
    Beside,
    /// `[W; scale · A]`: with A `[rank, I]`, `[O + rank, I]`.
    Below,
}

/// out = W `[O, I]` (bf16) and the factor (f32, rounded to bf16) at its side.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape, or sizes are not multiples of eight.
#[track_caller]
pub fn extended(
    cuda: &Cuda,
    out: View,
    w: View,
    [outputs, inputs]: [usize; 2],
    (factor, scale): (View, f64),
    rank: usize,
    extension: Extension,
) -> Result<(), CudaError> {
    let below = extension == Extension::Below;
    let (len, factor_len) = match below {
        true => ((outputs + rank) * inputs, rank * inputs),
        false => (outputs * (inputs + rank), outputs * rank),
    };
    out.check("the extended matrix", ElementType::Bf16, len);
    w.check("w [O, I]", ElementType::Bf16, outputs * inputs);
    factor.check("factor", ElementType::F32, factor_len);
    let whole = inputs.is_multiple_of(8) && (below || rank.is_multiple_of(8));
    assert!(whole && [out, w].iter().all(|view| view.pointer().is_multiple_of(16)), "not in groups of eight");
    if len == 0 {
        return Ok(());
    }
    let sizes = args![scale as f32, outputs as i32, inputs as i32, rank as i32, i32::from(below)];
    let args: Vec<Arg> = args![out, w, factor].into_iter().chain(sizes).collect();
    let grid = [(len / 8).div_ceil(256) as u32, 1, 1];
    cuda.launch(&SOURCE, &defines(rank, false, THREADS), "low_rank_extended", grid, 256, 0, &args)
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
    let sums = [(d_up, &partial_up), (d_down, &partial_down)];
    let sums = sums.into_iter().filter_map(|(outer, partial)| Some((outer?.gradient, partial.as_ref()?.view())));
    add_chunks(cuda, &sums.collect::<Vec<_>>(), parts)
}
