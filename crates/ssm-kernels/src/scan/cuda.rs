//! The scan on CUDA: the operands as views of device memory, and the checks that they fit.
//!
//! With N = 16, D even, rows that begin at even elements, and none of `state_scale`, `state_extra` and `c_previous` the
//! fast kernels of `forward.cu`, `carries.cu` and `backward.cu` run; anything else up to N = 256 takes `general.cu`. The
//! launches depend on the sizes T, S, D, N and on what is present, never on where the sequences lie, so that they may be
//! captured once and replayed with other offsets. Tokens past the last sequence are neither read nor written, but for
//! db, dc and dc_previous, which are undefined there.

mod backward;
mod forward;

pub use backward::{ScanGradViews, scan_backward};
pub use forward::scan_forward;

#[cfg(test)]
pub(crate) use {
    backward::FAST as BACKWARD,
    backward::{CUT, SUMS},
    forward::FAST as FORWARD,
    forward::{FORCED, GENERAL, WAYS},
};

use crate::runtime::cuda::{ElementType, View};

/// Tokens between two saved states, as in `shared.cuh`.
pub const CHUNK: usize = 32;

/// The largest N.
pub const MAX_STATES: usize = 256;

/// The number of f32 values that the forward saves for the backward: there are never more than T / CHUNK + S chunks.
pub fn boundaries_len(tokens: usize, sequences: usize, d_inner: usize, d_state: usize) -> usize {
    (tokens / CHUNK + sequences) * d_inner * d_state
}

/// A matrix whose rows lie `stride` elements apart: some columns of a wider one.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a> {
    /// From the first element at least to the last.
    pub view: View<'a>,
    /// From one row to the next.
    pub stride: usize,
}

impl<'a> Strided<'a> {
    /// A matrix whose rows of `width` elements lie end to end.
    pub fn packed(view: View<'a>, width: usize) -> Strided<'a> {
        Strided { view, stride: width }
    }

    #[track_caller]
    pub(crate) fn check(&self, what: &str, element: ElementType, rows: usize, width: usize) {
        assert_eq!(self.view.element(), element, "scan: {what}: element type");
        assert!(self.stride >= width, "scan: {what}: rows of {width} are only {} apart", self.stride);
        assert!(i32::try_from(self.stride * element.bytes()).is_ok(), "scan: {what}: rows are {} apart", self.stride);
        let needed = if rows == 0 { 0 } else { (rows - 1) * self.stride + width };
        assert!(self.view.len() >= needed, "scan: {what}: {} elements instead of {needed}", self.view.len());
    }

    /// Whether every row begins at a multiple of `bytes`.
    fn begins_at(&self, bytes: usize) -> bool {
        let row = self.stride * self.view.element().bytes();
        row.is_multiple_of(bytes) && self.view.pointer().is_multiple_of(bytes as u64)
    }
}

/// A table in device memory: sequence `s` uses row `row_of[s]`. That a row index is one of the table's is the caller's
/// duty.
#[derive(Debug, Clone, Copy)]
pub struct TableView<'a> {
    /// `[rows, ...]`, f32.
    pub values: View<'a>,
    /// `[S]`, u32.
    pub row_of: View<'a>,
}

impl TableView<'_> {
    fn rows(&self, width: usize) -> usize {
        self.values.len() / width
    }
}

/// What the scan reads; see [`super::ScanInputs`]. Activations are f32 or bf16, all of one type; the rest is f32.
#[derive(Debug, Clone, Copy)]
pub struct ScanViews<'a> {
    /// `[T, D]`.
    pub u: Strided<'a>,
    /// `[T, D]`.
    pub delta: Strided<'a>,
    /// `[D]`.
    pub delta_bias: Option<View<'a>>,
    /// Whether Δ = softplus(delta + delta_bias), or the plain sum.
    pub delta_softplus: bool,
    /// `[D, N]`, not above zero.
    pub a: View<'a>,
    /// `[T, N]`.
    pub b: Strided<'a>,
    /// `[T, N]`.
    pub c: Strided<'a>,
    /// `[D]`.
    pub d_skip: Option<View<'a>>,
    /// `[T, D]`.
    pub z: Option<Strided<'a>>,
    /// Rows `[D, N]`.
    pub initial: Option<TableView<'a>>,
    /// Rows `[D, N]`.
    pub state_scale: Option<TableView<'a>>,
    /// Rows `[D, N]`.
    pub state_extra: Option<TableView<'a>>,
    /// Rows `[D, N]`.
    pub state_offset: Option<TableView<'a>>,
    /// `[T, N]`.
    pub c_previous: Option<Strided<'a>>,
    /// Rows `[D]`.
    pub output_offset: Option<TableView<'a>>,
    /// `[S + 1]`, u32, not falling, from 0 to at most T. A sequence may be empty.
    pub offsets: View<'a>,
    /// T.
    pub tokens: usize,
    /// D.
    pub d_inner: usize,
    /// N.
    pub d_state: usize,
}

