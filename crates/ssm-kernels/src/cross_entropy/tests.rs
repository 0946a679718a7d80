//! The fused loss against the formula on whole logits, its gradients against differences, ties, NaN and threads; the
//! softmax of one row in `rows`.

mod rows;

use super::*;
use crate::testing::{Stored, assert_close, assert_same_bits, every_level, numbers, reference, widen};

fn targets(rows: usize, vocab: usize) -> Vec<u32> {
    (0..rows).map(|r| (r * 7 % vocab) as u32).collect()
}

/// Losses, argmax, dx, dw by the formula on whole logits, independent of the kernels.
fn plain(
    x: &[f64],
    w: &[f64],
    targets: &[u32],
    scale: f64,
    vocab: usize,
    k: usize,
) -> (Vec<f64>, Vec<u32>, [Vec<f64>; 2]) {
    let (mut losses, mut best) = (vec![], vec![]);
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    for (r, &target) in targets.iter().enumerate() {
        let logits: Vec<f64> = (0..vocab).map(|v| (0..k).map(|p| x[r * k + p] * w[v * k + p]).sum()).collect();
        let sum: f64 = logits.iter().map(|l| l.exp()).sum();
        losses.push(sum.ln() - logits[target as usize]);
        best.push((0..vocab).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32);
        for v in 0..vocab {
            let d = scale * (logits[v].exp() / sum - f64::from(u8::from(v == target as usize)));
            for p in 0..k {
                dx[r * k + p] += d * w[v * k + p];
                dw[v * k + p] += d * x[r * k + p];
            }
        }
    }
    (losses, best, [dx, dw])
}

fn check(rows: usize, vocab: usize, k: usize) {
    let (x, w, start) = (numbers(rows * k, 1), numbers(vocab * k, 2), numbers(vocab * k, 3));
    let targets = targets(rows, vocab);
    for (storage, weight) in Stored::new(&w).slices() {
        let wide: Vec<f64> = (0..vocab * k).map(|i| weight.get(i)).collect();
        let (losses, best, [dx, mut dw]) = plain(&widen(&x), &wide, &targets, 0.3, vocab, k);
        dw.iter_mut().zip(&start).for_each(|(d, &s)| *d += f64::from(s));
        for cpu in every_level() {
            let name = format!("{cpu:?} {storage} {rows}x{vocab}x{k}");
            let (mut l, mut a) = (vec![0f32; rows], vec![0; rows]);
            let (mut ex, mut ew) = (vec![f32::NAN; rows * k], start.clone());
            linear_cross_entropy(
                &cpu,
                &mut l,
                Some(&mut a),
                Some(&mut ex),
                Some(&mut ew),
                &x,
                weight,
                &mut [],
                &targets,
                0.3,
                rows,
                vocab,
                k,
            );
            assert_close(&format!("losses {name}"), &l, &losses, 3e-6);
            assert_close(&format!("dx {name}"), &ex, &dx, 3e-6);
            assert_close(&format!("dw {name}"), &ew, &dw, 3e-6);
            assert_eq!(a, best, "argmax {name}");
            let mut only = vec![0f32; rows];
            linear_cross_entropy(&cpu, &mut only, None, None, None, &x, weight, &mut [], &targets, 0.3, rows, vocab, k);
            assert_eq!(only, l, "losses without gradients {name}");
        }
    }
}

#[test]
fn all_levels_match_the_formula() {
    for (rows, vocab, k) in [(1, 1, 1), (1, 9, 4), (3, 50, 7), (9, 33, 16), (ROWS_PER_BLOCK + 5, 41, 12)] {
        check(rows, vocab, k);
    }
}

#[test]
fn double_precision_matches_the_formula() {
    let (rows, vocab, k) = (ROWS_PER_BLOCK + 3, 19, 6);
    let (x, w) = (widen(&numbers(rows * k, 1)), widen(&numbers(vocab * k, 2)));
    let targets = targets(rows, vocab);
    let (losses, _, [dx, dw]) = plain(&x, &w, &targets, 2.0, vocab, k);
    let (mut l, mut ex, mut ew) = (vec![0.0; rows], vec![0.0; rows * k], vec![0.0; vocab * k]);
    let (weight, cpu) = (WeightSlice::F64(&w), reference());
    linear_cross_entropy(
        &cpu,
        &mut l,
        None,
        Some(&mut ex),
        Some(&mut ew),
        &x,
        weight,
        &mut [],
        &targets,
        2.0,
        rows,
        vocab,
        k,
    );
    for (found, expected) in [(l, losses), (ex, dx), (ew, dw)] {
        assert!(found.iter().zip(&expected).all(|(f, e)| (f - e).abs() < 1e-12));
    }
}

