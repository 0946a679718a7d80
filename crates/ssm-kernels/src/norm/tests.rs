//! The norm against the formula, its gradients against differences, every level against double precision.

use super::*;
use crate::testing::{assert_close, assert_same_bits, every_level, numbers, reference, widen};

/// The last three take several tasks.
const SHAPES: [(usize, usize); 15] = [
    (0, 5),
    (1, 1),
    (1, 7),
    (2, 8),
    (2, 15),
    (7, 16),
    (3, 17),
    (4, 31),
    (3, 33),
    (5, 64),
    (17, 100),
    (40, 259),
    (1000, 33),
    (70, 300),
    (19, 2051),
];
const EPS: f64 = 1e-5;

fn check(rows: usize, cols: usize, with_residual: bool) {
    let (x, r, weight) = (numbers(rows * cols, 1), numbers(rows * cols, 2), numbers(cols, 3));
    let (dy, d_in) = (numbers(rows * cols, 4), numbers(rows * cols, 5));
    let residual = with_residual.then_some(&r[..]);
    let wide = |x: Option<&[f32]>| x.map(widen);
    let (mut normed, mut sum, mut rstd) = (vec![0.0; rows * cols], vec![0.0; rows * cols], vec![0.0; rows]);
    let (wide_x, wide_weight, wide_dy, wide_r) = (widen(&x), widen(&weight), widen(&dy), wide(residual));
    let (out, keep) = (&mut normed, Some(&mut sum[..]));
    add_rms_norm(&reference(), out, keep, Some(&mut rstd), &wide_x, wide_r.as_deref(), &wide_weight, EPS, rows, cols);
    let (mut dx, mut dw) = (vec![0.0; rows * cols], vec![0.0; cols]);
    let wide_in = wide(with_residual.then_some(&d_in));
    rms_norm_backward(
        &reference(),
        Some(&mut dx),
        Some(&mut dw),
        &wide_dy,
        wide_in.as_deref(),
        &sum,
        &rstd,
        &wide_weight,
        rows,
        cols,
    );
    for cpu in every_level() {
        let name = format!("{cpu:?} {rows}x{cols} residual {with_residual}");
        let (mut n, mut s, mut q) = (vec![0f32; rows * cols], vec![0f32; rows * cols], vec![0f32; rows]);
        add_rms_norm(&cpu, &mut n, Some(&mut s), Some(&mut q), &x, residual, &weight, EPS, rows, cols);
        assert_close(&format!("normed {name}"), &n, &normed, 2e-6);
        assert_close(&format!("sum {name}"), &s, &sum, 1e-6);
        assert_close(&format!("rstd {name}"), &q, &rstd, 2e-6);
        let mut alone = vec![0f32; rows * cols];
        add_rms_norm(&cpu, &mut alone, None, None, &x, residual, &weight, EPS, rows, cols);
        assert_eq!(alone, n, "{name}: optional outputs change nothing");

        let (mut da, mut db) = (vec![9f32; rows * cols], vec![9f32; cols]);
        let d_in = with_residual.then_some(&d_in[..]);
        rms_norm_backward(&cpu, Some(&mut da), Some(&mut db), &dy, d_in, &s, &q, &weight, rows, cols);
        // The gradient of a row scales with rstd, which is large where a short row is close to zero.
        let largest = dx.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
        assert_close(&format!("d_sum {name}"), &da, &dx, 1e-5 * largest);
        let largest = dw.iter().fold(1.0, |a: f64, b| a.max(b.abs()));
        assert_close(&format!("d_weight {name}"), &db, &dw, 1e-5 * largest);
    }
}

#[test]
fn all_levels_match_double_precision() {
    for (rows, cols) in SHAPES {
        check(rows, cols, false);
        check(rows, cols, true);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(16))]
    #[test]
    fn random_shapes_match(rows in 1usize..40, cols in 2usize..300, residual: bool) {
        check(rows, cols, residual);
    }
}

