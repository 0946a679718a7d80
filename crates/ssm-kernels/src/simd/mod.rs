//! Vector lanes: one small set of `f32` operations with a portable, an AVX2 and an AVX-512 implementation.
//!
//! A SIMD kernel is written once, generic over [`Lanes`] and `#[inline(always)]`, and instantiated by
//! [`dispatch_level`](crate::dispatch_level) inside functions that enable the instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod lanes;
mod portable;
mod prefetch;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use lanes::Lanes;
pub use portable::Portable;
pub(crate) use prefetch::{prefetch, prefetch_near};

/// Calls a generic kernel `name::<L>(args)` with the lanes of a [`Level`](crate::Level).
///
/// The kernel must be an `#[inline(always)] unsafe fn name<L: Lanes>(args)`; it is compiled once per level inside a
/// function that enables the level's instructions. `Level::Reference` is not a SIMD level and panics.
#[macro_export]
macro_rules! dispatch_level {
    ($level:expr, $name:ident ( $($arg:ident : $ty:ty),* $(,)? )) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($arg: $ty),*) {
            // SAFETY: this function enables the instructions that the lanes use.
            unsafe { $name::<$crate::simd::Avx2>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        unsafe fn avx512($($arg: $ty),*) {
            // SAFETY: as above.
            unsafe { $name::<$crate::simd::Avx512>($($arg),*) }
        }
        match $level {
            // SAFETY: a `Cpu` only holds a level that the processor was found to have.
            #[cfg(target_arch = "x86_64")]
            $crate::Level::Avx2 => unsafe { avx2($($arg),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            $crate::Level::Avx512 => unsafe { avx512($($arg),*) },
            $crate::Level::Reference => unreachable!("the reference has no lanes"),
            // SAFETY: portable lanes need no instructions beyond the target's own.
            #[allow(unreachable_patterns)]
            _ => unsafe { $name::<$crate::simd::Portable>($($arg),*) },
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, Real};

    #[inline(always)]
    unsafe fn apply<L: Lanes>(out: &mut [f32], x: &[f32], which: usize) {
        let mut i = 0;
        while i < x.len() {
            let n = L::N.min(x.len() - i);
            // SAFETY: n elements remain in both slices; the dispatching function enabled the instructions.
            unsafe {
                let v = L::load_first(x.as_ptr().add(i), n);
                let v = match which {
                    0 => L::exp(v),
                    1 => L::exp_nonpositive(v),
                    2 => L::softplus(v),
                    _ => L::silu(v),
                };
                L::store_first(out.as_mut_ptr().add(i), v, n);
            }
            i += n;
        }
    }

    fn run(level: Level, x: &[f32], which: usize) -> Vec<f32> {
        let mut y = vec![f32::NAN; x.len()];
        let out = &mut y[..];
        dispatch_level!(level, apply(out: &mut [f32], x: &[f32], which: usize));
        y
    }

    #[test]
    fn functions_match_double_precision() {
        let x: Vec<f32> = (-8700..8871).map(|i| i as f32 * 0.01 + 0.000_37).collect();
        for level in Level::available().into_iter().filter(|&l| l != Level::Reference) {
            for which in 0..4 {
                let x: Vec<f32> = x.iter().copied().filter(|&x| which != 1 || x <= 0.0).collect();
                for (&x, &y) in x.iter().zip(&run(level, &x, which)) {
                    let e = match which {
                        0 | 1 => f64::from(x).exp(),
                        2 => f64::from(x).softplus(),
                        _ => f64::from(x).silu(),
                    };
                    // Below the smallest normal number the fast exponential may flush to zero.
                    let error = (f64::from(y) - e).abs() / e.abs().max(1.2e-38);
                    assert!(error < 4e-7, "{level} function {which} at {x}: {y} expected {e}, error {error:e}");
                }
            }
        }
    }

    #[test]
    fn ends_and_nan() {
        let x = [-1e30, -200.0, 200.0, 1e30, f32::NEG_INFINITY, f32::INFINITY];
        for level in Level::available().into_iter().filter(|&l| l != Level::Reference) {
            assert_eq!(run(level, &x, 0), [0.0, 0.0, f32::INFINITY, f32::INFINITY, 0.0, f32::INFINITY], "{level}");
            for which in 0..4 {
                assert!(run(level, &[f32::NAN; 3], which).iter().all(|y| y.is_nan()), "{level} {which}");
            }
        }
    }
}
