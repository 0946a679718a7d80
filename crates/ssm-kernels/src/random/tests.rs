//! Dropout masks that depend on nothing but their key, and the moments of the initial values.

use super::*;
use crate::testing::{assert_same_bits, every_level, numbers};

const KEY: DropoutKey = DropoutKey { seed: 1, step: 2, site: 3 };

fn mask(cpu: &Cpu, p: f32, key: DropoutKey, examples: &[u64], positions: &[u32], cols: usize) -> Vec<f32> {
    let rows = examples.len();
    let mut y = vec![f32::NAN; rows * cols];
    dropout(cpu, &mut y, &vec![1.0; rows * cols], p, key, examples, positions, rows, cols);
    y
}

#[test]
fn all_levels_agree_in_bits() {
    for cols in [1, 3, 4, 31, 32, 33, 100, 770] {
        let x = numbers(5 * cols, 1);
        let run = |cpu: &Cpu| {
            let mut y = vec![f32::NAN; x.len()];
            let examples = [7, 7, 1 << 40, 0, u64::MAX];
            dropout(cpu, &mut y, &x, 0.3, KEY, &examples, &[0, 1, 0, u32::MAX, 5], 5, cols);
            y
        };
        let expected = run(&crate::testing::reference());
        for cpu in every_level() {
            assert_eq!(run(&cpu), expected, "{cpu:?} {cols}");
        }
        for (x, y) in x.iter().zip(&expected) {
            assert!(*y == 0.0 || (y - x / 0.7).abs() < 1e-6);
        }
    }
}

#[test]
fn a_row_is_the_same_wherever_it_is_packed() {
    for cpu in every_level() {
        let together = mask(&cpu, 0.5, KEY, &[4, 9, 9], &[0, 0, 1], 50);
        assert_eq!(together[50..100], mask(&cpu, 0.5, KEY, &[9], &[0], 50));
        assert_eq!(together[100..], mask(&cpu, 0.5, KEY, &[9], &[1], 50));
    }
}

#[test]
fn every_part_of_the_key_matters() {
    let cpu = &every_level().pop().unwrap();
    let base = mask(cpu, 0.5, KEY, &[4], &[0], 64);
    let others = [
        mask(cpu, 0.5, DropoutKey { seed: 2, ..KEY }, &[4], &[0], 64),
        mask(cpu, 0.5, DropoutKey { step: 3, ..KEY }, &[4], &[0], 64),
        mask(cpu, 0.5, DropoutKey { site: 4, ..KEY }, &[4], &[0], 64),
        mask(cpu, 0.5, DropoutKey { step: 3, site: 2, ..KEY }, &[4], &[0], 64),
        mask(cpu, 0.5, KEY, &[5], &[0], 64),
        mask(cpu, 0.5, KEY, &[4 + (1 << 32)], &[0], 64),
        mask(cpu, 0.5, KEY, &[4], &[1], 64),
    ];
    assert!(others.iter().all(|other| *other != base));
}

#[test]
fn drops_the_asked_share() {
    let cpu = &every_level().pop().unwrap();
    for p in [0.0, 0.1, 0.5, 0.9] {
        let examples: Vec<u64> = (0..100).collect();
        let y = mask(cpu, p, KEY, &examples, &[3; 100], 1000);
        let dropped = y.iter().filter(|&&y| y == 0.0).count() as f64 / 1e5;
        // Four standard deviations of the binomial.
        assert!((dropped - f64::from(p)).abs() <= 4.0 * (f64::from(p) * (1.0 - f64::from(p)) / 1e5).sqrt());
    }
}

#[test]
fn threads_do_not_change_bits() {
    let examples: Vec<u64> = (0..90).collect();
    let positions: Vec<u32> = (0..90).collect();
    assert_same_bits("dropout", |cpu| mask(cpu, 0.4, KEY, &examples, &positions, 77));
}

#[test]
fn initial_values_have_their_moments() {
    let n = 200_000;
    let (mut u, mut z) = (vec![0f64; n], vec![0f64; n]);
    uniform(&mut u, -1.0, 3.0, 5, stream_of("a"));
    normal(&mut z, 2.0, 0.5, 5, stream_of("a"));
    let moments = |x: &[f64]| {
        let mean = x.iter().sum::<f64>() / n as f64;
        (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64)
    };
    assert!(u.iter().all(|u| (-1.0..3.0).contains(u)));
    let (mean, variance) = moments(&u);
    assert!((mean - 1.0).abs() < 0.012 && (variance - 16.0 / 12.0).abs() < 0.012);
    let (mean, variance) = moments(&z);
    assert!((mean - 2.0).abs() < 0.005 && (variance - 0.25).abs() < 0.004);
    let beyond_two = z.iter().filter(|z| (**z - 2.0).abs() > 1.0).count() as f64 / n as f64;
    assert!((beyond_two - 0.0455).abs() < 0.002);
}

#[test]
fn streams_seeds_and_types() {
    let draw = |seed, name| {
        let mut x = [0f32; 9];
        normal(&mut x, 0.0, 1.0, seed, stream_of(name));
        x
    };
    assert_eq!(draw(1, "a"), draw(1, "a"));
    assert_ne!(draw(1, "a"), draw(2, "a"));
    assert_ne!(draw(1, "a"), draw(1, "b"));
    let mut wide = [0f64; 5];
    normal(&mut wide, 0.0, 1.0, 1, stream_of("a"));
    assert_eq!(wide.map(|x| x as f32), draw(1, "a")[..5]);
    // FNV-1a's published value for "a".
    assert_eq!(stream_of("a"), 0xaf63_dc4c_8601_ec8c);
}
