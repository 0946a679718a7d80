//! Launches of `columns.cu`: columns of activations on a device.
//!
//! Output and input are f32 or bf16 each, so that putting and taking columns also copy and convert matrices whose
//! rows lie apart. Indices of columns are not checked here: they are on the device.

use crate::args;
use crate::elementwise::cuda::type_number;
use crate::embedding::cuda::Segments;
use crate::runtime::cuda::{Arg, Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("columns", include_str!("columns.cu"));

/// Threads of a block, as the source has them.
const BLOCK: usize = 256;

/// Columns `at..at + part_width` of `whole` `[rows, width]` become `part` `[rows, part_width]`, whose rows lie
/// `part_stride` elements apart (the view may end with the last row's last element).
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn put_columns(
    cuda: &Cuda,
    whole: View,
    rows: usize,
    width: usize,
    at: usize,
    part: View,
    part_stride: usize,
    part_width: usize,
) -> Result<(), CudaError> {
    assert_eq!(whole.len(), rows * width, "the whole is not [rows, width] = [{rows}, {width}]");
    assert!(at + part_width <= width, "columns {at}..{} of {width}", at + part_width);
    check_spread("the part", part, rows, part_stride, part_width);
    if rows * part_width == 0 {
        return Ok(());
    }
    copy(cuda, whole.range(at..whole.len()), width, part, part_stride, rows, part_width)
}

/// Neighbouring columns of `whole` `[rows, width]` become those of several matrices of one type: each a view, the elements from
/// one of its rows to the next, and its width. Three go with one launch.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn join_columns(
    cuda: &Cuda,
    whole: View,
    rows: usize,
    width: usize,
    parts: &[(View, usize, usize)],
) -> Result<(), CudaError> {
    assert_eq!(whole.len(), rows * width, "the whole is not [rows, width] = [{rows}, {width}]");
    let widths: usize = parts.iter().map(|part| part.2).sum();
    assert_eq!(widths, width, "the parts' widths do not sum to the whole's");
    for &(part, stride, part_width) in parts {
        check_spread("a part", part, rows, stride, part_width);
        assert_eq!(part.element(), parts[0].0.element(), "parts of several types");
    }
    let mut at = 0;
    for three in parts.chunks(3) {
        let count: usize = three.iter().map(|part| part.2).sum();
        if rows * count > 0 {
            let side = |i: usize| match three.get(i) {
                Some(&(part, stride, width)) => args![part, stride as i64, width as i32],
                None => [Arg::Absent, Arg::I64(0), Arg::I32(0)],
            };
            let (grid, shift) = row_grid(cuda, rows, count.div_ceil(4));
            let into = args![whole.range(at..whole.len()), width as i64];
            let args: Vec<Arg> =
                into.into_iter().chain((0..3).flat_map(side)).chain(args![rows as i64, shift]).collect();
            cuda.launch(&SOURCE, &defines(whole, three[0].0), "join_columns", grid, BLOCK as u32, 0, &args)?;
        }
        at += count;
    }
    Ok(())
}

/// `part` `[rows, part_width]` becomes columns `at..at + part_width` of `whole`, whose rows lie `stride` elements apart
/// (the view may end with the last element that is read).
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn take_columns(
    cuda: &Cuda,
    part: View,
    whole: View,
    rows: usize,
    stride: usize,
    at: usize,
    part_width: usize,
) -> Result<(), CudaError> {
    assert_eq!(part.len(), rows * part_width, "the part is not [rows, part_width] = [{rows}, {part_width}]");
    check_spread("the whole", whole, rows, stride, at + part_width);
    if rows * part_width == 0 {
        return Ok(());
    }
    copy(cuda, part, part_width, whole.range(at..whole.len()), stride, rows, part_width)
}

fn copy(
    cuda: &Cuda,
    y: View,
    y_stride: usize,
    x: View,
    x_stride: usize,
    rows: usize,
    width: usize,
) -> Result<(), CudaError> {
    let (grid, shift) = row_grid(cuda, rows, width.div_ceil(4));
    let args = args![y, x, y_stride as i64, x_stride as i64, rows as i64, width as i32, shift];
    cuda.launch(&SOURCE, &defines(y, x), "copy_columns", grid, BLOCK as u32, 0, &args)
}

/// y `[rows, columns]`: the named columns (u32) of x `[rows, width]`, whose rows lie `stride` apart, in the order
/// given.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn gather_columns(
    cuda: &Cuda,
    y: View,
    x: View,
    stride: usize,
    rows: usize,
    width: usize,
    columns: View,
) -> Result<(), CudaError> {
    let count = columns.len();
    columns.check("columns", ElementType::U32, count);
    assert_eq!(y.len(), rows * count, "the picked columns are not [{rows}, {count}]");
    check_spread("x", x, rows, stride, width);
    if rows * count == 0 {
        return Ok(());
    }
    let (grid, shift) = row_grid(cuda, rows, count);
    let args = args![y, x, columns, stride as i64, rows as i64, width as i32, count as i32, shift];
    cuda.launch(&SOURCE, &defines(y, x), "gather_columns", grid, BLOCK as u32, 0, &args)
}

