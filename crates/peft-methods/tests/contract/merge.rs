//! Merged = unmerged: exactly where nothing is rounded, and within what the report of the merge allows where the base is
//! stored in bf16.

use serde_json::json;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Bound, Mamba, Patches};
use statetune_peft_methods::adapter::MergeReport;
use statetune_peft_methods::{Adapter, PeftError};
use statetune_ssm_kernels::{Cpu, Level};
use statetune_tensor::{DType, Device, Tape, Tensor};

use crate::support::{
    Subject, VOCAB, close, config, entries, exact, example_with, for_every_method, logits, pairs, sequence,
};

fn batch() -> Batch {
    Batch::new(&[sequence(17, 3), sequence(5, 4)]).unwrap()
}

#[test]
fn merged_is_unmerged() {
    for_every_method(|name, ground, subject, adapter| match adapter.merge(&ground.model) {
        Ok(merged) => {
            assert!(subject.merges, "{name}: merged, but its entry says it cannot be");
            let unmerged = logits(&ground.model, adapter.patches(), &batch());
            close(name, &unmerged, &logits(&merged, &Patches::none(), &batch()), ground.tolerance);
        }
        Err(PeftError::NotMergeable { .. }) => assert!(!subject.merges, "{name}: its entry says it merges"),
        Err(error) => panic!("{name}: {error}"),
    });
}

/// A model in `f64` whose checkpoint is stored in `storage`, and whose stored numbers are those of that type.
fn stored_in(storage: DType, tied: bool, biases: bool) -> Mamba {
    let device = Device::Cpu(Cpu::new(Level::Reference, 2).unwrap());
    Mamba::random(&config(tied, biases), &device, DType::F64, storage, 1).unwrap()
}

/// Each logit of the stored model may be off by the sum over its tensors of (largest rounding · sum of the magnitudes of the
/// logit's gradient), to first order.
#[test]
fn the_drift_of_a_merge_into_bf16_is_within_what_its_report_allows() {
    let mut tried = 0;
    for (tied, biases) in [(true, true), (false, false)] {
        let model = stored_in(DType::Bf16, tied, biases);
        for subject in entries().into_iter().chain(pairs()).filter(|subject| subject.merges) {
            let name = format!("{}, tied: {tied}", subject.name);
            let adapter = subject.random(&model);
            let (merged, report) = adapter.merge_with_report(&model).unwrap();
            // As it is once it has been on disk.
            let folder = tempfile::tempdir().unwrap();
            merged.save(folder.path(), &[]).unwrap();
            let stored = Mamba::load(folder.path(), model.device(), DType::F64).unwrap();
            tells_the_rounding(&name, &model, &merged, &stored, &report);
            let unmerged = logits(&model, adapter.patches(), &batch());
            close(&format!("{name}, not rounded"), &unmerged, &logits(&merged, &Patches::none(), &batch()), 1e-10);
            let found = logits(&stored, &Patches::none(), &batch());
            // Tokens of the first and the last rows: a bound takes a backward pass.
            for at in [3, 16 * VOCAB + 7, 21 * VOCAB + 22] {
                let (bound, drift) = (allowed(&merged, &report, at), (found[at] - unmerged[at]).abs());
                assert!(drift <= 1.05 * bound + 1e-9, "{name}: logit {at} is off by {drift:e}, allowed are {bound:e}");
            }
            let drift = found.iter().zip(&unmerged).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(drift > 1e-9, "{name}: nothing was rounded, so nothing was tried");
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}

/// The report names the tensors that changed, with their storage type and what rounding to it costs.
fn tells_the_rounding(name: &str, base: &Mamba, merged: &Mamba, stored: &Mamba, report: &MergeReport) {
    for parameter in merged.parameters() {
        let (exact, rounded) = (parameter.value.to_f64_vec(), value(stored, &parameter.name).to_f64_vec());
        let errors: Vec<f64> = exact.iter().zip(&rounded).map(|(exact, rounded)| (exact - rounded).abs()).collect();
        let Some(told) = report.tensors.iter().find(|tensor| tensor.name == parameter.name) else {
            assert!(errors.iter().all(|&e| e == 0.0), "{name}: `{}` was rounded, but is not told of", parameter.name);
            assert_eq!(exact, value(base, &parameter.name).to_f64_vec(), "{name}: `{}` has changed", parameter.name);
            continue;
        };
        assert_eq!(told.dtype, DType::Bf16, "{name}: `{}`", parameter.name);
        let (max, squares) = errors.iter().fold((0f64, 0.0), |(max, sum), e| (max.max(*e), sum + e * e));
        let rms = (squares / errors.len() as f64).sqrt();
        let same = |a: f64, b: f64| (a - b).abs() <= 1e-12 * (1.0 + b);
        assert!(
            same(told.max_rounding, max) && same(told.rms_rounding, rms),
            "{name}: {told:?}, found {max:e} {rms:e}"
        );
        // Half of the last of eight bits.
        let largest = exact.iter().fold(0f64, |m, x| m.max(x.abs()));
        assert!(max <= largest * 2f64.powi(-8), "{name}: `{}` was rounded by {max:e} of {largest}", parameter.name);
    }
}

fn value<'a>(model: &'a Mamba, name: &str) -> &'a Tensor {
    let embedding = "backbone.embeddings.weight";
    let found =
        model.parameter(name).or_else(|| model.parameter(if name == "lm_head.weight" { embedding } else { name }));
    &found.unwrap_or_else(|| panic!("no `{name}`")).value
}

