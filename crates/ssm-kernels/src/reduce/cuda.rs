//! Launches of `reduce.cu`.

use crate::args;
use crate::runtime::cuda::{Arg, Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("reduce", include_str!("reduce.cu"));

/// How many chunks so many rows are summed in, and how many rows each has: by the size alone.
pub(crate) fn chunks_of(rows: usize) -> (usize, usize) {
    let chunk = rows.div_ceil(128).max(16);
    (rows.div_ceil(chunk).max(1), chunk)
}

/// out `[cols]` (f32): the sums of the columns of x `[rows, cols]`, an activation or f32.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn column_sums(cuda: &Cuda, out: View, x: View, rows: usize, cols: usize) -> Result<(), CudaError> {
    out.check("out [cols]", ElementType::F32, cols);
    let act = x.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "x is neither f32 nor bf16 but {act:?}");
    x.check("x [rows, cols]", act, rows * cols);
    if rows * cols == 0 {
        return cuda.clear(out);
    }
    let (chunks, chunk) = chunks_of(rows);
    let partial = cuda.array(ElementType::F32, chunks * cols)?;
    let args = args![partial.view(), x, rows as i32, cols as i32, chunk as i32];
    let grid = [cols.div_ceil(128) as u32, chunks as u32, 1];
    cuda.launch(&SOURCE, &[("ACT_BF16", act.is_bf16() as i64)], "column_partials", grid, 128, 0, &args)?;
    add_chunks(cuda, &[(out, partial.view())], chunks)
}

/// out `[cols]` = Σ over the chunks of `partial` `[chunks, cols]`, in order: of at most two such arrays, by one launch.
#[track_caller]
pub(crate) fn add_chunks(cuda: &Cuda, sums: &[(View, View)], chunks: usize) -> Result<(), CudaError> {
    assert!(sums.len() <= 2, "more than two sums by one launch");
    for (out, partial) in sums {
        out.check("out [cols]", ElementType::F32, out.len());
        partial.check("partial [chunks, cols]", ElementType::F32, chunks * out.len());
    }
    let cols: usize = sums.iter().map(|(out, _)| out.len()).sum();
    if cols == 0 {
        return Ok(());
    }
    let of = |i: usize| match sums.get(i) {
        Some(&(out, partial)) => args![out, partial, out.len() as i32],
        None => [Arg::Absent, Arg::Absent, Arg::I32(0)],
    };
    let args: Vec<Arg> = of(0).into_iter().chain(of(1)).chain([Arg::I32(chunks as i32)]).collect();
    let grid = [cols.div_ceil(128) as u32, 1, 1];
    cuda.launch(&SOURCE, &[("ACT_BF16", 0)], "add_chunks", grid, 128, 0, &args)
}
