//! Every function at every level against double precision; gradients against differences; the two reductions.

use super::*;
use crate::testing::{assert_close, assert_same_bits, every_level, numbers, reference, widen};

const LENGTHS: [usize; 8] = [0, 1, 7, 8, 9, 31, 1000, CHUNK + 3];

/// Runs a function of two operands in `f32` at every level and in `f64` by the reference.
macro_rules! compare {
    ($name:literal, |$cpu:ident, $y:ident, $a:ident, $b:ident, $t:ident| $body:expr) => {
        for len in LENGTHS {
            let spread = |x: Vec<f32>| -> Vec<f32> { x.iter().map(|x| 12.0 * x).collect() };
            let (start, a32, b32) = (numbers(len, 1), spread(numbers(len, 2)), spread(numbers(len, 3)));
            let expected = {
                type $t = f64;
                let (mut out, $a, $b, $cpu) = (widen(&start), &widen(&a32)[..], &widen(&b32)[..], &reference());
                let $y = &mut out[..];
                $body;
                out
            };
            for cpu in every_level() {
                type $t = f32;
                let (mut out, $a, $b, $cpu) = (start.clone(), &a32[..], &b32[..], &cpu);
                let $y = &mut out[..];
                $body;
                assert_close(&format!("{} {cpu:?} {len}", $name), &out, &expected, 2e-6);
            }
        }
    };
}

#[test]
fn all_levels_match_double_precision() {
    compare!("silu", |cpu, y, a, _b, F| silu::<F>(cpu, y, a));
    compare!("silu_backward", |cpu, y, a, b, F| silu_backward::<F>(cpu, y, a, b));
    compare!("softplus", |cpu, y, a, _b, F| softplus::<F>(cpu, y, a));
    compare!("softplus_backward", |cpu, y, a, b, F| softplus_backward::<F>(cpu, y, a, b));
    compare!("add", |cpu, y, a, b, F| add::<F>(cpu, y, a, b));
    compare!("mul", |cpu, y, a, b, F| mul::<F>(cpu, y, a, b));
    compare!("scale", |cpu, y, a, _b, F| scale::<F>(cpu, y, a, -1.5));
    compare!("neg_exp", |cpu, y, a, _b, F| neg_exp::<F>(cpu, y, a));
    compare!("add_assign", |cpu, y, a, _b, F| add_assign::<F>(cpu, y, a));
    compare!("axpy", |cpu, y, a, _b, F| axpy::<F>(cpu, y, 0.25, a));
}

#[test]
fn gradients_match_differences() {
    let x: Vec<f64> = (-40..40).map(|i| f64::from(i) * 0.21).collect();
    let dy = vec![1.0; x.len()];
    let moved = |h: f64| x.iter().map(|x| x + h).collect::<Vec<_>>();
    let cpu = reference();
    let check = |f: fn(&Cpu, &mut [f64], &[f64]), df: fn(&Cpu, &mut [f64], &[f64], &[f64])| {
        let (mut up, mut down, mut dx) = (dy.clone(), dy.clone(), dy.clone());
        f(&cpu, &mut up, &moved(1e-6));
        f(&cpu, &mut down, &moved(-1e-6));
        df(&cpu, &mut dx, &dy, &x);
        for i in 0..x.len() {
            assert!(((up[i] - down[i]) / 2e-6 - dx[i]).abs() < 1e-8);
        }
    };
    check(silu, silu_backward);
    check(softplus, softplus_backward);
}

