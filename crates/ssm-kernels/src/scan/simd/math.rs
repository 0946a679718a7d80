//! The scan's own vector functions. Each takes several vectors and goes through them in step: a chain of dependent
//! operations on one vector would leave the processor waiting, and it does not look far enough ahead to find the next.
//!
//! `count` says how many of the M vectors are computed; the others come back as anything.

use crate::simd::Lanes;

/// 2^f 2^k for f in [-½, ½] and whole k in [-126, 128], relative error below 8e-8, exactly 2^k at f = 0.
///
/// The minimax polynomial of degree 6 with its constant held at one, fitted with the Remez algorithm.
#[inline(always)]
unsafe fn exp2_of_parts<L: Lanes, const M: usize>(f: [L::V; M], k: [L::V; M], count: usize) -> [L::V; M] {
    const COEFFICIENTS: [f32; 6] = [1.341_000_1e-3, 9.618_031e-3, 5.550_297_4e-2, 2.402_265e-1, 6.931_472_4e-1, 1.0];
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        let mut p = [L::splat(1.546_973_2e-4); M];
        for c in COEFFICIENTS {
            for i in 0..count {
                p[i] = L::fma(p[i], f[i], L::splat(c));
            }
        }
        for i in 0..count {
            p[i] = L::mul(p[i], L::pow2(k[i]));
        }
        p
    }
}

/// 2^x for any x: never below 2^-126, infinity from 127.5 on, NaN for NaN.
#[inline(always)]
pub(crate) unsafe fn exp2<L: Lanes, const M: usize>(x: [L::V; M], count: usize) -> [L::V; M] {
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        let (mut f, mut k) = (x, x);
        for i in 0..count {
            // The operand order of min and max lets a NaN through; 2^128 is infinity's own bit pattern.
            f[i] = L::max(L::splat(-126.0), L::min(L::splat(128.0), x[i]));
        }
        for i in 0..count {
            k[i] = L::round(f[i]);
        }
        for i in 0..count {
            f[i] = L::sub(f[i], k[i]);
        }
        exp2_of_parts::<L, M>(f, k, count)
    }
}

/// e^x, relative error below 2e-6 (1e-5 where fma rounds twice, as the portable one does), x taken as -87.3 or 87.3 beyond those; NaN for NaN.
#[inline(always)]
unsafe fn exp<L: Lanes, const M: usize>(x: [L::V; M], count: usize) -> [L::V; M] {
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        let (mut f, mut k) = (x, x);
        for i in 0..count {
            f[i] = L::max(L::splat(-87.3), L::min(L::splat(87.3), x[i]));
            k[i] = L::round(L::mul(f[i], L::splat(std::f32::consts::LOG2_E)));
        }
        for i in 0..count {
            // x log2 e is not rounded before its integer is taken off.
            f[i] = L::fma(f[i], L::splat(std::f32::consts::LOG2_E), L::sub(L::splat(0.0), k[i]));
        }
        exp2_of_parts::<L, M>(f, k, count)
    }
}

/// softplus(x) = ln(1 + e^x) and its derivative sigmoid(x), which share e^-|x|. NaN for NaN.
///
/// ln(1 + e) = 2 artanh(e / (2 + e)), by the minimax polynomial of artanh(s) / s in s² for s in [0, ⅓].
#[inline(always)]
pub(crate) unsafe fn softplus_and_slope<L: Lanes, const M: usize>(
    x: [L::V; M],
    count: usize,
) -> ([L::V; M], [L::V; M]) {
    const COEFFICIENTS: [f32; 4] = [2.796_06e-1, 4.002_491e-1, 6.666_632e-1, 2.0];
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        let (mut e, mut slope, mut square, mut p) = (x, x, x, [L::splat(2.817_833_4e-1); M]);
        for i in 0..count {
            e[i] = L::sub(zero, L::abs(x[i]));
        }
        e = exp::<L, M>(e, count);
        for i in 0..count {
            slope[i] = L::div(L::select_lt(x[i], zero, e[i], one), L::add(one, e[i]));
        }
        for i in 0..count {
            e[i] = L::div(e[i], L::add(L::splat(2.0), e[i]));
            square[i] = L::mul(e[i], e[i]);
        }
        for c in COEFFICIENTS {
            for i in 0..count {
                p[i] = L::fma(p[i], square[i], L::splat(c));
            }
        }
        for i in 0..count {
            p[i] = L::fma(p[i], e[i], L::max(zero, x[i]));
        }
        (p, slope)
    }
}

