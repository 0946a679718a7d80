//! RMSNorm (Zhang & Sennrich, 2019) with the residual addition before it, row by row.

use crate::{Cpu, Real, runtime::DisjointSlice};

/// sum = x + residual; rstd = 1 / √(mean(sum²) + eps); normed = sum · rstd · weight.
pub fn add_rms_norm<T: Real>(
    cpu: &Cpu,
    normed: &mut [T],
    sum: Option<&mut [T]>,
    rstd: Option<&mut [T]>,
    x: &[T],
    residual: Option<&[T]>,
    weight: &[T],
    eps: f64,
    cols: usize,
) {
    let sum = sum.map(DisjointSlice::new);
    let rstd = rstd.map(DisjointSlice::new);
    cpu.for_each_chunk(normed, cols, |r, normed| {
        let row = r * cols..(r + 1) * cols;
        let added: Vec<T> = match residual {
            Some(residual) => x[row.clone()].iter().zip(&residual[row.clone()]).map(|(&x, &y)| x + y).collect(),
            None => x[row.clone()].to_vec(),
        };
        let mean_square = added.iter().map(|&s| s * s).sum::<T>() / T::from_f64(cols as f64);
        let scale = T::ONE / (mean_square + T::from_f64(eps)).sqrt();
        for j in 0..cols {
            normed[j] = added[j] * scale * weight[j];
        }
        if let Some(sum) = &sum {
            // SAFETY: row r belongs to task r alone.
            unsafe { sum.range_mut(row) }.copy_from_slice(&added);
        }
        if let Some(rstd) = &rstd {
            // SAFETY: element r belongs to task r alone.
            unsafe { rstd.range_mut(r..r + 1)[0] = scale };
        }
    });
}

/// d_sum = rstd · (g - sum · rstd² · mean(g · sum)) + d_sum_in with g = d_normed · weight.
pub fn d_sum<T: Real>(
    cpu: &Cpu,
    d_sum: &mut [T],
    d_normed: &[T],
    d_sum_in: Option<&[T]>,
    sum: &[T],
    rstd: &[T],
    weight: &[T],
    cols: usize,
) {
    cpu.for_each_chunk(d_sum, cols, |r, d_sum| {
        let row = r * cols..(r + 1) * cols;
        let (d_normed, s) = (&d_normed[row.clone()], &sum[row.clone()]);
        let dot: T = (0..cols).map(|j| d_normed[j] * weight[j] * s[j]).sum();
        let along = rstd[r] * rstd[r] * dot / T::from_f64(cols as f64);
        for j in 0..cols {
            let through_norm = rstd[r] * (d_normed[j] * weight[j] - s[j] * along);
            d_sum[j] = through_norm + d_sum_in.map_or(T::ZERO, |d| d[row.start + j]);
        }
    });
}

/// d_weight[j] = Σ_r d_normed[r, j] · sum[r, j] · rstd[r].
pub fn d_weight<T: Real>(d_weight: &mut [T], d_normed: &[T], sum: &[T], rstd: &[T], rows: usize, cols: usize) {
    for j in 0..cols {
        d_weight[j] = (0..rows).map(|r| d_normed[r * cols + j] * sum[r * cols + j] * rstd[r]).sum();
    }
}
