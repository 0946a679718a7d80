//! The operands of the scan, and the check that their lengths fit.

use super::scan_boundaries_len;
use crate::real::as_f32;
use crate::{Real, Sequences, Table};

/// What the scan reads. Tables are looked up once per sequence.
#[derive(Debug, Clone, Copy)]
pub struct ScanInputs<'a, T> {
    /// Input, `[T, D]`.
    pub u: &'a [T],
    /// Step size before bias and softplus, `[T, D]`.
    pub delta: &'a [T],
    /// Added to `delta`, `[D]`.
    pub delta_bias: Option<&'a [T]>,
    /// Whether Δ = softplus(delta + delta_bias), as in Mamba, or the plain sum.
    pub delta_softplus: bool,
    /// A = -exp(a_log), `[D, N]`. Not above zero: the SIMD versions compute exp(ΔA) for decays only.
    pub a: &'a [T],
    /// Input map B, `[T, N]`.
    pub b: &'a [T],
    /// Output map C, `[T, N]`.
    pub c: &'a [T],
    /// D_skip, `[D]`.
    pub d_skip: Option<&'a [T]>,
    /// Gate, `[T, D]`; out = y · silu(z).
    pub z: Option<&'a [T]>,
    /// h_0, the state before the first token, rows `[D, N]`; zeros when absent.
    pub initial: Option<Table<'a, T>>,
    /// S, rows `[D, N]`.
    pub state_scale: Option<Table<'a, T>>,
    /// E, rows `[D, N]`.
    pub state_extra: Option<Table<'a, T>>,
    /// O, the state offset h', rows `[D, N]`.
    pub state_offset: Option<Table<'a, T>>,
    /// C', the map that reads the previous state, `[T, N]`.
    pub c_previous: Option<&'a [T]>,
    /// y', the output offset, rows `[D]`.
    pub output_offset: Option<Table<'a, T>>,
    /// The sequences of the batch.
    pub sequences: Sequences<'a>,
    /// D.
    pub d_inner: usize,
    /// N.
    pub d_state: usize,
}

impl<'a, T: Real> ScanInputs<'a, T> {
    /// The same inputs if `T` is `f32`.
    pub(super) fn as_f32(&self) -> Option<ScanInputs<'a, f32>> {
        let optional = |slice: Option<&'a [T]>| slice.and_then(as_f32);
        let table = |table: Option<Table<'a, T>>| {
            table.and_then(|t| Some(Table { values: as_f32(t.values)?, row_of: t.row_of }))
        };
        Some(ScanInputs {
            u: as_f32(self.u)?,
            delta: as_f32(self.delta)?,
            delta_bias: optional(self.delta_bias),
            delta_softplus: self.delta_softplus,
            a: as_f32(self.a)?,
            b: as_f32(self.b)?,
            c: as_f32(self.c)?,
            d_skip: optional(self.d_skip),
            z: optional(self.z),
            initial: table(self.initial),
            state_scale: table(self.state_scale),
            state_extra: table(self.state_extra),
            state_offset: table(self.state_offset),
            c_previous: optional(self.c_previous),
            output_offset: table(self.output_offset),
            sequences: self.sequences,
            d_inner: self.d_inner,
            d_state: self.d_state,
        })
    }

    /// S·D·N.
    pub(super) fn states_len(&self) -> usize {
        self.sequences.len() * self.d_inner * self.d_state
    }

    pub(super) fn boundaries_len(&self) -> usize {
        scan_boundaries_len(&self.sequences, self.d_inner, self.d_state)
    }

    #[track_caller]
    pub(super) fn check(&self) {
        let (tokens, d, n) = (self.sequences.tokens(), self.d_inner, self.d_state);
        assert!(d > 0 && n > 0, "scan: d_inner {d} and d_state {n} must be at least 1");
        let required = [
            ("u [T, D]", Some(self.u), tokens * d),
            ("delta [T, D]", Some(self.delta), tokens * d),
            ("delta_bias [D]", self.delta_bias, d),
            ("a [D, N]", Some(self.a), d * n),
            ("b [T, N]", Some(self.b), tokens * n),
            ("c [T, N]", Some(self.c), tokens * n),
            ("d_skip [D]", self.d_skip, d),
            ("z [T, D]", self.z, tokens * d),
            ("c_previous [T, N]", self.c_previous, tokens * n),
        ];
        for (name, slice, len) in required {
            if let Some(slice) = slice {
                assert_eq!(slice.len(), len, "scan: {name}, with T = {tokens}, D = {d}, N = {n}");
            }
        }
        let tables = [
            ("scan: initial", self.initial, d * n),
            ("scan: state_scale", self.state_scale, d * n),
            ("scan: state_extra", self.state_extra, d * n),
            ("scan: state_offset", self.state_offset, d * n),
            ("scan: output_offset", self.output_offset, d),
        ];
        for (name, table, width) in tables {
            if let Some(table) = table {
                table.check(name, self.sequences.len(), width);
            }
        }
    }
}
