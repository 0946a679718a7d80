//! The launch of `dropout.cu`: the same mask as the CPU's, bit for bit.

use super::reference::threshold;
use super::{DropoutKey, mix};
use crate::args;
use crate::columns::cuda::row_grid;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("dropout", include_str!("dropout.cu"));

/// y = x / (1 - p) where kept, 0 where dropped, for x `[rows, cols]` in f32 or bf16, as [`super::dropout`] does.
///
/// `step` `[1]` (u64), where it is given, is read on the device in place of the key's step, so that a captured graph
/// draws new masks. `example_of_row` `[rows]` is u64, `position_of_row` `[rows]` u32. y may be x.
///
/// # Panics
/// When a view does not have its shape or `p` is not in [0, 1).
#[track_caller]
pub fn dropout(
    cuda: &Cuda,
    y: View,
    x: View,
    p: f32,
    key: DropoutKey,
    step: Option<View>,
    example_of_row: View,
    position_of_row: View,
    rows: usize,
    cols: usize,
) -> Result<(), CudaError> {
    let act = x.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "x is neither f32 nor bf16 but {act:?}");
    y.check("y [rows, cols]", act, rows * cols);
    x.check("x [rows, cols]", act, rows * cols);
    example_of_row.check("example_of_row [rows]", ElementType::U64, rows);
    position_of_row.check("position_of_row [rows]", ElementType::U32, rows);
    if let Some(step) = step {
        step.check("step", ElementType::U64, 1);
    }
    assert!((0.0..1.0).contains(&p), "a dropout probability of {p} is not in [0, 1)");
    if rows * cols == 0 {
        return Ok(());
    }
    let bits = if step.is_some() { mix(key.seed) } else { key.mixed() };
    // p is below 1 by at least 2⁻²⁴, so the threshold is below 2³².
    let (threshold, scale) = (threshold(p) as u32, (1.0 / (1.0 - f64::from(p))) as f32);
    let (grid, shift) = row_grid(cuda, rows, cols.div_ceil(4));
    let args = args![
        y,
        x,
        example_of_row,
        position_of_row,
        step,
        bits,
        key.site,
        threshold,
        scale,
        rows as i64,
        cols as i32,
        shift
    ];
    cuda.launch(&SOURCE, &[("ACT_BF16", act.is_bf16() as i64)], "dropout", grid, 256, 0, &args)
}
