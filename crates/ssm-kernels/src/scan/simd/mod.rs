//! The scan on vectors of channels, or along N for single tokens.
mod advance;
mod forward;
mod group;
mod math;
mod step;

use forward::{Forward, forward_block};
use group::{GROUP, first_boundaries, with_scratch};

use super::ScanInputs;
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
    let per_task = TASK.div_ceil(tokens * inputs.d_state * GROUP).min(groups);
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
