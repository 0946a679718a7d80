//! One row of logits on vectors: the largest, the sum of exponentials, and the gradient in place.
//!
//! The exponentials are computed once: where a gradient is asked for they stay in the row, and a last pass multiplies
//! them by grad_scale / sum. The row (200 KB for V = 50,280) comes from memory for the first pass and from the second
//! cache for the others. Sums are cut into blocks of [`BLOCK`] logits: a block's vectors add up in `f32`, its lanes in
//! the fixed order of [`Lanes::sum`], and the blocks in order in `f64`, so that a large vocabulary costs no digits.
//!
//! Bound: about 22 instructions per vector for the exponential; memory for the first pass.

use crate::elementwise::simd::{load, store};
use crate::simd::Lanes;
use crate::{Level, dispatch_level};

/// Logits whose exponentials are added up in `f32`: 32 to 64 additions per lane.
const BLOCK: usize = 512;

/// logsumexp(logits) - logits\[target\]; with `grad_scale` the logits become grad_scale · (softmax - one-hot).
pub(super) fn softmax_cross_entropy(level: Level, logits: &mut [f32], target: usize, grad_scale: Option<f32>) -> f32 {
    let mut found = 0.0;
    let loss = &mut found;
    dispatch_level!(level, softmax(loss: &mut f32, logits: &mut [f32], target: usize, grad_scale: Option<f32>));
    found
}

/// The lowest index of the largest logit; NaNs never win.
pub(super) fn argmax(level: Level, logits: &[f32]) -> u32 {
    let mut found = (0.0, 0);
    let most = &mut found;
    dispatch_level!(level, largest(most: &mut (f32, usize), logits: &[f32]));
    let (most, block) = found;
    // No block before this one holds the largest logit. Nothing equals it where all are NaN.
    logits[block..].iter().position(|&l| l == most).map_or(0, |i| (block + i) as u32)
}

/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
unsafe fn softmax<L: Lanes>(loss: &mut f32, logits: &mut [f32], target: usize, grad_scale: Option<f32>) {
    let mut most = (0.0, 0);
    let mut sum = 0.0;
    // The difference first: the sum of two large numbers would round the small loss away.
    // SAFETY: the caller enables the instructions; `load` and `store` stay inside the row.
    unsafe {
        largest::<L>(&mut most, logits);
        let above_target = f64::from(most.0) - f64::from(logits[target]);
        let most = L::splat(most.0);
        for block in logits.chunks_mut(BLOCK) {
            let mut exponentials = L::splat(0.0);
            for at in (0..block.len()).step_by(L::N) {
                // Past the end e^-∞ adds nothing. It is NaN only where the largest is -∞, and so is the sum then.
                let e = L::exp_nonpositive(L::sub(load_or_least::<L>(block, at), most));
                exponentials = L::add(exponentials, e);
                if grad_scale.is_some() {
                    store::<L>(block, at, e);
                }
            }
            sum += f64::from(L::sum(exponentials));
        }
        *loss = (sum.ln() + above_target) as f32;
        if let Some(scale) = grad_scale {
            let factor = L::splat((f64::from(scale) / sum) as f32);
            for at in (0..logits.len()).step_by(L::N) {
                store::<L>(logits, at, L::mul(load::<L>(logits, at), factor));
            }
            logits[target] -= scale;
        }
    }
}

/// The largest logit that is not NaN (-∞ if there is none) and the start of the first block that holds it.
///
/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
unsafe fn largest<L: Lanes>(most: &mut (f32, usize), logits: &[f32]) {
    *most = (f32::NEG_INFINITY, 0);
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        // SAFETY: the caller enables the instructions; the loads stay inside the row.
        let of_block = unsafe {
            let mut of_block = [L::splat(f32::NEG_INFINITY); 4];
            for at in (0..block.len()).step_by(4 * L::N) {
                for w in 0..4 {
                    // The operand order of max drops a NaN.
                    of_block[w] = L::max(load_or_least::<L>(block, at + w * L::N), of_block[w]);
                }
            }
            let [a, b, c, d] = of_block;
            L::reduce_max(L::max(L::max(a, b), L::max(c, d)))
        };
        if of_block > most.0 {
            *most = (of_block, i * BLOCK);
        }
    }
}

/// The vector of logits from `at` on; -∞ past the end of the block.
///
/// # Safety
/// The lanes' instructions are enabled.
#[inline(always)]
unsafe fn load_or_least<L: Lanes>(block: &[f32], at: usize) -> L::V {
    const WIDEST: usize = 16;
    const { assert!(L::N <= WIDEST) };
    let rest = &block[at.min(block.len())..];
    if rest.len() >= L::N {
        // SAFETY: as many elements are left in the block.
        return unsafe { L::load(rest.as_ptr()) };
    }
    let mut padded = [f32::NEG_INFINITY; WIDEST];
    padded[..rest.len()].copy_from_slice(rest);
    // SAFETY: no vector is longer than the array.
    unsafe { L::load(padded.as_ptr()) }
}
