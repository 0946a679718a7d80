//! Launches of `embedding.cu`: rows of a table by their numbers, and gradients back into it.
//!
//! The numbers are on the device and are not checked here: a row that the table has not got reads as NaN, and as zeros
//! where its number is [`NO_ROW`]; nothing is added to it.

use crate::args;
use crate::columns::cuda::row_grid;
use crate::elementwise::cuda::type_number;
use crate::runtime::cuda::{Array, Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("embedding", include_str!("embedding.cu"));

/// Threads of a block, as the source has them.
const BLOCK: u32 = 256;

/// The number that stands for no row.
pub const NO_ROW: u32 = u32::MAX;

/// y `[ids, cols]`: row `ids[i]` (u32) of weight `[table, cols]`. y and weight are f32, bf16 or f16 each (y not f16).
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn gather_rows(cuda: &Cuda, y: View, weight: View, ids: View, table: usize, cols: usize) -> Result<(), CudaError> {
    check(y, "y", weight, "weight", ids, table, cols);
    move_rows(cuda, "gather_rows", y, weight, ids, table, cols)
}

/// d_weight `[table, cols]` += d_out `[ids, cols]` scattered to rows `ids[i]` (u32); equal ids add up in a fixed
/// order, in f32, and are rounded once.
///
/// # Errors
/// When the device's memory does not suffice for the order of the rows, or a launch fails.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn scatter_add_rows(
    cuda: &Cuda,
    d_weight: View,
    d_out: View,
    ids: View,
    table: usize,
    cols: usize,
) -> Result<(), CudaError> {
    check(d_out, "d_out", d_weight, "d_weight", ids, table, cols);
    if d_out.is_empty() {
        return Ok(());
    }
    let segments = Segments::of(cuda, ids, table)?;
    let groups = cols.div_ceil(BLOCK as usize);
    let blocks = ids.len().min((cuda.multiprocessors() as usize * 16).div_ceil(groups));
    let args = args![d_weight, d_out, ids, segments.order(), segments.starts(), cols as i32];
    let defines = defines(d_weight, d_out);
    cuda.launch(&SOURCE, &defines, "add_segments", [blocks as u32, groups as u32, 1], BLOCK, 0, &args)
}

/// y `[table, cols]`: row r of x `[ids, cols]` as row `ids[r]` (u32), zeros in the others. The ids are distinct, but
/// for [`NO_ROW`]: the gradient of [`gather_rows`] for such ids.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn scatter_rows(cuda: &Cuda, y: View, x: View, ids: View, table: usize, cols: usize) -> Result<(), CudaError> {
    cuda.clear(y)?;
    put_rows(cuda, y, x, ids, table, cols)
}

/// Rows `ids[i]` of y `[table, cols]` become the rows of x `[ids, cols]`; the others stay. No id comes twice.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn put_rows(cuda: &Cuda, y: View, x: View, ids: View, table: usize, cols: usize) -> Result<(), CudaError> {
    check(x, "x", y, "y", ids, table, cols);
    move_rows(cuda, "place_rows", y, x, ids, table, cols)
}

#[track_caller]
fn move_rows(
    cuda: &Cuda,
    kernel: &str,
    y: View,
    x: View,
    ids: View,
    table: usize,
    cols: usize,
) -> Result<(), CudaError> {
    let rows = ids.len();
    if rows * cols == 0 {
        return Ok(());
    }
    let (grid, shift) = row_grid(cuda, rows, cols.div_ceil(4));
    let args = args![y, x, ids, rows as i64, table as u32, cols as i32, shift];
    cuda.launch(&SOURCE, &defines(y, x), kernel, grid, BLOCK, 0, &args)
}

#[track_caller]
fn check(rows: View, rows_name: &str, whole: View, whole_name: &str, ids: View, table: usize, cols: usize) {
    ids.check("ids", ElementType::U32, ids.len());
    assert!(table < NO_ROW as usize, "a table of {table} rows");
    let count = ids.len();
    assert_eq!(rows.len(), count * cols, "{rows_name} is not [ids, cols] = [{count}, {cols}]");
    assert_eq!(whole.len(), table * cols, "{whole_name} is not [table, cols] = [{table}, {cols}]");
}

/// What is written, and what is read.
#[track_caller]
fn defines(y: View, x: View) -> [(&'static str, i64); 2] {
    assert_ne!(y.element(), ElementType::F16, "f16 is a storage type of weights, not of activations");
    [("Y_TYPE", type_number(y.element())), ("W_TYPE", type_number(x.element()))]
}

/// Which of `n` keys are equal: the places 0..n, sorted by key and then by place, and where each key's places start.
pub(crate) struct Segments {
    order: Array,
    starts: Array,
}

impl Segments {
    /// Of keys `[n]` (u32) below `limit`; places with other keys are in no segment.
    ///
    /// # Errors
    /// When the device's memory does not suffice, or the launch fails.
    #[track_caller]
    pub(crate) fn of(cuda: &Cuda, keys: View, limit: usize) -> Result<Segments, CudaError> {
        let n = keys.len();
        keys.check("keys", ElementType::U32, n);
        let limit = u32::try_from(limit).expect("keys are 32 bits");
        let order = cuda.array(ElementType::U32, n)?;
        let spare = cuda.array(ElementType::U32, n)?;
        let starts = cuda.array(ElementType::U32, n + 2)?;
        let passes = (u32::BITS - limit.leading_zeros()).div_ceil(8).max(1);
        let args = args![order.view(), spare.view(), starts.view(), keys, limit, passes as i32, n as i32];
        // The types are of no matter to this kernel: those of a build that scattering needs anyway.
        cuda.launch(&SOURCE, &[("Y_TYPE", 0), ("W_TYPE", 0)], "order_by_key", [1, 1, 1], 1024, 0, &args)?;
        Ok(Segments { order, starts })
    }

    /// The places `[n]`, segment after segment.
    pub(crate) fn order(&self) -> View<'_> {
        self.order.view()
    }

    /// `[n + 2]`: the number of segments s, the start of each in the order, the end of the last.
    pub(crate) fn starts(&self) -> View<'_> {
        self.starts.view()
    }
}
