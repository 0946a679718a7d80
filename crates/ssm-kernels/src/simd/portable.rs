//! Eight lanes as an array: what any processor can do, and what the compiler may vectorise on its own.

use half::{bf16, f16};

use super::Lanes;

/// Arrays of eight `f32`.
#[derive(Clone, Copy)]
pub struct Portable;

#[inline(always)]
fn map(a: [f32; 8], f: impl Fn(f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY: only plain Rust; the pointer contracts are the trait's.
unsafe impl Lanes for Portable {
    const N: usize = 8;
    type V = [f32; 8];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: valid for N elements by the trait's contract.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: valid for N elements by the trait's contract.
        unsafe { p.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self::V {
        // SAFETY: only the first n elements are read.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first(p: *mut f32, v: Self::V, n: usize) {
        for (i, x) in v.into_iter().enumerate().take(n) {
            // SAFETY: i < n.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> Self::V {
        // SAFETY: valid for N elements by the trait's contract.
        std::array::from_fn(|i| bf16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        // SAFETY: valid for N elements by the trait's contract.
        std::array::from_fn(|i| f16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a library call per lane.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn sqrt(a: Self::V) -> Self::V {
        map(a, f32::sqrt)
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Not `round_ties_even`: without the instruction that is a library call per lane. From 2^23 on numbers have no
        // fraction, so adding that rounds it away; larger ones, and NaN, stay as they are.
        const WHOLE: f32 = 8_388_608.0;
        map(a, |x| if x.abs() < WHOLE { (x + WHOLE.copysign(x)) - WHOLE.copysign(x) } else { x })
    }
    #[inline(always)]
    unsafe fn pow2(k: Self::V) -> Self::V {
        // The low bits of the sum are k + 127, which the shift moves into the exponent.
        map(k, |k| f32::from_bits((k + (8_388_608.0 + 127.0)).to_bits() << 23))
    }
    #[inline(always)]
    unsafe fn frexp(x: Self::V) -> (Self::V, Self::V) {
        let parts = x.map(|x| {
            // Shifting by √½ first puts the mantissa into [√½, √2).
            let shifted = x.to_bits().wrapping_sub(0x3f35_04f3);
            let k = (shifted as i32) >> 23;
            (k as f32, f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3))
        });
        (parts.map(|p| p.0), parts.map(|p| p.1))
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn sum(v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    unsafe fn reduce_max(v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounding and powers of two need no instruction, and say what the standard library says.
    #[test]
    fn rounding_and_powers_are_exact() {
        let numbers = (0..=u32::MAX).step_by(9_973).map(f32::from_bits);
        let ties = (-5000..5000).map(|i| i as f32 * 0.5).chain([8_388_607.5, -8_388_607.5, 4_194_304.5, 1e30]);
        for x in numbers.chain(ties).filter(|x| !x.is_nan()) {
            // SAFETY: portable lanes need no instructions.
            let found = unsafe { Portable::round([x; 8])[3] };
            assert_eq!(found, x.round_ties_even(), "{x}");
        }
        for k in -126..=127 {
            // SAFETY: as above.
            let found = unsafe { Portable::pow2([k as f32; 8])[5] };
            assert_eq!(found, 2f32.powi(k), "2^{k}");
        }
    }
}
