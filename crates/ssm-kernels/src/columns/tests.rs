//! Columns against index by index formulas, with more rows than a task has.

use super::*;
use crate::Level;

fn cpu() -> Cpu {
    Cpu::new(Level::Portable, 2).expect("a device")
}

fn numbers(len: usize, step: f64) -> Vec<f64> {
    (0..len).map(|i| (i as f64 * step).cos()).collect()
}

#[test]
fn parts_come_back() {
    for (rows, widths) in [(1, [3, 1, 5]), (1500, [7, 16, 2])] {
        let width: usize = widths.iter().sum();
        let parts: Vec<Vec<f64>> = widths.iter().map(|w| numbers(rows * w, 0.37 + *w as f64)).collect();
        let mut whole = vec![0.0; rows * width];
        let mut at = 0;
        for (part, &w) in parts.iter().zip(&widths) {
            put_columns(&cpu(), &mut whole, width, part, at, w);
            let mut back = vec![0.0; part.len()];
            take_columns(&cpu(), &mut back, &whole, width, at, w);
            assert_eq!(&back, part);
            assert_eq!(whole[(rows - 1) * width + at], part[(rows - 1) * w]);
            at += w;
        }
        assert!(whole.iter().all(|&x| x != 0.0) || rows == 1);
    }
}

#[test]
fn picked_columns_and_their_gradient() {
    let (rows, width, columns) = (700, 33, [32u32, 0, 7]);
    let (x, dy) = (numbers(rows * width, 0.11), numbers(rows * columns.len(), 0.7));
    let mut y = vec![0.0; rows * columns.len()];
    gather_columns(&cpu(), &mut y, &x, width, &columns);
    let mut dx = vec![1.0; rows * width];
    scatter_add_columns(&cpu(), &mut dx, &dy, width, &columns);
    for row in 0..rows {
        for (j, &column) in columns.iter().enumerate() {
            assert_eq!(y[row * 3 + j], x[row * width + column as usize]);
            assert_eq!(dx[row * width + column as usize], 1.0 + dy[row * 3 + j]);
        }
        assert_eq!(dx[row * width + 5], 1.0);
    }
}

#[test]
fn scaled_columns_and_their_gradient() {
    let (rows, width) = (333, 130);
    let (x, dy, gain) = (numbers(rows * width, 0.3), numbers(rows * width, 0.9), numbers(width, 1.3));
    let mut y = vec![0.0; x.len()];
    scale_columns(&cpu(), &mut y, &x, &gain);
    let mut dgain = vec![7.0; width];
    scale_columns_gain_gradient(&cpu(), &mut dgain, &dy, &x);
    for column in 0..width {
        assert_eq!(y[5 * width + column], x[5 * width + column] * gain[column]);
        let sum = (0..rows).fold(0.0, |sum, row| sum + dy[row * width + column] * x[row * width + column]);
        assert_eq!(dgain[column], sum);
    }
}
