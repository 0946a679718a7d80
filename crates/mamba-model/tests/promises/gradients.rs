//! Gradients of the whole model: against directional differences in `f64`, and through a prefix that is run once.

use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba, Patches};
use statetune_tensor::{Tape, Tensor};

use crate::support::{
    close, configs, describe, every_model, exact_path, hang_on_everything, model, noise, pass, tokens, train_everything,
};

/// Along one random direction per trained tensor, the loss changes as its gradient says.
#[test]
fn gradients_match_directional_differences() {
    let path = &exact_path();
    for config in configs() {
        let (model, at) = (model(&config, path), describe(&config, path));
        let patches = train_everything(&model).and(hang_on_everything(&model)).unwrap();
        let all = [(3, tokens(5, 8)), (4, tokens(35, 8))];
        let sequences: Vec<(u64, &[u32])> = all.iter().map(|(example, ids)| (*example, ids.as_slice())).collect();
        let gradients = pass(&model, &patches, &sequences, 40.0).gradients;
        for (tensor, (name, gradient)) in patches.tensors().iter().zip(gradients) {
            let start = tensor.buffer.tensor();
            let direction = noise(&format!("{name}, direction"), start.shape(), 1.0).to_f64_vec();
            let loss_at = |step: f64| {
                let moved = start.to_f64_vec().iter().zip(&direction).map(|(x, d)| x + step * d).collect();
                tensor.buffer.set(Tensor::from_vec::<f64>(moved, start.shape()).unwrap()).unwrap();
                pass(&model, &patches, &sequences, 40.0).loss
            };
            let step = 1e-5;
            let numeric = (loss_at(step) - loss_at(-step)) / (2.0 * step);
            tensor.buffer.set(start.clone()).unwrap();
            let gradient = gradient.unwrap_or_else(|| panic!("{at}: {name} has no gradient")).to_f64_vec();
            let analytic: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            assert!(size > 0.0, "{at}: the gradient of {name} is zero");
            let error = (analytic - numeric).abs() / (size + 1e-3);
            assert!(error < 1e-6, "{at}, {name}: gradient {analytic}, difference {numeric}, error {error:e}");
        }
    }
}

/// The loss on the suffixes alone and its gradients.
fn suffix_pass(model: &Mamba, patches: &Patches, prefix: &[u32], suffixes: &[Vec<u32>], shared: bool) -> Vec<Vec<f64>> {
    let tape = Tape::new(model.device());
    // Evaluation's masks: a shared prefix is run as one example, so with dropout it is another computation.
    let bound = Bound::new(&tape, model, patches, None::<DropoutStep>).unwrap();
    let targets: Vec<u32> = suffixes.iter().flat_map(|s| s.iter().rev().copied()).collect();
    let (hidden, batch, rows) = if shared {
        let once = Batch::new(&[prefix]).unwrap();
        let states = model.forward(&tape, &bound, &once, None, true).unwrap().states.unwrap();
        let states = states.shared_by(suffixes.len()).unwrap();
        let batch = Batch::new(suffixes).unwrap();
        let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
        (model.forward(&tape, &bound, &batch, Some(&states), false).unwrap().hidden, batch, rows)
    } else {
        let whole: Vec<Vec<u32>> = suffixes.iter().map(|suffix| [prefix, suffix].concat()).collect();
        let batch = Batch::new(&whole).unwrap();
        let starts = batch.offsets().iter().map(|&start| start + prefix.len());
        let rows = starts.zip(suffixes).flat_map(|(start, s)| start as u32..(start + s.len()) as u32).collect();
        (model.forward(&tape, &bound, &batch, None, false).unwrap().hidden, batch, rows)
    };
    let output = model.loss(&tape, &bound, &batch, &hidden, &rows, &targets, targets.len() as f64).unwrap();
    let mut results = vec![output.row_losses().unwrap()];
    let gradients = bound.gradients(&mut tape.backward(&output.loss).unwrap());
    results.extend(gradients.into_iter().map(|g| g.expect("everything takes part").to_f64_vec()));
    results
}

#[test]
fn a_prefix_run_once_is_every_sequence_whole() {
    every_model(|model, path, at| {
        let patches = train_everything(model).and(hang_on_everything(model)).unwrap();
        let suffixes = [tokens(1, 9), tokens(40, 9), tokens(3, 9)];
        for prefix in [1, 2, 36] {
            let prefix = tokens(prefix, 10);
            let shared = suffix_pass(model, &patches, &prefix, &suffixes, true);
            let whole = suffix_pass(model, &patches, &prefix, &suffixes, false);
            let names = std::iter::once("losses").chain(patches.tensors().iter().map(|t| t.name.as_str()));
            for ((found, expected), name) in shared.iter().zip(&whole).zip(names) {
                close(&format!("{at}, prefix of {}, {name}", prefix.len()), found, expected, path.tolerance);
            }
        }
    });
}
