//! The forward of one sequence for a block of channel groups, chunk by chunk.

use std::ops::Range;

use super::advance::{Ahead, FULL, Maps, PLAIN, Rows, Steps, advance_as, prepare};
use super::group::{
    GROUP, Scratch, channels, load_channels, store_channels, transpose, transpose_back, transpose_row, zeros,
};
use super::math::silu_and_slope;
use super::step::step;
use crate::runtime::DisjointSlice;
use crate::scan::{CHUNK, ScanInputs};
use crate::simd::Lanes;

/// What every task of a forward shares.
pub(super) struct Forward<'a> {
    pub inputs: &'a ScanInputs<'a, f32>,
    pub readout: u8,
    pub out: DisjointSlice<'a, f32>,
    pub final_state: Option<&'a DisjointSlice<'a, f32>>,
    pub boundaries: Option<DisjointSlice<'a, f32>>,
    /// The first boundary of each sequence.
    pub first_boundary: Vec<usize>,
}

/// Rows `[N, GROUP]` a group needs: A, the state, O, S, E.
const ROWS: usize = 5;

impl Forward<'_> {
    /// Elements of scratch memory for a task of `groups` groups.
    pub(super) fn scratch_len(&self, groups: usize) -> usize {
        let n = self.inputs.d_state.next_multiple_of(GROUP);
        groups * (ROWS * n + 1) * GROUP + 3 * CHUNK * GROUP + n
    }

    /// Where element `at` of the output lies, null past the end.
    fn out_at(&self, at: usize) -> *const f32 {
        if at < self.out.len() {
            // SAFETY: an empty range overlaps none.
            unsafe { self.out.range_mut(at..at) }.as_ptr()
        } else {
            std::ptr::null()
        }
    }

    /// out = (y + y' + D_skip u) silu(z) for token `t` of sequence `s`, given what the states gave.
    ///
    /// # Safety
    /// The lanes' instructions are enabled; `y` holds `[GROUP]`; no other task writes these channels of the token.
    #[inline(always)]
    pub(super) unsafe fn finish<L: Lanes>(&self, s: usize, t: usize, of: &Range<usize>, y: *const f32) {
        let (inputs, valid) = (self.inputs, of.len());
        let at = t * inputs.d_inner + of.start;
        // SAFETY: channels `of` of token t and of the rows [D] lie inside the checked slices.
        unsafe {
            let out = self.out.range_mut(at..at + valid).as_mut_ptr();
            let (mut gate, mut sums) = ([L::splat(1.0); 2], zeros::<L>());
            if let Some(z) = inputs.z {
                for w in 0..GROUP / L::N {
                    gate[w] = load_channels::<L>(z.as_ptr().add(at), w, valid);
                }
                (gate, _) = silu_and_slope::<L, 2>(gate, GROUP / L::N);
            }
            for w in 0..GROUP / L::N {
                sums[w] = L::load(y.add(w * L::N));
                if let Some(offset) = inputs.output_offset {
                    let row = offset.row(s, inputs.d_inner).as_ptr();
                    sums[w] = L::add(sums[w], load_channels::<L>(row.add(of.start), w, valid));
                }
                if let Some(skip) = inputs.d_skip {
                    let u = load_channels::<L>(inputs.u.as_ptr().add(at), w, valid);
                    sums[w] = L::fma(load_channels::<L>(skip.as_ptr().add(of.start), w, valid), u, sums[w]);
                }
                store_channels::<L>(out, w, L::mul(sums[w], gate[w]), valid);
            }
        }
    }
}

/// One group's share of the scratch memory.
struct Group<'a> {
    of: Range<usize>,
    bias: &'a mut [f32],  // [GROUP]
    state: &'a mut [f32], // [N, GROUP]
    rows: Rows,
}

