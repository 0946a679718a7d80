//! What ends a run, what it keeps, and what it refuses: numbers that are not finite, patches without an effect, weight
//! decay, early stop, the best adapter. The promises of every step are in `promises.rs`.

mod support;

use std::path::Path;

use statetune_datasets_eval::{Counts, Dataset};
use statetune_mamba_model::{Mamba, ModelError};
use statetune_peft_methods::{Adapter, METHODS, MethodInfo, methods};
use statetune_tensor::{Buffer, DType, Tensor};
use statetune_trainer::checkpoint::{self, Progress};
use statetune_trainer::record::{self, Record};
use statetune_trainer::schedule::ScheduleKind;
use statetune_trainer::{
    AdamW, AdamWSettings, Evaluation, Run, RunFolder, Silent, Summary, TrainError, TrainSettings, evaluate,
};

use support::{
    ComputePath, LENGTHS, VOCAB, Watcher, bytes, cases, classification, config, fill, for_every_method, generation,
    must_move, pairs, paths, randomise, settings,
};

/// A run under test: what it trains on, and where it writes.
struct Trial<'a> {
    model: &'a Mamba,
    train: &'a Dataset,
    validation: Option<&'a Dataset>,
    folder: Option<&'a Path>,
}

impl<'a> Trial<'a> {
    fn new(model: &'a Mamba, train: &'a Dataset) -> Trial<'a> {
        Trial { model, train, validation: None, folder: None }
    }

    fn watch(
        &self,
        adapter: Adapter,
        settings: &TrainSettings,
        resume: bool,
        watcher: &mut Watcher<'_>,
    ) -> Result<Summary, TrainError> {
        let Trial { model, train, validation, folder } = *self;
        Run { model, base_model: "base", train, validation, settings, folder, keeps_adapters: true }
            .train(adapter, resume, watcher)
    }

    fn run(&self, adapter: Adapter, settings: &TrainSettings) -> Result<Summary, TrainError> {
        self.watch(adapter, settings, false, &mut Watcher::default())
    }

    fn resume(&self, adapter: Adapter, settings: &TrainSettings) -> Result<Summary, TrainError> {
        self.watch(adapter, settings, true, &mut Watcher::default())
    }
}

/// The fastest path of this processor.
fn fast() -> ComputePath {
    paths().pop().unwrap()
}

/// Every level in `f32`.
fn single_precision() -> impl Iterator<Item = ComputePath> {
    paths().into_iter().filter(|path| path.compute == DType::F32)
}

fn adapter(info: &MethodInfo, model: &Mamba) -> Adapter {
    Adapter::new(model, vec![(info.parse)(serde_json::json!({})).unwrap()], 3).unwrap()
}

fn state_offset_h(model: &Mamba) -> Adapter {
    let adapter = adapter(&methods::state_offset_h::INFO, model);
    randomise(&adapter);
    adapter
}

fn full(model: &Mamba) -> Adapter {
    adapter(&methods::full::INFO, model)
}

/// Why a run failed; without what the run would have returned in the message.
#[track_caller]
fn failure(name: &str, result: Result<Summary, TrainError>) -> TrainError {
    match result {
        Ok(summary) => panic!("{name}: ended well after {} steps", summary.steps),
        Err(error) => error,
    }
}

fn skipped(records: &[Record]) -> Vec<(u64, &str)> {
    let skipped = records.iter().filter_map(|record| match record {
        Record::Skipped { step, reason } => Some((*step, reason.as_str())),
        _ => None,
    });
    skipped.collect()
}

fn evaluations(records: &[Record]) -> Vec<(u64, &Evaluation)> {
    let evaluations = records.iter().filter_map(|record| match record {
        Record::Evaluation { step, evaluation } => Some((*step, evaluation)),
        _ => None,
    });
    evaluations.collect()
}

fn steps_kept(folder: &Path) -> Vec<u64> {
    let kept = checkpoint::list(&RunFolder::checkpoints(folder)).unwrap();
    kept.into_iter().map(|(step, _)| step).collect()
}

/// The newest checkpoint of a run.
fn newest(folder: &Path, model: &Mamba) -> (Adapter, AdamW, Progress) {
    let (_, path) = checkpoint::list(&RunFolder::checkpoints(folder)).unwrap().pop().expect("a checkpoint");
    checkpoint::load(&path, model, |adapter| AdamW::new(adapter, AdamWSettings::default())).unwrap()
}

