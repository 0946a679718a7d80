//! Factors of low-rank additions as `low_rank_rows` reads them: rounded to bf16, in two orders.

use super::{Built, COLUMNS, SOURCE, THREADS};
use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, View, two_ints};

/// Factors that one launch packs, and words of one, as the source has them.
const MOST_PACKED: usize = 96;
const PACKING_WORDS: usize = 4;
/// Threads of a block, each with eight columns and eight ranks.
const PACKING: usize = 256;

/// A factor in both orders.
#[derive(Debug, Clone, Copy)]
pub struct Packed<'a> {
    view: View<'a>,
    width: usize,
    rank: usize,
}

impl<'a> Packed<'a> {
    /// Elements of bf16 that a factor of this width takes: I of A `[rank, I]`, O of B `[O, rank]`.
    pub fn len(width: usize, rank: usize) -> usize {
        2 * width * rank.next_multiple_of(8)
    }

    /// What [`pack`] has written there.
    ///
    /// # Panics
    /// When the view has another type or length.
    #[track_caller]
    pub fn new(view: View<'a>, width: usize, rank: usize) -> Packed<'a> {
        view.check("a packed factor", ElementType::Bf16, Packed::len(width, rank));
        Packed { view, width, rank }
    }

    #[track_caller]
    pub(super) fn check(&self, what: &str, width: usize, rank: usize) {
        assert_eq!((self.width, self.rank), (width, rank), "{what}: width and rank");
        assert!(self.view.pointer().is_multiple_of(16), "{what}: a packed factor begins at a multiple of 16 bytes");
    }

    /// `[ranks, width]`.
    pub(super) fn by_rank(&self) -> View<'a> {
        self.view.range(0..self.view.len() / 2)
    }

    /// `[width / 4, ranks / 2, 4, 2]`.
    pub(super) fn in_pairs(&self) -> View<'a> {
        self.view.range(self.view.len() / 2..self.view.len())
    }
}

/// A factor to be packed.
#[derive(Debug, Clone, Copy)]
pub struct Unpacked<'a> {
    /// A `[rank, width]` or B `[width, rank]`, f32.
    pub factor: View<'a>,
    /// Whether it is an A.
    pub is_a: bool,
    /// I of A, O of B: a multiple of eight.
    pub width: usize,
    /// Where both orders go, [`Packed::len`] elements of bf16.
    pub out: View<'a>,
}

/// Packs factors of one rank, in as few launches as take them.
///
/// # Errors
/// When the device refuses a launch.
///
/// # Panics
/// When a view does not have its shape, or a width is not a multiple of eight.
#[track_caller]
pub fn pack(cuda: &Cuda, factors: &[Unpacked], rank: usize) -> Result<(), CudaError> {
    for one in factors {
        one.factor.check("a factor", ElementType::F32, one.width * rank);
        let whole = one.width.is_multiple_of(8);
        assert!(whole, "a factor's width, {}, is not in groups of eight", one.width);
        assert!(one.factor.pointer().is_multiple_of(16), "a factor begins at a multiple of 16 bytes");
        Packed::new(one.out, one.width, rank).check("a factor's place", one.width, rank);
    }
    let built = Built { rank, copies: false, columns: COLUMNS[0], threads: THREADS };
    for some in factors.chunks(MOST_PACKED) {
        let (mut words, mut blocks) = (Vec::with_capacity(MOST_PACKED * PACKING_WORDS), 0);
        for one in some {
            words.extend([
                one.factor.pointer(),
                one.out.pointer(),
                two_ints(one.width as u32, rank as u32),
                two_ints(u32::from(one.is_a), blocks),
            ]);
            blocks += (one.width / 8 * rank.div_ceil(8)).div_ceil(PACKING) as u32;
        }
        words.resize(MOST_PACKED * PACKING_WORDS, 0);
        if blocks > 0 {
            let args = args![&words[..], some.len() as i32];
            cuda.launch(&SOURCE, &built.defines(), "low_rank_pack", [blocks, 1, 1], PACKING as u32, 0, &args)?;
        }
    }
    Ok(())
}
