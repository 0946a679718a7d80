//! What is done to whole columns of activations `[rows, width]`: joining, cutting, picking, scaling.
//!
//! These move memory and compute almost nothing; rows go to tasks in blocks, and a sum over rows is made column by column
//! in the order of the rows.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
#[cfg(test)]
mod tests;

use crate::{Cpu, Real};

/// Elements per task.
const TASK: usize = 1 << 14;

fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Columns `at..at + part_width` of `whole` `[rows, width]` become `part` `[rows, part_width]`.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn put_columns<T: Real>(cpu: &Cpu, whole: &mut [T], width: usize, part: &[T], at: usize, part_width: usize) {
    let rows = check(whole.len(), width, part.len(), at, part_width);
    let per_task = rows_per_task(width);
    cpu.for_each_chunk(whole, per_task * width, |task, whole| {
        for (i, row) in whole.chunks_exact_mut(width).enumerate() {
            let from = (task * per_task + i) * part_width;
            row[at..at + part_width].copy_from_slice(&part[from..from + part_width]);
        }
    });
    debug_assert_eq!(part.len(), rows * part_width);
}

/// `part` `[rows, part_width]` becomes columns `at..at + part_width` of `whole` `[rows, width]`.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn take_columns<T: Real>(cpu: &Cpu, part: &mut [T], whole: &[T], width: usize, at: usize, part_width: usize) {
    check(whole.len(), width, part.len(), at, part_width);
    let per_task = rows_per_task(part_width);
    cpu.for_each_chunk(part, per_task * part_width, |task, part| {
        for (i, row) in part.chunks_exact_mut(part_width).enumerate() {
            let from = (task * per_task + i) * width + at;
            row.copy_from_slice(&whole[from..from + part_width]);
        }
    });
}

/// y `[rows, columns]`: the named columns of x `[rows, width]`, in the order given.
///
/// # Panics
/// When a slice does not have its shape or a column is not below `width`.
#[track_caller]
pub fn gather_columns<T: Real>(cpu: &Cpu, y: &mut [T], x: &[T], width: usize, columns: &[u32]) {
    check_columns(y.len(), x.len(), width, columns);
    let count = columns.len();
    let per_task = rows_per_task(count);
    cpu.for_each_chunk(y, per_task * count, |task, y| {
        for (i, row) in y.chunks_exact_mut(count).enumerate() {
            let x = &x[(task * per_task + i) * width..][..width];
            row.iter_mut().zip(columns).for_each(|(y, &column)| *y = x[column as usize]);
        }
    });
}

/// dx `[rows, width]` += dy `[rows, columns]` at the named columns.
///
/// # Panics
/// When a slice does not have its shape or a column is not below `width`.
#[track_caller]
pub fn scatter_add_columns<T: Real>(cpu: &Cpu, dx: &mut [T], dy: &[T], width: usize, columns: &[u32]) {
    check_columns(dy.len(), dx.len(), width, columns);
    let count = columns.len();
    let per_task = rows_per_task(width);
    cpu.for_each_chunk(dx, per_task * width, |task, dx| {
        for (i, row) in dx.chunks_exact_mut(width).enumerate() {
            let dy = &dy[(task * per_task + i) * count..][..count];
            columns.iter().zip(dy).for_each(|(&column, dy)| row[column as usize] += *dy);
        }
    });
}

/// y `[rows, width]` = x ∘ gain `[width]`, row by row.
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn scale_columns<T: Real>(cpu: &Cpu, y: &mut [T], x: &[T], gain: &[T]) {
    let width = gain.len();
    assert_eq!(y.len(), x.len(), "output and input lengths differ");
    assert!(width > 0 && x.len().is_multiple_of(width), "{} elements are not rows of {width}", x.len());
    let per_task = rows_per_task(width);
    cpu.for_each_chunk(y, per_task * width, |task, y| {
        for (i, row) in y.chunks_exact_mut(width).enumerate() {
            let x = &x[(task * per_task + i) * width..][..width];
            row.iter_mut().zip(x).zip(gain).for_each(|((y, x), gain)| *y = *x * *gain);
        }
    });
}

/// dgain `[width]` = Σ over rows of dy ∘ x, both `[rows, width]`: the gradient of [`scale_columns`].
///
/// # Panics
/// When a slice does not have its shape.
#[track_caller]
pub fn scale_columns_gain_gradient<T: Real>(cpu: &Cpu, dgain: &mut [T], dy: &[T], x: &[T]) {
    let width = dgain.len();
    assert_eq!(dy.len(), x.len(), "gradient and input lengths differ");
    assert!(width > 0 && x.len().is_multiple_of(width), "{} elements are not rows of {width}", x.len());
    const COLUMNS: usize = 64;
    cpu.for_each_chunk(dgain, COLUMNS, |task, sums| {
        sums.fill(T::ZERO);
        let at = task * COLUMNS;
        for (dy, x) in dy.chunks_exact(width).zip(x.chunks_exact(width)) {
            let products = dy[at..].iter().zip(&x[at..]).map(|(dy, x)| *dy * *x);
            sums.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
        }
    });
}

#[track_caller]
fn check(whole: usize, width: usize, part: usize, at: usize, part_width: usize) -> usize {
    assert!(part_width > 0 && at + part_width <= width, "columns {at}..{} of {width}", at + part_width);
    assert!(whole.is_multiple_of(width), "{whole} elements are not rows of {width}");
    let rows = whole / width;
    assert_eq!(part, rows * part_width, "the part is not [rows, part_width] = [{rows}, {part_width}]");
    rows
}

#[track_caller]
fn check_columns(picked: usize, whole: usize, width: usize, columns: &[u32]) {
    assert!(width > 0 && whole.is_multiple_of(width), "{whole} elements are not rows of {width}");
    assert!(!columns.is_empty(), "no column is named");
    let rows = whole / width;
    assert_eq!(picked, rows * columns.len(), "the picked columns are not [{rows}, {}]", columns.len());
    assert!(columns.iter().all(|&column| (column as usize) < width), "a column is not below {width}");
}
