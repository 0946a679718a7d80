//! The language model head fused with its loss: logits exist for one block of rows at a time, never for all.
//!
//! A block's logits are one product with the head's weight; softmax turns them into their own gradient in place; one
//! more product gives dx, and one dw where the head is trained. Memory: [`ROWS_PER_BLOCK`] · V numbers. The rows are
//! those that carry a label; gathering them is the caller's part.
//!
//! The products are those of `matmul`. The softmax is a task per row: in `f32` on vectors at every level but the
//! reference, and by the reference otherwise. A row's results do not depend on the rows around it.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(all(test, feature = "cuda"))]
mod cuda_tests;
mod reference;
mod simd;
#[cfg(test)]
mod tests;

use crate::matmul::{matmul_nn, matmul_nt, matmul_tn};
use crate::real::{as_f32, as_f32_mut};
use crate::runtime::DisjointSlice;
use crate::{Cpu, Level, Real, WeightSlice};

/// Rows whose logits are held at once: enough to make reading and packing the weight cheap, few enough for [rows, V] to
/// stay small (103 MB for V = 50,280).
pub const ROWS_PER_BLOCK: usize = 512;

/// What a low-rank patch adds to the logits: scale · projected · bᵀ, and its gradients where asked for.
pub struct LogitAddition<'a, T> {
    /// x Aᵀ `[rows, rank]`.
    pub projected: &'a [T],
    /// B `[vocab, rank]`.
    pub b: &'a [T],
    /// s.
    pub scale: T,
    /// `[rows, rank]`, overwritten.
    pub dprojected: Option<&'a mut [T]>,
    /// `[vocab, rank]`, accumulated into.
    pub db: Option<&'a mut [T]>,
}

