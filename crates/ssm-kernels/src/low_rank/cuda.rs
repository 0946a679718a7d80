//! Launches of `low_rank.cu`.

mod packed;

pub use packed::{Packed, Unpacked, pack};

use crate::args;
use crate::reduce::cuda::add_chunks;
use crate::runtime::cuda::{Arg, Array, Cuda, CudaError, Define, ElementType, Source, View, two_ints};
use crate::scan::cuda::Strided;

pub(crate) static SOURCE: Source =
    Source::new("low_rank", concat!(include_str!("../mma.cuh"), include_str!("low_rank.cu")));

/// Threads of a block that has a multiprocessor for itself.
const THREADS: u32 = 512;
const ROWS: usize = 16;
/// Columns of a block of gradients, and where such blocks would be few.
const COLUMNS: [usize; 2] = [32, 16];

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

/// One to three matrices side by side.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a>([Option<Columns<'a>>; 3]);

impl<'a> Sides<'a> {
    /// These, from left to right.
    ///
    /// # Panics
    /// When they are none, or more than three.
    #[track_caller]
    pub fn new(matrices: &[Columns<'a>]) -> Sides<'a> {
        assert!((1..=3).contains(&matrices.len()), "{} matrices side by side", matrices.len());
        Sides(std::array::from_fn(|i| matrices.get(i).copied()))
    }

    fn iter(&self) -> impl Iterator<Item = &Columns<'a>> {
        self.0.iter().flatten()
    }

    /// The columns of all.
    pub fn count(&self) -> usize {
        self.iter().map(|side| side.count).sum()
    }

    /// How many they are.
    pub fn matrices(&self) -> usize {
        self.iter().count()
    }

    /// Whether the kernels can read them.
    pub fn fit(&self) -> bool {
        self.iter().all(Columns::fit)
    }

    #[track_caller]
    fn check(&self, what: &str, rows: usize) {
        self.iter().for_each(|side| side.check(what, rows));
    }

    /// The launch's arguments: array, stride, columns of each.
    fn args(&self) -> [Arg<'_>; 9] {
        let [first, second, third] = self.0.each_ref().map(|side| match side {
            Some(side) => args![side.at.view, side.at.stride as i64, side.count as i32],
            None => NO_SIDE,
        });
        let [a, b, c] = first;
        let [d, e, f] = second;
        let [g, h, i] = third;
        [a, b, c, d, e, f, g, h, i]
    }
}

/// Sides of a launch of gradients, and words of one, as the source has them.
const MOST_SIDES: usize = 3 * MOST_TOGETHER;
const SIDE_WORDS: usize = 7;
/// Of an extended matrix.
const EXTENSION_WORDS: usize = 7;

const NO_SIDE: [Arg<'static>; 3] = [Arg::Absent, Arg::I64(0), Arg::I32(0)];

/// Which way activations go through the factors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// x Aᵀ, times Bᵀ.
    Forward,
    /// dy B, times A.
    Backward,
}

/// How a kernel is built.
struct Built {
    rank: usize,
    copies: bool,
    columns: usize,
    threads: u32,
}

impl Built {
    fn defines(&self) -> [Define; 6] {
        let Built { rank, copies, columns, threads } = *self;
        assert!((1..=MOST_RANK).contains(&rank), "ranks are 1 to {MOST_RANK}, not {rank}");
        [
            ("ACT_BF16", 1),
            ("TILES", rank.div_ceil(8) as i64),
            ("WHOLE", i64::from(rank.is_multiple_of(8))),
            ("COPIES", i64::from(copies)),
            ("COLUMNS", columns as i64),
            ("THREADS", i64::from(threads)),
        ]
    }
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
    /// Whether x is copied to the columns in front of them.
    pub copies: bool,
}

/// Activations on their way through the factors A `[rank, I]` and B `[O, rank]`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// x Aᵀ; backward, dy B.
    pub from: Projection<'a>,
    /// Where it is written, `[rows, rank]`, rounded to bf16.
    pub projected: View<'a>,
    /// Where it is written too.
    pub beside: Option<Beside<'a>>,
    /// What the launch writes as well, where x is copied: the matrix that it and x Aᵀ are multiplied with.
    pub extended: Option<ExtendedMatrix<'a>>,
    /// y, which gets `outer` · projected · Bᵀ (backward, A for Bᵀ), and whether that is added to what it holds.
    pub into: Option<(Columns<'a>, bool)>,
    /// Forward or backward.
    pub way: Way,
    /// A and B.
    pub factors: [Packed<'a>; 2],
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
                down.check("what x is multiplied by", x.count(), rank);
            }
            Projection::Given(given) => given.at.check("given [rows, rank]", ElementType::Bf16, rows, rank),
        }
        if let Some(y) = &y {
            y.check("y", rows);
            up.check("what y gets", y.count, rank);
        }
        if let Some(beside) = &self.beside {
            beside.at.at.check("beside [rows, rank]", ElementType::Bf16, rows, rank);
            let whole = matches!(self.from, Projection::Of(_)) && beside.at.fit();
            assert!(!beside.copies || whole, "x is copied to groups of eight");
        }
        if let Some(extended) = &self.extended {
            extended.check();
            assert!(self.beside.is_some_and(|beside| beside.copies), "a matrix is extended where x is copied");
        }
        self.projected.check("projected [rows, rank]", ElementType::Bf16, rows * rank);
    }

    fn down_and_up(&self) -> (Packed<'_>, Packed<'_>) {
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
            return self.extended.map_or(Ok(()), |extended| extended.write(cuda));
        }
        let nothing = Sides([None; 3]);
        let (x, given) = match &self.from {
            Projection::Of(x) => (x, args![None::<View>, 0i64]),
            Projection::Given(given) => (&nothing, args![given.at.view, given.at.stride as i64]),
        };
        let inputs = x.count();
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
        args.extend(x.args());
        args.extend(given);
        args.extend(args![beside.map(|at| at.view), beside.map_or(0, |at| at.stride) as i64]);
        args.extend(args![down.by_rank(), up.in_pairs(), inner, outer, self.rank as i32, self.rows as i32]);
        let blocks = self.rows.div_ceil(ROWS) as u32;
        // Another block makes the projection again: little where x is narrow, as long as blocks are few.
        let shares = if outputs >= 2 * inputs && blocks <= 2 * cuda.multiprocessors() { 2 } else { 1 };
        let small = inputs.max(outputs) <= THREADS as usize / 2;
        let threads = if small || blocks * shares > cuda.multiprocessors() { THREADS / 2 } else { THREADS };
        let built = Built { rank: self.rank, copies, columns: COLUMNS[0], threads };
        let extending = self.extended.map_or(0, |extended| extended.blocks(threads));
        let words = self.extended.map_or([0; EXTENSION_WORDS], |extended| extended.words(extending));
        args.extend(args![&words[..]]);
        cuda.launch(&SOURCE, &built.defines(), "low_rank_rows", [extending + blocks, shares, 1], threads, 0, &args)
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

