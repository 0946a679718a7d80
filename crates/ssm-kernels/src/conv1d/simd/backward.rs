//! The backward of a range of tokens, all channels: the gradient before SiLU, of the K - 1 tokens after the range too,
//! then what each input takes from the tokens whose windows it lies in.

use std::ops::Range;

use super::forward::sum;
use super::strip::{STRIP, Strip, pieces};
use crate::conv1d::Conv1dInputs;
use crate::runtime::DisjointSlice;
use crate::scan::simd::group::{GROUP, Scratch, load_channels, store_channels};
use crate::scan::simd::math::silu_and_slope;
use crate::simd::Lanes;

/// A gradient that tasks write in disjoint ranges, if it was asked for.
pub(super) type Shared<'a> = Option<DisjointSlice<'a, f32>>;

/// What every task of a backward shares.
pub(super) struct Backward<'a> {
    pub inputs: &'a Conv1dInputs<'a, f32>,
    pub dy: &'a [f32],
    pub d_final: Option<&'a [f32]>,
    pub dx: Shared<'a>,
    /// What each task gives to the gradients of weight and bias, `[tasks, K + 1, D]`, the bias last.
    pub partial: Shared<'a>,
    /// Gradient of each sequence's initial inputs, `[S, D, K - 1]`.
    pub dinit: Shared<'a>,
}

impl Backward<'_> {
    /// Elements of scratch memory for a task of `tokens` tokens.
    pub(super) fn scratch_len(&self, tokens: usize) -> usize {
        Strip::scratch_len(self.inputs.width) + (tokens + 2 * self.inputs.width) * STRIP
    }
}

/// Computes the gradients that the tokens `range` give, as task number `task`.
///
/// # Safety
/// The lanes' instructions are enabled; the job's operands have been checked; no other task has these tokens; `scratch`
/// holds [`Backward::scratch_len`] elements.
#[inline(always)]
pub(super) unsafe fn backward_range<L: Lanes>(job: &Backward, task: usize, range: Range<usize>, scratch: &mut Scratch) {
    let inputs = job.inputs;
    let (channels, width) = (inputs.channels, inputs.width);
    let rows = width - 1;
    let mut strip = Strip::new(scratch, width);
    let parameters = scratch.take((width + 1) * STRIP); // [K + 1, STRIP]
    let d_sum = scratch.take((range.len() + rows) * STRIP); // [tokens + K - 1, STRIP]
    for d in (0..channels).step_by(STRIP) {
        strip.load(inputs, d..channels.min(d + STRIP));
        parameters.fill(0.0);
        let valid = strip.of.len();
        for (s, tokens) in pieces(&inputs.sequences, range.clone()) {
            let of = inputs.sequences.range(s);
            strip.begin(inputs, s);
            // SAFETY: buffers have the shapes asked for; the tokens are this task's.
            unsafe {
                before_silu::<L>(job, &mut strip, of.clone(), tokens.clone(), d_sum, parameters);
                if job.dx.is_some() {
                    into_inputs::<L>(job, &strip, tokens.clone(), d_sum);
                }
            }
            let last = job.d_final.map(|d_final| &d_final[(s * channels + d) * rows..][..valid * rows]);
            if let (Some(dx), Some(last)) = (&job.dx, last) {
                // Inputs of this piece among the last K - 1 of the sequence.
                for t in tokens.start.max(of.end.saturating_sub(rows))..tokens.end {
                    let m = t + rows - of.end;
                    // SAFETY: the strip's channels of token t, which is this task's.
                    let row = unsafe { dx.range_mut(t * channels + d..t * channels + d + valid) };
                    row.iter_mut().enumerate().for_each(|(i, x)| *x += last[i * rows + m]);
                }
            }
            if let Some(dinit) = job.dinit.as_ref().filter(|_| tokens.start == of.start) {
                let at = (s * channels + d) * rows;
                // SAFETY: the start of sequence s is this task's.
                let to = unsafe { dinit.range_mut(at..at + valid * rows) };
                for (i, to) in to.chunks_exact_mut(rows.max(1)).enumerate() {
                    for (e, x) in to.iter_mut().enumerate() {
                        *x = last.filter(|_| e >= of.len()).map_or(0.0, |last| last[i * rows + e - of.len()]);
                        for j in 0..=e {
                            // Rows past the end of the sequence are zero.
                            *x += strip.weight[j * STRIP + i] * d_sum[(e - j) * STRIP + i];
                        }
                    }
                }
            }
        }
        if let Some(partial) = &job.partial {
            for (j, from) in parameters.chunks_exact(STRIP).enumerate() {
                let at = (task * (width + 1) + j) * channels + d;
                // SAFETY: this task's partial sums.
                unsafe { partial.range_mut(at..at + valid) }.copy_from_slice(&from[..valid]);
            }
        }
    }
}

