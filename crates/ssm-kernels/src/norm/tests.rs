//! The norm against the formula, its gradients against differences, every level against double precision.

use super::*;
use crate::testing::{assert_close, assert_same_bits, every_level, numbers, reference, widen};

const SHAPES: [(usize, usize); 8] = [(1, 1), (1, 7), (2, 8), (3, 33), (5, 64), (17, 100), (40, 259), (0, 5)];
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
        assert_close(&format!("d_weight {name}"), &db, &dw, 1e-5);
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
    let (rows, cols) = (70, 300);
    let (x, weight, dy) = (numbers(rows * cols, 1), numbers(cols, 2), numbers(rows * cols, 3));
    assert_same_bits("norm", |cpu| {
        let (mut normed, mut rstd) = (vec![0.0; rows * cols], vec![0.0; rows]);
        add_rms_norm(cpu, &mut normed, None, Some(&mut rstd), &x, None, &weight, EPS, rows, cols);
        let (mut dx, mut dw) = (vec![0.0; rows * cols], vec![0.0; cols]);
        rms_norm_backward(cpu, Some(&mut dx), Some(&mut dw), &dy, None, &x, &rstd, &weight, rows, cols);
        [normed, dx, dw].concat()
    });
}
