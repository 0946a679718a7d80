//! The reverse sweep over one chunk of one group of channels, whose states and decays have just been recomputed.

use super::advance::{FULL, Maps, OFFSET, PLAIN, Rows};
use super::group::{GROUP, Pair, zeros};
use crate::simd::Lanes;

/// Per token of a chunk, `[CHUNK, GROUP]`.
#[derive(Clone, Copy)]
pub(super) struct Slopes {
    /// Δ.
    pub delta: *const f32,
    /// Δ u.
    pub input: *const f32,
    /// dL/dy.
    pub dy: *const f32,
    /// Written: Σ_n dL/dh B, which gives du and part of dΔ.
    pub through_input: *mut f32,
    /// Written: Σ_n dL/d(ΔA) A log2 e, the other part of dΔ.
    pub through_decay: *mut f32,
}

/// Gradients of a group, `[N, GROUP]`, added to over the chunks.
#[derive(Clone, Copy)]
pub(super) struct RowGrads {
    /// dL/dh of the state before the chunk's first token, on entry of the state after its last.
    pub carry: *mut f32,
    pub a: *mut f32,
    pub scale: *mut f32,
    pub extra: *mut f32,
}

/// Gradients of B, C and C' for each token of a chunk, `[CHUNK, N, L::N]`, added to over the groups of a block; the
/// lanes are summed when the block is done.
#[derive(Clone, Copy)]
pub(super) struct MapGrads {
    pub b: *mut f32,
    pub c: *mut f32,
    pub previous: *mut f32,
}

/// Goes through the chunk from its last token to its first. `DA`: whether the gradient of A is wanted.
///
/// # Safety
/// The lanes' instructions are enabled and every pointer is valid for the shape its documentation gives; `states` is
/// `[CHUNK + 1, N, GROUP]`, `decays` `[CHUNK, N, GROUP]`.
#[inline(always)]
pub(super) unsafe fn sweep<L: Lanes, const READOUT: u8, const DA: bool>(
    slopes: Slopes,
    maps: Maps,
    rows: Rows,
    states: *const f32,
    decays: *const f32,
    row_grads: RowGrads,
    map_grads: MapGrads,
) {
    let stride = maps.n * GROUP;
    // SAFETY: as the function's contract says; all indices stay below the shapes.
    unsafe {
        for t in (0..maps.tokens).rev() {
            let (mut delta, mut input, mut dy) = (zeros::<L>(), zeros::<L>(), zeros::<L>());
            let (mut through_input, mut through_decay): (Pair<L>, Pair<L>) = (zeros::<L>(), zeros::<L>());
            for w in 0..GROUP / L::N {
                let lane = t * GROUP + w * L::N;
                delta[w] = L::load(slopes.delta.add(lane));
                input[w] = L::load(slopes.input.add(lane));
                dy[w] = L::load(slopes.dy.add(lane));
            }
            for n in 0..maps.n {
                let b = L::splat(*maps.b.add(t * maps.n + n));
                let c = L::splat(*maps.c.add(t * maps.n + n));
                let p = L::splat(if READOUT == FULL { *maps.previous.add(t * maps.previous_stride + n) } else { 0.0 });
                let tn = (t * maps.n + n) * L::N;
                let (mut db, mut dc) = (L::load(map_grads.b.add(tn)), L::load(map_grads.c.add(tn)));
                for w in 0..GROUP / L::N {
                    let at = n * GROUP + w * L::N;
                    let decay = L::load(decays.add(t * stride + at));
                    let previous = L::load(states.add(t * stride + at));
                    let h = L::load(states.add((t + 1) * stride + at));
                    let mut carry = L::load(row_grads.carry.add(at));
                    let mut read = h;
                    if READOUT == FULL {
                        let scale = L::load(rows.scale.add(at));
                        let r = L::fma(scale, c, L::load(rows.extra.add(at)));
                        carry = L::fma(dy[w], r, carry);
                        read = L::fma(scale, h, L::load(rows.offset.add(at)));
                        let dyh = L::mul(dy[w], h);
                        let (dscale, dextra) = (row_grads.scale.add(at), row_grads.extra.add(at));
                        L::store(dscale, L::fma(dyh, c, L::load(dscale)));
                        L::store(dextra, L::add(dyh, L::load(dextra)));
                        let dprevious = map_grads.previous.add(tn);
                        L::store(dprevious, L::fma(dy[w], previous, L::load(dprevious)));
                    } else {
                        carry = L::fma(dy[w], c, carry);
                        if READOUT == OFFSET {
                            read = L::add(h, L::load(rows.offset.add(at)));
                        }
                    }
                    // carry is dL/dh_t now.
                    dc = L::fma(dy[w], read, dc);
                    db = L::fma(carry, input[w], db);
                    through_input[w] = L::fma(carry, b, through_input[w]);
                    carry = L::mul(carry, decay);
                    let exponent = L::mul(carry, previous);
                    through_decay[w] = L::fma(exponent, L::load(rows.a.add(at)), through_decay[w]);
                    if DA {
                        let da = row_grads.a.add(at);
                        L::store(da, L::fma(exponent, delta[w], L::load(da)));
                    }
                    if READOUT == FULL {
                        carry = L::fma(dy[w], p, carry);
                    }
                    L::store(row_grads.carry.add(at), carry);
                }
                L::store(map_grads.b.add(tn), db);
                L::store(map_grads.c.add(tn), dc);
            }
            for w in 0..GROUP / L::N {
                let lane = t * GROUP + w * L::N;
                L::store(slopes.through_input.add(lane), through_input[w]);
                L::store(slopes.through_decay.add(lane), through_decay[w]);
            }
        }
    }
}

