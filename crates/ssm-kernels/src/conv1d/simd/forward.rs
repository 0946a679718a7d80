//! The forward of a range of tokens, all channels.

use std::ops::Range;

use super::strip::{STRIP, Strip, pieces};
use crate::conv1d::Conv1dInputs;
use crate::runtime::DisjointSlice;
use crate::scan::simd::group::{GROUP, Pair, Scratch, load_channels, store_channels};
use crate::scan::simd::math::silu_and_slope;
use crate::simd::Lanes;

/// What every task of a forward shares.
pub(super) struct Forward<'a> {
    pub inputs: &'a Conv1dInputs<'a, f32>,
    pub y: DisjointSlice<'a, f32>,
    pub final_state: Option<DisjointSlice<'a, f32>>,
}

/// bias + Σ_j weight_j x_j for the 16 channels from `lane` on of a strip, of which `valid` exist.
///
/// # Safety
/// The lanes' instructions are enabled and the strip's taps point at rows with that many channels.
#[inline(always)]
pub(super) unsafe fn sum<L: Lanes>(strip: &Strip, lane: usize, valid: usize) -> Pair<L> {
    // SAFETY: weight is [K, STRIP] and bias [STRIP]; the taps by this function's contract.
    unsafe {
        let mut sum = [L::splat(0.0); 2];
        for w in 0..GROUP / L::N {
            sum[w] = L::load(strip.bias.as_ptr().add(lane + w * L::N));
        }
        for (j, tap) in strip.taps.iter().enumerate() {
            for w in 0..GROUP / L::N {
                let weight = L::load(strip.weight.as_ptr().add(j * STRIP + lane + w * L::N));
                sum[w] = L::fma(weight, load_channels::<L>(tap.add(lane), w, valid), sum[w]);
            }
        }
        sum
    }
}

/// Writes y for the tokens `range`, and the final states of the sequences that end there.
///
/// # Safety
/// The lanes' instructions are enabled; the job's operands have been checked; no other task has these tokens; `scratch`
/// holds [`Strip::scratch_len`] elements.
#[inline(always)]
pub(super) unsafe fn forward_range<L: Lanes>(job: &Forward, range: Range<usize>, scratch: &mut Scratch) {
    let inputs = job.inputs;
    let (channels, rows) = (inputs.channels, inputs.width - 1);
    let mut strip = Strip::new(scratch, inputs.width);
    for d in (0..channels).step_by(STRIP) {
        strip.load(inputs, d..channels.min(d + STRIP));
        let valid = strip.of.len();
        for (s, tokens) in pieces(&inputs.sequences, range.clone()) {
            let of = inputs.sequences.range(s);
            strip.begin(inputs, s);
            for t in tokens.clone() {
                strip.window(inputs, of.start, t);
                strip.fetch([inputs.x.as_ptr()], channels, &tokens, t);
                // SAFETY: the strip's channels of token t, which is this task's.
                let y = unsafe { job.y.range_mut(t * channels + d..t * channels + d + valid) }.as_mut_ptr();
                for lane in (0..valid).step_by(GROUP) {
                    let valid = GROUP.min(valid - lane);
                    // SAFETY: the taps have been pointed at rows of the strip's channels.
                    unsafe {
                        let mut sum = sum::<L>(&strip, lane, valid);
                        if inputs.silu {
                            (sum, _) = silu_and_slope::<L, 2>(sum, GROUP / L::N);
                        }
                        for w in 0..GROUP / L::N {
                            store_channels::<L>(y.add(lane), w, sum[w], valid);
                        }
                    }
                }
            }
            if let Some(state) = job.final_state.as_ref().filter(|_| tokens.end == of.end && rows > 0) {
                let at = (s * channels + d) * rows;
                // SAFETY: the end of sequence s is this task's.
                strip.final_state(unsafe { state.range_mut(at..at + valid * rows) }, inputs, s);
            }
        }
    }
}
