//! A sequence that goes through the model by chunks has the loss and the gradients of one pass, for every entry of METHODS
//! with each of its examples, dropout included.

mod support;

use statetune_datasets_eval::{Dataset, PackingPlan};
use statetune_mamba_model::{Batch, DropoutStep};
use statetune_tensor::Tensor;
use statetune_trainer::data::micro_batch;
use statetune_trainer::step::{MicroBatch, gradients, gradients_by_chunks};
use statetune_trainer::{Run, Silent, TrainSettings, evaluate};

use support::{LENGTHS, VOCAB, bytes, close, for_every_method, generation, must_move, settings, tokens};

const DROPOUT: Option<DropoutStep> = Some(DropoutStep { seed: 4, step: 2 });

/// All examples as one step of one micro-batch.
fn step(data: &Dataset, share_prefix: bool) -> Vec<MicroBatch> {
    let plan = PackingPlan::new(data.lengths(), data.examples.len(), 100_000, 5).unwrap();
    plan.step(0, 0).iter().map(|indices| micro_batch(data, indices, share_prefix).unwrap()).collect()
}

fn values(gradient: &Option<Tensor>) -> Vec<f64> {
    gradient.as_ref().map_or(Vec::new(), Tensor::to_f64_vec)
}

/// Holds a step by chunks of several lengths against the same step in one pass, for every method.
fn chunked_is_whole(micro_batches: &[MicroBatch], chunk_lengths: &[usize], dropout: Option<DropoutStep>) {
    for_every_method(|name, path, model, case| {
        let case = if dropout.is_some() { case.clone() } else { case.without_dropout() };
        let adapter = case.random_adapter(model);
        let whole = gradients(model, adapter.patches(), micro_batches, dropout).unwrap();
        for &chunk in chunk_lengths {
            let name = format!("{name}, chunks of {chunk}");
            let found = gradients_by_chunks(model, adapter.patches(), micro_batches, dropout, chunk).unwrap();
            assert_eq!(whole.labelled, found.labelled, "{name}");
            close(&format!("{name}, loss"), &[whole.loss], &[found.loss], 1.0, path.tolerance);
            for ((spec, whole), found) in adapter.specs().iter().zip(&whole.gradients).zip(&found.gradients) {
                let (whole, found) = (values(whole), values(found));
                assert!(!must_move(spec) || found.iter().any(|&g| g != 0.0), "{name}: `{}` has no gradient", spec.name);
                close(&format!("{name}, `{}`", spec.name), &whole, &found, 1e-3, path.tolerance);
            }
        }
    });
}

/// The chunks' borders lie inside and at the scan's own of 32, inside the convolution's width, and beside labelled rows; some
/// sequences are shorter than a chunk and stay together.
#[test]
fn by_chunks_is_one_pass() {
    chunked_is_whole(&step(&generation(0, &LENGTHS, VOCAB), false), &[17, 32], DROPOUT);
    chunked_is_whole(&step(&generation(0, &[1, 3, 19], VOCAB), false), &[1, 3], DROPOUT);
}

/// A prefix that sequences share is part of each that is longer with it than a chunk.
#[test]
fn by_chunks_behind_a_shared_prefix_is_one_pass() {
    let shared = step(&generation(20, &[1, 3, 17, 40], VOCAB), true);
    assert!(shared.iter().all(|micro| micro.prefix.is_some()));
    chunked_is_whole(&shared, &[13, 30], None);
}

/// Chunks without a labelled row, at the beginning, between and behind the last.
#[test]
fn chunks_without_a_label_carry_the_gradient_through() {
    let ids = tokens(61, 3, VOCAB);
    let batch = Batch::packed(ids, vec![0, 61], &[9], &[0]).unwrap();
    let micro = MicroBatch { prefix: None, batch, rows: vec![21, 40, 41], targets: vec![3, 8, 5] };
    chunked_is_whole(&[micro], &[7, 20, 41], DROPOUT);
}

#[test]
fn a_chunk_that_is_long_enough_changes_nothing() {
    let micro_batches = step(&generation(0, &LENGTHS, VOCAB), false);
    for_every_method(|name, _, model, case| {
        let adapter = case.random_adapter(model);
        let whole = gradients(model, adapter.patches(), &micro_batches, DROPOUT).unwrap();
        for chunk in [0, 70, 1000] {
            let found = gradients_by_chunks(model, adapter.patches(), &micro_batches, DROPOUT, chunk).unwrap();
            assert_eq!(whole.loss.to_bits(), found.loss.to_bits(), "{name}, chunks of {chunk}");
            for (whole, found) in whole.gradients.iter().zip(&found.gradients) {
                assert!(values(whole) == values(found), "{name}, chunks of {chunk}: other bits");
            }
        }
    });
}

#[test]
fn a_run_by_chunks_ends_where_a_run_in_one_pass_does() {
    let data = generation(0, &[50, 70, 90], VOCAB);
    let mut other_bits = 0;
    for_every_method(|name, path, model, case| {
        if path.tolerance > 1e-6 {
            return;
        }
        let train = |chunk_tokens| {
            let settings = TrainSettings { chunk_tokens, ..settings(if case.selects() { 4 } else { 2 }) };
            let run = Run {
                model,
                base_model: "base",
                train: &data,
                validation: None,
                settings: &settings,
                folder: None,
                keeps_adapters: true,
            };
            bytes(&run.train(case.random_adapter(model), false, &mut Silent).unwrap().adapter)
        };
        let (whole, chunked) = (train(0), train(20));
        let numbers = |bytes: &[u8]| -> Vec<f64> {
            bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        for ((tensor, whole), (_, chunked)) in whole.iter().zip(&chunked) {
            close(&format!("{name}, `{tensor}`"), &numbers(whole), &numbers(chunked), 1.0, 1e-6);
        }
        other_bits += usize::from(whole != chunked);
    });
    // Sums in another order: the setting does arrive at the steps.
    assert!(other_bits > 20, "{other_bits} methods with other bits");
}

/// What an evaluation cuts at: sequences of up to 8192 tokens are whole.
#[test]
fn an_evaluation_by_chunks_has_the_loss_of_one_pass() {
    let path = support::paths().remove(0);
    let model = path.model(&support::config(true), 2);
    let mut data = generation(0, &[20_000, 40], VOCAB);
    // The first chunk has no label.
    data.examples[0].labelled_from = 8500;
    let adapter = support::cases().iter().find(|case| case.info.tag == "initial-state").unwrap().random_adapter(&model);
    let micro_batches = step(&data, false);
    let whole = gradients(&model, adapter.patches(), &micro_batches, None).unwrap();
    for micro_batch_tokens in [100, 9000] {
        let found = evaluate(&model, adapter.patches(), &data, micro_batch_tokens, true, |_, _| {}).unwrap();
        assert_eq!(found.labelled, whole.labelled);
        close("loss", &[whole.loss], &[found.loss], 1.0, path.tolerance);
    }
}
