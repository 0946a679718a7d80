//! The step against the paper's algorithm written out, and every level against double precision.

use super::*;
use crate::testing::{assert_close, assert_same_bits, every_level, numbers, reference, widen};

const STEP: AdamWStep =
    AdamWStep { lr: 3e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step: 1, grad_scale: 0.7 };

/// Algorithm 2 of the paper with bias-corrected moments, for one number over several steps.
#[test]
fn follows_the_paper() {
    let (mut theta, mut m, mut v) = (0.5f64, 0.0, 0.0);
    let (mut p, mut pm, mut pv) = ([0.5f64], [0.0], [0.0]);
    for step in 1..=20 {
        let g = (step as f64 * 0.7).sin();
        adamw(&reference(), &mut p, &mut pm, &mut pv, &[g], &AdamWStep { step, ..STEP });
        let g = 0.7 * g;
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(step as i32)), v / (1.0 - 0.999f64.powi(step as i32)));
        theta -= 3e-3 * (m_hat / (v_hat.sqrt() + 1e-8) + 0.1 * theta);
        assert!((p[0] - theta).abs() < 1e-14 && (pm[0] - m).abs() < 1e-15 && (pv[0] - v).abs() < 1e-15);
    }
}

#[test]
fn all_levels_match_double_precision() {
    for len in [0, 1, 7, 8, 33, 1000, CHUNK + 5] {
        let (mut p64, mut m64, mut v64) = (widen(&numbers(len, 1)), vec![0.0; len], vec![0.0; len]);
        let mut states: Vec<_> =
            every_level().into_iter().map(|cpu| (cpu, numbers(len, 1), vec![0f32; len], vec![0f32; len])).collect();
        for step in 1..=5 {
            let s = AdamWStep { step, ..STEP };
            let grad = numbers(len, 1 + step);
            adamw(&reference(), &mut p64, &mut m64, &mut v64, &widen(&grad), &s);
            for (cpu, p, m, v) in &mut states {
                adamw(cpu, p, m, v, &grad, &s);
                assert_close(&format!("param {cpu:?} {len}"), p, &p64, 1e-6);
                assert_close(&format!("m {cpu:?} {len}"), m, &m64, 1e-6);
                assert_close(&format!("v {cpu:?} {len}"), v, &v64, 1e-6);
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let (grad, len) = (numbers(50_000, 2), 50_000);
    assert_same_bits("adamw", |cpu| {
        let (mut p, mut m, mut v) = (numbers(len, 1), vec![0.0; len], vec![0.0; len]);
        adamw(cpu, &mut p, &mut m, &mut v, &grad, &STEP);
        p
    });
}
