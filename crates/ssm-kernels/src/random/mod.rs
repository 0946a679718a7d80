//! Random numbers that depend on what they are for, never on when or where they are drawn.
//!
//! Everything is a function of a key and a counter (Philox): dropout masks of (seed, step, site, example, position,
//! feature), initial values of (seed, tensor name, index). Any thread count, batch composition, recomputation or
//! resume draws the same. The CUDA kernels follow the same layout of key and counter.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod philox;
mod reference;
#[cfg(test)]
mod tests;

pub use philox::Philox;

use crate::{Cpu, Real};

/// Rows per task of [`dropout`].
const ROWS: usize = 16;

/// What a dropout mask depends on besides the element's place: the run's seed, the optimiser step, the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutKey {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
    /// Which dropout of the model ([`stream_of`] its name).
    pub site: u64,
}

impl DropoutKey {
    /// The generator of this key: seed, step and site mixed into Philox's 64 key bits.
    pub fn philox(&self) -> Philox {
        Philox::new(self.mixed())
    }

    fn mixed(&self) -> u64 {
        mix(mix(mix(self.seed) ^ self.step) ^ self.site)
    }
}

/// One step of SplitMix64 from the state x.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// y = x / (1 - p) where kept, 0 where dropped (with probability `p`), for x `[rows, cols]`.
///
/// Row r's mask comes from `example_of_row[r]` and `position_of_row[r]`, so an example draws the same mask wherever it
/// is packed. The gradient is the same function of dy. Word j of Philox blocks (example, position, j / 4) decides
/// column j.
///
/// # Panics
/// When a slice does not have its shape or `p` is not in [0, 1).
#[track_caller]
pub fn dropout<T: Real>(
    cpu: &Cpu,
    y: &mut [T],
    x: &[T],
    p: f32,
    key: DropoutKey,
    example_of_row: &[u64],
    position_of_row: &[u32],
    rows: usize,
    cols: usize,
) {
    assert_eq!(y.len(), rows * cols, "y is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(x.len(), rows * cols, "x is not [rows, cols] = [{rows}, {cols}]");
    assert_eq!(example_of_row.len(), rows, "example_of_row is not [rows] = [{rows}]");
    assert_eq!(position_of_row.len(), rows, "position_of_row is not [rows] = [{rows}]");
    assert!((0.0..1.0).contains(&p), "a dropout probability of {p} is not in [0, 1)");
    cpu.for_each_chunk(y, ROWS * cols, |task, y| {
        for (i, y) in y.chunks_mut(cols).enumerate() {
            let r = task * ROWS + i;
            let x = &x[r * cols..(r + 1) * cols];
            reference::dropout_row(y, x, p, &key, example_of_row[r], position_of_row[r]);
        }
    });
}

/// Fills `out` with numbers uniform in (low, high): element i is a function of (seed, stream, i).
pub fn uniform<T: Real>(out: &mut [T], low: f64, high: f64, seed: u64, stream: u64) {
    reference::uniform(out, low, high, seed, stream);
}

/// Fills `out` with normal numbers: element i is a function of (seed, stream, i).
pub fn normal<T: Real>(out: &mut [T], mean: f64, std: f64, seed: u64, stream: u64) {
    reference::normal(out, mean, std, seed, stream);
}

/// The stream of a name: its 64-bit FNV-1a hash.
pub fn stream_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}
