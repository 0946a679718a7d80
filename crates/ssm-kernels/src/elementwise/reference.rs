//! The elementwise formulas over one chunk.

use crate::Real;

/// y\[i\] = f(a\[i\]).
pub fn map<T: Real>(y: &mut [T], a: &[T], f: impl Fn(T) -> T) {
    for (y, &a) in y.iter_mut().zip(a) {
        *y = f(a);
    }
}

/// y\[i\] = f(a\[i\], b\[i\]).
pub fn zip<T: Real>(y: &mut [T], a: &[T], b: &[T], f: impl Fn(T, T) -> T) {
    for ((y, &a), &b) in y.iter_mut().zip(a).zip(b) {
        *y = f(a, b);
    }
}

/// y\[i\] += f(a\[i\]).
pub fn add<T: Real>(y: &mut [T], a: &[T], f: impl Fn(T) -> T) {
    for (y, &a) in y.iter_mut().zip(a) {
        *y += f(a);
    }
}

/// Σ x\[i\]² in double precision.
pub fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64() * x.to_f64()).sum()
}
