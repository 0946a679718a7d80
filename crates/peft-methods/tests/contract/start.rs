//! Before training: the model is unchanged, the count is the formula's, methods that exclude each other are refused.

use serde_json::json;
use statetune_mamba_model::{Batch, Bound, Patches};
use statetune_peft_methods::{Adapter, PeftError};
use statetune_tensor::{DType, Tape};

use crate::support::{
    Subject, all, bytes, close, entries, exact, example_with, for_every_method, logits, pairs, sequence,
};

#[test]
fn the_model_is_unchanged_at_the_start() {
    let batch = Batch::new(&[sequence(17, 0)]).unwrap();
    let (mut unchanged, mut changed) = (0, 0);
    for ground in all() {
        let base = logits(&ground.model, &Patches::none(), &batch);
        for subject in entries().into_iter().chain(pairs()) {
            let found = logits(&ground.model, subject.start(&ground.model).patches(), &batch);
            let name = format!("{} on {}", subject.name, ground.label);
            if subject.starts_unchanged {
                let rounding = if ground.model.compute() == DType::F64 { 1e-12 } else { 1e-6 };
                close(&name, &base, &found, rounding);
                unchanged += 1;
            } else {
                // It says so, and it is so.
                assert!(base.iter().zip(&found).any(|(a, b)| (a - b).abs() > 1e-6), "{name}: nothing has changed");
                changed += 1;
            }
        }
    }
    assert!(unchanged > 0 && changed > 0);
}

#[test]
fn counts_match_the_formula_and_tensors_their_specification() {
    for_every_method(|name, ground, _, adapter| {
        let config = ground.model.config();
        let formula: usize = adapter.methods().iter().map(|method| method.trainable(config).unwrap()).sum();
        assert_eq!(adapter.trainable(), formula, "{name}");
        for (spec, tensor) in adapter.specs().iter().zip(adapter.patches().tensors()) {
            assert_eq!((&spec.name, &spec.shape), (&tensor.name, &tensor.buffer.shape()), "{name}");
            assert_eq!(spec.trained, tensor.trained, "{name}: `{}`", spec.name);
        }
    });
}

/// Without this every equality with the base model would be empty. `A_log` of a random model does little.
#[test]
fn random_tensors_change_the_model() {
    for_every_method(|name, ground, _, adapter| {
        let batch = Batch::new(&[sequence(17, 0)]).unwrap();
        let model = &ground.model;
        let (base, found) = (logits(model, &Patches::none(), &batch), logits(model, adapter.patches(), &batch));
        let change = base.iter().zip(&found).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(change > 1e-5, "{name}: the adapter moves no logit by more than {change:e}");
    });
}

/// Random tensors depend on the seed and on their name, not on what else is trained.
#[test]
fn a_start_depends_on_the_seed_and_the_name_only() {
    let model = exact(true, true).model;
    for subject in entries() {
        let (first, again) = (bytes(&subject.start(&model)), bytes(&subject.start(&model)));
        assert!(first == again, "{}: two starts of one seed differ", subject.name);
    }
    let lora = json!({"method": "lora", "targets": ["out_proj"]});
    let alone = bytes(&Subject::new(vec![lora.clone()]).start(&model));
    let beside = bytes(&Subject::new(vec![json!({"method": "previous-state", "init": "kaiming"}), lora]).start(&model));
    assert!(alone.iter().all(|tensor| beside.contains(tensor)));
}

#[test]
fn methods_that_train_the_same_tensor_are_refused() {
    let model = exact(true, false).model;
    let lora = json!({"method": "lora", "targets": ["x_proj"], "rank": 2});
    let scan = json!({"method": "additional-scan", "states": 2});
    let one = |tag: &str| json!({"method": tag});
    let excluded = [
        ([one("full"), one("full")], "backbone.embeddings.weight"),
        ([one("full"), one("bitfit")], "conv1d.bias"),
        ([json!({"method": "partial", "parameters": ["D"]}), one("full")], "mixer.D"),
        // Their tensors have the same names: one with more state dimensions says the same.
        ([scan.clone(), scan], "additional_scan.A_log"),
        ([one("state-offset-h"), one("state-offset-h")], "state_offset"),
        ([one("prompt-tuning"), one("prompt-tuning")], "prompt_tokens"),
        ([lora.clone(), json!({"method": "dora", "targets": ["x_proj"]})], "x_proj.lora_A"),
        ([lora, json!({"method": "lora-fa", "targets": ["x_proj"], "rank": 2})], "x_proj.lora_A"),
        ([example_with("sdt", "selection"), example_with("sdt", "selection")], "A_log.sdt"),
    ];
    for (configs, tensor) in excluded {
        let subject = Subject::new(configs.to_vec());
        let error = match Adapter::new(&model, subject.methods(), 0) {
            Ok(_) => panic!("{}: accepted", subject.name),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(tensor) && error.contains("two tensors of this name"), "{}: {error}", subject.name);
    }
}

