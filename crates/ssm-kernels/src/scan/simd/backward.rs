//! What the tasks of a backward share, and the parts of it that go channel by channel: the gate before the sweep, the
//! gradients of u, delta and z after it, and the tables at both ends of a sequence.

use std::ops::Range;

use super::advance::{FULL, PLAIN, Steps};
use super::group::{GROUP, load_channels, store_channels, transpose, transpose_add, transpose_row, zeros};
use super::math::silu_and_slope;
use crate::Table;
use crate::runtime::DisjointSlice;
use crate::scan::{CHUNK, ScanInputs};
use crate::simd::Lanes;

/// A gradient that tasks write in disjoint ranges, if it was asked for.
pub(super) type Shared<'a> = Option<DisjointSlice<'a, f32>>;

/// What every task of a backward shares.
pub(super) struct Backward<'a> {
    pub inputs: &'a ScanInputs<'a, f32>,
    pub readout: u8,
    pub dout: &'a [f32],
    pub d_final: Option<&'a [f32]>,
    pub boundaries: &'a [f32],
    /// The first boundary of each sequence.
    pub first_boundary: Vec<usize>,
    /// Whether a gradient was asked for that needs the states at all, not only dy.
    pub needs_states: bool,
    pub du: Shared<'a>,
    pub ddelta: Shared<'a>,
    pub ddelta_bias: Shared<'a>,
    pub da: Shared<'a>,
    pub dd_skip: Shared<'a>,
    pub dz: Shared<'a>,
    pub dinitial: Shared<'a>,
    pub dstate_scale: Shared<'a>,
    pub dstate_extra: Shared<'a>,
    pub dstate_offset: Shared<'a>,
    pub doutput_offset: Shared<'a>,
    /// Gradients of B, C and C' as each block of channels gives them, `[blocks, T, N]`.
    pub partial_b: Shared<'a>,
    pub partial_c: Shared<'a>,
    pub partial_previous: Shared<'a>,
}

/// Scratch of one group: operands and gradients `[N, GROUP]`, and per channel `[GROUP]`.
pub(super) struct Group<'a> {
    pub of: Range<usize>,
    pub a: &'a mut [f32],
    pub offset: &'a mut [f32],
    pub scale: &'a mut [f32],
    pub extra: &'a mut [f32],
    pub carry: &'a mut [f32],
    pub da: &'a mut [f32],
    pub d_offset: &'a mut [f32],
    pub d_scale: &'a mut [f32],
    pub d_extra: &'a mut [f32],
    pub bias: &'a mut [f32],
    pub skip: &'a mut [f32],
    pub output_offset: &'a mut [f32],
    pub d_bias: &'a mut [f32],
    pub d_skip: &'a mut [f32],
    pub d_output: &'a mut [f32],
}

/// Scratch that the groups of a block share, for one chunk.
pub(super) struct Shelf<'a> {
    pub states: &'a mut [f32],    // [CHUNK + 1, N, GROUP]
    pub decays: &'a mut [f32],    // [CHUNK, N, GROUP]
    pub maps: [&'a mut [f32]; 3], // dB, dC, dC', [CHUNK, N, L::N]
    pub steps: Steps,
    pub slope: *mut f32,      // [CHUNK, GROUP], sigmoid under the softplus
    pub dy: *mut f32,         // [CHUNK, GROUP]
    pub gate_slope: *mut f32, // [CHUNK, GROUP], dout · silu'(z)
    pub through_input: *mut f32,
    pub through_decay: *mut f32,
}

