//! The products on vectors: packed panels and a register tile (Goto and van de Geijn 2008), and a streaming path for
//! some rows.
//!
//! One loop nest serves all three products; they differ in how the operands are packed. The left operand is packed once,
//! into panels of MR rows. Each task owns a block of columns (and, when those are few, of rows): per [`KC`] of the inner
//! size it packs its block of the right operand, widening it to `f32`, and sweeps its rows with the tile. An element's
//! sum is cut at multiples of KC and nowhere else, so it does not depend on the batch around it, nor on threads.
//!
//! Where the device says so, operands are rounded to bf16 and multiplied twice as fast (`bf16`).
//!
//! Bound: 2·m·n·k operations on two FMA units. Reached on one Zen 3 core (AVX2, `examples/matmul_bench.rs`): see
//! `benches/runs/`.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod pack;
mod rows;
mod tile;

use std::cell::Cell;
use std::ops::Range;

use crate::runtime::{DisjointSlice, Level};
use crate::{Cpu, WeightSlice, dispatch_level};

use pack::{pack_left, pack_right};
use tile::{Output, sweep};

/// Inner size per packed block: a panel of the right operand (KC · 64 bytes) stays in the first-level cache.
const KC: usize = 256;
/// Columns per task: its block of the right operand (KC · NC · 4 bytes = 128 KiB) stays in the second-level cache.
const NC: usize = 128;
/// Rows per sweep over a packed right block: their left panels (KC · 4 bytes each) stay in the second-level cache too.
const MC: usize = 120;
/// Fewer column blocks than this, and rows are cut into tasks as well.
const MIN_COLUMN_TASKS: usize = 6;
/// Up to so many rows, streaming a stored weight once beats packing it.
const SOME_ROWS: usize = 128;

/// The left operand, `f32`.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    /// `[m, k]`.
    Rows(&'a [f32]),
    /// `[k, m]`.
    Columns(&'a [f32]),
}

/// The right operand in its storage type.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    /// `[n, k]`: a weight as stored, for x Wᵀ.
    Transposed(WeightSlice<'a>),
    /// `[k, n]`.
    Plain(WeightSlice<'a>),
}

/// Sizes and options of a product.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub alpha: f32,
    pub accumulate: bool,
}

/// Rows of the register tile and its columns, by level.
fn tile_size(level: Level) -> (usize, usize) {
    match level {
        Level::Avx512 => (12, 32),
        _ => (6, 16),
    }
}

thread_local! {
    /// Packed panels, kept for the next call: of the left operand on the calling thread, of the right on the workers.
    static LEFT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static RIGHT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Runs `body` with a scratch slice of at least `len` elements of unspecified values.
fn with_scratch<T: Copy + Default, R>(
    scratch: &'static std::thread::LocalKey<Cell<Vec<T>>>,
    len: usize,
    body: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut buffer = scratch.take();
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    let result = body(&mut buffer[..len]);
    scratch.set(buffer);
    result
}

/// y `[m, n]` (+)= alpha · left · right + bias.
pub(super) fn product(cpu: &Cpu, y: &mut [f32], left: Left, right: Right, bias: Option<&[f32]>, shape: Shape) {
    let Shape { m, n, k, .. } = shape;
    if m == 0 || n == 0 {
        return;
    }
    // What streams, if anything does.
    let some = match (left, right) {
        (Left::Rows(x), Right::Transposed(w)) if m <= SOME_ROWS && k > 0 && !matches!(w, WeightSlice::F64(_)) => {
            Some((x, w))
        }
        _ => None,
    };
    #[cfg(target_arch = "x86_64")]
    if let (Left::Rows(x), crate::Products::Bf16) = (left, cpu.products()) {
        return match some {
            // SAFETY: a `Cpu` only holds a precision whose instructions the processor was found to have.
            Some((x, w)) => unsafe { rows::some_rows_bf16(cpu, y, x, w, bias, shape) },
            // SAFETY: as above.
            None => unsafe { bf16::product(cpu, y, x, right, bias, shape) },
        };
    }
    if let Some((x, w)) = some {
        return rows::some_rows(cpu, y, x, w, bias, shape);
    }
    let (mr, nr) = tile_size(cpu.level());
    with_scratch(&LEFT, m.div_ceil(mr) * mr * k, |packed| {
        cpu.for_each_chunk(packed, 8 * mr * k.max(1), |i, packed| pack_left(packed, left, i * 8 * mr, mr, m, k));
        let packed = &*packed;
        let y = DisjointSlice::new(y);
        for_each_task(cpu, m, n, mr, |columns, rows| {
            let width = columns.len().next_multiple_of(nr);
            with_scratch(&RIGHT, KC.min(k.max(1)) * width, |packed_right| {
                for_each_depth(k, |first, depth| {
                    pack_right(cpu.level(), packed_right, right, first..first + depth, columns.clone(), nr, n, k);
                    let output = Output {
                        y: &y,
                        n,
                        columns: columns.clone(),
                        bias: bias.filter(|_| first == 0),
                        alpha: shape.alpha,
                        add: shape.accumulate || first > 0,
                    };
                    for row in rows.clone().step_by(MC) {
                        let panels = PanelsOf { packed, k, first, depth };
                        run(cpu.level(), &output, panels, packed_right, row..rows.end.min(row + MC));
                    }
                });
            });
        });
    });
}

/// Calls `task(columns, rows)` for blocks that cover y, each once, in parallel; rows begin at a multiple of `mr`.
fn for_each_task(cpu: &Cpu, m: usize, n: usize, mr: usize, task: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let (panels, column_blocks) = (m.div_ceil(mr), n.div_ceil(NC));
    // Whole panels per task, so that every task starts on one.
    let row_tasks = if column_blocks >= MIN_COLUMN_TASKS { 1 } else { MIN_COLUMN_TASKS.div_ceil(column_blocks) };
    let panels_per_task = panels.div_ceil(row_tasks).max(MC / 2 / mr);
    let row_blocks = panels.div_ceil(panels_per_task);
    cpu.for_each(column_blocks * row_blocks, |index| {
        let (columns, block) = (index / row_blocks * NC, index % row_blocks * panels_per_task);
        task(columns..n.min(columns + NC), block * mr..m.min((block + panels_per_task) * mr));
    });
}

/// Calls `step(first, depth)` for the inner size in blocks of [`KC`]; once with depth 0 where it is 0.
fn for_each_depth(k: usize, mut step: impl FnMut(usize, usize)) {
    for first in (0..k.max(1)).step_by(KC) {
        step(first, KC.min(k - first));
    }
}

/// Where the left panels' rows for `depth` inner elements from `first` on lie.
#[derive(Clone, Copy)]
pub(super) struct PanelsOf<'a> {
    pub packed: &'a [f32],
    pub k: usize,
    pub first: usize,
    pub depth: usize,
}

fn run(level: Level, output: &Output<'_, '_>, panels: PanelsOf<'_>, right: &[f32], rows: Range<usize>) {
    dispatch_level!(level, sweep(output: &Output<'_, '_>, panels: PanelsOf<'_>, right: &[f32], rows: Range<usize>));
}