#[test]
fn ten_steps_in_a_row_that_are_not_finite_end_a_run() {
    let data = generation(0, &LENGTHS, VOCAB);
    for_every_method(|name, _, model, case| {
        let poison = if model.config().tie_word_embeddings { f64::NAN } else { f64::INFINITY };
        let adapter = case.random_adapter(model);
        for spec in adapter.specs() {
            fill(&adapter, &spec.name, poison);
        }
        let (before, handles) = (bytes(&adapter), handles(&adapter));
        let mut watcher = Watcher::default();
        let error = failure(name, Trial::new(model, &data).watch(adapter, &settings(40), false, &mut watcher));
        if case.selects() {
            // A warm-up that ends before chooses nothing.
            let told = error.to_string();
            return assert!(told.contains("no step of the warm-up had a finite gradient"), "{name}: {told}");
        }
        let TrainError::NonFinite { step: 10, count: 10, what } = &error else { panic!("{name}: {error}") };
        assert!(what.contains("the loss is"), "{name}: {what}");
        let steps: Vec<u64> = skipped(&watcher.records).iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, (1..=10).collect::<Vec<_>>(), "{name}");
        // A skipped step changes nothing.
        for ((tensor, before), handle) in before.iter().zip(&handles) {
            assert!(*before == handle.tensor().to_le_bytes(), "{name}: `{tensor}` has changed");
        }
    });
}

fn handles(adapter: &Adapter) -> Vec<Buffer> {
    adapter.patches().tensors().iter().map(|tensor| tensor.buffer.clone()).collect()
}

/// exp(100) is infinite in `f32`: with A = -inf the state is forgotten at once. The loss is finite; 0 · inf is in the
/// gradients of this layer and of those before it, of which the first is named.
#[test]
fn a_gradient_that_is_not_finite_is_named_by_its_tensor_and_element() {
    let data = generation(0, &LENGTHS, VOCAB);
    for path in single_precision() {
        let model = path.model(&config(true), 2);
        let adapter = full(&model);
        let a_log = adapter.patches().tensor("backbone.layers.0.mixer.A_log").unwrap();
        a_log.update::<f32, _>(|values| values[7] = 100.0).unwrap();
        let mut watcher = Watcher::default();
        let result = Trial::new(&model, &data).watch(adapter, &settings(40), false, &mut watcher);
        let error = failure("an infinite A", result).to_string();
        let expected = "the gradient of `backbone.embeddings.weight` is not finite at element 0";
        assert!(error.contains(expected) && error.contains("10th step in a row"), "{error}");
        assert!(error.contains("Lower the learning rate"), "what to do: {error}");
    }
}

/// Poisons a tensor after some steps, heals it after others.
fn poison<'a>(buffer: &Buffer, poisoned_after: &'a [u64], healed_after: &'a [u64]) -> Box<dyn FnMut(u64) + 'a> {
    let (buffer, mut healthy) = (buffer.clone(), None);
    Box::new(move |done| {
        if poisoned_after.contains(&done) {
            let value = buffer.tensor();
            let nan = Tensor::from_vec(vec![f32::NAN; value.len()], value.shape()).unwrap();
            buffer.set(nan).unwrap();
            healthy = Some(value);
        } else if healed_after.contains(&done) {
            buffer.set(healthy.take().expect("a poisoned tensor")).unwrap();
        }
    })
}

#[test]
fn nine_steps_in_a_row_are_skipped_and_the_count_starts_anew() {
    let data = generation(0, &LENGTHS, VOCAB);
    let model = fast().model(&config(true), 2);
    let trial = Trial::new(&model, &data);
    let adapter = state_offset_h(&model);
    let buffer = adapter.patches().tensors()[0].buffer.clone();
    let mut watcher = Watcher { after_step: Some(poison(&buffer, &[2, 13], &[11, 22])), ..Watcher::default() };
    let summary = trial.watch(adapter, &settings(30), false, &mut watcher).unwrap();
    let steps: Vec<u64> = skipped(&watcher.records).iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (3..=11).chain(14..=22).collect::<Vec<_>>());
    assert_eq!((summary.steps, summary.skipped_steps), (30, 18));
    assert!(values(&summary.adapter).concat().iter().all(|x| x.is_finite()));
    // The rate depends on the step, not on the updates made.
    let rate = |wanted: u64| {
        watcher.records.iter().find_map(|record| match record {
            Record::Step(record) if record.step == wanted => Some(record.learning_rate),
            _ => None,
        })
    };
    // Linear from step 1 to 30, of which the last begins after 29.
    let expected = 1e-2 * (1.0 - 28.0 / 29.0);
    assert!(rate(30).is_some_and(|rate| (rate - expected).abs() < 1e-12), "{:?}", rate(30));
}