/// losses\[r\] = logsumexp(x_r · Wᵀ) - (x_r · Wᵀ)\[targets\[r\]\] for x `[rows, k]`, w `[vocab, k]`, and where asked for:
///
/// - `argmax` `[rows]`: the index of the largest logit, the lowest among equals; NaNs never win;
/// - `dx` `[rows, k]`, overwritten: grad_scale · dlogits · W;
/// - `dw` `[vocab, k]`, accumulated into: grad_scale · dlogitsᵀ · x.
///
/// `additions` are added to the logits and get gradients of their own. A NaN among a row's logits makes its loss NaN.
///
/// # Panics
/// When a slice does not have its shape or a target passes the vocabulary.
#[track_caller]
pub fn linear_cross_entropy<T: Real>(
    cpu: &Cpu,
    losses: &mut [T],
    argmax: Option<&mut [u32]>,
    mut dx: Option<&mut [T]>,
    mut dw: Option<&mut [T]>,
    x: &[T],
    w: WeightSlice,
    additions: &mut [LogitAddition<'_, T>],
    targets: &[u32],
    grad_scale: T,
    rows: usize,
    vocab: usize,
    k: usize,
) {
    assert_eq!(losses.len(), rows, "losses is not [rows] = [{rows}]");
    assert_eq!(argmax.as_ref().map_or(rows, |a| a.len()), rows, "argmax is not [rows] = [{rows}]");
    assert_eq!(dx.as_ref().map_or(rows * k, |d| d.len()), rows * k, "dx is not [rows, k] = [{rows}, {k}]");
    assert_eq!(dw.as_ref().map_or(vocab * k, |d| d.len()), vocab * k, "dw is not [vocab, k] = [{vocab}, {k}]");
    assert_eq!(x.len(), rows * k, "x is not [rows, k] = [{rows}, {k}]");
    assert_eq!(w.len(), vocab * k, "w is not [vocab, k] = [{vocab}, {k}]");
    assert_eq!(targets.len(), rows, "targets is not [rows] = [{rows}]");
    assert!(targets.iter().all(|&t| (t as usize) < vocab), "a target passes the vocabulary of {vocab}");

    for part in additions.iter() {
        let rank = part.b.len() / vocab.max(1);
        assert_eq!(part.b.len(), vocab * rank, "an addition's b is not [vocab, rank] = [{vocab}, {rank}]");
        let projected = [Some(part.projected.len()), part.dprojected.as_ref().map(|d| d.len())];
        assert!(projected.into_iter().flatten().all(|len| len == rows * rank), "not [rows, rank] = [{rows}, {rank}]");
        assert_eq!(
            part.db.as_ref().map_or(part.b.len(), |d| d.len()),
            part.b.len(),
            "an addition's db is not like its b"
        );
    }

    let below = additions.iter().any(|part| part.dprojected.is_some() || part.db.is_some());
    let grad_scale = (dx.is_some() || dw.is_some() || below).then_some(grad_scale);
    let argmax = argmax.map(DisjointSlice::new);
    // Blocks as large as one another: few rows are multiplied in another order than many, and a row's bits must not tell where
    // in the batch it lay.
    let block = rows.div_ceil(rows.div_ceil(ROWS_PER_BLOCK).max(1)).max(1);
    let mut logits = vec![T::ZERO; rows.min(block) * vocab];
    for start in (0..rows).step_by(block) {
        let count = block.min(rows - start);
        let x = &x[start * k..(start + count) * k];
        let logits = &mut logits[..count * vocab];
        matmul_nt(cpu, logits, x, w, None, T::ONE, count, vocab, k, false);
        for part in additions.iter() {
            let rank = part.b.len() / vocab;
            let projected = &part.projected[start * rank..(start + count) * rank];
            matmul_nt(cpu, logits, projected, WeightSlice::of(part.b), None, part.scale, count, vocab, rank, true);
        }
        let block_losses = DisjointSlice::new(&mut losses[start..start + count]);
        cpu.for_each_chunk(logits, vocab, |r, logits| {
            if let Some(argmax) = &argmax {
                // SAFETY: row r belongs to task r alone.
                unsafe { argmax.range_mut(start + r..start + r + 1)[0] = row_argmax(cpu.level(), logits) };
            }
            let target = targets[start + r] as usize;
            let loss = row_loss(cpu.level(), logits, target, grad_scale);
            // SAFETY: row r belongs to task r alone.
            unsafe { block_losses.range_mut(r..r + 1)[0] = loss };
        });
        if let Some(dx) = dx.as_deref_mut() {
            let dx = &mut dx[start * k..(start + count) * k];
            matmul_nn(cpu, dx, logits, w, T::ONE, count, k, vocab, false);
        }
        if let Some(dw) = dw.as_deref_mut() {
            matmul_tn(cpu, dw, logits, x, T::ONE, vocab, k, count, true);
        }
        for part in additions.iter_mut() {
            let rank = part.b.len() / vocab;
            let range = start * rank..(start + count) * rank;
            if let Some(db) = part.db.as_deref_mut() {
                matmul_tn(cpu, db, logits, &part.projected[range.clone()], part.scale, vocab, rank, count, true);
            }
            if let Some(dprojected) = part.dprojected.as_deref_mut() {
                let b = WeightSlice::of(part.b);
                matmul_nn(cpu, &mut dprojected[range], logits, b, part.scale, count, rank, vocab, false);
            }
        }
    }
}

/// The loss of one row, whose logits become their gradient if `grad_scale` is given.
fn row_loss<T: Real>(level: Level, logits: &mut [T], target: usize, grad_scale: Option<T>) -> T {
    if level != Level::Reference
        && let Some(logits) = as_f32_mut(logits)
    {
        let grad_scale = grad_scale.map(|scale| scale.to_f64() as f32);
        return T::from_f32(simd::softmax_cross_entropy(level, logits, target, grad_scale));
    }
    reference::softmax_cross_entropy(logits, target, grad_scale)
}

/// The lowest index of the largest logit of one row.
fn row_argmax<T: Real>(level: Level, logits: &[T]) -> u32 {
    match as_f32(logits) {
        Some(logits) if level != Level::Reference => simd::argmax(level, logits),
        _ => reference::argmax(logits),
    }
}
