//! Every level and storage type against double precision, exact integer cases, and independence of threads.

use super::*;
use crate::testing::{Stored, assert_close, assert_same_bits, every_level, numbers, reference, widen};

/// (m, n, k): ones, odd sizes, tile edges, skinny LoRA shapes, several blocks of k, decoding, k = 0.
const SHAPES: [(usize, usize, usize); 28] = [
    (1, 1, 1),
    (1, 8, 8),
    (1, 17, 31),
    (1, 300, 257),
    (2, 3, 5),
    (2, 33, 1030),
    (3, 70, 129),
    (4, 16, 64),
    (5, 5, 5),
    (5, 129, 40),
    (6, 16, 7),
    (7, 15, 9),
    (8, 64, 513),
    (9, 33, 17),
    (12, 31, 40),
    (13, 100, 600),
    (17, 1, 19),
    (31, 8, 96),
    (37, 48, 8),
    (64, 80, 33),
    (65, 130, 300),
    (100, 7, 1),
    (150, 48, 70),
    (301, 20, 24),
    (33, 21, 2085),
    (129, 10, 40),
    (4, 6, 0),
    (20, 6, 0),
];

/// One case of the three products at all levels against the double precision reference.
fn check(m: usize, n: usize, k: usize, accumulate: bool, with_bias: bool, alpha: f32) {
    let (x, w, start, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3), numbers(n, 4));
    let bias = with_bias.then_some(&bias[..]);
    let wide_bias = bias.map(widen);
    let stored = Stored::new(&w);
    let tolerance = 1e-6 * (k as f64).sqrt().max(4.0);
    let precise = reference();
    let a64 = f64::from(alpha);
    for (storage, w) in stored.slices() {
        let (mut nt, mut nn) = (widen(&start), widen(&start));
        matmul_nt(&precise, &mut nt, &widen(&x), w, wide_bias.as_deref(), a64, m, n, k, accumulate);
        matmul_nn(&precise, &mut nn, &widen(&x), w, a64, m, n, k, accumulate);
        for cpu in every_level() {
            let name = format!("{cpu:?} {storage} {m}x{n}x{k} accumulate {accumulate} bias {with_bias}");
            let mut y = start.clone();
            matmul_nt(&cpu, &mut y, &x, w, bias, alpha, m, n, k, accumulate);
            assert_close(&format!("nt {name}"), &y, &nt, tolerance);
            let mut y = start.clone();
            matmul_nn(&cpu, &mut y, &x, w, alpha, m, n, k, accumulate);
            assert_close(&format!("nn {name}"), &y, &nn, tolerance);
        }
    }
    let mut tn = widen(&start);
    matmul_tn(&precise, &mut tn, &widen(&x), &widen(&w), a64, m, n, k, accumulate);
    for cpu in every_level() {
        let mut y = start.clone();
        matmul_tn(&cpu, &mut y, &x, &w, alpha, m, n, k, accumulate);
        assert_close(&format!("tn {cpu:?} {m}x{n}x{k} accumulate {accumulate}"), &y, &tn, tolerance);
    }
}

