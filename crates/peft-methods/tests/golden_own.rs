//! The golden cases in `tests/golden_own`, for methods without reference numbers of another origin: logits, loss,
//! gradients, ten AdamW steps, decoding. The program beside them made them; every case there must pass.

#[path = "../../../tests/support/golden.rs"]
mod golden;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use golden::{ComputePath, File, Tolerance};
use serde_json::Value;
use statetune_mamba_model::{Batch, Bound, GenerateOptions, Mamba};
use statetune_peft_methods::{Adapter, methods};
use statetune_ssm_kernels::adamw::AdamWStep;
use statetune_tensor::{Device, Tape, Tensor, optim};

/// A case as it is read.
struct Case {
    name: String,
    base: PathBuf,
    own: Value,
    tolerance: Tolerance,
    io: File,
}

#[test]
fn golden_own() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden_own");
    let root = std::env::var_os("STATETUNE_GOLDEN_OWN").map_or(beside, PathBuf::from);
    let entries = std::fs::read_dir(&root).unwrap_or_else(|error| panic!("{}: {error}", root.display()));
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    folders.retain(|folder| folder.join("own.json").is_file());
    folders.sort();
    for folder in &folders {
        let own = golden::json(&folder.join("own.json"));
        let case = Case {
            name: folder.file_name().expect("a name").to_string_lossy().into_owned(),
            base: folder.join(own["base_model"].as_str().expect("`base_model`")),
            tolerance: Tolerance::new(own["tolerance"].clone()),
            io: File::read(&folder.join("io.safetensors")),
            own,
        };
        for path in golden::paths() {
            check(&case, &path);
            ten_steps(&case, &path);
        }
    }
    println!("golden own: {} cases", folders.len());
    assert!(!folders.is_empty(), "no case in {}", root.display());
}

/// The case's methods on its base, with its tensors.
fn load(case: &Case, path: &ComputePath) -> (Mamba, Adapter) {
    let fail = |what: &str, error: String| -> ! { panic!("{} {}: {what}: {error}", case.name, path.label) };
    let model = Mamba::load(&case.base, &path.device, path.compute)
        .unwrap_or_else(|error| fail("the base model", error.to_string()));
    let entries = case.own["methods"].as_array().expect("`methods`");
    let methods = entries.iter().map(|entry| {
        let config = entry.as_object().expect("a method's options").clone();
        methods::parse(config).unwrap_or_else(|error| fail("methods", error.to_string()))
    });
    // What is not in adapter files but drawn again from a seed is brought by the case under another name.
    let projections = case.io.with_prefix("projection.");
    let derived: BTreeSet<&str> = projections.iter().map(|(name, _)| *name).collect();
    let tensors = case.io.with_prefix("adapter.").into_iter().chain(projections).map(|(name, values)| {
        (name.to_owned(), Tensor::from_vec(values.numbers.clone(), &values.shape).expect("a tensor"))
    });
    let adapter = Adapter::with_tensors(&model, methods.collect(), tensors.collect())
        .unwrap_or_else(|error| fail("the adapter", error.to_string()));
    let unsaved = adapter.specs().iter().filter(|spec| !spec.saved).map(|spec| spec.name.as_str());
    assert_eq!(unsaved.collect::<BTreeSet<_>>(), derived, "{}: tensors that are not saved", case.name);
    (model, adapter)
}

/// Names and number of what is trained; logits, loss, gradients; decoding.
fn check(case: &Case, path: &ComputePath) {
    let at = |what: &str| format!("{} {} {what}", case.name, path.label);
    let (model, adapter) = load(case, path);
    assert_eq!(Some(adapter.trainable() as u64), case.own["trainable_parameters"].as_u64(), "{}", at("trainable"));
    let trained = |trained: bool| adapter.specs().iter().filter(move |spec| spec.trained == trained);
    let golden_gradients = case.io.with_prefix("grad.");
    let golden_names: BTreeSet<&str> = golden_gradients.iter().map(|(name, _)| *name).collect();
    assert_eq!(trained(true).map(|s| s.name.as_str()).collect::<BTreeSet<_>>(), golden_names, "{}", at("trained"));

    let batch = Batch::new(&case.io.get("input_ids").tokens()).unwrap();
    let (rows, targets) = golden::labelled(case.io.get("targets"));
    let tape = Tape::new(&path.device);
    let bound = Bound::new(&tape, &model, adapter.patches(), None).unwrap();
    let output = model.forward(&tape, &bound, &batch, None, false).unwrap();
    let all: Vec<u32> = (0..batch.tokens() as u32).collect();
    let logits = model.logits(&tape, &bound, &output.hidden, &all).unwrap().tensor().to_f64_vec();
    let Case { tolerance, io, .. } = case;
    tolerance.absolute("logits", path.compute, &at("logits"), &io.get("logits").numbers, &logits);
    let loss = model.loss(&tape, &bound, &batch, &output.hidden, &rows, &targets, rows.len() as f64).unwrap().loss;
    let found = [loss.tensor().item().unwrap()];
    tolerance.absolute("loss", path.compute, &at("loss"), &io.get("loss").numbers, &found);
    let gradients = bound.gradients(&mut tape.backward(&loss).unwrap());
    for (tensor, gradient) in adapter.patches().tensors().iter().zip(&gradients) {
        let name = &tensor.name;
        let Some(gradient) = gradient else {
            assert!(!golden_names.contains(name.as_str()), "{}", at(&format!("no gradient of {name}")));
            continue;
        };
        assert!(golden_names.contains(name.as_str()), "{}", at(&format!("{name} is frozen and has a gradient")));
        let expected = &io.get(&format!("grad.{name}")).numbers;
        tolerance.gradient(path.compute, &at(name), expected, &gradient.to_f64_vec());
    }
    decode(case, &model, &adapter, &at("gen"));
}

