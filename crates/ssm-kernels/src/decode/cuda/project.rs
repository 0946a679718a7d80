//! A matrix times the vectors of a few sequences, with what makes them and what follows.

use super::choose::choose;
use super::conv::Conv;
use super::wide::Parts;
use crate::args;
use crate::runtime::cuda::{Array, Cuda, CudaError, ElementType, Source, View};
use crate::scan::cuda::Strided;

pub(crate) static SOURCE: Source = Source::new(
    "project",
    concat!(include_str!("../chain.cuh"), include_str!("../../runtime/cuda/copies.cuh"), include_str!("../project.cu")),
)
.chained();

const THREADS: usize = 256;
const WARPS: usize = THREADS / 32;

/// The most sequences that one launch takes.
pub const MOST_SEQUENCES: usize = 4;

/// Bytes of shared memory for the vectors; the rest of what a block has is for sums.
const SHARED: usize = 44 << 10;

/// Accesses of a lane in one step: 64 KiB of a block, with the vectors as much as it may have.
const ACCESSES: usize = 16;

/// Where shared memory is little.
const FEW_ACCESSES: usize = 8;

/// Blocks to a multiprocessor.
const BLOCKS: usize = 2;

/// Bytes of shared memory in which a block keeps what is on its way, where that is more than one step.
const ROOM: usize = 48 << 10;

/// The most steps on their way at once.
const SLOTS: usize = 8;

/// The vectors `[S, columns]`.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// As they are.
    Plain(Strided<'a>),
    /// Of add and norm; see [`crate::norm::add_rms_norm`].
    Norm(Norm<'a>),
}

/// The norm of x + residual.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// x.
    pub x: Rows<'a>,
    /// `[S, columns]`, f32.
    pub residual: Option<View<'a>>,
    /// Where x + residual is written: `[S, columns]`, f32, not the residual itself.
    pub sum: Option<View<'a>>,
    /// `[columns]`, f32.
    pub weight: View<'a>,
    /// Added to the mean square.
    pub eps: f64,
}

/// The vectors that a norm is of, `[S, columns]`.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// As they are, activations.
    Given(View<'a>),
    /// Of a table of such rows those that `ids` `[S]` (u32) name.
    Looked {
        /// `[any, columns]`, an activation.
        table: View<'a>,
        /// `[S]`.
        ids: View<'a>,
    },
    /// What a product has left to be added up. [`project`] does not take it.
    Summed(&'a Parts, Option<View<'a>>),
}

/// The best of each part of the rows of a result, for [`Best::choose`].
pub struct Best {
    value: Array,
    place: Array,
    sequences: usize,
    parts: usize,
}

impl Best {
    /// chosen `[S]` (u32): the row whose result is largest; the first of equals.
    ///
    /// # Errors
    /// When the device refuses the launch.
    ///
    /// # Panics
    /// When `chosen` does not have its shape.
    #[track_caller]
    pub fn choose(&self, cuda: &Cuda, chosen: View) -> Result<(), CudaError> {
        choose(cuda, chosen, self.value.view(), self.place.view(), self.sequences, self.parts)
    }
}

/// How a product is spread.
#[derive(Debug, PartialEq)]
struct Layout {
    vec: usize,
    split: usize,
    rows_each: usize,
    blocks: usize,
    /// Steps that are on their way at once.
    slots: usize,
    /// Bytes of shared memory for them.
    shared: usize,
}

impl Layout {
    fn of(cuda: &Cuda, act: ElementType, rows: usize, columns: usize, aligned: bool) -> Layout {
        let widest = 16 / act.bytes();
        let vec = if aligned && columns.is_multiple_of(widest) { widest } else { 1 };
        let most = if cuda.has_little_shared_memory() { FEW_ACCESSES } else { ACCESSES };
        let wanted = cuda.multiprocessors() as usize * WARPS;
        let packs = |split: usize| columns.div_ceil(32 * split * vec);
        let enough = |split: &usize| rows * split >= wanted && packs(*split) <= most;
        let split = [1, 2, 4].into_iter().find(enough).unwrap_or(WARPS);
        let fits = |each: &usize| rows * split / each >= wanted && packs(split) * each <= most;
        let rows_each = [4, 2].into_iter().find(fits).unwrap_or(1);
        let (steps, processors) = (rows.div_ceil(WARPS / split * rows_each), cuda.multiprocessors() as usize);
        let blocks = steps.min(BLOCKS * processors);
        let step = packs(split) * rows_each * THREADS * vec * act.bytes();
        let slots = (ROOM / step).clamp(1, SLOTS).min(steps.div_ceil(blocks));
        Layout { vec, split, rows_each, blocks, slots, shared: slots * step }
    }
}

/// Whether [`project`] takes so many sequences of so many columns.
pub fn fits(sequences: usize, columns: usize, act: ElementType) -> bool {
    (1..=MOST_SEQUENCES).contains(&sequences) && sequences * (columns + 8) * act.bytes() <= SHARED
}