/// A row has one norm, so one magnitude.
#[test]
fn two_magnitudes_of_the_same_rows_are_refused() {
    let model = exact(true, false).model;
    let overlapping = json!({"method": "dora", "targets": ["in_proj", "in_proj.x"], "rank": 2});
    let ends = json!({"method": "dora", "targets": ["embeddings", "lm_head"], "rank": 2});
    for config in [overlapping, ends] {
        let subject = Subject::new(vec![config]);
        let adapter = subject.start(&model);
        let bound = Bound::new(&Tape::inference(model.device()), &model, adapter.patches(), None);
        let error = bound.err().expect("refused").to_string();
        assert!(error.contains("two patches set the magnitude of the same rows"), "{}: {error}", subject.name);
    }
}

/// A start from a decomposition needs the feature `lapack` and names it; with it s B0 A0 is a projection of W, and B and A
/// begin there.
#[test]
fn a_start_from_a_decomposition_needs_lapack() {
    let model = exact(true, false).model;
    for tag in ["pissa", "olora"] {
        let config = json!({"method": tag, "targets": ["x_proj", "in_proj.z"], "rank": 3, "alpha": 1.5});
        let started = Adapter::new(&model, Subject::new(vec![config]).methods(), 3);
        if !cfg!(feature = "lapack") {
            let error = started.map(drop).unwrap_err();
            assert!(matches!(error, PeftError::MissingFeature { feature: "lapack", .. }), "{tag}: {error}");
            continue;
        }
        let adapter = started.unwrap();
        let value = |name: &str| adapter.patches().tensor(name).unwrap().tensor();
        for (site, first, columns) in [("x_proj", 0, 24), ("in_proj.z", 24, 12)] {
            let path = format!("backbone.layers.1.mixer.{site}");
            let [a, b] = ["lora_A", "lora_B"].map(|factor| {
                let (trained, start) = (value(&format!("{path}.{factor}")), value(&format!("{path}.{factor}0")));
                assert_eq!(trained.to_le_bytes(), start.to_le_bytes(), "{tag} {site}: {factor}");
                start.to_f64_vec()
            });
            let module = path.trim_end_matches(".z");
            let stored = model.parameter(&format!("{module}.weight")).unwrap().value.to_f64_vec();
            let (mut inner, mut size) = (0.0, 0.0);
            for (row, b) in b.chunks_exact(3).enumerate() {
                for column in 0..columns {
                    let start: f64 = (0..3).map(|r| 0.5 * b[r] * a[r * columns + column]).sum();
                    let rest = stored[(first + row) * columns + column] - start;
                    (inner, size) = (inner + start * rest, size + start * start);
                }
            }
            assert!(size > 0.1 && inner.abs() < 1e-10 * size, "{tag} {site}: <start, rest> = {inner:e} of {size}");
        }
    }
}

/// Options that change the model before training say so, and those that do not say nothing else.
#[test]
fn what_an_option_changes_at_the_start_is_declared() {
    let layer = serde_json::json!({"channels": [1], "states": [[0]], "zero": [2]});
    let configs = [
        (serde_json::json!({"method": "sdt", "selection": [layer.clone(), layer]}), false),
        (serde_json::json!({"method": "previous-state", "init": "kaiming"}), false),
        (serde_json::json!({"method": "previous-state"}), true),
        (serde_json::json!({"method": "sdt", "zero_channels": 0.005}), true),
        (serde_json::json!({"method": "prompt-tuning"}), false),
    ];
    for (config, unchanged) in configs {
        let method = statetune_peft_methods::methods::parse_value(config.clone()).unwrap();
        assert_eq!(method.starts_unchanged(), unchanged, "{config}");
    }
}