/// A matrix and a factor at its side, to be written as one.
#[derive(Debug, Clone, Copy)]
pub struct ExtendedMatrix<'a> {
    /// Where, bf16: rows of `stride` elements, of which what lies behind the matrix' own columns is left as it is.
    pub out: Strided<'a>,
    /// W `[O, I]`, bf16.
    pub w: View<'a>,
    /// O and I.
    pub sizes: [usize; 2],
    /// A or B, f32; rounded to bf16.
    pub factor: View<'a>,
    /// Multiplies the factor.
    pub scale: f64,
    /// Rank of the factor.
    pub rank: usize,
    /// Where the factor goes.
    pub extension: Extension,
}

/// Threads of a block of [`ExtendedMatrix::write`].
const EXTENDING: u32 = 256;

impl ExtendedMatrix<'_> {
    /// Rows and columns of the whole.
    fn shape(&self) -> [usize; 2] {
        let ([outputs, inputs], rank) = (self.sizes, self.rank);
        if self.extension == Extension::Below { [outputs + rank, inputs] } else { [outputs, inputs + rank] }
    }

    /// Numbers of the whole.
    fn len(&self) -> usize {
        self.shape().iter().product()
    }

    #[track_caller]
    fn check(&self) {
        let ([outputs, inputs], [rows, columns]) = (self.sizes, self.shape());
        self.out.check("the extended matrix", ElementType::Bf16, rows, columns);
        self.w.check("w [O, I]", ElementType::Bf16, outputs * inputs);
        self.factor.check("factor", ElementType::F32, self.len() - outputs * inputs);
        let whole = inputs.is_multiple_of(8) && columns.is_multiple_of(8) && self.out.stride.is_multiple_of(8);
        let begin = [self.out.view, self.w].iter().all(|view| view.pointer().is_multiple_of(16));
        assert!(whole && begin, "not in groups of eight");
    }

    fn blocks(&self, threads: u32) -> u32 {
        (self.len() / 8).div_ceil(threads as usize) as u32
    }

    /// The kernels' structure; `blocks` is how many of a launch do this.
    fn words(&self, blocks: u32) -> [u64; EXTENSION_WORDS] {
        let [outputs, inputs] = self.sizes.map(|size| size as u32);
        [
            self.out.view.pointer(),
            self.w.pointer(),
            self.factor.pointer(),
            two_ints(outputs, inputs),
            two_ints(self.rank as u32, u32::from(self.extension == Extension::Below)),
            two_ints((self.scale as f32).to_bits(), blocks),
            self.out.stride as u64,
        ]
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the device refuses the launch.
    ///
    /// # Panics
    /// When a view does not have its shape, or sizes are not multiples of eight.
    #[track_caller]
    pub fn write(&self, cuda: &Cuda) -> Result<(), CudaError> {
        self.check();
        let blocks = self.blocks(EXTENDING);
        if blocks == 0 {
            return Ok(());
        }
        let built = Built { rank: self.rank, copies: false, columns: COLUMNS[0], threads: THREADS };
        let words = self.words(blocks);
        let args = args![&words[..]];
        cuda.launch(&SOURCE, &built.defines(), "low_rank_extended", [blocks, 1, 1], EXTENDING, 0, &args)
    }
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

/// The gradients of one addition's factors, each where asked for.
#[derive(Debug, Clone, Copy)]
pub struct Factors<'a> {
    /// Of B: `scale` · dyᵀ · projected. Its dy is at most two matrices.
    pub up: Option<Outer<'a>>,
    /// Of A: projectedᵀ · x, with the gradient of x Aᵀ as what is projected. Its x is one matrix.
    pub down: Option<Outer<'a>>,
    /// The addition's.
    pub scale: f64,
}

