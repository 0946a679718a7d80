//! A matrix times the vectors of many sequences.

use super::conv::Conv;
use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};
use crate::scan::cuda::Strided;

pub(crate) static SOURCE: Source = Source::new(
    "many",
    concat!(
        include_str!("../../mma.cuh"),
        include_str!("../chain.cuh"),
        include_str!("../../runtime/cuda/copies.cuh"),
        include_str!("../many.cu")
    ),
)
.chained();

/// Bytes of shared memory that every device has for a block: 99 KiB from compute capability 8.0 on.
const SHARED: usize = 96 << 10;

/// Columns of a pack, which a warp multiplies at once.
const PACK: usize = 32;

/// How a product is spread: the defines of `many.cu`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    tiles: usize,
    tall: usize,
    split: usize,
    unit: usize,
    ring: usize,
    slots: usize,
}

impl Layout {
    fn of(cuda: &Cuda, sequences: usize, rows: usize, columns: usize) -> Layout {
        let tiles = sequences.div_ceil(8).next_power_of_two().min(8);
        let packs = columns.div_ceil(PACK);
        // Few rows: blocks of a tile of sequences each, with all the warps on the columns.
        let few = rows.div_ceil(32) * 2 < cuda.multiprocessors() as usize;
        let (tiles, tall, split, unit) = match few {
            true => (1, 1, if packs > 64 { 16 } else { 8 }, if packs > 32 { 2 } else { 1 }),
            false => (tiles.min(4), 2, if packs < 8 { 4 } else { 8 }, 1),
        };
        let layout = Layout { tiles, tall, split, unit, ring: 1, slots: 1 };
        let chunks = columns.div_ceil(layout.chunk());
        let ring = (8 / (unit * tall)).clamp(1, chunks);
        let slots = (SHARED / layout.slot()).clamp(1, chunks);
        Layout { ring, slots, ..layout }
    }

    /// Columns of a chunk.
    fn chunk(&self) -> usize {
        PACK * self.split * self.unit
    }

    /// Bytes of a chunk of the vectors.
    fn slot(&self) -> usize {
        8 * self.tiles * (self.chunk() + PACK) * ElementType::Bf16.bytes()
    }

    fn shared(&self) -> usize {
        let sums = self.split * 8 * self.tiles * (16 * self.tall + 4) * ElementType::F32.bytes();
        sums.max(self.slots * self.slot())
    }
}

/// Numbers of a matrix up to which a launch is over before more of them would count: the library multiplies larger ones faster.
const SMALL: usize = 1 << 20;

/// Whether [`project_many`] takes such a product.
pub(super) fn fits(weight: View, x: Strided, columns: usize) -> bool {
    let aligned = |view: View| view.pointer().is_multiple_of(16);
    weight.element().is_bf16()
        && columns.is_multiple_of(8)
        && x.stride.is_multiple_of(8)
        && [weight, x.view].into_iter().all(aligned)
}

/// Whether [`project_many`] takes such a product and is meant for it.
pub fn suits_many(weight: View, x: Strided, columns: usize) -> bool {
    fits(weight, x, columns) && weight.len() <= SMALL
}

/// y `[S, rows]` = x · weightᵀ + bias, with x `[S, columns]` and weight `[rows, columns]`, all of it bf16. The first of the rows
/// go through the convolution, if there is one: they are its newest inputs.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape, is not bf16, or does not begin and go on in whole 16 bytes.
#[track_caller]
pub fn project_many(
    cuda: &Cuda,
    y: View,
    weight: View,
    bias: Option<View>,
    x: Strided,
    conv: Option<&Conv>,
    sequences: usize,
    columns: usize,
) -> Result<(), CudaError> {
    let rows = check_operands(weight, x, sequences, columns);
    let channels = check_results(y, bias, conv, sequences, rows);
    let layout = Layout::of(cuda, sequences, rows, columns);
    let defines = [
        ("ACT_BF16", 1),
        ("COLS", columns as i64),
        ("TILES", layout.tiles as i64),
        ("TALL", layout.tall as i64),
        ("SPLIT", layout.split as i64),
        ("UNIT", layout.unit as i64),
        ("RING", layout.ring as i64),
        ("SLOTS", layout.slots as i64),
        ("WIDTH", conv.map_or(1, |conv| conv.width) as i64),
    ];
    let args = args![
        y,
        weight,
        bias,
        x.view,
        x.stride as i32,
        conv.and_then(|conv| conv.state),
        conv.map(|conv| conv.weight),
        conv.and_then(|conv| conv.bias),
        channels as i32,
        rows as i32,
        sequences as i32
    ];
    let grid = [rows.div_ceil(16 * layout.tall) as u32, sequences.div_ceil(8 * layout.tiles) as u32, 1];
    let threads = 32 * layout.split;
    cuda.launch(&SOURCE, &defines, "project_many", grid, threads as u32, layout.shared() as u32, &args)
}

/// The rows of the matrix.
#[track_caller]
pub(super) fn check_operands(weight: View, x: Strided, sequences: usize, columns: usize) -> usize {
    assert!(fits(weight, x, columns), "{:?}, {columns} columns, {} apart", weight.element(), x.stride);
    let rows = weight.len() / columns;
    weight.check("weight [rows, columns]", ElementType::Bf16, rows * columns);
    x.check("x [S, columns]", ElementType::Bf16, sequences, columns);
    rows
}

/// How many of the rows are inputs of the convolution.
#[track_caller]
pub(super) fn check_results(y: View, bias: Option<View>, conv: Option<&Conv>, sequences: usize, rows: usize) -> usize {
    y.check("y [S, rows]", ElementType::Bf16, sequences * rows);
    if let Some(bias) = bias {
        bias.check("bias [rows]", ElementType::F32, rows);
    }
    let channels = conv.map_or(0, |conv| conv.channels(sequences));
    assert!(channels <= rows, "{channels} channels of {rows} rows");
    channels
}
