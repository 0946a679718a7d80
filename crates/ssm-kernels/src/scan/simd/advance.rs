//! The recurrence over one chunk of one group of channels, shared by the forward and by the backward's recomputation.

use super::group::{GROUP, Pair, load_channels, zeros};
use super::math::{exp2, softplus_and_slope};
use crate::scan::ScanInputs;
use crate::simd::Lanes;
use crate::simd::prefetch;

/// y = Σ h C.
pub(super) const PLAIN: u8 = 0;
/// y = Σ (h + O) C.
pub(super) const OFFSET: u8 = 1;
/// The whole readout with S, E, C' and O, absent ones standing as one or zero.
pub(super) const FULL: u8 = 2;

/// Which readout the operands call for.
pub(super) fn readout_of(inputs: &ScanInputs<f32>) -> u8 {
    if inputs.state_scale.is_some() || inputs.state_extra.is_some() || inputs.c_previous.is_some() {
        FULL
    } else if inputs.state_offset.is_some() {
        OFFSET
    } else {
        PLAIN
    }
}

/// B, C and C' of the tokens of a chunk, `[tokens, N]`. Without C', `previous` is a row of zeros with stride 0.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub b: *const f32,
    pub c: *const f32,
    pub previous: *const f32,
    pub previous_stride: usize,
    pub tokens: usize,
    pub n: usize,
}

impl Maps {
    /// The maps of `tokens` tokens from `t` on; `no_previous` holds N zeros.
    pub(super) fn new(inputs: &ScanInputs<f32>, t: usize, tokens: usize, no_previous: &[f32]) -> Maps {
        let n = inputs.d_state;
        let chunk = t * n..(t + tokens) * n;
        let previous = inputs.c_previous.map_or(&no_previous[..n], |p| &p[chunk.clone()]);
        let (b, c) = (inputs.b[chunk.clone()].as_ptr(), inputs.c[chunk].as_ptr());
        let previous_stride = if inputs.c_previous.is_some() { n } else { 0 };
        Maps { b, c, previous: previous.as_ptr(), previous_stride, tokens, n }
    }
}

/// A (times log2 e), O, S and E of a group, `[N, GROUP]`. Those the readout has no use for are not read.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub a: *const f32,
    pub offset: *const f32,
    pub scale: *const f32,
    pub extra: *const f32,
}

/// Per token of a chunk, `[CHUNK, GROUP]`: Δ, Δ u, and y as the recurrence leaves it.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub delta: *mut f32,
    pub input: *mut f32,
    pub y: *mut f32,
}

/// The `[T, D]` rows that come after a chunk's, fetched into the cache while the recurrence computes: row by row they lie
/// pages apart, where no hardware looks ahead.
#[derive(Clone, Copy)]
pub(super) struct Ahead<const M: usize> {
    /// The first element of each operand that comes next; null where there is none.
    pub next: [*const f32; M],
    /// D, the elements between two rows.
    pub stride: usize,
}

impl<const M: usize> Ahead<M> {
    /// Asks for row `t`.
    #[inline(always)]
    fn fetch(self, t: usize) {
        for p in self.next.into_iter().filter(|p| !p.is_null()) {
            prefetch(p.wrapping_add(t * self.stride));
        }
    }
}

/// Fills Δ and Δ u for `tokens` tokens from `t` on of the `valid` channels from `d` on; the slope of the softplus too,
/// if asked.
///
/// # Safety
/// The lanes' instructions are enabled; the operands have been checked; the buffers hold `[CHUNK, GROUP]`, and `bias`
/// `[GROUP]`.
#[inline(always)]
pub(super) unsafe fn prepare<L: Lanes>(
    inputs: &ScanInputs<f32>,
    (t, tokens): (usize, usize),
    (d, valid): (usize, usize),
    bias: *const f32,
    steps: Steps,
    slope: Option<*mut f32>,
) {
    // SAFETY: rows t..t + tokens of [T, D], channels d..d + valid, lie inside the checked slices.
    unsafe {
        for i in 0..tokens {
            let at = (t + i) * inputs.d_inner + d;
            let mut delta = zeros::<L>();
            for w in 0..GROUP / L::N {
                let raw = load_channels::<L>(inputs.delta.as_ptr().add(at), w, valid);
                delta[w] = L::add(raw, L::load(bias.add(w * L::N)));
            }
            let mut slopes = [L::splat(1.0); 2];
            if inputs.delta_softplus {
                (delta, slopes) = softplus_and_slope::<L, 2>(delta, GROUP / L::N);
            }
            for w in 0..GROUP / L::N {
                let lane = i * GROUP + w * L::N;
                let u = load_channels::<L>(inputs.u.as_ptr().add(at), w, valid);
                L::store(steps.delta.add(lane), delta[w]);
                L::store(steps.input.add(lane), L::mul(delta[w], u));
                if let Some(slope) = slope {
                    L::store(slope.add(lane), slopes[w]);
                }
            }
        }
    }
}

