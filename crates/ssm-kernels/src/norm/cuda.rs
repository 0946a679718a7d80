//! Launches of `norm.cu`: the residual stream is f32, the branch is an activation.

use crate::args;
use crate::reduce::cuda::{add_chunks, chunks_of};
use crate::runtime::cuda::{Cuda, CudaError, Define, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("norm", include_str!("norm.cu"));

/// The widest row whose parts fit the registers of a block.
const WIDEST: usize = 1024 * 64;

/// How a row is spread over lanes.
struct Layout {
    defines: [Define; 4],
    threads: u32,
    rows_per_block: usize,
}

impl Layout {
    #[track_caller]
    fn of(act: ElementType, cols: usize, packs_per_lane: usize, views: &[View]) -> Layout {
        assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
        let aligned = |view: &View| view.pointer().is_multiple_of(4 * view.element().bytes() as u64);
        let vec = if cols.is_multiple_of(4) && views.iter().all(aligned) { 4 } else { 1 };
        let packs = cols.div_ceil(vec);
        // As many packs per lane at most, until there is no wider block.
        let warps = [1usize, 2, 4, 8, 16].into_iter().find(|warps| packs <= packs_per_lane * 32 * warps).unwrap_or(32);
        let per = packs.div_ceil(32 * warps);
        assert!(vec * per <= 64, "rows of {cols} are wider than the {WIDEST} that a norm is written for");
        let rows_per_block = if warps == 1 { 4 } else { 1 };
        let defines =
            [("ACT_BF16", act.is_bf16() as i64), ("WARPS", warps as i64), ("VEC", vec as i64), ("PER", per as i64)];
        Layout { defines, threads: (32 * warps * rows_per_block) as u32, rows_per_block }
    }
}

/// normed = sum · rstd · weight with sum = x + residual; see [`super::add_rms_norm`]. x, `normed` and `kept_sum`, the sum for
/// the backward, `[rows, cols]` are activations, all else is f32.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn add_rms_norm(
    cuda: &Cuda,
    normed: View,
    sum: Option<View>,
    kept_sum: Option<View>,
    rstd: Option<View>,
    x: View,
    residual: Option<View>,
    weight: View,
    eps: f64,
    rows: usize,
    cols: usize,
) -> Result<(), CudaError> {
    let (act, size) = (x.element(), rows * cols);
    normed.check("normed [rows, cols]", act, size);
    x.check("x [rows, cols]", act, size);
    weight.check("weight [cols]", ElementType::F32, cols);
    check_all(&[("sum", sum, size), ("rstd", rstd, rows), ("residual", residual, size)]);
    if let Some(kept_sum) = kept_sum {
        kept_sum.check("kept_sum [rows, cols]", act, size);
    }
    if size == 0 {
        return Ok(());
    }
    let views: Vec<View> =
        [Some(normed), sum, kept_sum, Some(x), residual, Some(weight)].into_iter().flatten().collect();
    let layout = Layout::of(act, cols, 8, &views);
    let args = args![normed, sum, kept_sum, rstd, x, residual, weight, eps as f32, rows as i32, cols as i32];
    let grid = [rows.div_ceil(layout.rows_per_block) as u32, 1, 1];
    cuda.launch(&SOURCE, &layout.defines, "add_rms_norm", grid, layout.threads, 0, &args)
}

/// Gradients of [`add_rms_norm`], each where asked for: of x (an activation) and of the residual (f32), which are the same
/// numbers, and of the weight `[cols]`. `sum` is what was kept of it, an activation; `d_sum_in` is what reaches the sum by its
/// other uses.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn rms_norm_backward(
    cuda: &Cuda,
    d_x: Option<View>,
    d_residual: Option<View>,
    d_weight: Option<View>,
    d_normed: View,
    d_sum_in: Option<View>,
    sum: View,
    rstd: View,
    weight: View,
    rows: usize,
    cols: usize,
) -> Result<(), CudaError> {
    let (act, size) = (d_normed.element(), rows * cols);
    d_normed.check("d_normed [rows, cols]", act, size);
    sum.check("sum [rows, cols]", act, size);
    rstd.check("rstd [rows]", ElementType::F32, rows);
    weight.check("weight [cols]", ElementType::F32, cols);
    if let Some(d_x) = d_x {
        d_x.check("d_x [rows, cols]", act, size);
    }
    check_all(&[("d_residual", d_residual, size), ("d_weight", d_weight, cols), ("d_sum_in", d_sum_in, size)]);
    if size == 0 {
        return d_weight.map_or(Ok(()), |d_weight| cuda.clear(d_weight));
    }
    let views: Vec<View> =
        [d_x, d_residual, Some(d_normed), d_sum_in, Some(sum), Some(weight)].into_iter().flatten().collect();
    // Three arrays of a row are in registers, and not one.
    let layout = Layout::of(act, cols, 4, &views);
    if d_x.is_some() || d_residual.is_some() {
        let args = args![d_x, d_residual, d_normed, d_sum_in, sum, rstd, weight, rows as i32, cols as i32];
        let grid = [rows.div_ceil(layout.rows_per_block) as u32, 1, 1];
        cuda.launch(&SOURCE, &layout.defines, "rms_norm_backward", grid, layout.threads, 0, &args)?;
    }
    if let Some(d_weight) = d_weight {
        let (chunks, chunk) = chunks_of(rows);
        let partial = cuda.array(ElementType::F32, chunks * cols)?;
        let args = args![partial.view(), d_normed, sum, rstd, rows as i32, cols as i32, chunk as i32];
        let grid = [cols.div_ceil(128) as u32, chunks as u32, 1];
        cuda.launch(&SOURCE, &layout.defines, "weight_partials", grid, 128, 0, &args)?;
        add_chunks(cuda, &[(d_weight, partial.view())], chunks)?;
    }
    Ok(())
}

#[track_caller]
fn check_all(views: &[(&str, Option<View>, usize)]) {
    for (name, view, len) in views {
        if let Some(view) = view {
            view.check(name, ElementType::F32, *len);
        }
    }
}
