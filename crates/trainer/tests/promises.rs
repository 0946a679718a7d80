//! The promises of training, for every entry of METHODS with each of its examples: accumulated = the big batch, a shared
//! prefix = none, any number of threads = the same bits, only declared tensors move. What ends a run is in `run.rs`.

mod support;

use statetune_datasets_eval::{Dataset, PackingPlan};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{DropoutStep, Mamba};
use statetune_peft_methods::{Adapter, methods};
use statetune_tensor::Tensor;
use statetune_trainer::data::micro_batch;
use statetune_trainer::step::{MicroBatch, StepGradients, gradients};
use statetune_trainer::{Run, Silent, Summary, TrainSettings, evaluate};

use support::{
    Case, LENGTHS, VOCAB, bytes, cases, close, for_every_method, generation, must_move, pairs, paths, settings,
};

/// All examples as one step, cut into micro-batches of so many tokens.
fn step(data: &Dataset, micro_batch_tokens: usize, share_prefix: bool) -> Vec<MicroBatch> {
    let plan = PackingPlan::new(data.lengths(), data.examples.len(), micro_batch_tokens, 5).unwrap();
    plan.step(0, 0).iter().map(|indices| micro_batch(data, indices, share_prefix).unwrap()).collect()
}

fn values(gradient: &Option<Tensor>) -> Vec<f64> {
    gradient.as_ref().map_or(Vec::new(), Tensor::to_f64_vec)
}

/// Losses and gradients are the same, each tensor relative to its largest gradient.
#[track_caller]
fn same_gradients(name: &str, adapter: &Adapter, a: &StepGradients, b: &StepGradients, tolerance: f64) {
    assert_eq!(a.labelled, b.labelled, "{name}: labelled tokens");
    close(&format!("{name}, loss"), &[a.loss], &[b.loss], 1.0, tolerance);
    for ((spec, a), b) in adapter.specs().iter().zip(&a.gradients).zip(&b.gradients) {
        let (a, b) = (values(a), values(b));
        assert!(spec.trained || a.is_empty() && b.is_empty(), "{name}: the constant `{}` has a gradient", spec.name);
        assert!(!must_move(spec) || a.iter().any(|&g| g != 0.0), "{name}: `{}` has no gradient", spec.name);
        close(&format!("{name}, `{}`", spec.name), &a, &b, 1e-3, tolerance);
    }
}

/// Dropout is on where the method has it.
#[test]
fn accumulated_is_the_big_batch() {
    let data = generation(0, &LENGTHS, VOCAB);
    let whole = step(&data, 100_000, false);
    assert_eq!(whole.len(), 1);
    for_every_method(|name, path, model, case| {
        let adapter = case.random_adapter(model);
        let of = |micro_batches: &[MicroBatch]| {
            let dropout = DropoutStep { seed: 4, step: 2 };
            gradients(model, adapter.patches(), micro_batches, Some(dropout)).unwrap()
        };
        let expected = of(&whole);
        for micro_batch_tokens in [1, 45] {
            let parts = step(&data, micro_batch_tokens, false);
            let labelled: Vec<usize> = parts.iter().map(|part| part.rows.len()).collect();
            assert!(labelled.len() > 2 && labelled.iter().any(|&n| n != labelled[0]), "{labelled:?}");
            let name = format!("{name}, micro-batches of {micro_batch_tokens}");
            same_gradients(&name, &adapter, &expected, &of(&parts), path.tolerance);
        }
    });
}

/// The mask of a token is that of its example and position: a step seen twice draws it twice, another step another.
#[test]
fn dropout_is_drawn_anew_in_each_step_and_from_each_seed() {
    let data = generation(0, &LENGTHS, VOCAB);
    let micro_batches = step(&data, 100_000, false);
    let mut tried = 0;
    for_every_method(|name, _, model, case| {
        let adapter = case.random_adapter(model);
        if !adapter.patches().has_dropout() {
            return;
        }
        tried += 1;
        let loss = |dropout| gradients(model, adapter.patches(), &micro_batches, dropout).unwrap().loss;
        let at = |seed, step| loss(Some(DropoutStep { seed, step }));
        assert_eq!(at(4, 2), at(4, 2), "{name}");
        let different = [loss(None), at(4, 2), at(4, 3), at(5, 2)];
        for (i, a) in different.iter().enumerate() {
            assert!(different[..i].iter().all(|b| a != b), "{name}: {different:?}");
        }
    });
    assert!(tried > 0, "no method has an example with dropout");
}

#[test]
fn a_shared_prefix_is_none() {
    for prefix in [1, 3, 17, 70] {
        let data = generation(prefix, &[1, 3, 17, 40], VOCAB);
        // Room for all sequences; once, for two of them at least and not for all.
        let budgets = [100_000, 2 * prefix + 60];
        for micro_batch_tokens in budgets.into_iter().take(if prefix == 17 { 2 } else { 1 }) {
            let apart = step(&data, micro_batch_tokens, false);
            let shared = step(&data, micro_batch_tokens, true);
            let tokens = |micro_batches: &[MicroBatch]| micro_batches.iter().map(MicroBatch::tokens).sum::<usize>();
            assert!(apart.iter().all(|micro| micro.prefix.is_none()) && tokens(&shared) < tokens(&apart));
            assert_eq!(apart.len() > 1, micro_batch_tokens < 100_000);
            for_every_method(|name, path, model, case| {
                let adapter = case.without_dropout().random_adapter(model);
                assert!(!adapter.patches().has_dropout(), "{name}: its dropout is not an option called `dropout`");
                let of = |micro_batches: &[MicroBatch]| {
                    let dropout = DropoutStep { seed: 4, step: 2 };
                    gradients(model, adapter.patches(), micro_batches, Some(dropout)).unwrap()
                };
                let name = format!("{name}, prefix of {prefix}, micro-batches of {micro_batch_tokens}");
                same_gradients(&name, &adapter, &of(&apart), &of(&shared), path.tolerance);
            });
        }
    }
}