impl Backward<'_> {
    /// Elements of scratch memory for a task of `groups` groups.
    pub(super) fn scratch_len(&self, groups: usize) -> usize {
        let n = self.inputs.d_state;
        groups * (9 * n + 6) * GROUP + ((2 + 3) * CHUNK + 1) * n * GROUP + 8 * CHUNK * GROUP + n.next_multiple_of(GROUP)
    }

    /// Fills what of a group's scratch belongs to sequence `s`.
    pub(super) fn begin(&self, group: &mut Group, s: usize) {
        let (inputs, of) = (self.inputs, &group.of);
        let (d_inner, n) = (inputs.d_inner, inputs.d_state);
        match self.d_final {
            Some(d) => transpose(group.carry, &d[(s * d_inner + of.start) * n..(s * d_inner + of.end) * n], n, 1.0),
            None => group.carry.fill(0.0),
        }
        if self.readout != PLAIN {
            transpose_row(group.offset, inputs.state_offset, s, of, d_inner, n, 0.0);
            group.d_offset.fill(0.0);
        }
        if self.readout == FULL {
            transpose_row(group.scale, inputs.state_scale, s, of, d_inner, n, 1.0);
            transpose_row(group.extra, inputs.state_extra, s, of, d_inner, n, 0.0);
            group.d_scale.fill(0.0);
            group.d_extra.fill(0.0);
        }
        if let Some(table) = inputs.output_offset {
            group.output_offset[..of.len()].copy_from_slice(&table.row(s, d_inner)[of.clone()]);
            group.d_output.fill(0.0);
        }
    }

    /// Adds a group's gradients of the tables to the rows of sequence `s`.
    ///
    /// # Safety
    /// No other task has these channels.
    pub(super) unsafe fn end(&self, group: &Group, s: usize) {
        let (inputs, of) = (self.inputs, &group.of);
        let (d_inner, n) = (inputs.d_inner, inputs.d_state);
        let add = |grad: &Shared, table: Option<Table<f32>>, from: &[f32]| {
            if let (Some(grad), Some(table)) = (grad, table) {
                let at = (table.row_of[s] * d_inner + of.start) * n;
                // SAFETY: this task's channels of the row.
                transpose_add(unsafe { grad.range_mut(at..at + of.len() * n) }, from, n);
            }
        };
        add(&self.dinitial, inputs.initial, group.carry);
        add(&self.dstate_offset, inputs.state_offset, group.d_offset);
        add(&self.dstate_scale, inputs.state_scale, group.d_scale);
        add(&self.dstate_extra, inputs.state_extra, group.d_extra);
        if let (Some(grad), Some(table)) = (&self.doutput_offset, inputs.output_offset) {
            let at = table.row_of[s] * d_inner;
            // SAFETY: this task's channels of the row.
            let row = unsafe { grad.range_mut(at + of.start..at + of.end) };
            row.iter_mut().zip(&*group.d_output).for_each(|(x, d)| *x += d);
        }
    }

    /// dy and the factor of dz for the tokens `t..t + len`; adds what needs only dy to its gradients.
    ///
    /// # Safety
    /// The lanes' instructions are enabled; the buffers have the shapes they document.
    #[inline(always)]
    pub(super) unsafe fn gate<L: Lanes>(&self, group: &mut Group, shelf: &Shelf, t: usize, len: usize) {
        let (inputs, valid) = (self.inputs, group.of.len());
        // SAFETY: channels of token t + i lie inside the checked slices.
        unsafe {
            for i in 0..len {
                let at = (t + i) * inputs.d_inner + group.of.start;
                let (mut z, mut gate, mut slope) = (zeros::<L>(), [L::splat(1.0); 2], zeros::<L>());
                if let Some(operand) = inputs.z {
                    for w in 0..GROUP / L::N {
                        z[w] = load_channels::<L>(operand.as_ptr().add(at), w, valid);
                    }
                    (gate, slope) = silu_and_slope::<L, 2>(z, GROUP / L::N);
                }
                for w in 0..GROUP / L::N {
                    let lane = w * L::N;
                    let dout = load_channels::<L>(self.dout.as_ptr().add(at), w, valid);
                    L::store(shelf.gate_slope.add(i * GROUP + lane), L::mul(dout, slope[w]));
                    let dy = L::mul(dout, gate[w]);
                    L::store(shelf.dy.add(i * GROUP + lane), dy);
                    let u = load_channels::<L>(inputs.u.as_ptr().add(at), w, valid);
                    let d_skip = group.d_skip.as_mut_ptr().add(lane);
                    L::store(d_skip, L::fma(dy, u, L::load(d_skip)));
                    let d_output = group.d_output.as_mut_ptr().add(lane);
                    L::store(d_output, L::add(dy, L::load(d_output)));
                }
            }
        }
    }

    /// Writes dz, du and ddelta for the tokens `t..t + len`, and adds to the gradient of the bias.
    ///
    /// # Safety
    /// As for [`Backward::gate`]; no other task has these channels.
    #[inline(always)]
    pub(super) unsafe fn finish<L: Lanes>(&self, group: &mut Group, shelf: &Shelf, t: usize, len: usize) {
        let (inputs, valid) = (self.inputs, group.of.len());
        let store = |grad: &Shared, at: usize| {
            // SAFETY: this task's channels of a token.
            grad.as_ref().map(|g| unsafe { g.range_mut(at..at + valid) }.as_mut_ptr())
        };
        // SAFETY: channels of token t + i lie inside the checked slices and are this task's.
        unsafe {
            for i in 0..len {
                let at = (t + i) * inputs.d_inner + group.of.start;
                let (dz, du, ddelta) = (store(&self.dz, at), store(&self.du, at), store(&self.ddelta, at));
                for w in 0..GROUP / L::N {
                    let lane = w * L::N;
                    let chunk_lane = i * GROUP + lane;
                    let u = load_channels::<L>(inputs.u.as_ptr().add(at), w, valid);
                    let skip = L::load(group.skip.as_ptr().add(lane));
                    if let Some(dz) = dz {
                        let mut y = L::load(shelf.steps.y.add(chunk_lane));
                        y = L::add(y, L::load(group.output_offset.as_ptr().add(lane)));
                        y = L::fma(skip, u, y);
                        store_channels::<L>(dz, w, L::mul(y, L::load(shelf.gate_slope.add(chunk_lane))), valid);
                    }
                    let through_input = L::load(shelf.through_input.add(chunk_lane));
                    if let Some(du) = du {
                        let direct = L::mul(L::load(shelf.dy.add(chunk_lane)), skip);
                        let d = L::fma(L::load(shelf.steps.delta.add(chunk_lane)), through_input, direct);
                        store_channels::<L>(du, w, d, valid);
                    }
                    let d = L::mul(L::load(shelf.through_decay.add(chunk_lane)), L::splat(std::f32::consts::LN_2));
                    let d = L::mul(L::fma(u, through_input, d), L::load(shelf.slope.add(chunk_lane)));
                    if let Some(ddelta) = ddelta {
                        store_channels::<L>(ddelta, w, d, valid);
                    }
                    let d_bias = group.d_bias.as_mut_ptr().add(lane);
                    L::store(d_bias, L::add(L::load(d_bias), d));
                }
            }
        }
    }

    /// Fills the state before chunk `chunk` of sequence `s`.
    pub(super) fn first_state(&self, state: &mut [f32], of: &Range<usize>, s: usize, chunk: usize) {
        let (inputs, d_inner, n) = (self.inputs, self.inputs.d_inner, self.inputs.d_state);
        if chunk == 0 {
            return transpose_row(state, inputs.initial, s, of, d_inner, n, 0.0);
        }
        let saved = &self.boundaries[(self.first_boundary[s] + chunk - 1) * n * d_inner..][..n * d_inner];
        for (row, saved) in state.chunks_exact_mut(GROUP).zip(saved.chunks_exact(d_inner)) {
            row[..of.len()].copy_from_slice(&saved[of.clone()]);
            row[of.len()..].fill(0.0);
        }
    }
}
