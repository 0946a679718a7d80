//! Gradients with dropout on, where the method has it: packed = alone, and against differences in `f64`.

use statetune_mamba_model::{Batch, Bound, DropoutStep, Held};
use statetune_ssm_kernels::random::{normal, stream_of};
use statetune_tensor::{Tape, Tensor};

use crate::support::{LENGTHS, close, entries, exact, for_every_method, pairs, sequence};

const DROPOUT: Option<DropoutStep> = Some(DropoutStep { seed: 4, step: 2 });

/// Of the packed batch, and as the sum of the sequences alone. Every trained tensor has one, no constant does.
#[test]
fn packed_gradients_are_alone_gradients() {
    for_every_method(|name, ground, _, adapter| {
        let model = &ground.model;
        let sequences: Vec<Vec<u32>> = LENGTHS[1..].iter().enumerate().map(|(s, &l)| sequence(l, s)).collect();
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let gradient = |members: &[usize]| -> Vec<Vec<f64>> {
            let tape = Tape::new(model.device());
            let bound = Bound::new(&tape, model, adapter.patches(), DROPOUT).unwrap();
            let ids: Vec<u32> = members.iter().flat_map(|&s| sequences[s].clone()).collect();
            let mut offsets = vec![0];
            members.iter().for_each(|&s| offsets.push(offsets.last().unwrap() + sequences[s].len()));
            let examples: Vec<u64> = members.iter().map(|&s| s as u64 + 100).collect();
            let batch = Batch::packed(ids.clone(), offsets, &examples, &vec![0; members.len()]).unwrap();
            let hidden = model.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
            let rows: Vec<u32> = (0..ids.len() as u32).collect();
            let loss = model.loss(&tape, &bound, &batch, &hidden, &rows, &ids, tokens as f64).unwrap().loss;
            let gradients = bound.gradients(&mut tape.backward(&loss).unwrap());
            gradients.iter().map(|g| g.as_ref().map_or(Vec::new(), Tensor::to_f64_vec)).collect()
        };
        let packed = gradient(&[0, 1, 2]);
        let alone: Vec<_> = (0..3).map(|s| gradient(&[s])).collect();
        for (i, spec) in adapter.specs().iter().enumerate() {
            if !spec.trained {
                assert!(packed[i].is_empty(), "{name}: the constant `{}` has a gradient", spec.name);
                continue;
            }
            let zero = packed[i].iter().all(|&g| g == 0.0);
            assert!(!zero || spec.may_stay.is_some(), "{name}: `{}` has no gradient", spec.name);
            let sum: Vec<f64> = (0..packed[i].len()).map(|j| alone.iter().map(|g| g[i][j]).sum()).collect();
            let scale = sum.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
            let scaled = |g: &[f64]| g.iter().map(|g| g / scale).collect::<Vec<_>>();
            close(&format!("{name} `{}`", spec.name), &scaled(&sum), &scaled(&packed[i]), ground.tolerance);
        }
    });
}

/// The directional derivative along a random direction of all trained tensors.
#[test]
fn gradients_match_differences() {
    for ground in [exact(true, true), exact(false, false)] {
        let model = &ground.model;
        for subject in entries().into_iter().chain(pairs()) {
            let adapter = subject.random(model);
            let ids = sequence(37, 2);
            let batch = Batch::new(&[&ids]).unwrap();
            let rows: Vec<u32> = (0..ids.len() as u32).collect();
            let loss = |tape: &Tape, held: Option<&Held>| {
                let bound = Bound::holding(tape, model, adapter.patches(), DROPOUT, held).unwrap();
                let hidden = model.forward(tape, &bound, &batch, None, false).unwrap().hidden;
                (model.loss(tape, &bound, &batch, &hidden, &rows, &ids, 1.0).unwrap().loss, bound)
            };
            let tape = Tape::new(model.device());
            let (value, bound) = loss(&tape, None);
            // What the backward holds constant, the difference holds too.
            let held = bound.held().clone();
            let gradients = bound.gradients(&mut tape.backward(&value).unwrap());
            drop(bound);
            let mut analytic = 0.0;
            let mut moves = Vec::new();
            for (tensor, gradient) in adapter.patches().tensors().iter().zip(&gradients).filter(|(t, _)| t.trained) {
                let mut direction = vec![0f64; tensor.buffer.tensor().len()];
                normal(&mut direction, 0.0, 1.0, 5, stream_of(&tensor.name));
                let gradient = gradient.as_ref().expect("a gradient").to_f64_vec();
                analytic += gradient.iter().zip(&direction).map(|(g, d)| g * d).sum::<f64>();
                moves.push((tensor, tensor.buffer.tensor(), direction));
            }
            let at = |step: f64| {
                for (tensor, start, direction) in &moves {
                    let moved: Vec<f64> = start.to_f64_vec().iter().zip(direction).map(|(x, d)| x + step * d).collect();
                    tensor.buffer.set(Tensor::from_vec(moved, start.shape()).unwrap()).unwrap();
                }
                loss(&Tape::inference(model.device()), Some(&held)).0.tensor().item().unwrap()
            };
            // Of fourth order: RMS norms of small embeddings are curved.
            let h = 2e-5;
            let numeric = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
            let error = (analytic - numeric).abs() / numeric.abs().max(1.0);
            let name = format!("{} on {}", subject.name, ground.label);
            assert!(error < 1e-6, "{name}: gradient {analytic}, difference {numeric}");
        }
    }
}

/// The check itself: DoRA's norms depend on what is trained, so a difference that does not hold them is another number.
#[test]
fn a_difference_that_holds_nothing_is_not_the_gradient_of_dora() {
    let ground = exact(true, true);
    let model = &ground.model;
    let subject = crate::support::Subject::new(vec![serde_json::json!({"method": "dora", "rank": 2})]);
    let adapter = subject.random(model);
    let (ids, b) = (sequence(9, 2), &adapter.patches().tensors()[1].buffer);
    let loss = |held: Option<&Held>| {
        let (batch, rows) = (Batch::new(&[&ids]).unwrap(), (0..9).collect::<Vec<u32>>());
        let tape = Tape::inference(model.device());
        let bound = Bound::holding(&tape, model, adapter.patches(), None, held).unwrap();
        let hidden = model.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
        let loss = model.loss(&tape, &bound, &batch, &hidden, &rows, &ids, 1.0).unwrap().loss;
        (loss.tensor().item().unwrap(), bound.held().clone())
    };
    let (_, held) = loss(None);
    let moved: Vec<f64> = b.tensor().to_f64_vec().iter().map(|x| x + 0.01).collect();
    b.set(Tensor::from_vec(moved, &b.shape()).unwrap()).unwrap();
    assert!((loss(None).0 - loss(Some(&held)).0).abs() > 1e-6, "holding the norms makes no difference");
}
