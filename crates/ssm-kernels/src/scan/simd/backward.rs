//! The backward of a block of channel groups, over all sequences in turn: chunk by chunk from the last, the states of a
//! chunk are recomputed from its boundary, then swept in reverse.

use std::ops::Range;

use super::advance::{Ahead, FULL, Maps, PLAIN, Rows, Steps, advance_as, prepare};
use super::group::{
    GROUP, Scratch, channels, load_channels, store_channels, transpose, transpose_add, transpose_row, zeros,
};
use super::math::silu_and_slope;
use super::sweep::{MapGrads, RowGrads, Slopes, sum_offset, sweep_as};
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
struct Group<'a> {
    of: Range<usize>,
    a: &'a mut [f32],
    offset: &'a mut [f32],
    scale: &'a mut [f32],
    extra: &'a mut [f32],
    carry: &'a mut [f32],
    da: &'a mut [f32],
    d_offset: &'a mut [f32],
    d_scale: &'a mut [f32],
    d_extra: &'a mut [f32],
    bias: &'a mut [f32],
    skip: &'a mut [f32],
    output_offset: &'a mut [f32],
    d_bias: &'a mut [f32],
    d_skip: &'a mut [f32],
    d_output: &'a mut [f32],
}

/// Scratch that the groups of a block share, for one chunk.
struct Shelf<'a> {
    states: &'a mut [f32],    // [CHUNK + 1, N, GROUP]
    decays: &'a mut [f32],    // [CHUNK, N, GROUP]
    maps: [&'a mut [f32]; 3], // dB, dC, dC', [CHUNK, N, L::N]
    steps: Steps,
    slope: *mut f32,      // [CHUNK, GROUP], sigmoid under the softplus
    dy: *mut f32,         // [CHUNK, GROUP]
    gate_slope: *mut f32, // [CHUNK, GROUP], dout · silu'(z)
    through_input: *mut f32,
    through_decay: *mut f32,
}

