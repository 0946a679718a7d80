//! The scan on vectors of channels, or along N for single tokens.
//!
//! Sixteen channels, a cache line of a `[T, D]` row, go together; their states lie `[N, 16]`, so that h, A and the decays
//! are whole vectors and B and C are splats. The forward keeps one state and writes y; the backward recomputes a chunk
//! from its boundary, keeping its states and decays (64 KiB at N = 16), and sweeps it in reverse. Gradients of B and C are
//! sums over channels: a block of groups adds them up lane by lane in `[CHUNK, N, lanes]`, sums the lanes once per chunk
//! into `[blocks, T, N]`, and the blocks are added last, in order. Nothing holds T·D·N values, and tasks are cut by
//! shape, so bits do not depend on the number of threads.
//!
//! The bound. Per element T·D·N the forward takes 15 operations for the decay (1 product, 4 to split it, 6 fused ones
//! for the polynomial, 4 to scale) and 3 for the state and y; 11 of the 18 go to the two multipliers. At 8 lanes and
//! 2.9 GHz that is 0.24 ns; the recurrence alone takes 0.35. Softplus and the gate add 0.09, about 90 operations per
//! T·D. Memory: 4 rows of T·D cross the bus in the forward, 7 in the backward, 1.5 and 2.5 bytes per element at N = 16.
//! The sweep adds 7 operations and moves 0.2 KiB per 16 elements through the second cache, which bounds it. Measured at
//! T = 512, D = 1536, N = 16 on one core of a Zen 3 (`examples/scan_bench.rs`): forward 0.5 to 0.6 ns, about half of the
//! arithmetic bound; backward 1.2 to 1.4 ns.
mod advance;
mod backward;
mod backward_block;
mod forward;
pub(crate) mod group;
pub(crate) mod math;
mod step;
mod sweep;

use backward::{Backward, Shared};
use backward_block::backward_block;
use forward::{Forward, forward_block};
use group::{GROUP, first_boundaries, with_scratch};

use super::{ScanGrads, ScanInputs};
use crate::runtime::DisjointSlice;
use crate::{Cpu, dispatch_level};

/// Elements T·D·N a forward task should have, so that starting it costs little.
const TASK: usize = 1 << 16;

/// The forward at a SIMD level. Tasks are a sequence and a block of channel groups.
pub(super) fn forward(
    cpu: &Cpu,
    out: &mut [f32],
    final_state: Option<&mut [f32]>,
    boundaries: Option<&mut [f32]>,
    inputs: &ScanInputs<f32>,
) {
    let sequences = &inputs.sequences;
    if sequences.is_empty() {
        return;
    }
    let groups = inputs.d_inner.div_ceil(GROUP);
    let tokens = sequences.tokens().div_ceil(sequences.len());
    let per_task = TASK.div_ceil(tokens * inputs.d_state * GROUP).max(groups.div_ceil(BLOCKS)).min(groups);
    let blocks = groups.div_ceil(per_task);
    let first_boundary = if boundaries.is_some() { first_boundaries(sequences) } else { Vec::new() };
    let final_state = final_state.map(DisjointSlice::new);
    let job = &Forward {
        inputs,
        readout: advance::readout_of(inputs),
        out: DisjointSlice::new(out),
        final_state: final_state.as_ref(),
        boundaries: boundaries.map(DisjointSlice::new),
        first_boundary,
    };
    let level = cpu.level();
    cpu.for_each(sequences.len() * blocks, |task| {
        let (s, block) = (task / blocks, task % blocks);
        let (first, last) = (block * per_task, groups.min((block + 1) * per_task));
        with_scratch(job.scratch_len(last - first), |scratch| {
            dispatch_level!(
                level,
                forward_block(job: &Forward, s: usize, first: usize, last: usize, scratch: &mut group::Scratch)
            );
        });
    });
}

/// The most blocks of channels a backward is cut into: each holds its own dB and dC `[T, N]` until they are added up.
const BLOCKS: usize = 16;

/// Elements of dB or dC added up by one task.
const SUM_TASK: usize = 1 << 13;

/// The backward at a SIMD level. Tasks are blocks of channel groups, each with all sequences.
pub(super) fn backward(
    cpu: &Cpu,
    mut grads: ScanGrads<f32>,
    dout: &[f32],
    d_final: Option<&[f32]>,
    boundaries: &[f32],
    inputs: &ScanInputs<f32>,
) {
    // Only the gradients of rows used by no sequence, or by several, need the zeros.
    for (_, grad) in grads.each() {
        grad.into_iter().for_each(|grad| grad.fill(0.0));
    }
    if inputs.sequences.is_empty() {
        return;
    }
    let groups = inputs.d_inner.div_ceil(GROUP);
    let per_block = groups.div_ceil(BLOCKS);
    let blocks = groups.div_ceil(per_block);
    let map_len = inputs.sequences.tokens() * inputs.d_state;
    let mut partials =
        [&grads.db, &grads.dc, &grads.dc_previous].map(|grad| grad.as_ref().map(|_| vec![0f32; blocks * map_len]));
    let [partial_b, partial_c, partial_previous] =
        partials.each_mut().map(|partial| partial.as_deref_mut().map(DisjointSlice::new));
    let readout = advance::readout_of(inputs);
    let ScanGrads {
        du,
        ddelta,
        ddelta_bias,
        da,
        db,
        dc,
        dd_skip,
        dz,
        dinitial,
        dstate_scale,
        dstate_extra,
        dstate_offset,
        dc_previous,
        doutput_offset,
    } = grads;
    let through_states =
        [&du, &ddelta, &ddelta_bias, &da, &db, &dc, &dz, &dinitial, &dstate_scale, &dstate_extra, &dc_previous];
    let needs_states = through_states.into_iter().any(Option::is_some);
    let share = |grad: Option<_>| -> Shared { grad.map(DisjointSlice::new) };
    let job = &Backward {
        inputs,
        readout,
        dout,
        d_final,
        boundaries,
        first_boundary: first_boundaries(&inputs.sequences),
        needs_states,
        du: share(du),
        ddelta: share(ddelta),
        ddelta_bias: share(ddelta_bias),
        da: share(da),
        dd_skip: share(dd_skip),
        dz: share(dz),
        dinitial: share(dinitial),
        dstate_scale: share(dstate_scale),
        dstate_extra: share(dstate_extra),
        dstate_offset: share(dstate_offset),
        doutput_offset: share(doutput_offset),
        partial_b,
        partial_c,
        partial_previous,
    };
    let level = cpu.level();
    cpu.for_each(blocks, |block| {
        let (first, last) = (block * per_block, groups.min((block + 1) * per_block));
        with_scratch(job.scratch_len(last - first), |scratch| {
            dispatch_level!(
                level,
                backward_block(job: &Backward, block: usize, first: usize, last: usize, scratch: &mut group::Scratch)
            );
        });
    });
    for (grad, partial) in [db, dc, dc_previous].into_iter().zip(&partials) {
        if let (Some(grad), Some(partial)) = (grad, partial) {
            cpu.for_each_chunk(grad, SUM_TASK, |i, sums| {
                for block in partial.chunks_exact(map_len) {
                    sums.iter_mut().zip(&block[i * SUM_TASK..]).for_each(|(sum, x)| *sum += x);
                }
            });
        }
    }
}
