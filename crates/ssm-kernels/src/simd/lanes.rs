//! The operations every instruction set offers, and the functions built from them.

/// A vector of `f32` lanes. All functions are `unsafe`: the caller must run where the instruction set is enabled, and
/// pointers must be valid for [`Lanes::N`] elements (or for `n` in the masked forms); no alignment is needed.
///
/// # Safety
/// Implementors may use target instructions; they may only be called where those are enabled.
#[allow(clippy::missing_safety_doc)] // what is said above holds for every function
pub unsafe trait Lanes: Copy + 'static {
    /// Lanes in a vector.
    const N: usize;
    /// The vector type.
    type V: Copy;

    /// Every lane `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// Loads N elements.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Stores N elements.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// Loads the first `n <= N` elements, zeros beyond.
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V;
    /// Stores the first `n <= N` lanes.
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize);
    /// Loads N brain floats (as their bits) and widens them.
    unsafe fn load_bf16(p: *const u16) -> Self::V;
    /// Loads N half floats (as their bits) and widens them.
    unsafe fn load_f16(p: *const u16) -> Self::V;
    /// a + b.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a · b.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the hardware can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lane-wise maximum; `b` where `a` is NaN (as the x86 instruction does).
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Lane-wise minimum; `b` where `a` is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    unsafe fn sqrt(a: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2^k for whole k in [-126, 127].
    unsafe fn pow2(k: Self::V) -> Self::V;
    /// The exponent k and the mantissa m in [√½, √2) with x = m · 2^k, for positive normal x.
    unsafe fn frexp(x: Self::V) -> (Self::V, Self::V);
    /// `x` where `a < b`, else `y`.
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The sum of all lanes, in a fixed order.
    unsafe fn sum(v: Self::V) -> f32;
    /// The sums of all lanes of four vectors, each in a fixed order.
    #[inline(always)]
    unsafe fn sums(v: [Self::V; 4]) -> [f32; 4] {
        // SAFETY: same contract as this function's.
        unsafe { [Self::sum(v[0]), Self::sum(v[1]), Self::sum(v[2]), Self::sum(v[3])] }
    }
    /// The largest lane.
    unsafe fn reduce_max(v: Self::V) -> f32;

    /// |a|.
    #[inline(always)]
    unsafe fn abs(a: Self::V) -> Self::V {
        // SAFETY: same contract as this function's.
        unsafe { Self::max(a, Self::sub(Self::splat(0.0), a)) }
    }

    /// e^x. Relative error below 3e-7 on [-87.3, 88.7]; 0 below, infinity above, NaN for NaN.
    ///
    /// Cody and Waite's reduction x = k ln 2 + r, |r| <= ln 2 / 2, and the minimax polynomial of Cephes `expf`.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: same contract as this function's.
        unsafe {
            // The operand order of min and max lets a NaN through.
            let c = Self::max(Self::splat(-87.336_54), Self::min(Self::splat(88.722_83), x));
            let k = Self::round(Self::mul(c, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(k, Self::splat(-0.693_359_4), c);
            let r = Self::fma(k, Self::splat(2.121_944_4e-4), r);
            let p = Self::splat(1.987_569_1e-4);
            let p = Self::fma(p, r, Self::splat(1.398_199_9e-3));
            let p = Self::fma(p, r, Self::splat(8.333_452e-3));
            let p = Self::fma(p, r, Self::splat(4.166_579_6e-2));
            let p = Self::fma(p, r, Self::splat(1.666_666_5e-1));
            let p = Self::fma(p, r, Self::splat(0.5));
            let p = Self::add(Self::fma(p, Self::mul(r, r), r), Self::splat(1.0));
            // 2^k in two factors: k = 128 at the upper end has no single exponent.
            let half = Self::round(Self::mul(k, Self::splat(0.5)));
            let p = Self::mul(Self::mul(p, Self::pow2(half)), Self::pow2(Self::sub(k, half)));
            let p = Self::select_lt(x, Self::splat(-87.336_54), Self::splat(0.0), p);
            Self::select_lt(Self::splat(88.722_83), x, Self::splat(f32::INFINITY), p)
        }
    }

    /// e^x for x <= 0 (the decay exp(ΔA)): no overflow branch. 0 below -87.3; NaN for NaN.
    #[inline(always)]
    unsafe fn exp_nonpositive(x: Self::V) -> Self::V {
        // SAFETY: same contract as this function's.
        unsafe {
            let c = Self::max(Self::splat(-87.336_54), x);
            let k = Self::round(Self::mul(c, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(k, Self::splat(-0.693_359_4), c);
            let r = Self::fma(k, Self::splat(2.121_944_4e-4), r);
            let p = Self::splat(1.987_569_1e-4);
            let p = Self::fma(p, r, Self::splat(1.398_199_9e-3));
            let p = Self::fma(p, r, Self::splat(8.333_452e-3));
            let p = Self::fma(p, r, Self::splat(4.166_579_6e-2));
            let p = Self::fma(p, r, Self::splat(1.666_666_5e-1));
            let p = Self::fma(p, r, Self::splat(0.5));
            let p = Self::add(Self::fma(p, Self::mul(r, r), r), Self::splat(1.0));
            let p = Self::mul(p, Self::pow2(k));
            Self::select_lt(x, Self::splat(-87.336_54), Self::splat(0.0), p)
        }
    }

    /// 1 / (1 + e^-x).
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        // SAFETY: same contract as this function's.
        unsafe {
            let one = Self::splat(1.0);
            let e = Self::exp(Self::sub(Self::splat(0.0), x));
            Self::div(one, Self::add(one, e))
        }
    }

    /// x · sigmoid(x).
    #[inline(always)]
    unsafe fn silu(x: Self::V) -> Self::V {
        // SAFETY: same contract as this function's.
        unsafe { Self::mul(x, Self::sigmoid(x)) }
    }

    /// ln(1 + y) for y in [0, 1]: the Cephes `logf` polynomial on 1 + y, corrected for the rounding of the sum.
    #[inline(always)]
    unsafe fn ln_1p_unit(y: Self::V) -> Self::V {
        // SAFETY: same contract as this function's.
        unsafe {
            let one = Self::splat(1.0);
            let s = Self::add(one, y);
            // What the addition lost, relative to s: ln(s + lost) = ln s + lost / s.
            let lost = Self::sub(y, Self::sub(s, one));
            let (k, m) = Self::frexp(s);
            let f = Self::sub(m, one);
            let p = Self::splat(7.037_683_6e-2);
            let p = Self::fma(p, f, Self::splat(-1.151_461e-1));
            let p = Self::fma(p, f, Self::splat(1.167_699_9e-1));
            let p = Self::fma(p, f, Self::splat(-1.242_014_1e-1));
            let p = Self::fma(p, f, Self::splat(1.424_932_3e-1));
            let p = Self::fma(p, f, Self::splat(-1.666_805_8e-1));
            let p = Self::fma(p, f, Self::splat(2.000_071_5e-1));
            let p = Self::fma(p, f, Self::splat(-2.499_999_4e-1));
            let p = Self::fma(p, f, Self::splat(3.333_333e-1));
            let ff = Self::mul(f, f);
            let tail = Self::fma(k, Self::splat(-2.121_944_4e-4), Self::mul(Self::mul(f, ff), p));
            let tail = Self::fma(Self::splat(-0.5), ff, tail);
            let ln = Self::fma(k, Self::splat(0.693_359_4), Self::add(f, tail));
            Self::add(ln, Self::div(lost, s))
        }
    }

    /// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|). NaN for NaN.
    #[inline(always)]
    unsafe fn softplus(x: Self::V) -> Self::V {
        // SAFETY: same contract as this function's.
        unsafe {
            let zero = Self::splat(0.0);
            let e = Self::exp(Self::sub(zero, Self::abs(x)));
            // max(0, x) with the NaN of x kept.
            Self::add(Self::max(zero, x), Self::ln_1p_unit(e))
        }
    }
}
