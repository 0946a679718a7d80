//! Embedding lookup in a table of any storage type, and its gradient.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
#[cfg(test)]
mod tests;

use crate::{Cpu, Real, WeightSlice};

/// out `[ids, cols]`: row `ids[i]` of weight `[rows, cols]`, widened.
///
/// # Panics
/// When a slice does not have its shape or an id passes the table.
#[track_caller]
pub fn gather_rows<T: Real>(cpu: &Cpu, out: &mut [T], weight: WeightSlice, ids: &[u32], cols: usize) {
    check(out.len(), weight.len(), ids, cols);
    reference::gather_rows(cpu, out, weight, ids, cols);
}

/// d_weight `[rows, cols]` += d_out `[ids, cols]` scattered to rows `ids[i]`; equal ids add up in the order of i.
///
/// # Panics
/// When a slice does not have its shape or an id passes the table.
#[track_caller]
pub fn scatter_add_rows<T: Real>(cpu: &Cpu, d_weight: &mut [T], d_out: &[T], ids: &[u32], cols: usize) {
    check(d_out.len(), d_weight.len(), ids, cols);
    reference::scatter_add_rows(cpu, d_weight, d_out, ids, cols);
}

#[track_caller]
fn check(out: usize, weight: usize, ids: &[u32], cols: usize) {
    assert!(cols > 0 && weight.is_multiple_of(cols), "{weight} weights are not rows of {cols}");
    assert_eq!(out, ids.len() * cols, "the output is not [ids, cols] = [{}, {cols}]", ids.len());
    let rows = weight / cols;
    assert!(ids.iter().all(|&id| (id as usize) < rows), "an id passes the table's {rows} rows");
}