#[test]
fn a_row_by_hand() {
    let (mut normed, mut rstd) = ([0.0; 2], [0.0]);
    add_rms_norm(
        &reference(),
        &mut normed,
        None,
        Some(&mut rstd),
        &[2.0, 5.0],
        Some(&[1.0, -1.0]),
        &[1.0, 2.0],
        0.0,
        1,
        2,
    );
    let expected = 1.0 / 12.5f64.sqrt();
    assert!((rstd[0] - expected).abs() < 1e-15);
    assert!((normed[0] - 3.0 * expected).abs() < 1e-15 && (normed[1] - 8.0 * expected).abs() < 1e-15);
}

/// L = Σ g · normed + Σ h · sum, differentiated by central differences in x and weight.
#[test]
fn gradients_match_differences() {
    let (rows, cols) = (3, 5);
    let [x, g, h] = [1, 2, 3].map(|stream| widen(&numbers(rows * cols, stream)));
    let weight = widen(&numbers(cols, 4));
    let forward = |x: &[f64], weight: &[f64]| {
        let (mut normed, mut sum, mut rstd) = (vec![0.0; 15], vec![0.0; 15], vec![0.0; 3]);
        add_rms_norm(&reference(), &mut normed, Some(&mut sum), Some(&mut rstd), x, None, weight, EPS, rows, cols);
        (normed, sum, rstd)
    };
    let loss = |x: &[f64], weight: &[f64]| {
        let (normed, sum, _) = forward(x, weight);
        (0..15).map(|i| g[i] * normed[i] + h[i] * sum[i]).sum::<f64>()
    };
    let (_, sum, rstd) = forward(&x, &weight);
    let (mut dx, mut dw) = (vec![0.0; 15], vec![0.0; 5]);
    rms_norm_backward(&reference(), Some(&mut dx), Some(&mut dw), &g, Some(&h), &sum, &rstd, &weight, rows, cols);
    let difference = |at: &[f64], i: usize, f: &dyn Fn(&[f64]) -> f64| {
        let step = |by: f64| {
            let mut moved = at.to_vec();
            moved[i] += by;
            f(&moved)
        };
        (step(1e-6) - step(-1e-6)) / 2e-6
    };
    for i in 0..15 {
        assert!((difference(&x, i, &|x| loss(x, &weight)) - dx[i]).abs() < 1e-7);
    }
    for j in 0..5 {
        assert!((difference(&weight, j, &|w| loss(&x, w)) - dw[j]).abs() < 1e-7);
    }
}

#[test]
fn threads_do_not_change_bits() {
    let (rows, cols) = (200, 300);
    let (x, weight, dy) = (numbers(rows * cols, 1), numbers(cols, 2), numbers(rows * cols, 3));
    assert_same_bits("norm", |cpu| {
        let (mut normed, mut rstd) = (vec![0.0; rows * cols], vec![0.0; rows]);
        add_rms_norm(cpu, &mut normed, None, Some(&mut rstd), &x, None, &weight, EPS, rows, cols);
        let (mut dx, mut dw) = (vec![0.0; rows * cols], vec![0.0; cols]);
        rms_norm_backward(cpu, Some(&mut dx), Some(&mut dw), &dy, None, &x, &rstd, &weight, rows, cols);
        [normed, dx, dw].concat()
    });
}

/// The gradients of 130 rows of 259, in several tasks.
fn gradients(cpu: &Cpu, wants_sum: bool, wants_weight: bool) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
    let (rows, cols) = (130, 259);
    let [x, dy, d_in] = [1, 2, 3].map(|stream| numbers(rows * cols, stream));
    let (weight, rstd) = (numbers(cols, 4), numbers(rows, 5));
    // Not zero, to see that gradients are overwritten.
    let mut dx = wants_sum.then(|| vec![7.0; rows * cols]);
    let mut dw = wants_weight.then(|| vec![7.0; cols]);
    let (to_dx, to_dw) = (dx.as_deref_mut(), dw.as_deref_mut());
    rms_norm_backward(cpu, to_dx, to_dw, &dy, Some(&d_in), &x, &rstd, &weight, rows, cols);
    (dx, dw)
}

