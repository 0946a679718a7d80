//! Sequences of one token, as in decoding: vectors run along N, as the operands lie in memory, so nothing is transposed.

use std::ops::Range;

use super::forward::Forward;
use super::group::{GROUP, channels, load_channels, zeros};
use super::math::{exp2, softplus_and_slope};
use crate::simd::Lanes;

/// The first `len` elements at p, zero beyond.
#[inline(always)]
unsafe fn load_states<L: Lanes>(p: *const f32, len: usize) -> L::V {
    // SAFETY: the caller vouches for `len` elements.
    unsafe { if len == L::N { L::load(p) } else { L::load_first(p, len) } }
}

/// Writes the outputs and the final state of sequence `s`, which has one token, for the groups of channels given.
///
/// # Safety
/// The lanes' instructions are enabled; the job's operands have been checked; no other task has these channels of `s`.
#[inline(always)]
pub(super) unsafe fn step<L: Lanes>(job: &Forward, s: usize, groups: Range<usize>) {
    let inputs = job.inputs;
    let (d_inner, n_states) = (inputs.d_inner, inputs.d_state);
    let t = inputs.sequences.range(s).start;
    let start = |table: Option<crate::Table<f32>>| table.map(|t| t.row(s, d_inner * n_states).as_ptr());
    let (initial, offset) = (start(inputs.initial), start(inputs.state_offset));
    let (scale, extra) = (start(inputs.state_scale), start(inputs.state_extra));
    let (b, c) = (inputs.b[t * n_states..].as_ptr(), inputs.c[t * n_states..].as_ptr());
    let previous_map = inputs.c_previous.map(|p| p[t * n_states..].as_ptr());
    for g in groups {
        let of = channels(g, d_inner);
        let valid = of.len();
        let (mut delta, mut input, mut y) = ([0f32; GROUP], [0f32; GROUP], [0f32; GROUP]);
        // SAFETY: channels `of` of token t and of the rows lie inside the checked slices; state vectors stop at N.
        unsafe {
            let at = t * d_inner + of.start;
            let states = (s * d_inner + of.start) * n_states..(s * d_inner + of.end) * n_states;
            let state = job.final_state.map(|state| state.range_mut(states).as_mut_ptr());
            let mut steps = zeros::<L>();
            for w in 0..GROUP / L::N {
                steps[w] = load_channels::<L>(inputs.delta.as_ptr().add(at), w, valid);
                if let Some(bias) = inputs.delta_bias {
                    steps[w] = L::add(steps[w], load_channels::<L>(bias.as_ptr().add(of.start), w, valid));
                }
            }
            if inputs.delta_softplus {
                (steps, _) = softplus_and_slope::<L, 2>(steps, GROUP / L::N);
            }
            for w in 0..GROUP / L::N {
                let u = load_channels::<L>(inputs.u.as_ptr().add(at), w, valid);
                L::store(delta.as_mut_ptr().add(w * L::N), L::mul(steps[w], L::splat(std::f32::consts::LOG2_E)));
                L::store(input.as_mut_ptr().add(w * L::N), L::mul(steps[w], u));
            }
            for (i, d) in of.clone().enumerate() {
                let (step, input) = (L::splat(delta[i]), L::splat(input[i]));
                let mut sum = L::splat(0.0);
                for first in (0..n_states).step_by(L::N) {
                    let len = L::N.min(n_states - first);
                    let at = d * n_states + first;
                    let decay = exp2::<L, 1>([L::mul(step, load_states::<L>(inputs.a.as_ptr().add(at), len))], 1)[0];
                    let previous = match initial {
                        Some(initial) => load_states::<L>(initial.add(at), len),
                        None => L::splat(0.0),
                    };
                    let h = L::fma(decay, previous, L::mul(input, load_states::<L>(b.add(first), len)));
                    if let Some(map) = previous_map {
                        sum = L::fma(previous, load_states::<L>(map.add(first), len), sum);
                    }
                    let c = load_states::<L>(c.add(first), len);
                    let mut read = h;
                    if let Some(scale) = scale {
                        read = L::mul(read, load_states::<L>(scale.add(at), len));
                    }
                    if let Some(offset) = offset {
                        read = L::add(read, load_states::<L>(offset.add(at), len));
                    }
                    sum = L::fma(read, c, sum);
                    if let Some(extra) = extra {
                        sum = L::fma(h, load_states::<L>(extra.add(at), len), sum);
                    }
                    if let Some(state) = state {
                        if len == L::N {
                            L::store(state.add(at - of.start * n_states), h);
                        } else {
                            L::store_first(state.add(at - of.start * n_states), h, len);
                        }
                    }
                }
                y[i] = L::sum(sum);
            }
            job.finish::<L>(s, t, &of, y.as_ptr());
        }
    }
}