/// In an evaluation there is no dropout: a prefix is shared whatever the method has in training.
#[test]
fn an_evaluation_does_not_depend_on_how_it_is_packed() {
    let data = generation(9, &LENGTHS, VOCAB);
    for_every_method(|name, path, model, case| {
        let adapter = case.random_adapter(model);
        let loss = |micro_batch_tokens, share_prefix| {
            evaluate(model, adapter.patches(), &data, micro_batch_tokens, share_prefix, |_, _| {}).unwrap().loss
        };
        let expected = loss(1, false);
        for (micro_batch_tokens, share_prefix) in [(100_000, false), (100_000, true), (90, true)] {
            let found = loss(micro_batch_tokens, share_prefix);
            close(name, &[expected], &[found], 1.0, path.tolerance);
        }
    });
}

fn train(model: &Mamba, adapter: Adapter, data: &Dataset, settings: &TrainSettings) -> Summary {
    let run =
        Run { model, base_model: "base", train: data, validation: None, settings, folder: None, keeps_adapters: true };
    run.train(adapter, false, &mut Silent).unwrap()
}

/// Few steps, but no fewer than a warm-up has.
fn steps(case: &Case) -> u64 {
    if case.selects() { 4 } else { 2 }
}

/// A prefix is not shared in training where dropout is on: it would be dropped once for all sequences.
#[test]
fn dropout_turns_sharing_off() {
    let data = generation(17, &[1, 3, 17, 40], VOCAB);
    for_every_method(|name, _, model, case| {
        let trained = |share_prefix| {
            let adapter = case.random_adapter(model);
            let dropout = adapter.patches().has_dropout();
            let settings = TrainSettings { share_prefix, micro_batch_tokens: 200, ..settings(steps(case)) };
            let summary = train(model, adapter, &data, &settings);
            (dropout, summary.tokens, bytes(&summary.adapter))
        };
        let ((dropout, whole, expected), (_, shared, found)) = (trained(false), trained(true));
        assert_eq!(dropout, whole == shared, "{name}: {shared} of {whole} tokens");
        assert!(!dropout || expected == found, "{name}: the run with `share_prefix` has other bits");
    });
}

/// Wide enough, and with enough tokens, that every kernel has work for several threads.
#[test]
fn one_two_and_seven_threads_give_the_same_bits() {
    let vocab = 131;
    let config = MambaConfig { use_bias: true, ..MambaConfig::new(vocab, 32, 2) };
    let data = generation(0, &[1, 17, 70, 90], vocab);
    let last = paths().len() - 1;
    for (i, path) in paths().into_iter().enumerate() {
        let models = [1, 2, 7].map(|threads| path.model(&config, threads));
        // Every example on the fastest path, the first of each method on the others.
        let mut tried = Vec::new();
        for case in cases().into_iter().chain(pairs()) {
            if i < last && tried.contains(&case.info.tag) && case.beside.is_empty() {
                continue;
            }
            tried.push(case.info.tag);
            let settings = TrainSettings { micro_batch_tokens: 100, ..settings(steps(&case)) };
            let [one, two, seven] = models.each_ref().map(|model| {
                bytes(&train(model, case.random_adapter(model), &data, &settings).adapter) //
            });
            for (threads, found) in [(2, two), (7, seven)] {
                for ((tensor, expected), (_, found)) in one.iter().zip(&found) {
                    let name = format!("{} on {}, {threads} threads", case.name(), path.label);
                    assert!(expected == found, "{name}: `{tensor}` has other bits than with one");
                }
            }
        }
    }
}

#[test]
fn every_declared_tensor_moves_and_no_other() {
    let data = generation(0, &LENGTHS, VOCAB);
    let mut constants = 0;
    for_every_method(|name, _, model, case| {
        let stored = |model: &Mamba| -> Vec<Vec<u8>> {
            model.parameters().iter().map(|parameter| parameter.value.to_le_bytes()).collect()
        };
        let before = stored(model);
        // From its own start, zeros included: that is what a run begins with.
        let fresh = case.adapter(model);
        let (config, mut start) = (fresh.config(), bytes(&fresh));
        let trained = train(model, fresh, &data, &settings(4)).adapter;
        assert!(before == stored(model), "{name}: the base model has changed");
        assert_eq!(case.selects(), config != trained.config(), "{name}: what is trained has changed");
        if case.selects() {
            let again = trained.config().into_iter().map(|config| methods::parse_value(config).unwrap());
            start = bytes(&Adapter::new(model, again.collect(), 3).unwrap());
        }
        let declared: Vec<&str> = trained.specs().iter().map(|spec| spec.name.as_str()).collect();
        let found: Vec<&str> = trained.patches().tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        assert_eq!(declared, found, "{name}");
        for ((spec, (_, before)), (_, after)) in trained.specs().iter().zip(&start).zip(bytes(&trained)) {
            let moved = *before != after;
            assert!(moved || !must_move(spec), "{name}: `{}` has not moved", spec.name);
            assert!(!moved || spec.trained, "{name}: the constant `{}` has moved", spec.name);
            constants += usize::from(!spec.trained);
        }
    });
    assert!(constants > 0, "no method has a constant to hold still");
}
