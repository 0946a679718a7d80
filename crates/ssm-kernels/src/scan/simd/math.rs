//! The scan's own vector functions: the decay as a power of two, and functions together with their derivatives.

use crate::simd::Lanes;

/// 2^x for any x, relative error below 1.1e-7 (exactly 1 at 0), never below 2^-126, infinity from 127.5 on, NaN for
/// NaN.
///
/// x = k + f with k the nearest integer; 2^f is the minimax polynomial of degree 6 on [-½, ½] with its constant held at
/// one, fitted with the Remez algorithm.
#[inline(always)]
pub(super) unsafe fn exp2<L: Lanes>(x: L::V) -> L::V {
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        // The operand order of min and max lets a NaN through; 2^128 is infinity's own bit pattern.
        let x = L::max(L::splat(-126.0), L::min(L::splat(128.0), x));
        let k = L::round(x);
        let f = L::sub(x, k);
        let p = L::splat(1.546_973_2e-4);
        let p = L::fma(p, f, L::splat(1.341_000_1e-3));
        let p = L::fma(p, f, L::splat(9.618_031e-3));
        let p = L::fma(p, f, L::splat(5.550_297_4e-2));
        let p = L::fma(p, f, L::splat(2.402_265_1e-1));
        let p = L::fma(p, f, L::splat(6.931_472_4e-1));
        let p = L::fma(p, f, L::splat(1.0));
        L::mul(p, L::pow2(k))
    }
}

/// softplus(x) and its derivative sigmoid(x), which share e^-|x|.
#[inline(always)]
pub(super) unsafe fn softplus_and_slope<L: Lanes>(x: L::V) -> (L::V, L::V) {
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        let e = L::exp_nonpositive(L::sub(zero, L::abs(x)));
        let softplus = L::add(L::max(zero, x), L::ln_1p_unit(e));
        let slope = L::div(L::select_lt(x, zero, e, one), L::add(one, e));
        (softplus, slope)
    }
}

/// silu(x) and its derivative.
#[inline(always)]
pub(super) unsafe fn silu_and_slope<L: Lanes>(x: L::V) -> (L::V, L::V) {
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        let one = L::splat(1.0);
        let s = L::sigmoid(x);
        (L::mul(x, s), L::mul(s, L::fma(x, L::sub(one, s), one)))
    }
}