/// Writes the outputs, the final state and the boundaries of sequence `s` for the groups `first..last`.
///
/// # Safety
/// The lanes' instructions are enabled; the job's operands have been checked; no other task has these channels of `s`;
/// `scratch` holds [`Forward::scratch_len`] elements.
#[inline(always)]
pub(super) unsafe fn forward_block<L: Lanes>(
    job: &Forward,
    s: usize,
    first: usize,
    last: usize,
    scratch: &mut Scratch,
) {
    let inputs = job.inputs;
    let (d_inner, n) = (inputs.d_inner, inputs.d_state);
    let tokens = inputs.sequences.range(s);
    if tokens.len() == 1 {
        // SAFETY: this function's contract.
        return unsafe { step::<L>(job, s, first..last) };
    }
    let [delta, input, y] = [(); 3].map(|()| scratch.take(CHUNK * GROUP).as_mut_ptr());
    let steps = Steps { delta, input, y };
    let no_previous = scratch.take_zeroed(n.next_multiple_of(GROUP));
    let mut groups = Vec::with_capacity(last - first);
    for g in first..last {
        let of = channels(g, d_inner);
        let [a, state, offset, scale, extra] = [(); ROWS].map(|()| scratch.take(n * GROUP));
        let bias = scratch.take_zeroed(GROUP);
        if let Some(delta_bias) = inputs.delta_bias {
            bias[..of.len()].copy_from_slice(&delta_bias[of.clone()]);
        }
        transpose(a, &inputs.a[of.start * n..of.end * n], n, std::f32::consts::LOG2_E);
        transpose_row(state, inputs.initial, s, &of, d_inner, n, 0.0);
        if job.readout != PLAIN {
            transpose_row(offset, inputs.state_offset, s, &of, d_inner, n, 0.0);
        }
        if job.readout == FULL {
            transpose_row(scale, inputs.state_scale, s, &of, d_inner, n, 1.0);
            transpose_row(extra, inputs.state_extra, s, &of, d_inner, n, 0.0);
        }
        let rows = Rows { a: a.as_ptr(), offset: offset.as_ptr(), scale: scale.as_ptr(), extra: extra.as_ptr() };
        groups.push(Group { of, bias, state, rows });
    }
    for (chunk, t) in tokens.clone().step_by(CHUNK).enumerate() {
        let len = CHUNK.min(tokens.end - t);
        let maps = Maps::new(inputs, t, len, no_previous);
        for i in 0..groups.len() {
            // What comes next: the same tokens of the next group, or the next chunk of the first.
            let (ahead_t, ahead_d) = match groups.get(i + 1) {
                Some(next) => (t, next.of.start),
                None => (t + CHUNK, groups[0].of.start),
            };
            let at = ahead_t * d_inner + ahead_d;
            let row = |operand: &[f32]| operand.get(at..).map_or(std::ptr::null(), <[f32]>::as_ptr);
            let next = [row(inputs.delta), row(inputs.u), inputs.z.map_or(std::ptr::null(), row), job.out_at(at)];
            let ahead = Ahead { next, stride: d_inner };
            let group = &mut groups[i];
            let of = &group.of;
            // SAFETY: the buffers have the shapes that `prepare` and `advance` ask for; ranges are this task's own.
            unsafe {
                if let Some(boundaries) = job.boundaries.as_ref().filter(|_| chunk > 0) {
                    let at = (job.first_boundary[s] + chunk - 1) * n * d_inner;
                    for (j, row) in group.state.chunks_exact(GROUP).enumerate() {
                        let saved = boundaries.range_mut(at + j * d_inner + of.start..at + j * d_inner + of.end);
                        saved.copy_from_slice(&row[..of.len()]);
                    }
                }
                prepare::<L>(inputs, (t, len), (of.start, of.len()), group.bias.as_ptr(), steps, None);
                let (rows, state, none) = (group.rows, group.state.as_mut_ptr(), std::ptr::null_mut());
                advance_as::<L, false, 4>(job.readout, steps, maps, rows, state, none, ahead);
                for i in 0..len {
                    job.finish::<L>(s, t + i, of, steps.y.add(i * GROUP));
                }
            }
        }
    }
    if let Some(final_state) = job.final_state {
        for group in &groups {
            let at = (s * d_inner + group.of.start) * n;
            // SAFETY: this task's channels of sequence s.
            let state = unsafe { final_state.range_mut(at..at + group.of.len() * n) };
            transpose_back(state, group.state, n);
        }
    }
}
