//! The two number types of the reference path, `f32` and `f64`, and the hook by which a generic kernel finds out that
//! its slices are `f32` and can go to a SIMD version.

use std::any::TypeId;
use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

/// A real number that kernels compute with.
pub trait Real:
    Copy
    + Send
    + Sync
    + 'static
    + PartialOrd
    + Default
    + Debug
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + Sum
{
    /// Zero.
    const ZERO: Self;
    /// One.
    const ONE: Self;
    /// Rounds from double precision.
    fn from_f64(x: f64) -> Self;
    /// Rounds from single precision (exact for `f64`).
    fn from_f32(x: f32) -> Self;
    /// Widens to double precision.
    fn to_f64(self) -> f64;
    /// e^x.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// ln(1 + x), accurate near zero.
    fn ln_1p(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// Absolute value.
    fn abs(self) -> Self;
    /// The larger of two.
    fn max(self, other: Self) -> Self;
    /// Neither infinite nor NaN.
    fn is_finite(self) -> bool;

    /// 1 / (1 + e^-x), without overflow.
    fn sigmoid(self) -> Self {
        if self >= Self::ZERO {
            Self::ONE / (Self::ONE + (-self).exp())
        } else {
            let e = self.exp();
            e / (Self::ONE + e)
        }
    }

    /// x · sigmoid(x).
    fn silu(self) -> Self {
        self * self.sigmoid()
    }

    /// d silu(x) / dx.
    fn silu_derivative(self) -> Self {
        let s = self.sigmoid();
        s * (Self::ONE + self * (Self::ONE - s))
    }

    /// ln(1 + e^x) as max(x, 0) + ln(1 + e^-|x|).
    fn softplus(self) -> Self {
        self.max(Self::ZERO) + (-self.abs()).exp().ln_1p()
    }
}

macro_rules! real {
    ($t:ty) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            fn from_f32(x: f32) -> Self {
                x as $t
            }
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn ln_1p(self) -> Self {
                self.ln_1p()
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn abs(self) -> Self {
                self.abs()
            }
            fn max(self, other: Self) -> Self {
                self.max(other)
            }
            fn is_finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}
real!(f32);
real!(f64);

/// The slice as `f32` if `T` is `f32`: a generic kernel's way to its SIMD version.
pub fn as_f32<T: Real>(slice: &[T]) -> Option<&[f32]> {
    if TypeId::of::<T>() != TypeId::of::<f32>() {
        return None;
    }
    // SAFETY: T is f32, as just checked.
    Some(unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len()) })
}

/// The slice as mutable `f32` if `T` is `f32`.
pub fn as_f32_mut<T: Real>(slice: &mut [T]) -> Option<&mut [f32]> {
    if TypeId::of::<T>() != TypeId::of::<f32>() {
        return None;
    }
    // SAFETY: T is f32, as just checked; the exclusive borrow carries over.
    Some(unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), slice.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_at_the_ends() {
        assert_eq!(1000f32.softplus(), 1000.0);
        assert_eq!((-1000f64).softplus(), 0.0);
        assert_eq!((-1000f32).sigmoid(), 0.0);
        assert_eq!(1000f64.sigmoid(), 1.0);
        assert_eq!((-1000f32).silu(), 0.0);
    }

    #[test]
    fn silu_derivative_matches_a_difference() {
        for x in [-7.0, -1.0, 0.0, 0.5, 3.0f64] {
            let h = 1e-6;
            let numeric = ((x + h).silu() - (x - h).silu()) / (2.0 * h);
            assert!((numeric - x.silu_derivative()).abs() < 1e-9);
        }
    }
}