/// One token of a chunk: Δ, Δ u, the states before and after it and, if they are kept, its decays.
#[derive(Clone, Copy)]
struct Token<L: Lanes> {
    delta: Pair<L>,
    input: Pair<L>,
    t: usize,
    before: *const f32,
    after: *mut f32,
    decay: *mut f32,
}

/// States `n..n + M` of one token, M at most 2; returns `y` with what they add.
///
/// # Safety
/// As for [`advance`].
#[inline(always)]
unsafe fn advance_states<L: Lanes, const READOUT: u8, const KEEP: bool, const M: usize>(
    token: Token<L>,
    maps: Maps,
    rows: Rows,
    n: usize,
    mut y: Pair<L>,
) -> Pair<L> {
    let vectors = GROUP / L::N;
    // SAFETY: as the function's contract says; all indices stay below the shapes.
    unsafe {
        let mut decay = [L::splat(0.0); 4];
        for i in 0..M * vectors {
            let a = L::load(rows.a.add(n * GROUP + i * L::N));
            decay[i] = L::mul(token.delta[i % vectors], a);
        }
        let decay = exp2::<L, 4>(decay, M * vectors);
        for j in 0..M {
            let b = L::splat(*maps.b.add(token.t * maps.n + n + j));
            let c = L::splat(*maps.c.add(token.t * maps.n + n + j));
            for w in 0..vectors {
                let at = (n + j) * GROUP + w * L::N;
                let previous = L::load(token.before.add(at));
                let h = L::fma(decay[j * vectors + w], previous, L::mul(token.input[w], b));
                L::store(token.after.add(at), h);
                if KEEP {
                    L::store(token.decay.add(at), decay[j * vectors + w]);
                }
                y[w] = match READOUT {
                    PLAIN => L::fma(h, c, y[w]),
                    OFFSET => L::fma(L::add(h, L::load(rows.offset.add(at))), c, y[w]),
                    _ => {
                        let p = L::splat(*maps.previous.add(token.t * maps.previous_stride + n + j));
                        let r = L::fma(L::load(rows.scale.add(at)), c, L::load(rows.extra.add(at)));
                        let y = L::fma(previous, p, L::fma(h, r, y[w]));
                        L::fma(L::load(rows.offset.add(at)), c, y)
                    }
                };
            }
        }
        y
    }
}

/// Runs the recurrence over a chunk and writes the y that the states and O give.
///
/// Without `KEEP`, `states` is the one state `[N, GROUP]`, updated in place. With it, `states` is `[CHUNK + 1, N,
/// GROUP]`, the first given, and the decays `[CHUNK, N, GROUP]` are kept as well.
///
/// # Safety
/// The lanes' instructions are enabled and every pointer is valid for the shape its documentation gives.
#[inline(always)]
unsafe fn advance<L: Lanes, const READOUT: u8, const KEEP: bool, const M: usize>(
    steps: Steps,
    maps: Maps,
    rows: Rows,
    states: *mut f32,
    decays: *mut f32,
    ahead: Ahead<M>,
) {
    let stride = maps.n * GROUP;
    // SAFETY: as the function's contract says; all indices stay below the shapes.
    unsafe {
        for t in 0..maps.tokens {
            ahead.fetch(t);
            let (before, after) = if KEEP {
                (states.add(t * stride) as *const f32, states.add((t + 1) * stride))
            } else {
                (states as *const f32, states)
            };
            let (mut delta, mut input, mut y): (Pair<L>, Pair<L>, Pair<L>) = (zeros::<L>(), zeros::<L>(), zeros::<L>());
            for w in 0..GROUP / L::N {
                delta[w] = L::load(steps.delta.add(t * GROUP + w * L::N));
                input[w] = L::load(steps.input.add(t * GROUP + w * L::N));
            }
            let decay = if KEEP { decays.add(t * stride) } else { decays };
            let token = Token::<L> { delta, input, t, before, after, decay };
            let mut n = 0;
            while n + 2 <= maps.n {
                y = advance_states::<L, READOUT, KEEP, 2>(token, maps, rows, n, y);
                n += 2;
            }
            if n < maps.n {
                y = advance_states::<L, READOUT, KEEP, 1>(token, maps, rows, n, y);
            }
            for w in 0..GROUP / L::N {
                L::store(steps.y.add(t * GROUP + w * L::N), y[w]);
            }
        }
    }
}

/// [`advance`] with the readout as a value.
///
/// # Safety
/// As for [`advance`].
#[inline(always)]
pub(super) unsafe fn advance_as<L: Lanes, const KEEP: bool, const M: usize>(
    readout: u8,
    steps: Steps,
    maps: Maps,
    rows: Rows,
    states: *mut f32,
    decays: *mut f32,
    ahead: Ahead<M>,
) {
    // SAFETY: the caller's promise is the same.
    unsafe {
        match readout {
            PLAIN => advance::<L, PLAIN, KEEP, M>(steps, maps, rows, states, decays, ahead),
            OFFSET => advance::<L, OFFSET, KEEP, M>(steps, maps, rows, states, decays, ahead),
            _ => advance::<L, FULL, KEEP, M>(steps, maps, rows, states, decays, ahead),
        }
    }
}