/// dx `[rows, width]` += dy `[rows, columns]` at the named columns (u32); equal columns add up in their order.
///
/// # Errors
/// When the device's memory does not suffice for the order of the columns, or a launch fails.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn scatter_add_columns(
    cuda: &Cuda,
    dx: View,
    rows: usize,
    width: usize,
    dy: View,
    columns: View,
) -> Result<(), CudaError> {
    let count = columns.len();
    columns.check("columns", ElementType::U32, count);
    assert_eq!(dx.len(), rows * width, "dx is not [rows, width] = [{rows}, {width}]");
    assert_eq!(dy.len(), rows * count, "the picked columns are not [{rows}, {count}]");
    if rows * count == 0 {
        return Ok(());
    }
    let segments = Segments::of(cuda, columns, width)?;
    let (grid, shift) = row_grid(cuda, rows, count);
    let (order, starts) = (segments.order(), segments.starts());
    let args = args![dx, dy, columns, order, starts, rows as i64, width as i32, count as i32, shift];
    cuda.launch(&SOURCE, &defines(dx, dy), "scatter_add_columns", grid, BLOCK as u32, 0, &args)
}

/// y `[rows, width]` = x ∘ gain `[width]` (f32), row by row.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn scale_columns(cuda: &Cuda, y: View, x: View, gain: View, rows: usize, width: usize) -> Result<(), CudaError> {
    assert_eq!(y.len(), rows * width, "y is not [rows, width] = [{rows}, {width}]");
    assert_eq!(x.len(), rows * width, "x is not [rows, width] = [{rows}, {width}]");
    gain.check("gain [width]", ElementType::F32, width);
    if y.is_empty() {
        return Ok(());
    }
    let (grid, shift) = row_grid(cuda, rows, width.div_ceil(4));
    let args = args![y, x, gain, rows as i64, width as i32, shift];
    cuda.launch(&SOURCE, &defines(y, x), "scale_columns", grid, BLOCK as u32, 0, &args)
}

/// dgain `[width]` (f32) = Σ over rows of dy ∘ x, both `[rows, width]`: the gradient of [`scale_columns`].
///
/// # Errors
/// When the device's memory does not suffice for the sums of parts of the rows, or a launch fails.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn scale_columns_gain_gradient(
    cuda: &Cuda,
    dgain: View,
    dy: View,
    x: View,
    rows: usize,
    width: usize,
) -> Result<(), CudaError> {
    dgain.check("dgain [width]", ElementType::F32, width);
    assert_eq!(dy.len(), rows * width, "dy is not [rows, width] = [{rows}, {width}]");
    assert_eq!(x.len(), rows * width, "x is not [rows, width] = [{rows}, {width}]");
    if width == 0 {
        return Ok(());
    }
    // At most 64 chunks: sums that depend on the sizes only, never on the device.
    let per_chunk = rows.div_ceil(64).max(64);
    let chunks = rows.div_ceil(per_chunk).max(1);
    let scratch = (chunks > 1).then(|| cuda.array(ElementType::F32, chunks * width)).transpose()?;
    let sums = scratch.as_ref().map_or(dgain, |array| array.view());
    let grid = [width.div_ceil(32) as u32, chunks as u32, 1];
    let args = args![sums, dy, x, rows as i64, width as i32, per_chunk as i32];
    cuda.launch(&SOURCE, &defines(dy, x), "column_dots", grid, BLOCK as u32, 0, &args)?;
    if chunks > 1 {
        let grid = [width.div_ceil(BLOCK) as u32, 1, 1];
        let args = args![dgain, sums, chunks as i32, width as i32];
        cuda.launch(&SOURCE, &defines(dy, x), "sum_chunks", grid, BLOCK as u32, 0, &args)?;
    }
    Ok(())
}

/// Grid and shift for kernels whose blocks are 256 >> shift rows of 1 << shift lanes, for rows of `units` pieces of
/// work.
pub(crate) fn row_grid(cuda: &Cuda, rows: usize, units: usize) -> ([u32; 3], i32) {
    let shift = units.clamp(1, BLOCK).next_power_of_two().trailing_zeros();
    let blocks = rows.div_ceil(BLOCK >> shift).min(cuda.multiprocessors() as usize * 16);
    ([blocks as u32, 1, 1], shift as i32)
}

#[track_caller]
fn defines(y: View, x: View) -> [(&'static str, i64); 2] {
    let number = |view: View| match view.element() {
        ElementType::F16 => panic!("f16 is a storage type of weights, not of activations"),
        element => type_number(element),
    };
    [("Y_TYPE", number(y)), ("X_TYPE", number(x))]
}

#[track_caller]
fn check_spread(what: &str, view: View, rows: usize, stride: usize, width: usize) {
    assert!(width <= stride || rows <= 1, "{what}: rows of {width} elements lie {stride} apart");
    let needed = if rows * width == 0 { 0 } else { (rows - 1) * stride + width };
    assert!(view.len() >= needed, "{what}: {} elements are not {rows} rows of {width}, {stride} apart", view.len());
}
