//! SDT's warm-up in a run: what is chosen, that everything then starts anew, and that a kill changes nothing.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};
use statetune_datasets_eval::Dataset;
use statetune_mamba_model::Mamba;
use statetune_peft_methods::{Adapter, methods};
use statetune_trainer::record::Record;
use statetune_trainer::{AdamW, AdamWSettings, Run, RunFolder, Summary, TrainError, TrainSettings, checkpoint};

use support::{ComputePath, LENGTHS, VOCAB, Watcher, bytes, config, generation, paths, settings};

/// Steps of the warm-up, and of the run proper.
const WARMUP: u64 = 5;
const STEPS: u64 = 6;

fn warmup() -> Value {
    json!({"method": "sdt", "channels": 0.8, "states": 0.6, "warmup_steps": WARMUP})
}

fn lora() -> Value {
    json!({"method": "lora", "targets": ["out_proj"], "rank": 2, "dropout": 0.3})
}

fn adapter(model: &Mamba, configs: &[Value]) -> Adapter {
    let methods = configs.iter().map(|config| methods::parse_value(config.clone()).unwrap()).collect();
    Adapter::new(model, methods, 3).unwrap()
}

/// What the runs of this file train on, with evaluations and checkpoints in every step.
struct Trial<'a> {
    model: &'a Mamba,
    train: Dataset,
    validation: Dataset,
    settings: TrainSettings,
}

