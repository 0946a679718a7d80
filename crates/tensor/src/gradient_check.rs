//! A test helper: gradients against central differences in `f64`.

use crate::{Result, Tape, Tensor, Var};

/// Largest relative error that [`check`] accepts: |analytic - numeric| / (|numeric| + scale), scale being the largest
/// entry of that gradient.
pub const TOLERANCE: f64 = 1e-6;

/// Compares the gradient of `f` with central differences for every element of every leaf.
///
/// `f` builds a computation on the tape from leaves with the given values (`f64`) and returns any outputs; the scalar
/// that is differentiated is a fixed random combination of all their elements.
///
/// # Errors
/// When `f` fails.
///
/// # Panics
/// When a gradient is off, naming the leaf, the element and both values.
#[track_caller]
pub fn check(device: &crate::Device, leaves: &[Tensor], f: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>>) -> Result<()> {
    let value = |leaves: &[Tensor]| -> Result<f64> {
        let tape = Tape::inference(device);
        let vars: Vec<Var> = leaves.iter().map(|t| tape.leaf(t.clone())).collect();
        let outputs = f(&tape, &vars)?;
        Ok(outputs.iter().enumerate().map(|(i, o)| dot(&o.tensor().to_f64_vec(), &weights(i, o.tensor().len()))).sum())
    };
    let tape = Tape::new(device);
    let vars: Vec<Var> = leaves.iter().map(|t| tape.leaf(t.clone())).collect();
    let outputs = f(&tape, &vars)?;
    let seeds = outputs
        .iter()
        .enumerate()
        .filter(|(_, o)| o.is_tracked())
        .map(|(i, o)| Ok((o, Tensor::from_vec(weights(i, o.tensor().len()), o.shape())?)))
        .collect::<Result<Vec<_>>>()?;
    let mut gradients = tape.backward_from(&seeds)?;
    for (which, (leaf, var)) in leaves.iter().zip(&vars).enumerate() {
        let analytic = gradients.take(var).map_or_else(|| vec![0.0; leaf.len()], |g| g.to_f64_vec());
        let mut numeric = Vec::with_capacity(leaf.len());
        for i in 0..leaf.len() {
            let step = 1e-5;
            let at = |offset: f64| -> Result<f64> {
                let mut moved = leaves.to_vec();
                moved[which].make_mut::<f64>()?[i] += offset;
                value(&moved)
            };
            numeric.push((at(step)? - at(-step)?) / (2.0 * step));
        }
        let scale = numeric.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        for (i, (a, n)) in analytic.iter().zip(&numeric).enumerate() {
            let error = (a - n).abs() / (n.abs() + scale);
            assert!(error < TOLERANCE, "leaf {which} element {i}: gradient {a}, difference {n}, error {error:e}");
        }
    }
    Ok(())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The fixed combination: a low-discrepancy sequence in [-1, 1), different for every output.
fn weights(output: usize, len: usize) -> Vec<f64> {
    (0..len).map(|i| ((i + 1) as f64 * 0.618_033_988_749_895 + output as f64 * 0.414_213).fract() * 2.0 - 1.0).collect()
}
