//! The backward of a block of channel groups, over all sequences in turn: chunk by chunk from the last, the states of a
//! chunk are recomputed from its boundary, then swept in reverse.

use super::advance::{Ahead, Maps, Rows, Steps, advance_as, prepare};
use super::backward::{Backward, Group, Shelf};
use super::group::{GROUP, Scratch, channels, transpose, transpose_back};
use super::sweep::{MapGrads, RowGrads, Slopes, sum_offset, sweep_as};
use crate::scan::CHUNK;
use crate::simd::Lanes;

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
            transpose_back(rows, group.da, n);
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