/// How many additions' gradients one launch makes at most.
pub const MOST_TOGETHER: usize = 16;

/// One gradient of an addition.
struct Target<'a> {
    outer: Outer<'a>,
    by_rank: bool, // it is [rank, columns]
    scale: f64,
}

impl<'a> Factors<'a> {
    #[track_caller]
    fn check(&self, rank: usize, rows: usize) {
        for (what, outer, most) in [("d_up", &self.up, 2), ("d_down", &self.down, 1)] {
            let Some(outer) = outer else { continue };
            outer.x.check(what, rows);
            outer.gradient.check(what, ElementType::F32, outer.x.count() * rank);
            outer.projected.check("projected [rows, rank]", ElementType::Bf16, rows * rank);
            assert!(outer.x.matrices() <= most, "{what}: too many matrices side by side");
        }
    }

    fn targets(&self) -> impl Iterator<Item = Target<'a>> + use<'a> {
        let up = self.up.map(|outer| Target { outer, by_rank: false, scale: self.scale });
        up.into_iter().chain(self.down.map(|outer| Target { outer, by_rank: true, scale: 1.0 }))
    }
}

/// The gradients of up to [`MOST_TOGETHER`] additions of one rank, over the same rows. Sums are in an order that the sizes alone
/// decide.
///
/// # Errors
/// When the device refuses a launch, or its memory does not suffice.
///
/// # Panics
/// When a view does not have its shape, or they are too many.
#[track_caller]
pub fn gradients(cuda: &Cuda, all: &[Factors], rank: usize, rows: usize) -> Result<(), CudaError> {
    assert!(all.len() <= MOST_TOGETHER, "{} additions together", all.len());
    all.iter().for_each(|factors| factors.check(rank, rows));
    let targets: Vec<Target> = all.iter().flat_map(Factors::targets).collect();
    if rows == 0 {
        return targets.iter().try_for_each(|target| cuda.clear(target.outer.gradient));
    }
    let blocks_of = |columns: usize| -> usize {
        let sides = targets.iter().flat_map(|target| target.outer.x.iter());
        sides.map(|side| side.count.div_ceil(columns)).sum()
    };
    // Blocks of half the columns where that leaves them fewer than multiprocessors.
    let multiprocessors = cuda.multiprocessors() as usize;
    let columns = COLUMNS[usize::from(blocks_of(COLUMNS[1]) <= multiprocessors)];
    let blocks = blocks_of(columns);
    if blocks == 0 {
        return Ok(());
    }
    let parts = rows.div_ceil(ROWS_EACH).min((2 * multiprocessors).div_ceil(blocks));
    let rows_each = rows.div_ceil(parts).next_multiple_of(16);
    let parts = rows.div_ceil(rows_each);
    let partial = |target: &Target| cuda.array(ElementType::F32, parts * target.outer.gradient.len());
    let partials: Vec<Array> = match parts {
        1 => Vec::new(),
        _ => targets.iter().map(partial).collect::<Result<_, CudaError>>()?,
    };
    let (mut words, mut sides, mut first_block) = (Vec::new(), 0, 0);
    for (i, Target { outer, by_rank, scale }) in targets.iter().enumerate() {
        let mut out = partials.get(i).map_or(outer.gradient, Array::view).pointer();
        for side in outer.x.iter() {
            words.extend([
                side.at.view.pointer(),
                side.at.stride as u64,
                outer.projected.pointer(),
                out,
                outer.gradient.len() as u64,
                two_ints(side.count as u32, u32::from(*by_rank)),
                two_ints((*scale as f32).to_bits(), first_block),
            ]);
            out += (side.count * rank * ElementType::F32.bytes()) as u64;
            first_block += side.count.div_ceil(columns) as u32;
            sides += 1;
        }
    }
    words.resize(MOST_SIDES * SIDE_WORDS, 0);
    let args = args![&words[..], sides, rank as i32, rows as i32, rows_each as i32];
    // Where blocks are more than multiprocessors, several share one: none waits for a second turn.
    let threads = if blocks * parts > multiprocessors { THREADS / 2 } else { THREADS };
    let built = Built { rank, copies: false, columns, threads };
    cuda.launch(&SOURCE, &built.defines(), "low_rank_gradients", [blocks as u32, parts as u32, 1], threads, 0, &args)?;
    let gradients = targets.iter().map(|target| target.outer.gradient);
    let sums: Vec<(View, View)> = gradients.zip(partials.iter().map(Array::view)).collect();
    sums.chunks(2).try_for_each(|two| add_chunks(cuda, two, parts))
}