#[test]
fn all_levels_match_double_precision() {
    for (i, (m, n, k)) in SHAPES.into_iter().enumerate() {
        check(m, n, k, i % 2 == 0, i % 3 != 0, 1.0);
        check(m, n, k, i % 2 == 1, i % 3 == 0, -0.75);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn random_shapes_match(m in 1usize..80, n in 1usize..140, k in 1usize..400, accumulate: bool, bias: bool) {
        check(m, n, k, accumulate, bias, 0.5);
    }
}

/// Where the processor can: operands rounded by hand and multiplied in double precision are the same products.
#[test]
fn bf16_products_are_those_of_rounded_operands() {
    let Ok(cpu) = Cpu::new(Level::best(), 2).unwrap().with_products(crate::Products::Bf16) else {
        println!("this processor has no AVX512-BF16: there is nothing to compare");
        return;
    };
    let round = |x: &[f32]| -> Vec<f32> { x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect() };
    for (i, (m, n, k)) in SHAPES.into_iter().enumerate() {
        let (accumulate, alpha) = (i % 2 == 0, if i % 3 == 0 { 1.0 } else { -0.75 });
        let (x, w, start, bias) = (numbers(m * k, 1), numbers(n * k, 2), numbers(m * n, 3), numbers(n, 4));
        let (rounded_x, rounded_w) = (round(&x), round(&w));
        let bias = (i % 2 == 1).then_some(&bias[..]);
        let (mut nt, mut nn) = (widen(&start), widen(&start));
        let (a64, wide) = (f64::from(alpha), widen(&rounded_x));
        matmul_nt(
            &reference(),
            &mut nt,
            &wide,
            WeightSlice::F32(&rounded_w),
            bias.map(widen).as_deref(),
            a64,
            m,
            n,
            k,
            accumulate,
        );
        matmul_nn(&reference(), &mut nn, &wide, WeightSlice::F32(&rounded_w), a64, m, n, k, accumulate);
        let tolerance = 1e-6 * (k as f64).sqrt().max(4.0);
        let stored = Stored::new(&rounded_w);
        for (storage, w) in [("f32", WeightSlice::F32(&w)), stored.slices()[2]] {
            let name = format!("{storage} {m}x{n}x{k} accumulate {accumulate}");
            let mut y = start.clone();
            matmul_nt(&cpu, &mut y, &x, w, bias, alpha, m, n, k, accumulate);
            assert_close(&format!("nt {name}"), &y, &nt, tolerance);
            let mut y = start.clone();
            matmul_nn(&cpu, &mut y, &x, w, alpha, m, n, k, accumulate);
            assert_close(&format!("nn {name}"), &y, &nn, tolerance);
        }
    }
}

/// As in decoding: what a row comes to does not depend on how many others are multiplied with it.
#[test]
fn a_row_alone_is_a_row_among_others() {
    for cpu in every_level() {
        let rounded = cpu.clone().with_products(crate::Products::Bf16).ok();
        for cpu in [Some(cpu), rounded].into_iter().flatten() {
            for (n, k) in [(37, 70), (8, 2100)] {
                let most = 100;
                let (x, w) = (numbers(most * k, 1), numbers(n * k, 2));
                let stored = Stored::new(&w);
                for (storage, w) in stored.slices().into_iter().filter(|(storage, _)| *storage != "f64") {
                    let product = |first: usize, m: usize| {
                        let mut y = vec![0f32; m * n];
                        matmul_nt(&cpu, &mut y, &x[first * k..][..m * k], w, None, 1.0, m, n, k, false);
                        y
                    };
                    let together = product(0, most);
                    for (first, m) in [(0, 1), (99, 1), (3, 2), (50, 5), (7, 13), (1, 64), (20, 80)] {
                        let same = product(first, m) == together[first * n..][..m * n];
                        assert!(same, "{cpu:?} {storage} n {n} k {k}: {m} rows are other bits among others");
                    }
                }
            }
        }
    }
}

/// Sums of small integers are exact, so every level must give them to the bit, and a transposed operand written out
/// by hand must agree: this pins the meaning of rows and columns, which the reference alone cannot.
#[test]
fn integers_are_exact() {
    let (m, n, k) = (3, 2, 4);
    let x: Vec<f32> = (0..m * k).map(|i| i as f32).collect(); // [m, k]
    let w = [1.0, 2.0, 3.0, 4.0, -1.0, 0.0, 1.0, 0.0]; // [n, k]
    let expected = [20.0, 2.0, 60.0, 2.0, 100.0, 2.0];
    let transposed_w = [1.0, -1.0, 2.0, 0.0, 3.0, 1.0, 4.0, 0.0]; // [k, n]
    let transposed_x: Vec<f32> = (0..k * m).map(|i| x[i % m * k + i / m]).collect(); // [k, m]
    for cpu in every_level() {
        let mut y = [f32::NAN; 6];
        matmul_nt(&cpu, &mut y, &x, WeightSlice::F32(&w), None, 1.0, m, n, k, false);
        assert_eq!(y, expected, "{cpu:?}");
        let mut y = [f32::NAN; 6];
        matmul_nn(&cpu, &mut y, &x, WeightSlice::F32(&transposed_w), 1.0, m, n, k, false);
        assert_eq!(y, expected, "{cpu:?}");
        let mut y = [f32::NAN; 6];
        matmul_tn(&cpu, &mut y, &transposed_x, &transposed_w, 1.0, m, n, k, false);
        assert_eq!(y, expected, "{cpu:?}");
    }
}

#[test]
fn threads_do_not_change_bits() {
    for (m, n, k) in [(1, 300, 257), (3, 700, 300), (8, 64, 513), (70, 530, 300), (300, 80, 700), (130, 8, 300)] {
        let (x, w) = (numbers(m * k, 5), numbers(n * k, 6));
        let stored = Stored::new(&w);
        let w16 = stored.slices()[2].1;
        assert_same_bits("nt", |cpu| {
            let mut y = vec![0.0; m * n];
            matmul_nt(cpu, &mut y, &x, w16, None, 1.0, m, n, k, false);
            y
        });
        assert_same_bits("nn", |cpu| {
            let mut y = vec![0.0; m * n];
            matmul_nn(cpu, &mut y, &x, w16, 1.0, m, n, k, false);
            y
        });
        assert_same_bits("tn", |cpu| {
            let mut y = vec![0.0; m * n];
            matmul_tn(cpu, &mut y, &x, &w, 1.0, m, n, k, false);
            y
        });
        assert_same_bits("column sums", |cpu| {
            let mut y = vec![0.0; k];
            column_sums(cpu, &mut y, &x, m, k, false);
            y
        });
    }
}

#[test]
fn column_sums_match() {
    for (m, n) in [(1, 1), (1, 9), (5, 3), (64, 17), (300, 130), (0, 4)] {
        let (x, start) = (numbers(m * n, 7), numbers(n, 8));
        for accumulate in [false, true] {
            let mut expected = widen(&start);
            column_sums(&reference(), &mut expected, &widen(&x), m, n, accumulate);
            for cpu in every_level() {
                let mut y = start.clone();
                column_sums(&cpu, &mut y, &x, m, n, accumulate);
                assert_close(&format!("{cpu:?} {m}x{n}"), &y, &expected, 1e-5);
            }
        }
    }
    let mut sums = [1.0, 1.0];
    column_sums(&reference(), &mut sums, &[1.0, 2.0, 3.0, 4.0], 2, 2, true);
    assert_eq!(sums, [5.0, 7.0]);
}

#[test]
fn nan_reaches_the_output() {
    for cpu in every_level() {
        for m in [1, 9] {
            let mut x = numbers(m * 20, 9);
            x[3] = f32::NAN;
            let mut y = vec![0.0; m * 30];
            matmul_nt(&cpu, &mut y, &x, WeightSlice::F32(&numbers(600, 1)), None, 1.0, m, 30, 20, false);
            assert!(y[..30].iter().all(|y| y.is_nan()) && y[30..].iter().all(|y| y.is_finite()), "{cpu:?}");
        }
    }
}

#[test]
#[should_panic(expected = "w is not [n, k] = [3, 4]")]
fn wrong_lengths_panic_by_name() {
    matmul_nt(&reference(), &mut [0.0; 6], &[0.0; 8], WeightSlice::F64(&[0.0; 11]), None, 1.0, 2, 3, 4, false);
}