/// What a logit may be off by.
fn allowed(merged: &Mamba, report: &MergeReport, at: usize) -> f64 {
    let full = Subject::new(vec![json!({"method": "full"})]).start(merged);
    let tape = Tape::new(merged.device());
    let bound = Bound::new(&tape, merged, full.patches(), None).unwrap();
    let hidden = merged.forward(&tape, &bound, &batch(), None, false).unwrap().hidden;
    let rows: Vec<u32> = (0..batch().tokens() as u32).collect();
    let logits = merged.logits(&tape, &bound, &hidden, &rows).unwrap();
    let mut seed = vec![0f64; logits.tensor().len()];
    seed[at] = 1.0;
    let seed = Tensor::from_vec(seed, logits.shape()).unwrap();
    let gradients = bound.gradients(&mut tape.backward_from(&[(&logits, seed)]).unwrap());
    let parts = full.patches().tensors().iter().zip(gradients).filter_map(|(tensor, gradient)| {
        let told = report.tensors.iter().find(|told| told.name == tensor.name)?;
        Some(told.max_rounding * gradient?.to_f64_vec().iter().map(|g| g.abs()).sum::<f64>())
    });
    parts.sum()
}

/// A base in f32 says f32, and rounds a thousand times less.
#[test]
fn a_report_is_of_the_storage_type() {
    let lora = Subject::new(vec![json!({"method": "lora", "targets": ["in_proj", "out_proj"]})]);
    let of = |storage| {
        let model = stored_in(storage, true, false);
        lora.random(&model).merge_with_report(&model).unwrap().1.tensors
    };
    let (single, half) = (of(DType::F32), of(DType::Bf16));
    let names: Vec<&str> = single.iter().map(|tensor| tensor.name.as_str()).collect();
    let mixer = |layer, module| format!("backbone.layers.{layer}.mixer.{module}.weight");
    let expected = [0, 1].map(|layer| ["in_proj", "out_proj"].map(|module| mixer(layer, module))).concat();
    assert_eq!(names, expected);
    for (single, half) in single.iter().zip(&half) {
        assert_eq!((single.dtype, half.dtype), (DType::F32, DType::Bf16));
        assert!(0.0 < single.max_rounding && single.max_rounding < half.max_rounding / 1000.0, "{single:?} {half:?}");
        assert!(single.rms_rounding <= single.max_rounding && half.rms_rounding <= half.max_rounding);
    }
}

/// What has no place in a checkpoint names its site.
#[test]
fn what_cannot_be_merged_is_named() {
    let model = exact(true, false).model;
    let cases = [
        (json!({"method": "state-offset-h"}), "mixer.state_offset"),
        (json!({"method": "initial-state"}), "mixer.scan_initial"),
        (json!({"method": "conv-initial-state"}), "mixer.conv_initial"),
        (json!({"method": "previous-state"}), "mixer.previous_map"),
        (json!({"method": "prompt-tuning"}), "soft_tokens"),
        (json!({"method": "affix-tuning"}), "virtual_inputs_before_in_proj"),
        (json!({"method": "bitfit", "targets": ["x_proj"], "add_missing": true}), "x_proj.weight"),
    ];
    for (config, site) in cases {
        let subject = Subject::new(vec![config, example_with("sdt", "selection")]);
        let error = subject.random(&model).merge(&model).map(drop).unwrap_err().to_string();
        assert!(error.contains(site) && error.contains("cannot be merged"), "{}: {error}", subject.name);
    }
}

/// A merged model is a base model: another adapter starts on it, and no adapter merges into the same numbers.
#[test]
fn a_merged_model_is_a_base_model() {
    let ground = exact(true, false);
    let scan = Subject::new(vec![json!({"method": "additional-scan", "states": 2})]);
    let merged = scan.random(&ground.model).merge(&ground.model).unwrap();
    assert_eq!(merged.config().d_state, 7);
    let again = scan.random(&merged);
    let unmerged = logits(&merged, again.patches(), &batch());
    close("twice", &unmerged, &logits(&again.merge(&merged).unwrap(), &Patches::none(), &batch()), 1e-10);
    let (none, report) = Adapter::new(&merged, Vec::new(), 0).unwrap().merge_with_report(&merged).unwrap();
    assert!(report.tensors.is_empty());
    assert_eq!(logits(&none, &Patches::none(), &batch()), logits(&merged, &Patches::none(), &batch()));
}

/// A bias that a configuration can have is merged into one that has it: of a convolution, of both projections.
#[test]
fn a_new_bias_becomes_part_of_the_configuration() {
    let device = Device::Cpu(Cpu::new(Level::Reference, 2).unwrap());
    let without = MambaConfig { use_conv_bias: false, ..config(true, false) };
    let model = Mamba::random(&without, &device, DType::F64, DType::F32, 1).unwrap();
    for (targets, biases, conv_bias) in [
        (json!(["conv1d"]), false, true),
        (json!(["out_proj"]), true, false),
        (json!(["conv1d", "in_proj"]), true, true),
    ] {
        let bitfit = Subject::new(vec![json!({"method": "bitfit", "targets": targets, "add_missing": true})]);
        let fresh = bitfit.start(&model);
        let base = logits(&model, &Patches::none(), &batch());
        close("the start", &base, &logits(&model, fresh.patches(), &batch()), 1e-12);
        assert_eq!(fresh.trainable(), fresh.methods()[0].trainable(model.config()).unwrap());
        let adapter = bitfit.random(&model);
        let merged = adapter.merge(&model).unwrap();
        assert_eq!((merged.config().use_bias, merged.config().use_conv_bias), (biases, conv_bias), "{}", bitfit.name);
        let unmerged = logits(&model, adapter.patches(), &batch());
        assert!(base.iter().zip(&unmerged).any(|(a, b)| (a - b).abs() > 1e-4), "{}", bitfit.name);
        close(&bitfit.name, &unmerged, &logits(&merged, &Patches::none(), &batch()), 1e-10);
    }
}
