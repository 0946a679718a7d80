//! What single operations promise beyond their formula.

use statetune_ssm_kernels::Level;
use statetune_ssm_kernels::random::DropoutKey;
use statetune_tensor::ops::{self, Dropout, DropoutRows};
use statetune_tensor::{DType, Device, Staged, Tape, Tensor, Weight};

use crate::cases::{ids, numbers};

/// Row losses and the most probable tokens against softmax written out, and the loss as their sum over the divisor.
#[test]
fn cross_entropy_tells_of_each_row() {
    let (rows, width, vocab) = (9, 11, 37);
    let (x, head, targets) = (numbers(1, &[rows, width]), numbers(2, &[vocab, width]), ids(rows, vocab));
    let (xs, ws) = (x.to_f64_vec(), head.to_f64_vec());
    for level in Level::available() {
        for dtype in [DType::F32, DType::F64] {
            let tape = Tape::inference(&Device::cpu(level, 2).unwrap());
            let weight = Weight::new(head.cast(dtype)).unwrap();
            let x = x.cast(dtype).into();
            let output = ops::linear_cross_entropy(&tape, &x, &weight, None, &[], &targets, &2.5.into()).unwrap();
            for row in 0..rows {
                let dot = |v: usize| (0..width).map(|i| xs[row * width + i] * ws[v * width + i]).sum::<f64>();
                let logits: Vec<f64> = (0..vocab).map(dot).collect();
                let best = (0..vocab).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                let total: f64 = logits.iter().map(|l| l.exp()).sum();
                let expected = total.ln() - logits[targets[row] as usize];
                assert!((output.row_losses().unwrap()[row] - expected).abs() < 2e-6, "{dtype} {level} row {row}");
                assert_eq!(output.argmax().unwrap()[row], best as u32, "{dtype} {level} row {row}");
            }
            let sum: f64 = output.row_losses().unwrap().iter().sum();
            assert!((output.loss.tensor().item().unwrap() - sum / 2.5).abs() < 1e-6);
        }
    }
}

fn drop_rows(x: &Tensor, probability: f32, example: &[u64], position: &[u32]) -> Vec<f64> {
    let tape = Tape::inference(&Device::cpu(Level::best(), 2).unwrap());
    let key = DropoutKey { seed: 5, step: 6, site: 7 };
    let rows = DropoutRows { example: example.into(), position: position.into() };
    let y = ops::dropout(&tape, &x.clone().into(), Dropout { probability, key, step: None, rows }).unwrap();
    y.tensor().to_f64_vec()
}

/// A row's mask follows its example and position, wherever it lies; the share dropped is the probability.
#[test]
fn dropout_follows_the_row_not_its_place() {
    let width = 500;
    let x = Tensor::from_vec(vec![1f32; 4 * width], &[4, width]).unwrap();
    let y = drop_rows(&x, 0.3, &[8, 8, 9, 9], &[0, 1, 0, 1]);
    let moved = drop_rows(&x, 0.3, &[9, 8, 9, 8], &[1, 1, 0, 0]);
    for (row, other) in [3, 1, 2, 0].into_iter().enumerate() {
        assert_eq!(y[other * width..][..width], moved[row * width..][..width], "row {other}");
    }
    assert_ne!(y[..width], y[width..2 * width]);
    let dropped = y.iter().filter(|&&v| v == 0.0).count() as f64 / y.len() as f64;
    assert!((dropped - 0.3).abs() < 0.04, "{dropped}");
    assert!(y.iter().all(|&v| v == 0.0 || (v - 1.0 / 0.7).abs() < 1e-6));
    assert_eq!(drop_rows(&x, 0.0, &[1, 2, 3, 4], &[0; 4]), x.to_f64_vec());
}

/// The same rows of a frozen weight give the same product in every storage type that holds its values.
#[test]
fn storage_types_of_a_frozen_weight_agree() {
    let values = numbers(3, &[10, 9]).cast(DType::Bf16).cast(DType::F32).cast(DType::F16);
    let x = numbers(4, &[6, 9]);
    for compute in [DType::F32, DType::F64] {
        let product = |stored: DType| {
            let tape = Tape::inference(&Device::cpu(Level::best(), 1).unwrap());
            let weight = Weight::new(values.cast(stored)).unwrap();
            let x = x.cast(compute).into();
            let y = ops::linear(&tape, &x, &weight, None, None, &[4, 6], &[]).unwrap();
            let rows = ops::embedding(&tape, &weight, None, &Staged::from([9, 0]), compute).unwrap();
            [y[0].tensor().to_f64_vec(), y[1].tensor().to_f64_vec(), rows.tensor().to_f64_vec()]
        };
        let expected = product(DType::F64);
        for stored in [DType::F32, DType::F16] {
            for (found, expected) in product(stored).iter().zip(&expected) {
                assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 2e-6), "{stored} in {compute}");
            }
        }
    }
}