/// Adds Σ_t dy_t C_t\[n\] over the chunk to the gradient of O.
///
/// # Safety
/// As for [`sweep`].
#[inline(always)]
pub(super) unsafe fn sum_offset<L: Lanes>(dy: *const f32, maps: Maps, grad: *mut f32) {
    // SAFETY: as the function's contract says.
    unsafe {
        for n in 0..maps.n {
            let mut sum = zeros::<L>();
            for t in 0..maps.tokens {
                let c = L::splat(*maps.c.add(t * maps.n + n));
                for w in 0..GROUP / L::N {
                    sum[w] = L::fma(L::load(dy.add(t * GROUP + w * L::N)), c, sum[w]);
                }
            }
            for w in 0..GROUP / L::N {
                let at = grad.add(n * GROUP + w * L::N);
                L::store(at, L::add(L::load(at), sum[w]));
            }
        }
    }
}

/// [`sweep`] with the readout and the wish for dA as values.
///
/// # Safety
/// As for [`sweep`].
#[inline(always)]
pub(super) unsafe fn sweep_as<L: Lanes>(
    (readout, da): (u8, bool),
    slopes: Slopes,
    maps: Maps,
    rows: Rows,
    states: *const f32,
    decays: *const f32,
    row_grads: RowGrads,
    map_grads: MapGrads,
) {
    // SAFETY: the caller's promise is the same.
    unsafe {
        match (readout, da) {
            (PLAIN, false) => sweep::<L, PLAIN, false>(slopes, maps, rows, states, decays, row_grads, map_grads),
            (PLAIN, true) => sweep::<L, PLAIN, true>(slopes, maps, rows, states, decays, row_grads, map_grads),
            (OFFSET, false) => sweep::<L, OFFSET, false>(slopes, maps, rows, states, decays, row_grads, map_grads),
            (OFFSET, true) => sweep::<L, OFFSET, true>(slopes, maps, rows, states, decays, row_grads, map_grads),
            (_, false) => sweep::<L, FULL, false>(slopes, maps, rows, states, decays, row_grads, map_grads),
            (_, true) => sweep::<L, FULL, true>(slopes, maps, rows, states, decays, row_grads, map_grads),
        }
    }
}