/// Each gradient asked for alone has the bits it has beside the other.
#[test]
fn gradients_do_not_depend_on_what_else_is_asked() {
    for cpu in every_level() {
        let both = gradients(&cpu, true, true);
        assert_eq!(gradients(&cpu, true, false), (both.0, None), "{cpu:?}");
        assert_eq!(gradients(&cpu, false, true), (None, both.1), "{cpu:?}");
    }
}

/// A row has the bits in a batch that it has alone.
#[test]
fn a_row_does_not_depend_on_the_batch() {
    let (rows, cols) = (90, 301);
    let [x, residual, dy, d_in] = [1, 2, 3, 4].map(|stream| numbers(rows * cols, stream));
    let weight = numbers(cols, 5);
    for cpu in every_level() {
        let run = |of: std::ops::Range<usize>| {
            let (count, of) = (of.len(), of.start * cols..of.end * cols);
            let (mut normed, mut sum, mut rstd) = (vec![0.0; of.len()], vec![0.0; of.len()], vec![0.0; count]);
            let (x, residual) = (&x[of.clone()], Some(&residual[of.clone()]));
            let (keep, scale) = (Some(&mut sum[..]), Some(&mut rstd[..]));
            add_rms_norm(&cpu, &mut normed, keep, scale, x, residual, &weight, EPS, count, cols);
            let mut dx = vec![0.0; of.len()];
            let (dy, d_in) = (&dy[of.clone()], Some(&d_in[of]));
            rms_norm_backward(&cpu, Some(&mut dx), None, dy, d_in, &sum, &rstd, &weight, count, cols);
            [normed, sum, dx, rstd]
        };
        let whole = run(0..rows);
        for r in [0, 1, 53, 54, 89] {
            let alone = run(r..r + 1);
            for i in 0..3 {
                assert_eq!(alone[i], whole[i][r * cols..(r + 1) * cols], "{cpu:?} row {r} output {i}");
            }
            assert_eq!(alone[3][0], whole[3][r], "{cpu:?} rstd of row {r}");
        }
    }
}

/// Rows of zeros, of large numbers and with a NaN, each beside ordinary ones.
#[test]
fn extreme_rows() {
    let (rows, cols) = (4, 37);
    let mut x = numbers(rows * cols, 1);
    x[..cols].fill(0.0);
    x[cols..2 * cols].iter_mut().for_each(|x| *x *= 1e15);
    x[2 * cols + 36] = f32::NAN;
    let ones = vec![1.0; cols];
    for cpu in every_level() {
        let (mut normed, mut rstd) = (vec![9f32; rows * cols], vec![9f32; rows]);
        add_rms_norm(&cpu, &mut normed, None, Some(&mut rstd), &x, None, &ones, EPS, rows, cols);
        assert!(normed[..cols].iter().all(|&y| y == 0.0), "{cpu:?}");
        assert!((f64::from(rstd[0]) * EPS.sqrt() - 1.0).abs() < 1e-6, "{cpu:?}");
        for r in [1, 3] {
            let square: f64 = normed[r * cols..(r + 1) * cols].iter().map(|&y| f64::from(y).powi(2)).sum();
            assert!((square / cols as f64 - 1.0).abs() < 1e-4, "{cpu:?} row {r}: mean square {square}");
        }
        assert!(normed[2 * cols..3 * cols].iter().all(|y| y.is_nan()) && rstd[2].is_nan(), "{cpu:?}");
        let (mut dx, mut dw) = (vec![9f32; rows * cols], vec![9f32; cols]);
        let dy = numbers(rows * cols, 2);
        rms_norm_backward(&cpu, Some(&mut dx), Some(&mut dw), &dy, None, &x, &rstd, &ones, rows, cols);
        assert!(dx[2 * cols..3 * cols].iter().all(|d| d.is_nan()) && dw[36].is_nan(), "{cpu:?}");
        assert!(dx[..2 * cols].iter().chain(&dx[3 * cols..]).all(|d| d.is_finite()), "{cpu:?}");
    }
}