/// The checkpoints of a run that ended by numbers that are not finite are those from before.
#[test]
fn the_last_good_checkpoint_survives() {
    let data = generation(0, &LENGTHS, VOCAB);
    let model = fast().model(&config(true), 2);
    for keep_checkpoints in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let trial = Trial { folder: Some(folder.path()), ..Trial::new(&model, &data) };
        let adapter = state_offset_h(&model);
        let buffer = adapter.patches().tensors()[0].buffer.clone();
        let settings = TrainSettings { save_every: 2, keep_checkpoints, ..settings(20) };
        let expected = trial_of(&trial, None).run(state_offset_h(&model), &settings).unwrap();

        let mut watcher = Watcher { after_step: Some(poison(&buffer, &[5], &[])), ..Watcher::default() };
        let error = failure("poisoned", trial.watch(adapter, &settings, false, &mut watcher));
        assert!(matches!(error, TrainError::NonFinite { step: 15, count: 10, .. }), "{error}");
        let kept: &[u64] = if keep_checkpoints == 1 { &[4] } else { &[2, 4] };
        assert_eq!(steps_kept(folder.path()), kept);
        assert_eq!(newest(folder.path(), &model).2.step, 4);
        // Without what poisoned it the run goes on from there as if nothing had been.
        let resumed = trial.resume(state_offset_h(&model), &settings).unwrap();
        assert!(bytes(&resumed.adapter) == bytes(&expected.adapter));
        assert_eq!(skipped_lines(folder.path()), 0, "the log tells of steps that were not made");
    }
}

fn trial_of<'a>(trial: &Trial<'a>, folder: Option<&'a Path>) -> Trial<'a> {
    Trial { folder, ..*trial }
}

fn skipped_lines(folder: &Path) -> usize {
    record::read(folder).unwrap().iter().filter(|line| line["kind"] == "skipped").count()
}

/// The norms hide a huge offset from the loss; full training ends in numbers that are not finite.
#[test]
fn a_huge_learning_rate_ends_a_run_and_spares_the_checkpoint_before() {
    let data = generation(0, &LENGTHS, VOCAB);
    for path in single_precision() {
        let model = path.model(&config(true), 2);
        let folder = tempfile::tempdir().unwrap();
        let trial = Trial { folder: Some(folder.path()), ..Trial::new(&model, &data) };
        let good = trial.run(full(&model), &settings(3)).unwrap();
        let huge = TrainSettings { learning_rate: 1e30, schedule: ScheduleKind::Constant, ..settings(100) };
        let error = failure("huge rate", trial.resume(full(&model), &huge));
        assert!(matches!(error, TrainError::NonFinite { count: 10, .. }), "{error}");
        assert!(error.to_string().contains("Lower the learning rate"), "{error}");
        let (step, path) = checkpoint::list(&RunFolder::checkpoints(folder.path())).unwrap().remove(0);
        assert_eq!(step, 3, "{:?}", steps_kept(folder.path()));
        let (adapter, ..) = checkpoint::load(&path, &model, |adapter| AdamW::new(adapter, huge.adamw())).unwrap();
        assert!(bytes(&adapter) == bytes(&good.adapter));
    }
}