impl<'a> Trial<'a> {
    fn new(model: &'a Mamba) -> Trial<'a> {
        let (train, validation) = (generation(0, &LENGTHS, VOCAB), generation(0, &[5, 12], VOCAB));
        let settings = TrainSettings { weight_decay: 0.1, keep_checkpoints: 100, ..settings(STEPS) };
        Trial { model, train, validation, settings }
    }

    fn run(
        &self,
        configs: &[Value],
        folder: Option<&Path>,
        resume: bool,
        watcher: &mut Watcher<'_>,
    ) -> Result<Summary, TrainError> {
        let Trial { model, train, validation, settings } = self;
        let run = Run {
            model,
            base_model: "base",
            train,
            validation: Some(validation),
            settings,
            folder,
            keeps_adapters: true,
        };
        run.train(adapter(model, configs), resume, watcher)
    }
}

/// `f64`, and the fastest path of this processor.
fn two_paths() -> [ComputePath; 2] {
    let mut paths = paths();
    [paths.remove(0), paths.pop().unwrap()]
}

/// (loss, rate, norm) of the steps after `after`, and the evaluations, with steps counted from there.
fn told(records: &[Record], after: u64) -> Vec<(u64, Vec<f64>)> {
    let numbers = |record: &Record| match record {
        Record::Step(step) => Some((step.step, vec![step.loss, step.learning_rate, step.gradient_norm, step.epoch])),
        Record::Evaluation { step, evaluation } => Some((*step, vec![evaluation.loss])),
        _ => None,
    };
    let told = records.iter().filter_map(numbers).filter(|(step, _)| *step > after);
    told.map(|(step, numbers)| (step - after, numbers)).collect()
}

/// After the selection everything is as at the start of a run that was given it: tensors, optimiser, schedule, data, dropout.
#[test]
fn after_the_warm_up_the_run_is_that_of_its_selection() {
    for path in two_paths() {
        let model = path.model(&config(true), 2);
        let trial = Trial::new(&model);
        let (mut chosen, mut given) = (Watcher::default(), Watcher::default());
        let found = trial.run(&[warmup(), lora()], None, false, &mut chosen).unwrap();
        assert_eq!(found.steps, WARMUP + STEPS);
        let configs = found.adapter.config();
        assert!(configs[0]["selection"].is_array(), "{}", configs[0]);
        let expected = trial.run(&configs, None, false, &mut given).unwrap();
        assert_eq!(expected.steps, STEPS);
        assert!(bytes(&found.adapter) == bytes(&expected.adapter), "{}: other bits", path.label);
        assert_eq!(found.evaluation, expected.evaluation);
        assert_eq!(found.best.map(|(value, step)| (value, step - WARMUP)), expected.best);
        assert_eq!(told(&chosen.records, WARMUP), told(&given.records, 0), "{}", path.label);
        // In the warm-up nothing is evaluated, and the selection is told of.
        let in_warmup = |record: &&Record| matches!(record, Record::Evaluation { step, .. } if *step <= WARMUP);
        assert_eq!(chosen.records.iter().filter(in_warmup).count(), 0);
        let note = |record: &Record| match record {
            Record::Note { step: WARMUP, note } => Some(note.clone()),
            _ => None,
        };
        let notes: Vec<String> = chosen.records.iter().filter_map(note).collect();
        let count = expected.adapter.trainable();
        assert_eq!(notes, [format!("selected what is trained: {count} numbers; training starts anew")]);
    }
}

/// In the warm-up the full update of A_log and LoRA learn together; the selection is of the largest changes.
#[test]
fn the_warm_up_trains_everything_and_chooses_by_the_change() {
    let path = paths().pop().unwrap();
    let model = path.model(&config(true), 2);
    let trial = Trial::new(&model);
    let folder = tempfile::tempdir().unwrap();
    cut(&trial, folder.path(), WARMUP);
    let (step, newest) = checkpoint::list(&RunFolder::checkpoints(folder.path())).unwrap().pop().unwrap();
    assert_eq!(step, WARMUP - 1);
    let new = |adapter: &Adapter| AdamW::new(adapter, AdamWSettings::default());
    let (warmed, optimizer, _) = checkpoint::load(&newest, &model, new).unwrap();
    assert_eq!(optimizer.updates(), WARMUP - 1);
    for tensor in warmed.patches().tensors() {
        assert!(tensor.buffer.tensor().to_f64_vec().iter().any(|&x| x != 0.0), "`{}` has not learnt", tensor.name);
    }
    // One step less chooses by the same rule.
    let shorter = json!({"method": "sdt", "channels": 0.8, "states": 0.6, "warmup_steps": WARMUP - 1});
    let found = trial.run(&[shorter, lora()], None, false, &mut Watcher::default()).unwrap().adapter;
    for layer in 0..2 {
        let name = format!("backbone.layers.{layer}.mixer.A_log.warmup");
        let update = warmed.patches().tensor(&name).unwrap().tensor().to_f64_vec();
        let size = |channel: usize| update[channel * 5..][..5].iter().map(|x| x * x).sum::<f64>();
        let selection = &found.config()[0]["selection"][layer];
        let chosen: Vec<usize> = serde_json::from_value(selection["channels"].clone()).unwrap();
        // 24 channels, of which round(0.8 · 24) = 19 are frozen; of 5 states round(0.6 · 5) = 3.
        assert_eq!(chosen.len(), 5);
        let least = chosen.iter().map(|&channel| size(channel)).fold(f64::INFINITY, f64::min);
        assert!((0..24).filter(|channel| !chosen.contains(channel)).all(|channel| size(channel) <= least));
        let states: Vec<Vec<usize>> = serde_json::from_value(selection["states"].clone()).unwrap();
        assert!(states.iter().all(|states| states.len() == 2), "{states:?}");
    }
}

/// Runs until a step, and dies in it.
fn cut(trial: &Trial<'_>, folder: &Path, after: u64) {
    let gone = AssertUnwindSafe(|| {
        let cut = move |done| assert!(done < after, "pulled the plug");
        let mut watcher = Watcher { after_step: Some(Box::new(cut)), ..Watcher::default() };
        trial.run(&[warmup(), lora()], Some(folder), false, &mut watcher).map(drop)
    });
    assert!(catch_unwind(gone).is_err());
}

/// Cut in every step of the warm-up, in the one that selects, and after it; with checkpoints in every step and in few.
#[test]
fn killed_in_the_warm_up_or_after_it_is_uninterrupted() {
    let path = paths().pop().unwrap();
    let model = path.model(&config(true), 2);
    for save_every in [1, 2, 0] {
        let mut trial = Trial::new(&model);
        trial.settings.save_every = save_every;
        let expected = trial.run(&[warmup(), lora()], None, false, &mut Watcher::default()).unwrap();
        for after in 1..=WARMUP + STEPS {
            let folder = tempfile::tempdir().unwrap();
            cut(&trial, folder.path(), after);
            let configs = [warmup(), lora()];
            let resumed = trial.run(&configs, Some(folder.path()), true, &mut Watcher::default()).unwrap();
            let name = format!("cut after step {after}, saved every {save_every}");
            assert_eq!(resumed.adapter.config(), expected.adapter.config(), "{name}");
            assert!(bytes(&resumed.adapter) == bytes(&expected.adapter), "{name}: other bits");
            assert_eq!((&resumed.evaluation, resumed.best), (&expected.evaluation, expected.best), "{name}");
            assert_eq!((resumed.steps, resumed.tokens), (expected.steps, expected.tokens), "{name}");
        }
    }
}

#[test]
fn the_selection_is_saved_with_the_adapter() {
    let path = paths().pop().unwrap();
    let model = path.model(&config(true), 2);
    let trial = Trial::new(&model);
    let folder = tempfile::tempdir().unwrap();
    let summary = trial.run(&[warmup(), lora()], Some(folder.path()), false, &mut Watcher::default()).unwrap();
    let last = Adapter::load(&RunFolder::last(folder.path()), &model).unwrap().adapter;
    assert_eq!(last.config(), summary.adapter.config());
    assert!(last.config()[0]["selection"][1]["channels"].is_array());
    assert!(bytes(&last) == bytes(&summary.adapter));
    let best = Adapter::load(&RunFolder::best(folder.path()), &model).unwrap().adapter;
    assert_eq!(best.config(), summary.adapter.config());
    // Its file tells nothing of the warm-up.
    assert!(last.specs().iter().all(|spec| !spec.name.contains("warmup")));
    last.merge(&model).unwrap();
}

/// Channels that changed least lose their memory, in a constant that no step moves.
#[test]
fn channels_that_changed_least_lose_their_memory() {
    for path in two_paths() {
        let model = path.model(&config(true), 2);
        let trial = Trial::new(&model);
        let sdt =
            json!({"method": "sdt", "channels": 0.5, "states": 0.6, "zero_channels": 0.2, "warmup_steps": WARMUP});
        let summary = trial.run(&[sdt, lora()], None, false, &mut Watcher::default()).unwrap();
        let merged = summary.adapter.merge(&model).unwrap();
        for layer in 0..2 {
            let selection = &summary.adapter.config()[0]["selection"][layer];
            let read = |key: &str| serde_json::from_value::<Vec<usize>>(selection[key].clone()).unwrap();
            let (zero, trained) = (read("zero"), read("channels"));
            // Of 24: round(4.8) lose it, 12 are frozen, the rest is trained.
            assert_eq!((zero.len(), trained.len()), (5, 7));
            assert!(zero.iter().all(|channel| !trained.contains(channel)));
            let name = format!("backbone.layers.{layer}.mixer.A_log");
            let value = |model: &Mamba| model.parameter(&name).unwrap().value.to_f64_vec();
            for (i, (found, base)) in value(&merged).iter().zip(value(&model)).enumerate() {
                let channel = i / 5;
                let same = (found - base).abs() < 1e-7;
                match (zero.contains(&channel), trained.contains(&channel)) {
                    (true, _) => assert!((found - 10.0).abs() < 1e-5, "{}: entry {i} is {found}", path.label),
                    (_, false) => assert!(same, "{}: entry {i} of a frozen channel moved", path.label),
                    _ => {}
                }
            }
        }
    }
}

/// What was given its selection does not warm up.
#[test]
fn a_given_selection_needs_no_warm_up() {
    let path = paths().pop().unwrap();
    let model = path.model(&config(true), 2);
    let trial = Trial::new(&model);
    let example = (methods::sdt::INFO.examples)().pop().unwrap();
    let mut sdt = example;
    sdt["method"] = "sdt".into();
    let summary = trial.run(&[sdt.clone()], None, false, &mut Watcher::default()).unwrap();
    assert_eq!(summary.steps, STEPS);
    assert_eq!(summary.adapter.config()[0]["selection"], sdt["selection"]);
}

#[test]
fn a_clock_that_ends_the_warm_up_is_an_error() {
    let model = paths().pop().unwrap().model(&config(true), 2);
    let mut hasty = Trial::new(&model);
    (hasty.settings.max_steps, hasty.settings.max_seconds) = (0, 1e-9);
    let sdt = json!({"method": "sdt", "warmup_steps": WARMUP});
    let error = hasty.run(&[sdt], None, false, &mut Watcher::default()).unwrap_err().to_string();
    assert!(error.contains("were over before a method had chosen"), "{error}");
}
