//! How a task walks its tokens: strips of 64 channels, pieces of sequences, and where each tap of the window lies.

use std::ops::Range;

use crate::Sequences;
use crate::conv1d::Conv1dInputs;
use crate::scan::simd::group::{GROUP, Scratch};
use crate::simd::prefetch;

/// Channels worked on together: four cache lines of a row, so that few rows of a window share a set of the cache even
/// where rows lie a multiple of 2 KiB apart.
pub(super) const STRIP: usize = 64;

/// Rows between the one that is computed and the one that is fetched into the cache.
const AHEAD: usize = 8;

/// The sequences that have tokens in `range`, each with those tokens.
pub(super) fn pieces<'a>(
    sequences: &'a Sequences<'a>,
    range: Range<usize>,
) -> impl Iterator<Item = (usize, Range<usize>)> + 'a {
    let first = sequences.offsets().partition_point(|&offset| offset <= range.start) - 1;
    (first..sequences.len()).map_while(move |s| {
        let of = sequences.range(s);
        (of.start < range.end).then(|| (s, of.start.max(range.start)..of.end.min(range.end)))
    })
}

/// The operands of one strip of channels, as vectors want them.
pub(super) struct Strip<'a> {
    /// The channels.
    pub of: Range<usize>,
    /// `[K, STRIP]`.
    pub weight: &'a mut [f32],
    /// `[STRIP]`.
    pub bias: &'a mut [f32],
    /// The inputs before the sequence at hand, `[K - 1, STRIP]`.
    head: &'a mut [f32],
    /// Where each tap of the window lies, `[K]`.
    pub taps: Vec<*const f32>,
}

impl<'a> Strip<'a> {
    /// Elements of scratch memory.
    pub(super) fn scratch_len(width: usize) -> usize {
        2 * width * STRIP
    }

    pub(super) fn new(scratch: &mut Scratch<'a>, width: usize) -> Strip<'a> {
        let [weight, head] = [width, width - 1].map(|rows| scratch.take(rows * STRIP));
        Strip { of: 0..0, weight, bias: scratch.take(STRIP), head, taps: vec![std::ptr::null(); width] }
    }

    /// Moves to the channels `of`.
    pub(super) fn load(&mut self, inputs: &Conv1dInputs<f32>, of: Range<usize>) {
        transpose(self.weight, &inputs.weight[of.start * inputs.width..of.end * inputs.width], inputs.width);
        self.bias.fill(0.0);
        if let Some(bias) = inputs.bias {
            self.bias[..of.len()].copy_from_slice(&bias[of.clone()]);
        }
        self.of = of;
    }

    /// Moves to sequence `s`.
    pub(super) fn begin(&mut self, inputs: &Conv1dInputs<f32>, s: usize) {
        let rows = inputs.width - 1;
        match inputs.init.filter(|_| rows > 0) {
            Some(init) => {
                let row = init.row(s, inputs.channels * rows);
                transpose(self.head, &row[self.of.start * rows..self.of.end * rows], rows);
            }
            None => self.head.fill(0.0),
        }
    }

    /// Points the taps at the window of token `t` of a sequence that starts at token `start`.
    #[inline(always)]
    pub(super) fn window(&mut self, inputs: &Conv1dInputs<f32>, start: usize, t: usize) {
        let rows = inputs.width - 1;
        for (j, tap) in self.taps.iter_mut().enumerate() {
            // Tap j meets token t - rows + j, which may lie before the sequence.
            *tap = if t + j >= start + rows {
                inputs.x[(t + j - rows) * inputs.channels + self.of.start..].as_ptr()
            } else {
                self.head[(t + j - start) * STRIP..].as_ptr()
            };
        }
    }

    /// Fetches the rows of `operands` that come [`AHEAD`] rows after `t` in `tokens`, or in the next strip once those
    /// are done.
    #[inline(always)]
    pub(super) fn fetch<const M: usize>(
        &self,
        operands: [*const f32; M],
        channels: usize,
        tokens: &Range<usize>,
        t: usize,
    ) {
        let (mut row, mut channel) = (t + AHEAD, self.of.start);
        if row >= tokens.end {
            (row, channel) = (row - tokens.len(), channel + STRIP);
        }
        if row < tokens.end && channel < channels {
            for operand in operands {
                for line in (0..STRIP.min(channels - channel)).step_by(GROUP) {
                    prefetch(operand.wrapping_add(row * channels + channel + line));
                }
            }
        }
    }

    /// Writes the last K - 1 inputs of sequence `s`, `[channels of the strip, K - 1]`.
    pub(super) fn final_state(&self, to: &mut [f32], inputs: &Conv1dInputs<f32>, s: usize) {
        let (rows, tokens) = (inputs.width - 1, inputs.sequences.range(s));
        for (i, to) in to.chunks_exact_mut(rows).enumerate() {
            for (m, x) in to.iter_mut().enumerate() {
                *x = if tokens.len() + m >= rows {
                    inputs.x[(tokens.end + m - rows) * inputs.channels + self.of.start + i]
                } else {
                    self.head[(tokens.len() + m) * STRIP + i]
                };
            }
        }
    }
}

/// `to[j][i] = from[i][j]`: `[rows, STRIP]` from `[channels, rows]`, zero for the channels there are not.
fn transpose(to: &mut [f32], from: &[f32], rows: usize) {
    let valid = from.len() / rows;
    for (j, to) in to.chunks_exact_mut(STRIP).enumerate() {
        for (i, x) in to.iter_mut().enumerate() {
            *x = if i < valid { from[i * rows + j] } else { 0.0 };
        }
    }
}