/// A fault planted in the model: a last norm of zeros lets no gradient through. More in `no_effect.rs`.
#[test]
fn a_patch_without_a_gradient_is_an_error_that_names_it() {
    let data = generation(0, &LENGTHS, VOCAB);
    for path in paths() {
        let model = path.model(&config(false), 2);
        let model = with_zeros(&model, "backbone.norm_f.weight");
        for case in cases().into_iter().chain(pairs()) {
            let adapter = case.random_adapter(&model);
            let site = adapter.patches().patches()[0].site.to_string();
            if adapter.patches().tensor("backbone.norm_f.weight").is_ok() {
                fill(&adapter, "backbone.norm_f.weight", 0.0);
            }
            let error = failure(&case.name(), Trial::new(&model, &data).run(adapter, &settings(4)));
            let TrainError::NoEffect { name, reason } = &error else { panic!("{}: {error}", case.name()) };
            assert_eq!((name, reason.as_str()), (&site, "has a zero gradient at the first step"), "{}", case.name());
            assert!(error.to_string().contains("no effect"), "{error}");
        }
    }
}

fn with_zeros(model: &Mamba, name: &str) -> Mamba {
    let value = &model.parameter(name).unwrap().value;
    let zeros = Tensor::zeros(DType::F32, value.shape());
    model.with_parameters(vec![(name.to_owned(), zeros)]).unwrap()
}

/// Of several patches the one without an effect is named: here a layer's output is cut off.
#[test]
fn one_idle_patch_among_others_is_found() {
    let data = generation(0, &LENGTHS, VOCAB);
    let model = fast().model(&config(true), 2);
    let model = with_zeros(&model, "backbone.layers.1.mixer.out_proj.weight");
    let error = failure("idle", Trial::new(&model, &data).run(state_offset_h(&model), &settings(4))).to_string();
    assert!(error.contains("`backbone.layers.1.mixer.state_offset` has a zero gradient"), "{error}");
}

/// A fault planted in the settings: at such a rate an update rounds to nothing.
#[test]
fn a_tensor_that_has_not_moved_after_three_updates_is_an_error_that_names_it() {
    let data = generation(0, &LENGTHS, VOCAB);
    for_every_method(|name, _, model, case| {
        let idle = TrainSettings { learning_rate: 1e-40, ..settings(8) };
        let mut watcher = Watcher::default();
        let adapter = case.random_adapter(model);
        let first = adapter.specs().iter().find(|spec| must_move(spec)).unwrap().name.clone();
        let error = failure(name, Trial::new(model, &data).watch(adapter, &idle, false, &mut watcher));
        let TrainError::NoEffect { name: tensor, reason } = &error else { panic!("{name}: {error}") };
        assert_eq!((tensor, reason.as_str()), (&first, "has not moved after 3 updates"), "{name}");
        assert_eq!(watcher.records.len(), 2, "{name}: the third step ends it");
    });
}

#[test]
fn weight_decay_is_for_the_tensors_that_declare_it() {
    for_every_method(|name, path, model, case| {
        let adapter = case.random_adapter(model);
        let before: Vec<Vec<f64>> = values(&adapter);
        let zeros = adapter.specs().iter().map(|spec| spec.trained.then(|| Tensor::zeros(path.compute, &spec.shape)));
        let zeros: Vec<Option<Tensor>> = zeros.collect();
        let mut adamw = AdamW::new(&adapter, AdamWSettings { weight_decay: 0.5, ..AdamWSettings::default() });
        adamw.update(model.device(), &adapter, &zeros, 0.1, 1.0).unwrap();
        for ((spec, before), after) in adapter.specs().iter().zip(before).zip(values(&adapter)) {
            // p - lr · decay · p: the gradient is zero, so this is all.
            let factor = if spec.decay { 1.0 - 0.1 * spec.rate * 0.5 } else { 1.0 };
            let exact = before.iter().zip(&after).all(|(b, a)| (b * factor - a).abs() <= 1e-6 * b.abs());
            assert!(exact, "{name}: `{}`, decay {}", spec.name, spec.decay);
            assert!(spec.decay || before == after, "{name}: `{}` has changed", spec.name);
        }
        // The rule itself: matrices only, no state, no A_log, no D, no bias, no norm.
        let idle = |name: &str| ["A_log", ".D", "bias", "norm", "state_offset"].iter().any(|part| name.contains(part));
        for spec in adapter.specs() {
            assert!(!spec.decay || !idle(&spec.name) && spec.shape.len() > 1, "{name}: `{}` decays", spec.name);
        }
    });
}

fn values(adapter: &Adapter) -> Vec<Vec<f64>> {
    adapter.patches().tensors().iter().map(|tensor| tensor.buffer.tensor().to_f64_vec()).collect()
}

