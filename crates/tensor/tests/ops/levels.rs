//! `f32` at every level of this processor against `f64` on the reference, forward and gradients.

use statetune_ssm_kernels::Level;
use statetune_tensor::{DType, Device, Tape, Tensor, Var};

use crate::cases::{Case, LARGE, SMALL, all, numbers};

/// Largest difference over the largest value of a tensor (or 1): `f32` rounds at 6e-8, sums here have up to 131 terms.
const TOLERANCE: f64 = 3e-6;

#[test]
fn f32_at_every_level_matches_f64() {
    let reference = Device::cpu(Level::Reference, 1).unwrap();
    for case in LARGE.into_iter().chain([SMALL]).flat_map(all) {
        let expected = run(&case, &reference, DType::F64);
        for level in Level::available() {
            let found = run(&case, &Device::cpu(level, 2).unwrap(), DType::F32);
            assert_eq!(found.len(), expected.len());
            for ((what, found), (_, expected)) in found.iter().zip(&expected) {
                close(&format!("{}, {what}, {level}", case.name), found, expected);
            }
        }
    }
}

/// Outputs and gradients, with their names.
fn run(case: &Case, device: &Device, dtype: DType) -> Vec<(String, Option<Tensor>)> {
    let tape = Tape::new(device);
    let leaves: Vec<Var> = case.leaves.iter().map(|leaf| tape.leaf(leaf.cast(dtype))).collect();
    let outputs = (case.build)(&tape, &leaves).unwrap();
    let seed = |(i, y): (usize, &Var)| numbers(200 + i as u64, y.shape()).cast(dtype);
    let seeds: Vec<Tensor> = outputs.iter().enumerate().map(seed).collect();
    let mut gradients = tape.backward_from(&outputs.iter().zip(seeds).collect::<Vec<_>>()).unwrap();
    let mut results: Vec<(String, Option<Tensor>)> =
        outputs.iter().enumerate().map(|(i, y)| (format!("output {i}"), Some(y.tensor().clone()))).collect();
    results.extend(leaves.iter().enumerate().map(|(i, leaf)| (format!("gradient {i}"), gradients.take(leaf))));
    for (what, tensor) in &results {
        assert!(tensor.as_ref().is_none_or(|t| t.dtype() == dtype), "{}, {what}: element type", case.name);
    }
    results
}

fn close(name: &str, found: &Option<Tensor>, expected: &Option<Tensor>) {
    let (Some(found), Some(expected)) = (found, expected) else {
        assert_eq!(found.is_some(), expected.is_some(), "{name}: present in one precision only");
        return;
    };
    assert_eq!(found.shape(), expected.shape(), "{name}");
    let (found, expected) = (found.to_f64_vec(), expected.to_f64_vec());
    let scale = expected.iter().fold(1f64, |m, x| m.max(x.abs()));
    let error = |i: usize| if found[i].is_finite() { (found[i] - expected[i]).abs() / scale } else { f64::INFINITY };
    let worst = (0..found.len()).max_by(|&i, &j| error(i).total_cmp(&error(j))).unwrap();
    let percent = 100.0 * error(worst) / TOLERANCE;
    let (f, e) = (found[worst], expected[worst]);
    assert!(
        percent <= 100.0,
        "{name}: largest difference at {worst}: {f} instead of {e}, {percent:.0}% of the tolerance"
    );
}