/// y `[S, rows]` = vectors · weightᵀ + bias, with weight `[rows, columns]` and all activations of one type; without a y only
/// the best is kept. The first of the rows go through the convolution, if there is one: they are its newest inputs. `pick`
/// asks for the best. `early` lets the next launch begin before this one waits: what the next reads before it waits
/// itself must have been written before the last launch that is not early (see chain.cuh).
///
/// # Errors
/// When the device's memory does not suffice or it refuses the launch.
///
/// # Panics
/// When a view does not have its shape, or [`fits`] says no.
#[track_caller]
pub fn project(
    cuda: &Cuda,
    y: Option<View>,
    pick: bool,
    weight: View,
    bias: Option<View>,
    input: &Input,
    conv: Option<&Conv>,
    sequences: usize,
    columns: usize,
    early: bool,
) -> Result<Option<Best>, CudaError> {
    let act = weight.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
    assert!(fits(sequences, columns, act), "{sequences} sequences of {columns} columns");
    let rows = weight.len() / columns;
    weight.check("weight [rows, columns]", act, rows * columns);
    if let Some(y) = y {
        y.check("y [S, rows]", act, sequences * rows);
    }
    if let Some(bias) = bias {
        bias.check("bias [rows]", ElementType::F32, rows);
    }
    check(input, act, sequences, columns);
    let channels = conv.map_or(0, |conv| conv.channels(sequences));
    assert!(channels <= rows, "{channels} channels of {rows} rows");
    let layout = Layout::of(cuda, act, rows, columns, weight.pointer().is_multiple_of(16));
    let best = match pick {
        true => Some(Best {
            value: cuda.array(ElementType::F32, sequences * layout.blocks)?,
            place: cuda.array(ElementType::U32, sequences * layout.blocks)?,
            sequences,
            parts: layout.blocks,
        }),
        false => None,
    };
    let defines = [
        ("ACT_BF16", act.is_bf16() as i64),
        ("SEQS", sequences as i64),
        ("COLS", columns as i64),
        ("VEC", layout.vec as i64),
        ("SPLIT", layout.split as i64),
        ("ROWS", layout.rows_each as i64),
        ("SLOTS", layout.slots as i64),
        ("NORM", matches!(input, Input::Norm(_)) as i64),
        ("WIDTH", conv.map_or(1, |conv| conv.width) as i64),
        ("EARLY", early as i64),
    ];
    let (value, place) = (best.as_ref().map(|best| best.value.view()), best.as_ref().map(|best| best.place.view()));
    let none = None::<View>;
    let (x, stride, ids, residual, sum, norm, eps) = match *input {
        Input::Plain(x) => (x.view, x.stride, none, none, none, none, 0.0),
        Input::Norm(Norm { x, residual, sum, weight, eps }) => {
            let (x, ids) = match x {
                Rows::Given(x) => (x, None),
                Rows::Looked { table, ids } => (table, Some(ids)),
                Rows::Summed(..) => panic!("vectors that are still to be added up"),
            };
            (x, columns, ids, residual, sum, Some(weight), eps as f32)
        }
    };
    let args = args![
        y,
        value,
        place,
        weight,
        bias,
        x,
        stride as i32,
        ids,
        residual,
        sum,
        norm,
        eps,
        conv.and_then(|conv| conv.state),
        conv.map(|conv| conv.weight),
        conv.and_then(|conv| conv.bias),
        channels as i32,
        rows as i32
    ];
    cuda.launch(
        &SOURCE,
        &defines,
        "project",
        [layout.blocks as u32, 1, 1],
        THREADS as u32,
        layout.shared as u32,
        &args,
    )?;
    Ok(best)
}

#[track_caller]
fn check(input: &Input, act: ElementType, sequences: usize, columns: usize) {
    match input {
        Input::Plain(x) => x.check("x [S, columns]", act, sequences, columns),
        Input::Norm(norm) => check_norm(norm, act, sequences, columns),
    }
}

#[track_caller]
pub(super) fn check_norm(norm: &Norm, act: ElementType, sequences: usize, columns: usize) {
    let f32s = |what: &str, view: Option<View>, len: usize| {
        if let Some(view) = view {
            view.check(what, ElementType::F32, len);
        }
    };
    match norm.x {
        Rows::Given(x) => x.check("x [S, columns]", act, sequences * columns),
        Rows::Looked { table, ids } => {
            let rows = table.len() / columns;
            table.check("x [any, columns]", act, rows * columns);
            ids.check("ids [S]", ElementType::U32, sequences);
        }
        Rows::Summed(parts, bias) => {
            parts.check(sequences, columns);
            f32s("bias [columns]", bias, columns);
        }
    }
    f32s("residual [S, columns]", norm.residual, sequences * columns);
    f32s("sum [S, columns]", norm.sum, sequences * columns);
    f32s("norm weight [columns]", Some(norm.weight), columns);
    if let (Some(residual), Some(sum)) = (norm.residual, norm.sum) {
        assert_ne!(residual.pointer(), sum.pointer(), "the sum is written while others read the residual");
    }
}