/// The same in a run: after one step only decaying tensors know of the decay.
#[test]
fn weight_decay_in_a_run_reaches_the_same_tensors() {
    let data = generation(0, &LENGTHS, VOCAB);
    let mut both = [0, 0];
    for_every_method(|name, _, model, case| {
        if case.selects() {
            return; // it ends with tensors at their zeros, where there is nothing to decay
        }
        let after = |weight_decay| {
            let settings = TrainSettings { weight_decay, ..settings(1) };
            Trial::new(model, &data).run(case.random_adapter(model), &settings).unwrap().adapter
        };
        let (without, with) = (after(0.0), after(0.5));
        for ((spec, (_, without)), (_, with)) in without.specs().iter().zip(bytes(&without)).zip(bytes(&with)) {
            assert_eq!(without != with, spec.decay, "{name}: `{}`", spec.name);
            both[usize::from(spec.decay)] += 1;
        }
    });
    assert!(both.iter().all(|&tensors| tensors > 0), "tensors without and with decay: {both:?}");
}

/// At a rate that leaves every loss as it was there is no gain.
fn without_gain(early_stop: u32) -> TrainSettings {
    TrainSettings { learning_rate: 1e-30, early_stop, ..settings(12) }
}

/// An adapter at its zeros, which move at any rate.
fn at_zero(model: &Mamba) -> Adapter {
    adapter(&methods::state_offset_y::INFO, model)
}

#[test]
fn a_run_without_gain_stops_early_and_stays_stopped() {
    let (train, validation) = (generation(0, &LENGTHS, VOCAB), generation(0, &[5, 12], VOCAB));
    let model = fast().model(&config(true), 2);
    let folder = tempfile::tempdir().unwrap();
    let trial = Trial { validation: Some(&validation), folder: Some(folder.path()), ..Trial::new(&model, &train) };
    for (early_stop, steps, stopped) in [(0, 12, false), (3, 4, true), (1, 2, true)] {
        let folder = tempfile::tempdir().unwrap();
        let trial = Trial { folder: Some(folder.path()), ..trial_of(&trial, None) };
        let summary = trial.run(at_zero(&model), &without_gain(early_stop)).unwrap();
        assert_eq!((summary.steps, summary.stopped_early), (steps, stopped), "early_stop {early_stop}");
        assert_eq!(summary.best.map(|(_, step)| step), Some(1), "the first of equals is the best");
    }
    // Resumed, it is over still, and nothing that was written changes.
    let settings = without_gain(3);
    let first = trial.run(at_zero(&model), &settings).unwrap();
    let log = std::fs::read(folder.path().join("metrics.jsonl")).unwrap();
    let again = trial.resume(at_zero(&model), &settings).unwrap();
    assert_eq!((again.steps, again.stopped_early, again.best), (4, true, first.best));
    assert_eq!(again.evaluation, first.evaluation);
    assert_eq!(std::fs::read(folder.path().join("metrics.jsonl")).unwrap(), log);
    assert!(bytes(&again.adapter) == bytes(&first.adapter));
}

/// For each metric the adapter in `best/` is that of the best evaluation, and scores what was recorded.
#[test]
fn the_best_adapter_is_that_of_the_best_value() {
    let (train, validation) = (classification(24), classification(40));
    let model = fast().model(&config(true), 2);
    let mut not_last = 0;
    for metric in statetune_trainer::config::METRICS {
        let folder = tempfile::tempdir().unwrap();
        let trial = Trial { validation: Some(&validation), folder: Some(folder.path()), ..Trial::new(&model, &train) };
        // A rate too high to get steadily better.
        let settings = TrainSettings { metric: metric.into(), learning_rate: 0.3, ..settings(14) };
        let mut watcher = Watcher::default();
        let summary = trial.watch(state_offset_h(&model), &settings, false, &mut watcher).unwrap();
        let all: Vec<(u64, f64, bool)> = evaluations(&watcher.records)
            .into_iter()
            .map(|(step, evaluation)| {
                let (value, higher) = evaluation.metric(metric).unwrap();
                (step, value, higher)
            })
            .collect();
        assert_eq!(all.len(), 14, "{metric}");
        let better = |a: f64, b: f64, higher: bool| if higher { a > b } else { a < b };
        let best = all[1..].iter().fold(all[0], |best, &next| if better(next.1, best.1, next.2) { next } else { best });
        assert_eq!(summary.best, Some((best.1, best.0)), "{metric}: {all:?}");
        not_last += usize::from(best.0 != 14);

        let loaded = Adapter::load(&RunFolder::best(folder.path()), &model).unwrap().adapter;
        let score = |adapter: &Adapter| {
            let tokens = settings.micro_batch_tokens;
            evaluate(&model, adapter.patches(), &validation, tokens, true, |_, _| {}).unwrap()
        };
        assert_eq!(score(&loaded).metric(metric).unwrap().0, best.1, "{metric}");
        let last = Adapter::load(&RunFolder::last(folder.path()), &model).unwrap().adapter;
        assert_eq!(Some(score(&last)), summary.evaluation, "{metric}: the last evaluation is of the last adapter");
    }
    assert!(not_last > 0, "every best evaluation was the last: nothing was tried");
}