/// The greedy tokens by `generate`, and by a prompt read in two chunks and single steps.
fn decode(case: &Case, model: &Mamba, adapter: &Adapter, at: &str) {
    if golden::computes_in_bf16() {
        return; // it may take another of two nearly equal tokens, and then goes on from it
    }
    let (prompts, tokens) = (case.io.get("gen.prompt").tokens(), case.io.get("gen.tokens").tokens());
    let length = prompts[0].len();
    let new = tokens[0].len() - length;
    let options = GenerateOptions { max_new_tokens: new, ..GenerateOptions::default() };
    let generated = model.generate(adapter.patches(), &prompts, &options, |_, _| {}).unwrap();
    for (s, result) in generated.iter().enumerate() {
        assert_eq!(result.tokens, tokens[s][length..], "{at}: sequence {s}");
    }
    let (mut state, mut logits) = model.prefill(adapter.patches(), &prompts, length - 1).unwrap();
    for step in 0..new {
        let logits_now = logits.to_f64_vec();
        let vocab = logits_now.len() / tokens.len();
        let best = logits_now.chunks(vocab).map(|row| (0..vocab).max_by(|&i, &j| row[i].total_cmp(&row[j])));
        let best: Vec<u32> = best.map(|best| best.expect("a vocabulary") as u32).collect();
        let expected: Vec<u32> = tokens.iter().map(|row| row[length + step]).collect();
        assert_eq!(best, expected, "{at}: step {step} after chunks of {}", length - 1);
        (state, logits) = model.step(adapter.patches(), &state, &expected).unwrap();
    }
}

/// Ten AdamW steps on the case's batch, each tensor at its own rate.
fn ten_steps(case: &Case, path: &ComputePath) {
    let at = |what: &str| format!("{} {} {what}", case.name, path.label);
    let (model, adapter) = load(case, path);
    let batch = Batch::new(&case.io.get("input_ids").tokens()).unwrap();
    let (rows, targets) = golden::labelled(case.io.get("targets"));
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{}", at("optimizer")));
    let optimizer = &case.own["optimizer"];
    let settings = |step: u64, rate: f64| AdamWStep {
        lr: number(&optimizer["lr"]) * rate,
        beta1: number(&optimizer["betas"][0]),
        beta2: number(&optimizer["betas"][1]),
        eps: number(&optimizer["eps"]),
        weight_decay: number(&optimizer["weight_decay"]),
        step,
        grad_scale: 1.0,
    };
    let steps = number(&optimizer["steps"]) as u64;
    let values = || adapter.patches().tensors().iter().map(|t| t.buffer.tensor().to_f64_vec()).collect::<Vec<_>>();
    let before = values();
    let zeros = || {
        adapter
            .specs()
            .iter()
            .map(|spec| Tensor::zeros(Device::trained_type(path.compute), &spec.shape))
            .collect::<Vec<_>>()
    };
    let (mut m, mut v) = (zeros(), zeros());
    let mut losses = Vec::new();
    for step in 1..=steps + 1 {
        let tape = Tape::new(&path.device);
        let bound = Bound::new(&tape, &model, adapter.patches(), None).unwrap();
        let output = model.forward(&tape, &bound, &batch, None, false).unwrap();
        let loss = model.loss(&tape, &bound, &batch, &output.hidden, &rows, &targets, rows.len() as f64).unwrap().loss;
        losses.push(loss.tensor().item().unwrap());
        if step > steps {
            break;
        }
        let gradients = bound.gradients(&mut tape.backward(&loss).unwrap());
        drop((bound, output, tape));
        for (k, (spec, tensor)) in adapter.specs().iter().zip(adapter.patches().tensors()).enumerate() {
            assert_eq!(spec.name, tensor.name);
            let Some(gradient) = &gradients[k] else { continue };
            let settings = settings(step, spec.rate);
            optim::adamw(&path.device, &tensor.buffer, (&mut m[k], &mut v[k]), gradient, &settings).unwrap();
        }
    }
    let Case { tolerance, io, .. } = case;
    tolerance.absolute("adamw.losses", path.compute, &at("losses"), &io.get("adamw.losses").numbers, &losses);
    for (spec, (before, after)) in adapter.specs().iter().zip(before.iter().zip(values())) {
        if spec.trained {
            let expected = &io.get(&format!("adamw.after10.{}", spec.name)).numbers;
            tolerance.absolute("adamw.after10", path.compute, &at(&spec.name), expected, &after);
        } else {
            assert_eq!(*before, after, "{}", at(&format!("{} is frozen and moved", spec.name)));
        }
    }
}
