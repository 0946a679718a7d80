//! The products as their formulas, one sum after the other; rows of the output in parallel.

use crate::{Cpu, Real, WeightSlice};

/// y[i, j] (+)= alpha · Σ_p x[i, p] w[j, p] + bias[j].
pub fn matmul_nt<T: Real>(
    cpu: &Cpu,
    y: &mut [T],
    x: &[T],
    w: WeightSlice,
    bias: Option<&[T]>,
    alpha: T,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    cpu.for_each_chunk(y, n, |i, y| {
        for j in 0..n {
            let product: T = (0..k).map(|p| x[i * k + p] * w.get::<T>(j * k + p)).sum();
            let start = if accumulate { y[j] } else { T::ZERO };
            y[j] = start + alpha * product + bias.map_or(T::ZERO, |b| b[j]);
        }
    });
}

/// y[i, j] (+)= alpha · Σ_p x[i, p] w[p, j].
pub fn matmul_nn<T: Real>(
    cpu: &Cpu,
    y: &mut [T],
    x: &[T],
    w: WeightSlice,
    alpha: T,
    n: usize,
    k: usize,
    accumulate: bool,
) {
    cpu.for_each_chunk(y, n, |i, y| {
        let mut product = vec![T::ZERO; n];
        for p in 0..k {
            for j in 0..n {
                product[j] += x[i * k + p] * w.get::<T>(p * n + j);
            }
        }
        add_scaled(y, &product, alpha, accumulate);
    });
}

/// y[i, j] (+)= alpha · Σ_p a[p, i] b[p, j].
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
    cpu.for_each_chunk(y, n, |i, y| {
        let mut product = vec![T::ZERO; n];
        for p in 0..k {
            for j in 0..n {
                product[j] += a[p * m + i] * b[p * n + j];
            }
        }
        add_scaled(y, &product, alpha, accumulate);
    });
}

/// y[j] (+)= alpha · product[j].
fn add_scaled<T: Real>(y: &mut [T], product: &[T], alpha: T, accumulate: bool) {
    for (y, &product) in y.iter_mut().zip(product) {
        *y = if accumulate { *y } else { T::ZERO } + alpha * product;
    }
}

/// out[j] (+)= Σ_i x[i, j].
pub fn column_sums<T: Real>(cpu: &Cpu, out: &mut [T], x: &[T], m: usize, n: usize, accumulate: bool) {
    cpu.for_each_chunk(out, 1, |j, out| {
        let sum: T = (0..m).map(|i| x[i * n + j]).sum();
        out[0] = if accumulate { out[0] } else { T::ZERO } + sum;
    });
}
