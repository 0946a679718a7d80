//! `verify`: every method keeps every promise, and a planted fault is found.

mod support;

use std::fs;
use std::path::Path;

use statetune_peft_methods::{Adapter, methods};
use statetune_tensor::Tensor;
use statetune_trainer::verify::{Finding, Outcome, checkpoint_is_whole, resumed_is_resumed, saved_is_loaded};
use statetune_trainer::{Run, Silent, TrainSettings, verify};

use support::{Case, ComputePath, LENGTHS, VOCAB, cases, config, generation, paths, settings};

/// The best level of this processor in f32.
fn path() -> ComputePath {
    paths().pop().unwrap()
}

fn found(findings: &[Finding], promise: &str) -> Finding {
    findings.iter().find(|finding| finding.promise == promise).expect("the promise").clone()
}

#[test]
fn every_method_keeps_its_promises() {
    for tied in [true, false] {
        let model = path().model(&config(tied), 2);
        for case in cases() {
            // In this build the start may need a decomposition that is not there.
            if case.info.tag == "pissa" || case.info.tag == "olora" {
                continue;
            }
            let adapter = random(&case, &model);
            let scratch = tempfile::tempdir().unwrap();
            let findings = verify(&model, &adapter, scratch.path(), |_, _| ()).unwrap();
            assert_eq!(findings.len(), 8);
            for finding in &findings {
                let skipped = match finding.promise {
                    "merged = unmerged" => !case.info.mergeable,
                    "untrained = base" => !case.info.starts_unchanged,
                    _ => false,
                };
                let expected = if skipped { Outcome::Skipped } else { Outcome::Ok };
                assert_eq!(finding.outcome, expected, "{}: {finding:?}", case.name());
                assert_eq!(finding.reason.is_some(), skipped, "{}: {finding:?}", case.name());
            }
        }
    }
}

/// With tensors of order 0.1, but for those that are made anew on loading.
fn random(case: &Case, model: &statetune_mamba_model::Mamba) -> Adapter {
    let (start, random) = (case.adapter(model), case.random_adapter(model));
    let tensors = random.patches().tensors().iter().zip(start.patches().tensors()).zip(start.specs());
    for ((tensor, start), _) in tensors.filter(|(_, spec)| !spec.saved) {
        tensor.buffer.set(start.buffer.tensor()).unwrap();
    }
    random
}

fn lora(model: &statetune_mamba_model::Mamba) -> Adapter {
    let case = cases().into_iter().find(|case| case.info.tag == "lora").unwrap();
    random(&case, model)
}

/// One number of a saved adapter is changed, or the file is cut, before it is loaded.
#[test]
fn a_file_that_changes_between_saving_and_loading_is_found() {
    let model = path().model(&config(true), 1);
    let adapter = lora(&model);
    let scratch = tempfile::tempdir().unwrap();
    let outcome = |name: &str, spoil: fn(&Path)| saved_is_loaded(&model, &adapter, &scratch.path().join(name), spoil);
    assert_eq!(outcome("well", |_| ()).unwrap().outcome, Outcome::Ok);
    let changed = outcome("changed", |folder| {
        let file = folder.join("adapter_model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(file, bytes).unwrap();
    });
    let changed = changed.unwrap();
    assert_eq!((changed.outcome, changed.difference), (Outcome::Failed, Some(1.0)));
    let cut = outcome("cut", |folder| {
        let file = folder.join("adapter_model.safetensors");
        let bytes = fs::read(&file).unwrap();
        fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
    });
    let cut = cut.unwrap();
    assert_eq!(cut.outcome, Outcome::Failed);
    assert!(cut.reason.unwrap().contains("damaged"));
    let config = outcome("config", |folder| {
        let file = folder.join("adapter_config.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(file, text.replace("\"lora_alpha\": 8", "\"lora_alpha\": 9")).unwrap();
    });
    assert_eq!(config.unwrap().outcome, Outcome::Failed);
}

/// A tensor that is no number makes every comparison fail, not pass.
#[test]
fn an_adapter_that_is_not_finite_fails() {
    let model = path().model(&config(true), 1);
    let adapter = lora(&model);
    let buffer = &adapter.patches().tensors()[1].buffer;
    let values = vec![f32::NAN; buffer.tensor().len()];
    buffer.set(Tensor::from_vec(values, &buffer.shape()).unwrap()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let findings = verify(&model, &adapter, scratch.path(), |_, _| ()).unwrap();
    for promise in
        ["parallel = recurrent", "packed = alone", "merged = unmerged", "saved = loaded", "accumulated = whole"]
    {
        assert_eq!(found(&findings, promise).outcome, Outcome::Failed, "{promise}");
    }
    assert_eq!(found(&findings, "count = formula").outcome, Outcome::Ok);
}

#[test]
fn a_run_goes_on_from_its_newest_checkpoint() {
    let model = path().model(&config(true), 2);
    let data = generation(0, &LENGTHS, VOCAB);
    let other = generation(1, &LENGTHS, VOCAB);
    for config in [
        r#"{"method": "lora", "dropout": 0.3}"#,
        r#"{"method": "state-offset-h"}"#,
        r#"{"method": "sdt", "channels": 0.8, "states": 0.6, "warmup_steps": 2}"#,
    ] {
        let methods = || vec![methods::parse_value(serde_json::from_str(config).unwrap()).unwrap()];
        let folder = tempfile::tempdir().unwrap();
        let settings = TrainSettings { warmup_steps: 0, ..settings(3) };
        let run = |train| Run {
            model: &model,
            base_model: "base",
            train,
            validation: None,
            settings: &settings,
            folder: Some(folder.path()),
            keeps_adapters: true,
        };
        let again = |train| {
            let scratch = tempfile::tempdir().unwrap();
            resumed_is_resumed(&run(train), &methods(), scratch.path()).unwrap()
        };
        let whole = || checkpoint_is_whole(&model, &settings, folder.path()).unwrap();
        assert_eq!([whole().outcome, again(&data).outcome], [Outcome::Skipped; 2], "{config}");
        run(&data).train(Adapter::new(&model, methods(), settings.seed).unwrap(), false, &mut Silent).unwrap();
        let (finding, resumed) = (whole(), again(&data));
        assert_eq!([finding.outcome, resumed.outcome], [Outcome::Ok; 2], "{config}: {finding:?} {resumed:?}");
        // Other data is another run.
        assert_eq!(again(&other).outcome, Outcome::Failed, "{config}");
        // Two bits of the optimiser's state.
        let checkpoints = statetune_trainer::checkpoint::list(&folder.path().join("checkpoints")).unwrap();
        let file = checkpoints.last().unwrap().1.join("trainer_state.bin");
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 3;
        fs::write(&file, bytes).unwrap();
        let finding = whole();
        assert_eq!(finding.outcome, Outcome::Failed, "{config}");
        assert!(finding.reason.unwrap().contains("checksum"), "{config}");
        assert_eq!(again(&data).outcome, Outcome::Skipped, "{config}");
    }
}