impl<'a> ScanViews<'a> {
    fn act(&self) -> ElementType {
        self.u.view.element()
    }

    fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    fn states_len(&self) -> usize {
        self.sequences() * self.d_inner * self.d_state
    }

    fn boundaries_len(&self) -> usize {
        boundaries_len(self.tokens, self.sequences(), self.d_inner, self.d_state)
    }

    /// Whether the kernels for N = 16 can read these. `matrices` and `states` are what else a launch reads and writes:
    /// they take pairs of activations and four states at a time.
    fn is_fast<const M: usize, const S: usize>(
        &self,
        matrices: [Option<Strided>; M],
        states: [Option<View>; S],
    ) -> bool {
        let plain = self.state_scale.is_none() && self.state_extra.is_none() && self.c_previous.is_none();
        let matrices = matrices.into_iter().chain([Some(self.u), Some(self.delta), self.z]);
        let tables = [Some(self.a), values(self.initial), values(self.state_offset)];
        plain
            && self.d_state == 16
            && self.d_inner.is_multiple_of(2)
            && matrices.flatten().all(|matrix| matrix.begins_at(2 * self.act().bytes()))
            && states.into_iter().chain(tables).flatten().all(|view| view.pointer().is_multiple_of(16))
    }

    /// The tables of rows `[D, N]`, with their names.
    fn state_tables(&self) -> [(&'static str, Option<TableView<'a>>); 4] {
        [
            ("initial", self.initial),
            ("state_scale", self.state_scale),
            ("state_extra", self.state_extra),
            ("state_offset", self.state_offset),
        ]
    }

    #[track_caller]
    fn check(&self) {
        let (tokens, d, n, act) = (self.tokens, self.d_inner, self.d_state, self.act());
        assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "scan: activations of type {act:?}");
        assert!(d > 0 && (1..=MAX_STATES).contains(&n), "scan: d_inner {d}, d_state {n}");
        assert!(
            i32::try_from(d * n).is_ok() && i32::try_from(tokens).is_ok(),
            "scan: {tokens} tokens, D·N = {}",
            d * n
        );
        assert!(!self.offsets.is_empty(), "scan: offsets are S + 1");
        self.offsets.check("scan: offsets [S + 1]", ElementType::U32, self.offsets.len());
        self.a.check("scan: a [D, N]", ElementType::F32, d * n);
        for (name, vector) in [("scan: delta_bias [D]", self.delta_bias), ("scan: d_skip [D]", self.d_skip)] {
            if let Some(vector) = vector {
                vector.check(name, ElementType::F32, d);
            }
        }
        let activations = [
            ("u [T, D]", Some(self.u), d),
            ("delta [T, D]", Some(self.delta), d),
            ("z [T, D]", self.z, d),
            ("b [T, N]", Some(self.b), n),
            ("c [T, N]", Some(self.c), n),
            ("c_previous [T, N]", self.c_previous, n),
        ];
        for (name, matrix, width) in activations {
            if let Some(matrix) = matrix {
                matrix.check(name, act, tokens, width);
            }
        }
        let tables = self.state_tables().map(|(name, table)| (name, table, d * n));
        for (name, table, width) in tables.into_iter().chain([("output_offset", self.output_offset, d)]) {
            if let Some(table) = table {
                let len = table.values.len();
                table.values.check(name, ElementType::F32, len);
                assert!(len > 0 && len.is_multiple_of(width), "scan: {name}: {len} values are not rows of {width}");
                table.row_of.check(name, ElementType::U32, self.sequences());
            }
        }
    }
}

/// The values of a table.
fn values(table: Option<TableView<'_>>) -> Option<View<'_>> {
    table.map(|table| table.values)
}

/// The rows that the sequences use.
fn row_of(table: Option<TableView<'_>>) -> Option<View<'_>> {
    table.map(|table| table.row_of)
}

fn view(matrix: Option<Strided<'_>>) -> Option<View<'_>> {
    matrix.map(|matrix| matrix.view)
}

/// From one row to the next, in elements, as a kernel's argument; sizes were checked.
fn stride(matrix: Option<Strided<'_>>) -> i32 {
    matrix.map_or(0, |matrix| matrix.stride as i32)
}

/// The same in bytes.
fn bytes(matrix: Option<Strided<'_>>) -> i32 {
    matrix.map_or(0, |matrix| (matrix.stride * matrix.view.element().bytes()) as i32)
}