/// Every function of `a` and `b`, by name.
fn all(cpu: &Cpu, a: &[f32], b: &[f32]) -> Vec<(&'static str, Vec<f32>)> {
    type Function = fn(&Cpu, &mut [f32], &[f32], &[f32]);
    let functions: [(&str, Function); 9] = [
        ("silu", |cpu, y, a, _| silu(cpu, y, a)),
        ("silu_backward", |cpu, y, a, b| silu_backward(cpu, y, b, a)),
        ("softplus", |cpu, y, a, _| softplus(cpu, y, a)),
        ("softplus_backward", |cpu, y, a, b| softplus_backward(cpu, y, b, a)),
        ("add", add),
        ("mul", mul),
        ("scale", |cpu, y, a, _| scale(cpu, y, a, -0.3)),
        ("neg_exp", |cpu, y, a, _| neg_exp(cpu, y, a)),
        ("axpy", |cpu, y, a, b| {
            y.copy_from_slice(b);
            axpy(cpu, y, 0.7, a);
        }),
    ];
    let run = |f: Function| {
        let mut y = vec![9.0; a.len()];
        f(cpu, &mut y, a, b);
        y
    };
    functions.into_iter().map(|(name, f)| (name, run(f))).collect()
}

/// NaN stays NaN, and far out and at infinity every level says what the reference says.
#[test]
fn ends_and_nan() {
    let ends =
        [0.0, -0.0, 1e-30, -1e-30, 60.0, -60.0, 88.0, -100.0, 100.0, 1e4, -1e4, f32::INFINITY, f32::NEG_INFINITY];
    let a: Vec<f32> = ends.into_iter().chain([f32::NAN; 6]).collect();
    let b = vec![0.5; a.len()];
    let expected = all(&reference(), &a, &b);
    for cpu in every_level() {
        for ((name, found), (_, expected)) in all(&cpu, &a, &b).into_iter().zip(&expected) {
            for (i, (&y, &e)) in found.iter().zip(expected).enumerate() {
                // Below the smallest normal number the fast exponential may flush to zero; e^88 keeps its digits.
                let close = y == e || (y - e).abs() <= 2e-6 * e.abs() + 1e-36 || y.is_nan() && e.is_nan();
                assert!(close, "{name} of {} at {cpu:?}: {y} instead of {e}", a[i]);
            }
        }
    }
}

/// An element has the same bits in a whole vector, in the rest after it, and alone.
#[test]
fn position_does_not_change_bits() {
    let spread = |stream| -> Vec<f32> { numbers(83, stream).into_iter().map(|x| 9.0 * x).collect() };
    let (a, b) = (spread(1), spread(2));
    for cpu in every_level() {
        let whole = all(&cpu, &a, &b);
        for part in [0..1, 3..83, 15..40, 80..83, 82..83] {
            for ((name, found), (_, whole)) in all(&cpu, &a[part.clone()], &b[part.clone()]).iter().zip(&whole) {
                assert_eq!(found[..], whole[part.clone()], "{name} at {cpu:?}, {part:?}");
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let (a, b) = (numbers(3 * CHUNK + 5, 1), numbers(3 * CHUNK + 5, 2));
    assert_same_bits("elementwise", |cpu| all(cpu, &a, &b).into_iter().flat_map(|(_, y)| y).collect());
}

#[test]
fn sums_of_squares_are_precise() {
    for len in LENGTHS {
        let x = numbers(len, 4);
        let expected: f64 = x.iter().map(|&x| f64::from(x).powi(2)).sum();
        for cpu in every_level() {
            assert!((sum_of_squares(&cpu, &x) - expected).abs() <= 1e-12 * expected, "{cpu:?} {len}");
        }
    }
    let x = numbers(100_000, 5);
    assert_same_bits("sum of squares", |cpu| {
        let bits = sum_of_squares(cpu, &x).to_bits();
        vec![f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)]
    });
}

#[test]
fn the_first_non_finite_is_found() {
    for cpu in every_level() {
        let mut x = numbers(3 * CHUNK + 11, 6);
        assert_eq!(first_non_finite(&cpu, &x), None);
        for (at, value) in
            [(3 * CHUNK + 10, f32::NAN), (2 * CHUNK - 1, f32::INFINITY), (CHUNK + 9, f32::NEG_INFINITY), (0, f32::NAN)]
        {
            x[at] = value;
            assert_eq!(first_non_finite(&cpu, &x), Some(at), "{cpu:?}");
        }
    }
}

#[test]
#[should_panic(expected = "lengths differ")]
fn unequal_lengths_panic() {
    add(&reference(), &mut [0.0; 3], &[0.0; 3], &[0.0; 2]);
}