/// A value that is no number is never the best, and does not keep a number from becoming it.
#[test]
fn an_evaluation_that_is_not_finite_is_not_the_best() {
    let (train, validation) = (classification(24), classification(10));
    for path in single_precision() {
        let model = path.model(&config(true), 2);
        let folder = tempfile::tempdir().unwrap();
        let trial = Trial { validation: Some(&validation), folder: Some(folder.path()), ..Trial::new(&model, &train) };
        let adapter = state_offset_h(&model);
        let buffer = adapter.patches().tensors()[0].buffer.clone();
        let mut watcher = Watcher { after_step: Some(poison(&buffer, &[1], &[2])), ..Watcher::default() };
        let summary = trial.watch(adapter, &settings(3), false, &mut watcher).unwrap();
        let losses: Vec<f64> = evaluations(&watcher.records).iter().map(|(_, evaluation)| evaluation.loss).collect();
        assert!(losses[0].is_nan() && losses[1].is_finite(), "{losses:?}");
        let (value, step) = summary.best.expect("a best value");
        assert!(value.is_finite() && step > 1, "{value} after step {step}");
        Adapter::load(&RunFolder::best(folder.path()), &model).unwrap();
    }
}

/// Each is refused before the first step, with nothing written.
#[test]
fn what_cannot_be_is_refused_before_the_first_step() {
    let (train, validation) = (generation(0, &LENGTHS, VOCAB), generation(0, &[5, 12], VOCAB));
    let classes = classification(10);
    let model = fast().model(&config(true), 2);
    let plain = settings(3);
    let set = |change: fn(&mut TrainSettings)| {
        let mut settings = plain.clone();
        change(&mut settings);
        settings
    };
    let refused =
        |train: &Dataset, validation: Option<&Dataset>, adapter: Adapter, settings: TrainSettings, part: &str| {
            let folder = tempfile::tempdir().unwrap();
            let trial = Trial { model: &model, train, validation, folder: Some(folder.path()) };
            let mut watcher = Watcher {
                after_step: Some(Box::new(|done| panic!("{part}: step {done} was made"))),
                ..Watcher::default()
            };
            let error = failure(part, trial.watch(adapter, &settings, false, &mut watcher));
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{part}: something was written");
        };
    let some = || state_offset_h(&model);
    for metric in ["accuracy", "f1", "matthews", "label_accuracy"] {
        let settings = TrainSettings { metric: metric.into(), ..plain.clone() };
        let part = format!("`train.metric` is \"{metric}\", but the validation data has no classes");
        refused(&train, Some(&validation), some(), settings.clone(), &part);
        Trial { validation: Some(&classes), ..Trial::new(&model, &train) }.run(some(), &settings).unwrap();
    }
    let early = set(|settings| settings.early_stop = 2);
    refused(&train, None, some(), early, "need `data.validation`");
    let accuracy = set(|settings| settings.metric = "accuracy".into());
    refused(&train, None, some(), accuracy, "need `data.validation`");
    refused(&train, None, some(), set(|settings| settings.batch_size = 0), "`train.batch_size` must be at least 1");
    refused(&Dataset::default(), None, some(), plain.clone(), "no training example");
    let nothing = Adapter::new(&model, Vec::new(), 0).unwrap();
    refused(&train, None, nothing, plain.clone(), "name at least one method");
}

