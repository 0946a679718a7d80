//! A large matrix times the vectors of many sequences, on devices with warpgroups.

use super::conv::Conv;
use super::many::{check_operands, check_results, fits};
use crate::args;
use crate::runtime::cuda::{Array, Cuda, CudaError, ElementType, Source, View};
use crate::scan::cuda::Strided;

pub(crate) static SOURCE: Source = Source::new(
    "wide",
    concat!(
        include_str!("../../mma.cuh"),
        include_str!("../chain.cuh"),
        include_str!("../../runtime/cuda/copies.cuh"),
        include_str!("../wide.cu")
    ),
)
.chained();

const THREADS: u32 = 128;
const SEQS: usize = 64;
const WIDE: usize = 32;
const CHUNK: usize = 64;

/// Chunks in shared memory: two blocks of so many fit a multiprocessor.
const SLOTS: usize = 9;

/// The most parts that columns are cut into.
const MOST_PARTS: usize = 4;

/// Chunks that a part has at least.
const LEAST_CHUNKS: usize = 4;

/// Rows below which [`super::project_many`] is faster: its blocks share the columns.
const FEW: usize = 256;

/// Sums of parts of a product's columns, `[count, S, rows]`, f32, in the order in which they are to be added up.
#[derive(Debug)]
pub struct Parts {
    sums: Array,
    count: usize,
}

impl Parts {
    pub(super) fn view(&self) -> View<'_> {
        self.sums.view()
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    #[track_caller]
    pub(super) fn check(&self, sequences: usize, rows: usize) {
        self.sums.view().check("parts [count, S, rows]", ElementType::F32, self.count * sequences * rows);
    }
}

/// Whether [`project_wide`] and [`project_parts`] take such a product and are meant for it.
pub fn suits_wide(cuda: &Cuda, weight: View, x: Strided, columns: usize) -> bool {
    cuda.has_warpgroups() && fits(weight, x, columns) && weight.len() / columns >= FEW
}

/// What [`super::project_many`] computes.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// Where [`super::project_many`] panics, and on a device without warpgroups.
#[track_caller]
pub fn project_wide(
    cuda: &Cuda,
    y: View,
    weight: View,
    bias: Option<View>,
    x: Strided,
    conv: Option<&Conv>,
    sequences: usize,
    columns: usize,
) -> Result<(), CudaError> {
    let rows = check(cuda, weight, x, sequences, columns);
    let channels = check_results(y, bias, conv, sequences, rows);
    let width = conv.map_or(1, |conv| conv.width);
    let args = args![
        y,
        None::<View>,
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
    launch(cuda, 1, width, [rows, sequences, columns], &args)
}

/// x · weightᵀ in parts, as many as keep the device busy.
///
/// # Errors
/// When the device's memory does not suffice or it refuses the launch.
///
/// # Panics
/// Where [`super::project_many`] panics, and on a device without warpgroups.
#[track_caller]
pub fn project_parts(
    cuda: &Cuda,
    weight: View,
    x: Strided,
    sequences: usize,
    columns: usize,
) -> Result<Parts, CudaError> {
    let rows = check(cuda, weight, x, sequences, columns);
    let (blocks, chunks) = (rows.div_ceil(WIDE) * sequences.div_ceil(SEQS), columns.div_ceil(CHUNK));
    let wanted = (2 * cuda.multiprocessors() as usize).div_ceil(blocks);
    // Two at least, so that there is something to add up; each part has columns.
    let count = wanted.min(chunks / LEAST_CHUNKS).clamp(2, MOST_PARTS);
    let sums = cuda.array(ElementType::F32, count * sequences * rows)?;
    let none = None::<View>;
    let args = args![
        none,
        sums.view(),
        weight,
        none,
        x.view,
        x.stride as i32,
        none,
        none,
        none,
        0i32,
        rows as i32,
        sequences as i32
    ];
    launch(cuda, count, 1, [rows, sequences, columns], &args)?;
    Ok(Parts { sums, count })
}

/// The rows of the matrix.
#[track_caller]
fn check(cuda: &Cuda, weight: View, x: Strided, sequences: usize, columns: usize) -> usize {
    assert!(cuda.has_warpgroups(), "a device without warpgroups");
    check_operands(weight, x, sequences, columns)
}

fn launch(
    cuda: &Cuda,
    parts: usize,
    width: usize,
    [rows, sequences, columns]: [usize; 3],
    args: &[crate::runtime::cuda::Arg],
) -> Result<(), CudaError> {
    let slots = columns.div_ceil(parts * CHUNK).min(SLOTS);
    let defines = [
        ("ACT_BF16", 1),
        ("COLS", columns as i64),
        ("PARTS", parts as i64),
        ("SLOTS", slots as i64),
        ("WIDTH", width as i64),
    ];
    // The first slot begins at a multiple of 1024 bytes; in the end they hold the sums.
    let sums = SEQS * (WIDE + 4) * ElementType::F32.bytes();
    let shared = (slots * (SEQS + WIDE) * CHUNK * ElementType::Bf16.bytes()).max(sums) + 1024;
    let grid = [rows.div_ceil(WIDE) as u32, sequences.div_ceil(SEQS) as u32, parts as u32];
    cuda.launch(&SOURCE, &defines, "project_wide", grid, THREADS, shared as u32, args)
}