impl Backward<'_> {
    /// Elements of scratch memory for a task of `groups` groups.
    pub(super) fn scratch_len(&self, groups: usize) -> usize {
        let n = self.inputs.d_state;
        groups * (9 * n + 6) * GROUP + ((2 + 3) * CHUNK + 1) * n * GROUP + 8 * CHUNK * GROUP + n.next_multiple_of(GROUP)
    }

    /// Fills what of a group's scratch belongs to sequence `s`.
    fn begin(&self, group: &mut Group, s: usize) {
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
    unsafe fn end(&self, group: &Group, s: usize) {
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
    unsafe fn gate<L: Lanes>(&self, group: &mut Group, shelf: &Shelf, t: usize, len: usize) {
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
    unsafe fn finish<L: Lanes>(&self, group: &mut Group, shelf: &Shelf, t: usize, len: usize) {
        let (inputs, valid) = (self.inputs, group.of.len());
        let store =
            |grad: &Shared, at: usize| grad.as_ref().map(|g| unsafe { g.range_mut(at..at + valid) }.as_mut_ptr());
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
    fn first_state(&self, state: &mut [f32], of: &Range<usize>, s: usize, chunk: usize) {
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

/// Computes the gradients of the groups `first..last`, which are block number `block`.
///
/// # Safety
/// The lanes' instructions are enabled; the job's operands have been checked; no other task has these channels or this
/// block; `scratch` holds [`Backward::scratch_len`] elements.
#[inline(always)]
pub(super) unsafe fn backward_block<L: Lanes>(
    job: &Backward,
    block: usize,
    first: usize,
    last: usize,
    scratch: &mut Scratch,
) {
    let inputs = job.inputs;
    let (d_inner, n) = (inputs.d_inner, inputs.d_state);
    let mut chunk_buffer = || scratch.take(CHUNK * GROUP).as_mut_ptr();
    let [delta, input, y, slope, dy, gate_slope, through_input, through_decay] = [(); 8].map(|()| chunk_buffer());
    let mut shelf = Shelf {
        states: scratch.take((CHUNK + 1) * n * GROUP),
        decays: scratch.take(CHUNK * n * GROUP),
        maps: [(); 3].map(|()| scratch.take(CHUNK * n * GROUP)),
        steps: Steps { delta, input, y },
        slope,
        dy,
        gate_slope,
        through_input,
        through_decay,
    };
    let no_previous = scratch.take_zeroed(n.next_multiple_of(GROUP));
    let mut groups = Vec::with_capacity(last - first);
    for g in first..last {
        let [a, offset, scale, extra, carry, da, d_offset, d_scale, d_extra] =
            [(); 9].map(|()| scratch.take(n * GROUP));
        let [bias, skip, output_offset, d_bias, d_skip, d_output] = [(); 6].map(|()| scratch.take_zeroed(GROUP));
        let of = channels(g, d_inner);
        transpose(a, &inputs.a[of.start * n..of.end * n], n, std::f32::consts::LOG2_E);
        da.fill(0.0);
        for (row, operand) in [(&mut *bias, inputs.delta_bias), (&mut *skip, inputs.d_skip)] {
            if let Some(operand) = operand {
                row[..of.len()].copy_from_slice(&operand[of.clone()]);
            }
        }
        groups.push(Group {
            of,
            a,
            offset,
            scale,
            extra,
            carry,
            da,
            d_offset,
            d_scale,
            d_extra,
            bias,
            skip,
            output_offset,
            d_bias,
            d_skip,
            d_output,
        });
    }
    for s in 0..inputs.sequences.len() {
        groups.iter_mut().for_each(|group| job.begin(group, s));
        let tokens = inputs.sequences.range(s);
        for chunk in (0..tokens.len().div_ceil(CHUNK)).rev() {
            let t = tokens.start + chunk * CHUNK;
            let len = CHUNK.min(tokens.end - t);
            let maps = Maps::new(inputs, t, len, no_previous);
            shelf.maps.iter_mut().for_each(|grad| grad[..len * n * L::N].fill(0.0));
            for g in 0..groups.len() {
                let next_d = groups[(g + 1) % groups.len()].of.start;
                let group = &mut groups[g];
                // SAFETY: buffers have the shapes asked for; the channels are this task's.
                unsafe { backward_chunk::<L>(job, group, &mut shelf, maps, s, chunk, t, next_d) };
            }
            let partials = [&job.partial_b, &job.partial_c, &job.partial_previous];
            for (partial, lanes) in partials.into_iter().zip(&shelf.maps) {
                if let Some(partial) = partial {
                    let at = (block * inputs.sequences.tokens() + t) * n;
                    // SAFETY: the chunk's rows of this task's block.
                    let sums = unsafe { partial.range_mut(at..at + len * n) };
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: element i of [len, N, L::N].
                        *sum = unsafe { L::sum(L::load(lanes.as_ptr().add(i * L::N))) };
                    }
                }
            }
        }
        // SAFETY: the channels are this task's.
        groups.iter().for_each(|group| unsafe { job.end(group, s) });
    }
    for group in &groups {
        let of = &group.of;
        for (grad, from) in [(&job.ddelta_bias, &group.d_bias), (&job.dd_skip, &group.d_skip)] {
            if let Some(grad) = grad {
                // SAFETY: the channels are this task's.
                unsafe { grad.range_mut(of.clone()) }.copy_from_slice(&from[..of.len()]);
            }
        }
        if let Some(da) = &job.da {
            // SAFETY: the channels are this task's.
            let rows = unsafe { da.range_mut(of.start * n..of.end * n) };
            super::group::transpose_back(rows, group.da, n);
        }
    }
}

/// One chunk of one group: tokens from `t` on, chunk number `chunk` of sequence `s`.
///
/// # Safety
/// As for [`backward_block`].
#[inline(always)]
unsafe fn backward_chunk<L: Lanes>(
    job: &Backward,
    group: &mut Group,
    shelf: &mut Shelf,
    maps: Maps,
    s: usize,
    chunk: usize,
    t: usize,
    next_d: usize,
) {
    let (inputs, len) = (job.inputs, maps.tokens);
    // SAFETY: the caller's promise; the scratch has the shapes that the functions document.
    unsafe {
        job.gate::<L>(group, shelf, t, len);
        if job.dstate_offset.is_some() {
            sum_offset::<L>(shelf.dy, maps, group.d_offset.as_mut_ptr());
        }
        if !job.needs_states {
            return;
        }
        job.first_state(&mut shelf.states[..inputs.d_state * GROUP], &group.of, s, chunk);
        let (d, valid) = (group.of.start, group.of.len());
        prepare::<L>(inputs, (t, len), (d, valid), group.bias.as_ptr(), shelf.steps, Some(shelf.slope));
        let rows = Rows {
            a: group.a.as_ptr(),
            offset: group.offset.as_ptr(),
            scale: group.scale.as_ptr(),
            extra: group.extra.as_ptr(),
        };
        // What comes next: the same tokens of the next group, or the chunk before of the first group.
        let next_t = if next_d > d { Some(t) } else { t.checked_sub(CHUNK) };
        let row =
            |operand: &[f32]| next_t.map_or(std::ptr::null(), |t| operand[t * inputs.d_inner + next_d..].as_ptr());
        let next = [row(inputs.delta), row(inputs.u), inputs.z.map_or(std::ptr::null(), row), row(job.dout)];
        let ahead = Ahead { next, stride: inputs.d_inner };
        let (states, decays) = (shelf.states.as_mut_ptr(), shelf.decays.as_mut_ptr());
        advance_as::<L, true, 4>(job.readout, shelf.steps, maps, rows, states, decays, ahead);
        let slopes = Slopes {
            delta: shelf.steps.delta,
            input: shelf.steps.input,
            dy: shelf.dy,
            through_input: shelf.through_input,
            through_decay: shelf.through_decay,
        };
        let row_grads = RowGrads {
            carry: group.carry.as_mut_ptr(),
            a: group.da.as_mut_ptr(),
            scale: group.d_scale.as_mut_ptr(),
            extra: group.d_extra.as_mut_ptr(),
        };
        let [b, c, previous] = shelf.maps.each_mut().map(|grad| grad.as_mut_ptr());
        let map_grads = MapGrads { b, c, previous };
        sweep_as::<L>((job.readout, job.da.is_some()), slopes, maps, rows, states, decays, row_grads, map_grads);
        job.finish::<L>(group, shelf, t, len);
    }
}
