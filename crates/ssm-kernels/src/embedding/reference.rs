//! Rows out of a table and gradients back into it.

use crate::{Cpu, Real, WeightSlice, runtime::DisjointSlice};

/// Columns per task of the scatter: rows may repeat among the ids, columns cannot.
const COLUMNS: usize = 64;

/// out[i, :] = weight[ids[i], :].
pub fn gather_rows<T: Real>(cpu: &Cpu, out: &mut [T], weight: WeightSlice, ids: &[u32], cols: usize) {
    cpu.for_each_chunk(out, cols, |i, out| {
        for j in 0..cols {
            out[j] = weight.get(ids[i] as usize * cols + j);
        }
    });
}

/// d_weight[ids[i], :] += d_out[i, :], for i in order.
pub fn scatter_add_rows<T: Real>(cpu: &Cpu, d_weight: &mut [T], d_out: &[T], ids: &[u32], cols: usize) {
    let d_weight = DisjointSlice::new(d_weight);
    cpu.for_each(cols.div_ceil(COLUMNS), |task| {
        let columns = task * COLUMNS..cols.min((task + 1) * COLUMNS);
        for (i, &id) in ids.iter().enumerate() {
            let row = id as usize * cols;
            // SAFETY: these columns belong to this task alone, and it holds one row of them at a time.
            let to = unsafe { d_weight.range_mut(row + columns.start..row + columns.end) };
            for (to, &d) in to.iter_mut().zip(&d_out[i * cols..][columns.clone()]) {
                *to += d;
            }
        }
    });
}