/// Fills `d_sum` with the gradient before SiLU of the tokens `tokens` and the K - 1 after them, zeros past the
/// sequence `of`; adds what `tokens` give to the gradients of weight and bias.
///
/// # Safety
/// As for [`backward_range`].
#[inline(always)]
unsafe fn before_silu<L: Lanes>(
    job: &Backward,
    strip: &mut Strip,
    of: Range<usize>,
    tokens: Range<usize>,
    d_sum: &mut [f32],
    parameters: &mut [f32],
) {
    let (inputs, valid) = (job.inputs, strip.of.len());
    let (channels, width) = (inputs.channels, inputs.width);
    let needs_x = inputs.silu || job.partial.is_some();
    for (i, row) in d_sum.chunks_exact_mut(STRIP).take(tokens.len() + width - 1).enumerate() {
        let t = tokens.start + i;
        if t >= of.end {
            row.fill(0.0);
            continue;
        }
        if needs_x {
            strip.window(inputs, of.start, t);
            strip.fetch([inputs.x.as_ptr(), job.dy.as_ptr()], channels, &tokens, t);
        } else {
            strip.fetch([job.dy.as_ptr()], channels, &tokens, t);
        }
        let dy = job.dy[t * channels + strip.of.start..][..valid].as_ptr();
        for lane in (0..valid).step_by(GROUP) {
            let valid = GROUP.min(valid - lane);
            // SAFETY: rows hold STRIP elements, token t has the strip's channels, parameters are [K + 1, STRIP].
            unsafe {
                let mut slope = [L::splat(1.0); 2];
                if inputs.silu {
                    (_, slope) = silu_and_slope::<L, 2>(sum::<L>(strip, lane, valid), GROUP / L::N);
                }
                for w in 0..GROUP / L::N {
                    slope[w] = L::mul(slope[w], load_channels::<L>(dy.add(lane), w, valid));
                    L::store(row.as_mut_ptr().add(lane + w * L::N), slope[w]);
                }
                if job.partial.is_some() && t < tokens.end {
                    for w in 0..GROUP / L::N {
                        let at = parameters.as_mut_ptr().add(lane + w * L::N);
                        for (j, tap) in strip.taps.iter().enumerate() {
                            let at = at.add(j * STRIP);
                            let x = load_channels::<L>(tap.add(lane), w, valid);
                            L::store(at, L::fma(x, slope[w], L::load(at)));
                        }
                        let at = at.add(width * STRIP);
                        L::store(at, L::add(slope[w], L::load(at)));
                    }
                }
            }
        }
    }
}

/// dx_t = Σ_j weight_j d_sum_{t + K - 1 - j} for the tokens `tokens`.
///
/// # Safety
/// As for [`backward_range`].
#[inline(always)]
unsafe fn into_inputs<L: Lanes>(job: &Backward, strip: &Strip, tokens: Range<usize>, d_sum: &[f32]) {
    let (channels, width, valid) = (job.inputs.channels, job.inputs.width, strip.of.len());
    let Some(dx) = &job.dx else { return };
    for (i, t) in tokens.enumerate() {
        let at = t * channels + strip.of.start;
        // SAFETY: the strip's channels of token t, which is the caller's.
        let dx = unsafe { dx.range_mut(at..at + valid) }.as_mut_ptr();
        for lane in (0..valid).step_by(GROUP) {
            // SAFETY: d_sum holds K - 1 rows more than tokens; weight is [K, STRIP].
            unsafe {
                let mut sum = [L::splat(0.0); 2];
                for j in 0..width {
                    for w in 0..GROUP / L::N {
                        let at = lane + w * L::N;
                        let weight = L::load(strip.weight.as_ptr().add(j * STRIP + at));
                        let d = L::load(d_sum.as_ptr().add((i + width - 1 - j) * STRIP + at));
                        sum[w] = L::fma(weight, d, sum[w]);
                    }
                }
                for w in 0..GROUP / L::N {
                    store_channels::<L>(dx.add(lane), w, sum[w], GROUP.min(valid - lane));
                }
            }
        }
    }
}
