//! A matrix times the vectors of many sequences, with what follows.

use super::conv::Conv;
use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};
use crate::scan::cuda::Strided;

pub(crate) static SOURCE: Source =
    Source { name: "skinny", text: concat!(include_str!("../chain.cuh"), include_str!("../skinny.cu")) };

const THREADS: u32 = 256;

/// The most sequences that one launch takes.
pub const SKINNY_SEQUENCES: usize = 64;

/// Whether [`skinny`] takes so many sequences of vectors like these.
pub fn skinny_fits(sequences: usize, columns: usize, x: Strided) -> bool {
    let aligned = x.view.pointer().is_multiple_of(16) && x.stride.is_multiple_of(8) && columns.is_multiple_of(8);
    x.view.element().is_bf16() && (1..=SKINNY_SEQUENCES).contains(&sequences) && aligned
}

/// y `[S, rows]` = x · weightᵀ + bias in bf16, with x `[S, columns]` and weight `[rows, columns]`. The first of the rows go
/// through the convolution, if there is one: they are its newest inputs.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape, or [`skinny_fits`] says no.
#[track_caller]
pub fn skinny(
    cuda: &Cuda,
    y: View,
    weight: View,
    bias: Option<View>,
    x: Strided,
    conv: Option<&Conv>,
    sequences: usize,
    columns: usize,
) -> Result<(), CudaError> {
    let (act, rows) = (ElementType::Bf16, weight.len() / columns);
    assert!(skinny_fits(sequences, columns, x) && weight.pointer().is_multiple_of(16), "{sequences} of {columns}");
    y.check("y [S, rows]", act, sequences * rows);
    weight.check("weight [rows, columns]", act, rows * columns);
    x.check("x [S, columns]", act, sequences, columns);
    if let Some(bias) = bias {
        bias.check("bias [rows]", ElementType::F32, rows);
    }
    let channels = conv.map_or(0, |conv| conv.channels(sequences));
    assert!(channels <= rows, "{channels} channels of {rows} rows");
    // The widest blocks that still occupy the device.
    let blocks = |tiles: &usize| rows.div_ceil(8 * tiles);
    let enough = cuda.multiprocessors() as usize * 9 / 10;
    let tiles = [8, 4, 3, 2].into_iter().find(|tiles| blocks(tiles) >= enough).unwrap_or(1);
    let defines = [
        ("ACT_BF16", 1),
        ("SEQ_TILES", sequences.div_ceil(16) as i64),
        ("TILES", tiles as i64),
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
        sequences as i32,
        rows as i32,
        columns as i32
    ];
    cuda.launch_chained(&SOURCE, &defines, "skinny", [blocks(&tiles) as u32, 1, 1], THREADS, 0, &args)
}
