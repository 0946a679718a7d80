//! Dense products: activations times a weight in its storage type, and the weight gradient.
//!
//! The names follow BLAS: the letters say whether the left and the right operand are taken as stored (`n`) or
//! transposed (`t`). All matrices are row-major and dense; `y` must not alias an operand (the borrow checker sees to
//! it). An inner size k of zero is a sum of nothing. There are no strides and no batches here.

mod reference;
mod simd;
#[cfg(test)]
mod tests;

use crate::real::{as_f32, as_f32_mut};
use crate::{Cpu, Level, Real, WeightSlice};
use simd::{Left, Right, Shape};

/// y `[m, n]` (+)= alpha · x `[m, k]` · w `[n, k]`ᵀ + bias `[n]`: a linear layer with its weight as checkpoints have it.
///
/// `accumulate` adds to `y` instead of overwriting it; `alpha` scales the product, not the bias.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn matmul_nt<T: Real>(
    cpu: &Cpu,
    y: &mut [T],
    x: &[T],
    w: WeightSlice,
    bias: Option<&[T]>,
    alpha: T,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    assert_eq!(y.len(), m * n, "y is not [m, n] = [{m}, {n}]");
    assert_eq!(x.len(), m * k, "x is not [m, k] = [{m}, {k}]");
    assert_eq!(w.len(), n * k, "w is not [n, k] = [{n}, {k}]");
    assert_eq!(bias.map_or(n, <[T]>::len), n, "bias is not [n] = [{n}]");
    if cpu.level() != Level::Reference
        && let (Some(y), Some(x), Some(alpha)) = (as_f32_mut(y), as_f32(x), as_f32(&[alpha]))
    {
        let shape = Shape { m, n, k, alpha: alpha[0], accumulate };
        return simd::product(cpu, y, Left::Rows(x), Right::Transposed(w), bias.and_then(as_f32), shape);
    }
    reference::matmul_nt(cpu, y, x, w, bias, alpha, n, k, accumulate);
}

/// y `[m, n]` (+)= alpha · x `[m, k]` · w `[k, n]`: a linear layer's input gradient.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn matmul_nn<T: Real>(
    cpu: &Cpu,
    y: &mut [T],
    x: &[T],
    w: WeightSlice,
    alpha: T,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    assert_eq!(y.len(), m * n, "y is not [m, n] = [{m}, {n}]");
    assert_eq!(x.len(), m * k, "x is not [m, k] = [{m}, {k}]");
    assert_eq!(w.len(), k * n, "w is not [k, n] = [{k}, {n}]");
    if cpu.level() != Level::Reference
        && let (Some(y), Some(x), Some(alpha)) = (as_f32_mut(y), as_f32(x), as_f32(&[alpha]))
    {
        let shape = Shape { m, n, k, alpha: alpha[0], accumulate };
        return simd::product(cpu, y, Left::Rows(x), Right::Plain(w), None, shape);
    }
    reference::matmul_nn(cpu, y, x, w, alpha, n, k, accumulate);
}

/// y `[m, n]` (+)= alpha · a `[k, m]`ᵀ · b `[k, n]`: a linear layer's weight gradient, k being the tokens. The device counts
/// it.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn matmul_tn<T: Real>(
    cpu: &Cpu,
    y: &mut [T],
    a: &[T],
    b: &[T],
    alpha: T,
    m: usize,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    assert_eq!(y.len(), m * n, "y is not [m, n] = [{m}, {n}]");
    assert_eq!(a.len(), k * m, "a is not [k, m] = [{k}, {m}]");
    assert_eq!(b.len(), k * n, "b is not [k, n] = [{k}, {n}]");
    cpu.count_weight_gradient(m * n * k);
    if cpu.level() != Level::Reference
        && let (Some(y), Some(a), Some(b), Some(alpha)) = (as_f32_mut(y), as_f32(a), as_f32(b), as_f32(&[alpha]))
    {
        let shape = Shape { m, n, k, alpha: alpha[0], accumulate };
        return simd::product(cpu, y, Left::Columns(a), Right::Plain(WeightSlice::F32(b)), None, shape);
    }
    reference::matmul_tn(cpu, y, a, b, alpha, m, n, k, accumulate);
}

/// out `[n]` (+)= the sums of the columns of x `[m, n]`: a linear layer's bias gradient.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn column_sums<T: Real>(cpu: &Cpu, out: &mut [T], x: &[T], m: usize, n: usize, accumulate: bool) {
    assert_eq!(out.len(), n, "out is not [n] = [{n}]");
    assert_eq!(x.len(), m * n, "x is not [m, n] = [{m}, {n}]");
    reference::column_sums(cpu, out, x, m, n, accumulate);
}
