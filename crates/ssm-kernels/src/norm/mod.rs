//! RMSNorm fused with the residual addition before it, and its gradient.
//!
//! normed = sum · rstd · weight with sum = x + residual and rstd = 1 / √(mean(sum²) + eps), per row (Zhang & Sennrich,
//! "Root Mean Square Layer Normalization", 2019, equation 4, with the epsilon of the Mamba code).
//!
//! `f32` runs on vectors at every level but the reference, in tasks of so many rows as the width of a row says. A row's
//! outputs do not depend on the rows around it; the gradient of the weight adds up in blocks of rows, in order.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
mod simd;
#[cfg(test)]
mod tests;

use crate::real::{as_f32, as_f32_mut};
use crate::{Cpu, Level, Real};

/// Adds the residual and normalises: `normed`, `sum`, `x`, `residual` are `[rows, cols]`, `rstd` `[rows]`, `weight`
/// `[cols]`.
///
/// `sum` (the next residual) and `rstd` (for the backward pass) are written only where asked for.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn add_rms_norm<T: Real>(
    cpu: &Cpu,
    normed: &mut [T],
    sum: Option<&mut [T]>,
    rstd: Option<&mut [T]>,
    x: &[T],
    residual: Option<&[T]>,
    weight: &[T],
    eps: f64,
    rows: usize,
    cols: usize,
) {
    let size = rows * cols;
    assert_eq!(normed.len(), size, "normed is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(sum.as_ref().map_or(size, |s| s.len()), size, "sum is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(rstd.as_ref().map_or(rows, |s| s.len()), rows, "rstd is not [rows] = [{rows}]");
    assert_eq!(x.len(), size, "x is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(residual.map_or(size, <[T]>::len), size, "residual is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(weight.len(), cols, "weight is not [cols] = [{cols}]");
    if cpu.level() != Level::Reference
        && let (Some(normed), Some(x), Some(weight)) = (as_f32_mut(normed), as_f32(x), as_f32(weight))
    {
        let (sum, rstd) = (sum.and_then(as_f32_mut), rstd.and_then(as_f32_mut));
        return simd::add_rms_norm(cpu, normed, sum, rstd, x, residual.and_then(as_f32), weight, eps, cols);
    }
    reference::add_rms_norm(cpu, normed, sum, rstd, x, residual, weight, eps, cols);
}

/// Gradients of [`add_rms_norm`], each computed only where asked for and then overwritten.
///
/// `d_sum_out` `[rows, cols]` is the gradient of both x and the residual: what comes through the norm plus `d_sum_in`,
/// the gradient that reaches `sum` by its other uses. `d_weight` is `[cols]`; `sum` and `rstd` are the forward's.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn rms_norm_backward<T: Real>(
    cpu: &Cpu,
    d_sum_out: Option<&mut [T]>,
    d_weight: Option<&mut [T]>,
    d_normed: &[T],
    d_sum_in: Option<&[T]>,
    sum: &[T],
    rstd: &[T],
    weight: &[T],
    rows: usize,
    cols: usize,
) {
    let size = rows * cols;
    assert_eq!(d_sum_out.as_ref().map_or(size, |d| d.len()), size, "d_sum_out is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(d_weight.as_ref().map_or(cols, |d| d.len()), cols, "d_weight is not [cols] = [{cols}]");
    assert_eq!(d_normed.len(), size, "d_normed is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(d_sum_in.map_or(size, <[T]>::len), size, "d_sum_in is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(sum.len(), size, "sum is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(rstd.len(), rows, "rstd is not [rows] = [{rows}]");
    assert_eq!(weight.len(), cols, "weight is not [cols] = [{cols}]");
    if cpu.level() != Level::Reference
        && let (Some(d_normed), Some(sum), Some(rstd), Some(weight)) =
            (as_f32(d_normed), as_f32(sum), as_f32(rstd), as_f32(weight))
    {
        let (d_sum_out, d_weight) = (d_sum_out.and_then(as_f32_mut), d_weight.and_then(as_f32_mut));
        let d_sum_in = d_sum_in.and_then(as_f32);
        return simd::rms_norm_backward(cpu, d_sum_out, d_weight, d_normed, d_sum_in, sum, rstd, weight, cols);
    }
    if let Some(d_sum_out) = d_sum_out {
        reference::d_sum(cpu, d_sum_out, d_normed, d_sum_in, sum, rstd, weight, cols);
    }
    if let Some(d_weight) = d_weight {
        reference::d_weight(d_weight, d_normed, sum, rstd, rows, cols);
    }
}