#[test]
fn large_logits_do_not_overflow() {
    for cpu in every_level() {
        let mut losses = [0f32; 2];
        let w = WeightSlice::F32(&[500.0, -500.0, 499.0]);
        linear_cross_entropy(&cpu, &mut losses, None, None, None, &[1.0, -1.0], w, &mut [], &[0, 0], 1.0, 2, 3, 1);
        assert_close("losses", &losses, &[(1.0 + (-1f64).exp()).ln(), 1000.0], 1e-6);
    }
}

#[test]
fn ties_go_to_the_lowest_index_and_nan_is_kept() {
    for cpu in every_level() {
        for (vocab, first) in [(5, 1), (40, 3), (100, 77)] {
            let mut w = vec![0.0f32; vocab];
            w[first] = 2.0;
            w[vocab - 1] = 2.0;
            let (mut losses, mut argmax) = ([0f32; 2], [9, 9]);
            let targets = [0, 1];
            let weight = WeightSlice::F32(&w);
            let x = [1.0, f32::NAN];
            linear_cross_entropy(
                &cpu,
                &mut losses,
                Some(&mut argmax),
                None,
                None,
                &x,
                weight,
                &mut [],
                &targets,
                1.0,
                2,
                vocab,
                1,
            );
            assert_eq!(argmax[0], first as u32, "{cpu:?}");
            assert!(losses[0].is_finite() && losses[1].is_nan(), "{cpu:?}");
            assert!((argmax[1] as usize) < vocab);
            w[first + 1] = f32::NAN;
            let weight = WeightSlice::F32(&w);
            linear_cross_entropy(&cpu, &mut losses, None, None, None, &x, weight, &mut [], &targets, 1.0, 2, vocab, 1);
            assert!(losses[0].is_nan(), "{cpu:?}: one NaN logit of {vocab}");
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let (rows, vocab, k) = (ROWS_PER_BLOCK + 20, 1_300, 24);
    let (x, w) = (numbers(rows * k, 1), numbers(vocab * k, 2));
    let targets = targets(rows, vocab);
    assert_same_bits("cross entropy", |cpu| {
        let (mut l, mut dx, mut dw) = (vec![0.0; rows], vec![0.0; rows * k], vec![0.0; vocab * k]);
        let (weight, mut argmax) = (WeightSlice::F32(&w), vec![0; rows]);
        linear_cross_entropy(
            cpu,
            &mut l,
            Some(&mut argmax),
            Some(&mut dx),
            Some(&mut dw),
            &x,
            weight,
            &mut [],
            &targets,
            1.0,
            rows,
            vocab,
            k,
        );
        let argmax = argmax.into_iter().map(|a| a as f32).collect();
        [l, dx, dw, argmax].concat()
    });
}

/// Equal rows have equal bits wherever they lie in the batch.
#[test]
fn a_row_does_not_depend_on_the_batch() {
    let (rows, vocab, k) = (ROWS_PER_BLOCK + 9, 700, 5);
    let mut x = numbers(rows * k, 1);
    let copies = [0, 1, 7, ROWS_PER_BLOCK - 1, ROWS_PER_BLOCK, rows - 1];
    copies.iter().for_each(|r| x.copy_within(3 * k..4 * k, r * k));
    let w = numbers(vocab * k, 2);
    for cpu in every_level() {
        let (mut l, mut a, mut dx) = (vec![0f32; rows], vec![0; rows], vec![0.0; rows * k]);
        let (weight, targets) = (WeightSlice::F32(&w), vec![11; rows]);
        let (argmax, d) = (Some(&mut a[..]), Some(&mut dx[..]));
        linear_cross_entropy(&cpu, &mut l, argmax, d, None, &x, weight, &mut [], &targets, 0.5, rows, vocab, k);
        for r in copies {
            assert_eq!((l[r], a[r]), (l[3], a[3]), "{cpu:?} row {r}");
            assert_eq!(dx[r * k..(r + 1) * k], dx[3 * k..4 * k], "{cpu:?} row {r}");
        }
    }
}