/// Rows that were left out are told once, however often the run is taken up.
#[test]
fn dropped_rows_are_told_once() {
    let mut train = generation(0, &LENGTHS, VOCAB);
    train.counts = Counts { rows: 11, too_long: 3, bad: 5, max_tokens: 900, ..train.counts };
    train.bad_rows = vec!["a:7: wrong".into(), "a:9: wrong".into()];
    let model = fast().model(&config(true), 2);
    let folder = tempfile::tempdir().unwrap();
    let trial = Trial { folder: Some(folder.path()), ..Trial::new(&model, &train) };
    let settings = TrainSettings { save_every: 2, ..settings(4) };
    // Interrupted before there is a checkpoint.
    let gone = std::panic::AssertUnwindSafe(|| {
        let mut watcher = Watcher { after_step: Some(Box::new(|_| panic!("pulled the plug"))), ..Watcher::default() };
        trial.watch(state_offset_h(&model), &settings, false, &mut watcher).map(drop)
    });
    assert!(std::panic::catch_unwind(gone).is_err());
    trial.resume(state_offset_h(&model), &settings).unwrap();
    trial.resume(state_offset_h(&model), &settings).unwrap();
    let lines = record::read(folder.path()).unwrap();
    let notes: Vec<&str> = lines.iter().filter_map(|line| line["note"].as_str()).collect();
    let expected = "3 of 11 training rows are longer than the limit and were left out (the longest has 900 tokens)";
    let bad = "5 training rows cannot be used and were left out: a:7: wrong; a:9: wrong; and 3 more";
    assert_eq!(notes, [expected, bad]);
}

/// A token the model has no row for is the caller's mistake: an error, not a panic.
#[test]
fn a_token_outside_the_vocabulary_is_named() {
    let mut data = generation(0, &[5, 6], VOCAB);
    data.examples[1].tokens[2] = 4000;
    let model = fast().model(&config(true), 2);
    let run = Run {
        model: &model,
        base_model: "base",
        train: &data,
        validation: None,
        settings: &settings(2),
        folder: None,
        keeps_adapters: true,
    };
    let error = failure("token 4000", run.train(state_offset_h(&model), false, &mut Silent));
    assert!(matches!(error, TrainError::Model(ModelError::TokenOutOfRange { id: 4000, .. })), "{error}");
}

/// Every method's run, interrupted before, at and after a checkpoint and resumed, ends with the bits of one that was not.
#[test]
fn resumed_is_uninterrupted() {
    let (train, validation) = (generation(0, &LENGTHS, VOCAB), generation(0, &[5, 12], VOCAB));
    let model = fast().model(&config(true), 2);
    assert!(cases().len() >= METHODS.len());
    for case in cases().into_iter().chain(pairs()) {
        let whole = tempfile::tempdir().unwrap();
        let trial = Trial { validation: Some(&validation), folder: Some(whole.path()), ..Trial::new(&model, &train) };
        let settings = TrainSettings { save_every: 2, eval_every: 3, log_every: 4, ..settings(7) };
        let expected = trial.run(case.adapter(&model), &settings).unwrap();
        for cut_after in [1, 3, 6] {
            let folder = tempfile::tempdir().unwrap();
            let trial = Trial { folder: Some(folder.path()), ..trial_of(&trial, None) };
            let gone = std::panic::AssertUnwindSafe(|| {
                let cut = move |done| assert!(done < cut_after, "pulled the plug");
                let mut watcher = Watcher { after_step: Some(Box::new(cut)), ..Watcher::default() };
                trial.watch(case.adapter(&model), &settings, false, &mut watcher).map(drop)
            });
            assert!(std::panic::catch_unwind(gone).is_err());
            let resumed = trial.resume(case.adapter(&model), &settings).unwrap();
            let name = format!("{} cut after step {cut_after}", case.name());
            assert!(bytes(&resumed.adapter) == bytes(&expected.adapter), "{name}");
            assert_eq!((&resumed.evaluation, resumed.best), (&expected.evaluation, expected.best), "{name}");
            assert_eq!(resumed.tokens, expected.tokens, "{name}");
        }
    }
}
