//! The largest of each row, in two launches: parts of rows, then rows.

use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source =
    Source::new("choose", concat!(include_str!("../chain.cuh"), include_str!("../choose.cu"))).chained();

const THREADS: u32 = 256;

/// Columns of a part: what keeps a block of [`THREADS`] busy.
const PART: usize = 4096;

/// best `[rows]` (u32): the index of the largest of each row of x `[rows, columns]`, an activation: the lowest among
/// equals; NaN never wins.
///
/// # Errors
/// When the device's memory does not suffice or it refuses a launch.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn argmax(cuda: &Cuda, best: View, x: View, rows: usize, columns: usize) -> Result<(), CudaError> {
    best.check("best [rows]", ElementType::U32, rows);
    let act = x.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
    x.check("x [rows, columns]", act, rows * columns);
    assert!(columns > 0, "the largest of no columns");
    let parts = columns.div_ceil(PART);
    let value = cuda.array(ElementType::F32, rows * parts)?;
    let place = cuda.array(ElementType::U32, rows * parts)?;
    let args = args![value.view(), place.view(), x, columns as i32, PART as i32];
    let defines = [("ACT_BF16", act.is_bf16() as i64), ("WIDTH", 1)];
    cuda.launch(&SOURCE, &defines, "best_of_parts", [parts as u32, rows as u32, 1], THREADS, 0, &args)?;
    choose(cuda, best, value.view(), place.view(), rows, parts)
}

/// The best of each row's parts.
#[track_caller]
pub(super) fn choose(
    cuda: &Cuda,
    chosen: View,
    value: View,
    place: View,
    rows: usize,
    parts: usize,
) -> Result<(), CudaError> {
    chosen.check("chosen [rows]", ElementType::U32, rows);
    value.check("best [rows, parts]", ElementType::F32, rows * parts);
    place.check("places [rows, parts]", ElementType::U32, rows * parts);
    let args = args![chosen, value, place, parts as i32];
    cuda.launch(&SOURCE, &[("ACT_BF16", 0), ("WIDTH", 1)], "choose", [rows as u32, 1, 1], THREADS, 0, &args)
}
