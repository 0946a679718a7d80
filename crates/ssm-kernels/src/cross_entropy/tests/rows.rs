//! One row at every level against the reference in both precisions: lengths around those of vectors and blocks,
//! extremes, infinities, NaN, ties, and where the row lies.

use super::super::{row_argmax, row_loss};
use crate::Level;
use crate::testing::{assert_close, numbers, widen};

const LENGTHS: [usize; 12] = [1, 2, 15, 16, 17, 31, 33, 100, 257, 512, 513, 50_280];
const SCALE: f32 = 0.3;

fn logits(len: usize, spread: f32) -> Vec<f32> {
    numbers(len, 1).into_iter().map(|l| spread * l).collect()
}

/// The loss and the gradient of a row at a level; the loss alone must have the same bits and leave the row as it was.
#[track_caller]
fn run(level: Level, logits: &[f32], target: usize) -> (f32, Vec<f32>) {
    let (mut row, mut grad) = (logits.to_vec(), logits.to_vec());
    let alone = row_loss(level, &mut row, target, None);
    let loss = row_loss(level, &mut grad, target, Some(SCALE));
    assert_eq!(alone.to_bits(), loss.to_bits(), "{level}: the loss depends on the gradient being asked for");
    assert!(row.iter().zip(logits).all(|(a, b)| a.to_bits() == b.to_bits()), "{level}: the loss alone changed the row");
    (loss, grad)
}

/// Every level against the reference in double and in single precision.
#[track_caller]
fn check(name: &str, logits: &[f32], target: usize) {
    let mut wide = widen(logits);
    let wide_loss = row_loss(Level::Reference, &mut wide, target, Some(f64::from(SCALE)));
    let (plain_loss, plain) = run(Level::Reference, logits, target);
    let largest = wide.iter().fold(0.0, |a: f64, g| a.max(g.abs()));
    for level in Level::available() {
        let name = format!("{level} {name}, {} logits, target {target}", logits.len());
        assert_eq!(row_argmax(level, logits), row_argmax(Level::Reference, logits), "argmax, {name}");
        let (loss, grad) = run(level, logits, target);
        assert_close(&format!("loss, {name}"), &[loss], &[f64::from(plain_loss)], 1e-5);
        // What the golden numbers demand, against the reference of the same precision.
        let off_plain = grad.iter().zip(&plain).map(|(g, p)| f64::from((g - p).abs())).fold(0.0, f64::max);
        assert!(off_plain <= 1e-4 * largest, "gradient, {name}: {off_plain:e} from single precision");
        if level == Level::Reference {
            continue;
        }
        // More from the vectors: digits of every single element, which the rounding of the logit's distance from the
        // largest (below 1e-6 where the exponential is not zero) and the fast exponential leave.
        assert_close(&format!("loss, {name}"), &[loss], &[wide_loss], 3e-7);
        for (j, (&g, &w)) in grad.iter().zip(&wide).enumerate() {
            let size = if j == target { f64::from(SCALE) } else { w.abs() };
            // Below e^-87.3 the fast exponential is zero.
            let error = (f64::from(g) - w).abs();
            assert!(error <= 4e-6 * size + 1e-36, "gradient of logit {j}, {name}: {g} instead of {w}");
        }
    }
}

#[test]
fn levels_match_the_reference() {
    for len in LENGTHS {
        for target in [0, len / 2, len - 1] {
            for spread in [0.01, 1.0, 20.0] {
                check(&format!("spread {spread}"), &logits(len, spread), target);
            }
        }
    }
}

#[test]
fn extremes() {
    for len in LENGTHS {
        for target in [0, len - 1] {
            check("spread 1e4", &logits(len, 1e4), target);
            for value in [0.0, 1e4, -1e4] {
                check("equal", &vec![value; len], target);
            }
            let mut row = logits(len, 1.0);
            row.iter_mut().step_by(3).for_each(|l| *l = 1e4);
            row.iter_mut().skip(1).step_by(3).for_each(|l| *l = -1e4);
            check("±1e4 among others", &row, target);
            // -∞ everywhere but at the target.
            let mut row = vec![f32::NEG_INFINITY; len];
            row[target] = -3.0;
            check("alone among -∞", &row, target);
            let mut row = logits(len, 5.0);
            row.iter_mut()
                .enumerate()
                .filter(|(j, _)| j % 2 == 1 && *j != target)
                .for_each(|(_, l)| *l = f32::NEG_INFINITY);
            check("-∞ among others", &row, target);
        }
    }
}

#[test]
fn a_target_at_minus_infinity_has_an_infinite_loss() {
    for level in Level::available() {
        for len in [2, 17, 600] {
            let mut row = logits(len, 1.0);
            row[1] = f32::NEG_INFINITY;
            let (loss, grad) = run(level, &row, 1);
            assert_eq!((loss, grad[1]), (f32::INFINITY, -SCALE), "{level} {len}");
            assert!(grad.iter().all(|g| g.is_finite()), "{level} {len}");
        }
    }
}

/// A NaN or an infinite largest logit anywhere makes the loss and all of the gradient NaN.
#[test]
fn nan_and_infinity_spoil_the_row() {
    for level in Level::available() {
        for len in [1, 8, 40, 530] {
            for at in 0..len {
                for value in [f32::NAN, f32::INFINITY] {
                    let mut row = logits(len, 1.0);
                    row[at] = value;
                    let (loss, grad) = run(level, &row, len / 2);
                    assert!(loss.is_nan() && grad.iter().all(|g| g.is_nan()), "{level}: {value} at {at} of {len}");
                    let expected = row_argmax(Level::Reference, &row);
                    assert_eq!(row_argmax(level, &row), expected, "{level}: {value} at {at} of {len}");
                }
            }
            assert!(run(level, &vec![f32::NEG_INFINITY; len], 0).0.is_nan(), "{level}: {len} times -∞");
        }
    }
}

#[test]
fn argmax_of_ties_and_nan() {
    let (nan, least) = (f32::NAN, f32::NEG_INFINITY);
    for level in Level::available() {
        for (row, expected) in [
            (vec![nan], 0),
            (vec![nan; 700], 0),
            (vec![least; 700], 0),
            (vec![nan, least, least], 1),
            (vec![nan, least, nan, -5.0], 3),
            (vec![-0.0, 0.0, -0.0], 0),
            (vec![f32::INFINITY, f32::INFINITY], 0),
            ([vec![nan; 700], vec![least; 5]].concat(), 700),
        ] {
            assert_eq!(row_argmax(level, &row), expected, "{level}: {} logits", row.len());
        }
        for (first, second) in [(0, 1), (15, 16), (511, 512), (100, 1200), (1299, 1299)] {
            let mut row = logits(1300, 1.0);
            (row[first], row[second]) = (2.0, 2.0);
            assert_eq!(row_argmax(level, &row), first as u32, "{level}: {first} and {second}");
        }
    }
}

/// The bits of a row do not depend on where it begins in memory.
#[test]
fn alignment_does_not_change_bits() {
    let row = logits(1111, 3.0);
    for level in Level::available() {
        let (loss, grad) = run(level, &row, 7);
        for start in 1..20 {
            let mut moved = vec![1e3; start];
            moved.extend_from_slice(&row);
            moved.extend_from_slice(&[1e3; 40]);
            let found = row_loss(level, &mut moved[start..start + row.len()], 7, Some(SCALE));
            assert_eq!((found, &moved[start..start + row.len()]), (loss, &grad[..]), "{level} from {start} on");
            assert!(moved[..start].iter().chain(&moved[start + row.len()..]).all(|&l| l == 1e3), "{level}: neighbours");
        }
    }
}