/// silu(x) = x sigmoid(x) and its derivative. NaN for NaN.
#[inline(always)]
pub(crate) unsafe fn silu_and_slope<L: Lanes, const M: usize>(x: [L::V; M], count: usize) -> ([L::V; M], [L::V; M]) {
    // SAFETY: the caller runs where the lanes' instructions are enabled.
    unsafe {
        let one = L::splat(1.0);
        let (mut s, mut slope) = (x, x);
        for i in 0..count {
            s[i] = L::sub(L::splat(0.0), x[i]);
        }
        s = exp::<L, M>(s, count);
        for i in 0..count {
            s[i] = L::div(one, L::add(one, s[i]));
            slope[i] = L::mul(s[i], L::fma(x[i], L::sub(one, s[i]), one));
            s[i] = L::mul(x[i], s[i]);
        }
        (s, slope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, Real, dispatch_level};

    /// exp2, softplus, its slope, silu, its slope of one number in every lane.
    #[inline(always)]
    unsafe fn apply<L: Lanes>(out: &mut [f32; 5], x: f32) {
        // SAFETY: the dispatching function enables the instructions.
        unsafe {
            let v = [L::splat(x); 2];
            let (softplus, softplus_slope) = softplus_and_slope::<L, 2>(v, 2);
            let (silu, silu_slope) = silu_and_slope::<L, 2>(v, 2);
            let all = [exp2::<L, 2>(v, 2), softplus, softplus_slope, silu, silu_slope];
            *out = all.map(|pair| {
                let mut lanes = [0f32; 16];
                L::store(lanes.as_mut_ptr(), pair[1]);
                lanes[L::N - 1]
            });
        }
    }

    fn run(level: Level, x: f32) -> [f32; 5] {
        let mut found = [0f32; 5];
        let out = &mut found;
        dispatch_level!(level, apply(out: &mut [f32; 5], x: f32));
        found
    }

    #[test]
    fn functions_match_double_precision() {
        for level in Level::available().into_iter().filter(|&l| l != Level::Reference) {
            for i in -8000..8001 {
                let x = i as f32 * 0.01 + 0.000_37;
                let wide = f64::from(x);
                let expected = [wide.exp2(), wide.softplus(), wide.sigmoid(), wide.silu(), wide.silu_derivative()];
                let found = run(level, x);
                for which in 0..5 {
                    let error = (f64::from(found[which]) - expected[which]).abs();
                    // The derivative of silu crosses zero, where only its absolute error can be small.
                    let size = if which == 4 { 1.0 } else { expected[which].abs() };
                    let tolerance = match (which, level) {
                        (0, _) => 1.2e-7,
                        (_, Level::Portable) => 1e-5,
                        _ => 2e-6,
                    };
                    assert!(error <= tolerance * size, "{level} function {which} at {x}: {}", found[which]);
                }
            }
        }
    }

    #[test]
    fn ends_and_nan() {
        for level in Level::available().into_iter().filter(|&l| l != Level::Reference) {
            assert!(run(level, f32::NAN).iter().all(|y| y.is_nan()), "{level}");
            assert_eq!(run(level, 0.0)[0], 1.0, "{level}");
            let (low, high) = (run(level, -1e30), run(level, 1e30));
            assert!(low[..3].iter().all(|&y| (0.0..1e-37).contains(&y)), "{level} {low:?}");
            assert_eq!(high, [f32::INFINITY, 1e30, 1.0, 1e30, 1.0], "{level}");
            let far = run(level, -100.0);
            assert!(far[3].abs() < 1e-35 && far[4].abs() < 1e-35, "{level} {far:?}");
        }
    }
}
