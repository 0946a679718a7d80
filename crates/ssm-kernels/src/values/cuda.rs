//! Launches of `values.cu`. Where an input or output is said to be an activation it is f32 or bf16; what is trained,
//! and sums and norms, are f32.

use crate::args;
use crate::columns::cuda::row_grid;
use crate::elementwise::cuda::type_number;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("values", include_str!("values.cu"));

/// Threads of a block, as the source has them.
const BLOCK: usize = 256;

/// y `[columns, rows]` = xᵀ of x `[rows, columns]`, activations.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn transpose(cuda: &Cuda, y: View, x: View, rows: usize, columns: usize) -> Result<(), CudaError> {
    matrix("y", y, columns, rows);
    matrix("x", x, rows, columns);
    if x.is_empty() {
        return Ok(());
    }
    let tiles = rows.div_ceil(32) * columns.div_ceil(32);
    let grid = [tiles.min(cuda.multiprocessors() as usize * 64) as u32, 1, 1];
    launch(cuda, y, x, "transpose", grid, &args![y, x, rows as i32, columns as i32])
}

/// y `[rows]` (f32): the sums of the rows of x `[rows, columns]`, an activation.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn sum_last(cuda: &Cuda, y: View, x: View, rows: usize, columns: usize) -> Result<(), CudaError> {
    y.check("y [rows]", ElementType::F32, rows);
    matrix("x", x, rows, columns);
    let grid = [rows.div_ceil(8) as u32, 1, 1];
    launch(cuda, y, x, "row_sums", grid, &args![y, x, None::<View>, rows as i32, columns as i32])
}

/// dx `[rows, columns]`, an activation: row r is dy\[r\] throughout, dy `[rows]` (f32). The gradient of [`sum_last`].
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn repeat_last(cuda: &Cuda, dx: View, dy: View, rows: usize, columns: usize) -> Result<(), CudaError> {
    scaled_rows(cuda, dx, None, dy, rows, columns)
}

/// y = diag(scale `[rows]` (f32)) · x `[rows, columns]`, activations. y may be x.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn scale_rows(cuda: &Cuda, y: View, x: View, scale: View, rows: usize, columns: usize) -> Result<(), CudaError> {
    matrix("x", x, rows, columns);
    scaled_rows(cuda, y, Some(x), scale, rows, columns)
}

#[track_caller]
fn scaled_rows(
    cuda: &Cuda,
    y: View,
    x: Option<View>,
    scale: View,
    rows: usize,
    columns: usize,
) -> Result<(), CudaError> {
    matrix("y", y, rows, columns);
    scale.check("scale [rows]", ElementType::F32, rows);
    if y.is_empty() {
        return Ok(());
    }
    let (grid, shift) = row_grid(cuda, rows, columns);
    launch(cuda, y, x.unwrap_or(y), "scale_rows", grid, &args![y, x, scale, rows as i64, columns as i32, shift])
}

/// dots `[rows]` (f32) = Σ over columns of dy ∘ x, activations `[rows, columns]`: the gradient of [`scale_rows`]'s
/// scale.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn row_dots(cuda: &Cuda, dots: View, dy: View, x: View, rows: usize, columns: usize) -> Result<(), CudaError> {
    dots.check("dots [rows]", ElementType::F32, rows);
    matrix("dy", dy, rows, columns);
    matrix("x", x, rows, columns);
    let grid = [rows.div_ceil(8) as u32, 1, 1];
    launch(cuda, dy, x, "row_sums", grid, &args![dots, x, dy, rows as i32, columns as i32])
}

/// y = x `[rows, columns]` with `row` `[columns]` (f32) added to each of its rows, activations. y may be x. The row's
/// gradient is a sum of columns.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn add_row(cuda: &Cuda, y: View, x: View, row: View, rows: usize, columns: usize) -> Result<(), CudaError> {
    matrix("y", y, rows, columns);
    matrix("x", x, rows, columns);
    row.check("row [columns]", ElementType::F32, columns);
    if y.is_empty() {
        return Ok(());
    }
    let (grid, shift) = row_grid(cuda, rows, columns);
    launch(cuda, y, x, "add_row", grid, &args![y, x, row, rows as i64, columns as i32, shift])
}

/// y = x / divisor (f32), element by element; y and x activations, y may be x.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn divide(cuda: &Cuda, y: View, x: View, divisor: View) -> Result<(), CudaError> {
    let n = y.len();
    assert_eq!(x.len(), n, "output and input lengths differ");
    divisor.check("divisor", ElementType::F32, n);
    launch(cuda, y, x, "divide", flat_grid(cuda, n), &args![y, x, divisor, n as i64])
}

/// Adds `values` `[n]` to y at the flat places `entries` `[n]` (u32), where **y (f32) is all zeros when called**; equal
/// entries add up in their order. An entry that y has not got is skipped.
///
/// # Errors
/// When the device's memory does not suffice for notes of who came first, or a launch fails.
///
/// # Panics
/// When the lengths or types differ.
#[track_caller]
pub fn scatter(cuda: &Cuda, y: View, values: View, entries: View) -> Result<(), CudaError> {
    let n = entries.len();
    y.check("y", ElementType::F32, y.len());
    entries.check("entries [n]", ElementType::U32, n);
    assert_eq!(values.len(), n, "values are not [n] = [{n}]");
    if n == 0 {
        return Ok(());
    }
    let blocks = n.div_ceil(BLOCK);
    let size = u32::try_from(y.len()).expect("entries are 32 bits");
    let repeats = cuda.array(ElementType::U32, n)?;
    let per_block = cuda.array(ElementType::U32, blocks)?;
    let (repeats, per_block) = (repeats.view(), per_block.view());
    let grid = [blocks as u32, 1, 1];
    let count = n as i32;
    launch(cuda, y, values, "claim", grid, &args![y, entries, count, size])?;
    launch(cuda, y, values, "settle", grid, &args![repeats, per_block, y, entries, count, size])?;
    launch(cuda, y, values, "place_first", grid, &args![y, values, entries, repeats, count, size])?;
    launch(cuda, y, values, "add_repeats", [1, 1, 1], &args![y, values, entries, repeats, per_block, count])
}

/// y `[n]` (f32): the entries `entries` `[n]` (u32) of x, an activation of any shape: the gradient of [`scatter`].
///
/// # Panics
/// When the lengths or types differ.
#[track_caller]
pub fn gather(cuda: &Cuda, y: View, x: View, entries: View) -> Result<(), CudaError> {
    let n = entries.len();
    y.check("y [n]", ElementType::F32, n);
    entries.check("entries [n]", ElementType::U32, n);
    let size = u32::try_from(x.len()).expect("entries are 32 bits");
    launch(cuda, y, x, "gather", flat_grid(cuda, n), &args![y, x, entries, n as i32, size])
}

/// norms `[rows]` (f32) = ‖W + sBA‖ of each row, squares added in double precision: W `[rows, columns]` in any storage
/// type, A `[rank, columns]`, B `[rows, rank]` (f32).
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn adapted_row_norms(
    cuda: &Cuda,
    norms: View,
    weight: View,
    a: View,
    b: View,
    scale: f32,
    rows: usize,
    columns: usize,
    rank: usize,
) -> Result<(), CudaError> {
    norms.check("norms [rows]", ElementType::F32, rows);
    check_adapted(weight, a, b, rows, columns, rank);
    let grid = [rows.div_ceil(8) as u32, 1, 1];
    let args = args![norms, weight, a, b, scale, rows as i32, columns as i32, rank as i32];
    launch(cuda, norms, weight, "adapted_row_norms", grid, &args)
}

/// norms `[columns]` (f32) = ‖W + sBA‖ of each column; the rest as for [`adapted_row_norms`].
///
/// # Errors
/// When the device's memory does not suffice for the sums of parts of the rows, or a launch fails.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn adapted_column_norms(
    cuda: &Cuda,
    norms: View,
    weight: View,
    a: View,
    b: View,
    scale: f32,
    rows: usize,
    columns: usize,
    rank: usize,
) -> Result<(), CudaError> {
    norms.check("norms [columns]", ElementType::F32, columns);
    check_adapted(weight, a, b, rows, columns, rank);
    if columns == 0 {
        return Ok(());
    }
    // At most 64 chunks of whole eights of rows: sums that depend on the sizes only.
    let per_chunk = rows.div_ceil(64).next_multiple_of(32).max(32);
    let chunks = rows.div_ceil(per_chunk).max(1);
    let sums = cuda.array(ElementType::F64, chunks * columns)?;
    let grid = [columns.div_ceil(64) as u32, chunks as u32, 1];
    let (m, n, r) = (rows as i32, columns as i32, rank as i32);
    let args = args![sums.view(), weight, a, b, scale, m, n, r, per_chunk as i32];
    launch(cuda, norms, weight, "adapted_column_squares", grid, &args)?;
    let grid = [columns.div_ceil(BLOCK) as u32, 1, 1];
    launch(cuda, norms, weight, "root_of_chunks", grid, &args![norms, sums.view(), chunks as i32, n])
}

#[track_caller]
fn check_adapted(weight: View, a: View, b: View, rows: usize, columns: usize, rank: usize) {
    matrix("weight", weight, rows, columns);
    a.check("A [rank, columns]", ElementType::F32, rank * columns);
    b.check("B [rows, rank]", ElementType::F32, rows * rank);
}

#[track_caller]
fn matrix(what: &str, view: View, rows: usize, columns: usize) {
    assert_eq!(view.len(), rows * columns, "{what} is not [{rows}, {columns}]");
}

fn flat_grid(cuda: &Cuda, n: usize) -> [u32; 3] {
    [n.div_ceil(BLOCK).min(cuda.multiprocessors() as usize * 16) as u32, 1, 1]
}

/// Launches a kernel built for the types of `y` and `x`, unless its grid is empty.
#[track_caller]
fn launch(
    cuda: &Cuda,
    y: View,
    x: View,
    kernel: &str,
    grid: [u32; 3],
    args: &[crate::runtime::cuda::Arg],
) -> Result<(), CudaError> {
    if grid.contains(&0) {
        return Ok(());
    }
    let defines = [("Y_TYPE", type_number(y.element())), ("X_TYPE", type_number(x.element()))];
    cuda.launch(&SOURCE, &defines, kernel, grid, BLOCK as u32, 0, args)
}
