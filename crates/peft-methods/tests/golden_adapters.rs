//! Every golden adapter on a Mamba-1: logits, loss, gradients, ten AdamW steps, decoding, beam search, merging.
//!
//! `ssm_peft` cases are recognised by a `method.json`, `hf_peft` cases by an `adapter_config.json`.

#[path = "../../../tests/support/golden.rs"]
mod golden;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use golden::{ComputePath, File, Tolerance, Values};
use serde_json::{Map, Value};
use statetune_mamba_model::checkpoint::Checkpoint;
use statetune_mamba_model::config::ModelConfig;
use statetune_mamba_model::{Batch, BeamOptions, Bound, GenerateOptions, Mamba, Patches};
use statetune_peft_methods::{Adapter, foreign};
use statetune_ssm_kernels::adamw::AdamWStep;
use statetune_tensor::{DType, Device, Tape, Tensor, optim};

/// A case of `ssm_peft` by its `method.json`; `None` where it is of another family, or cannot be run yet.
fn ssm_case(folder: &Path, method: &Value) -> Option<Case> {
    let name = golden::name_of(folder);
    let config = method["config"].as_object().cloned().unwrap_or_default();
    if config.is_empty() {
        return None;
    }
    let base = base_of(folder, &method["base_model"]);
    if is_mamba2(&base) {
        println!("not yet: {name}");
        return None;
    }
    let offset = if config.get("bias_type") == Some(&"SILU_Z".into()) { "state_offset_y" } else { "state_offset_h" };
    let keys = method["checkpoint_keys"].as_object().unwrap_or_else(|| panic!("{name}: no `checkpoint_keys`"));
    let names = keys.iter().map(|(tensor, key)| {
        let key = key.as_str().unwrap_or_else(|| panic!("{name}: `checkpoint_keys` of {tensor}"));
        (tensor.clone(), (foreign::tensor_name(key, offset), false))
    });
    let (names, weights) = (names.collect(), File::read(&folder.join("adapter.safetensors")));
    Some(Case { names, weights, name, base, config, folder: folder.to_owned() })
}

/// What the two families have in common once read.
struct Case {
    name: String,
    folder: PathBuf,
    base: PathBuf,
    config: Map<String, Value>,
    /// Our tensor names by the names in the case's files, and whether the matrix is transposed there.
    names: BTreeMap<String, (String, bool)>,
    weights: File,
}

#[test]
fn golden_ssm_peft() {
    let mut cases = 0;
    for folder in golden::folders_with("method.json") {
        let method = golden::json(&folder.join("method.json"));
        let Some(case) = ssm_case(&folder, &method) else { continue };
        let optimizer = &method["optimizer"];
        for path in golden::paths() {
            let adapter = check(&case, &path, "");
            assert_eq!(Some(adapter.trainable() as u64), method["trainable_parameters"].as_u64(), "{}", case.name);
            ten_steps(&case, &path, optimizer);
        }
        cases += 1;
    }
    golden::count("ssm_peft", cases);
}

#[test]
fn golden_hf_peft() {
    let mut cases = 0;
    for folder in golden::folders_with("adapter_config.json") {
        let name = golden::name_of(&folder);
        let config = golden::json(&folder.join("adapter_config.json"));
        let base = base_of(&folder, &config["base_model_name_or_path"]);
        if is_mamba2(&base) {
            println!("not yet: {name}");
            continue;
        }
        let weights = File::read(&folder.join("adapter_model.safetensors"));
        let names = weights
            .tensors
            .keys()
            .map(|key| (key.clone(), (foreign::tensor_name(key, "state_offset_h"), foreign::is_embedding(key))));
        let case = Case {
            names: names.collect(),
            weights,
            name,
            base,
            config: config.as_object().cloned().expect("an object"),
            folder,
        };
        for path in golden::paths() {
            let adapter = check(&case, &path, "merged");
            round_trip(&case, &path, &adapter);
        }
        cases += 1;
    }
    golden::count("hf_peft", cases);
}

fn base_of(folder: &Path, base: &Value) -> PathBuf {
    folder.join(base.as_str().unwrap_or_else(|| panic!("{}: no base model", folder.display())))
}

fn is_mamba2(base: &Path) -> bool {
    let checkpoint = Checkpoint::open(base).unwrap_or_else(|error| panic!("{error}"));
    matches!(checkpoint.config(), ModelConfig::Mamba2(_))
}

/// The case's adapter on its base.
fn load(case: &Case, path: &ComputePath) -> (Mamba, Adapter) {
    let model = Mamba::load(&case.base, &path.device, path.compute).unwrap();
    let (methods, unused) = foreign::methods(&case.folder, &case.config, model.config()).unwrap();
    assert!(unused.is_empty(), "{}: unused keys {unused:?}", case.name);
    let tensors = case.weights.tensors.iter().map(|(key, values)| {
        let (name, turned) = &case.names[key];
        let tensor = Tensor::from_vec(values.numbers.clone(), &values.shape).unwrap();
        (name.clone(), if *turned { foreign::transposed(&tensor).unwrap() } else { tensor })
    });
    let adapter = Adapter::with_tensors(&model, methods, tensors.collect()).unwrap();
    (model, adapter)
}

/// Values of the case in our orientation.
fn ours(values: &Values, turned: bool) -> Vec<f64> {
    if !turned {
        return values.numbers.clone();
    }
    let (rows, columns) = (values.shape[0], values.shape[1]);
    (0..columns).flat_map(|j| (0..rows).map(move |i| i * columns + j)).map(|at| values.numbers[at]).collect()
}

/// Forward, loss, gradients, decoding; and merging where the case has merged logits and merging is defined.
fn check(case: &Case, path: &ComputePath, merged: &str) -> Adapter {
    let at = |what: &str| format!("{} {} {what}", case.name, path.label);
    let (model, adapter) = load(case, path);
    let tolerance = Tolerance::read(&case.folder);
    let io = File::read(&case.folder.join("io.safetensors"));
    let double = path.compute == DType::F64;
    let expected = if double {
        File::read(&case.folder.join("io_f64.safetensors"))
    } else {
        File::read(&case.folder.join("io.safetensors"))
    };
    let batch = Batch::new(&io.get("input_ids").tokens()).unwrap();
    let (mut rows, targets) = golden::labelled(io.get("targets"));

    let tape = Tape::new(&path.device);
    let bound = Bound::new(&tape, &model, adapter.patches(), None).unwrap();
    let output = model.forward(&tape, &bound, &batch, None, false).unwrap();
    let all: Vec<u32> = (0..batch.tokens() as u32).collect();
    let mut logits = model.logits(&tape, &bound, &output.hidden, &all).unwrap().tensor().to_f64_vec();
    if let Some(soft) = &output.soft_hidden {
        // The reference has the soft tokens' logits too, in front of every sequence, and no label there.
        let (count, length) = (soft.shape()[0], batch.tokens() / batch.sequences());
        let of_soft: Vec<u32> = (0..count as u32).collect();
        let of_soft = model.logits(&tape, &bound, soft, &of_soft).unwrap().tensor().to_f64_vec();
        let own = logits.len() / batch.sequences();
        logits = logits.chunks(own).flat_map(|own| of_soft.iter().chain(own).copied()).collect();
        for row in &mut rows {
            let (s, at) = (*row as usize / (count + length), *row as usize % (count + length));
            *row = (s * length + at.checked_sub(count).expect("no label at a soft token")) as u32;
        }
    }
    if io.with_prefix("grad.").is_empty() {
        // The reference never calls the adapted layer: its unmerged logits are the base model's and there are no
        // gradients. What the adapter means is what it does once merged, and here it does so unmerged too.
        let expected = &io.get("merged_logits").numbers;
        tolerance.absolute("logits", DType::F32, &at("logits against merged_logits"), expected, &logits);
        let moved = logits.iter().zip(&io.get("logits").numbers).any(|(found, base)| (found - base).abs() > 1e-2);
        assert!(moved, "{}", at("the adapter does nothing"));
        merge(&model, &adapter, path, &batch, &tolerance, expected, &at("merged_logits"));
        return adapter;
    }
    tolerance.absolute("logits", path.compute, &at("logits"), &expected.get("logits").numbers, &logits);
    let loss = model.loss(&tape, &bound, &batch, &output.hidden, &rows, &targets, rows.len() as f64).unwrap().loss;
    let found = [loss.tensor().item().unwrap()];
    tolerance.absolute("loss", path.compute, &at("loss"), &expected.get("loss").numbers, &found);
    let mut gradients = tape.backward(&loss).unwrap();
    let gradients = bound.gradients(&mut gradients);
    let golden_gradients = expected.with_prefix("grad.");
    assert_eq!(golden_gradients.len(), adapter.specs().len(), "{}", at("number of gradients"));
    for (tensor, values) in golden_gradients {
        let (name, turned) = &case.names[tensor];
        let i = adapter.specs().iter().position(|spec| spec.name == *name).expect("a tensor of the adapter");
        let found = gradients[i].as_ref().unwrap_or_else(|| panic!("{}", at(&format!("no gradient of {name}"))));
        tolerance.gradient(path.compute, &at(tensor), &ours(values, *turned), &found.to_f64_vec());
    }
    decode(&model, &adapter, &io, &tolerance, &at("gen"));

    // Where the embedding is tied and only its input side adapted, the reference merges into both ends; we untie, and
    // the merged model equals the unmerged one.
    if !merged.is_empty() && io.has("merged_logits") {
        let input_only = case.names.values().any(|(_, turned)| *turned);
        let expected = if input_only { io.get("logits") } else { io.get("merged_logits") };
        merge(&model, &adapter, path, &batch, &tolerance, &expected.numbers, &at("merged_logits"));
    }
    adapter
}

/// The logits of the merged model, without an adapter.
fn merge(
    model: &Mamba,
    adapter: &Adapter,
    path: &ComputePath,
    batch: &Batch,
    tolerance: &Tolerance,
    expected: &[f64],
    at: &str,
) {
    let model = adapter.merge(model).unwrap();
    let none = Adapter::new(&model, Vec::new(), 0).unwrap();
    let tape = Tape::inference(&path.device);
    let bound = Bound::new(&tape, &model, none.patches(), None).unwrap();
    let output = model.forward(&tape, &bound, batch, None, false).unwrap();
    let all: Vec<u32> = (0..batch.tokens() as u32).collect();
    let logits = model.logits(&tape, &bound, &output.hidden, &all).unwrap().tensor().to_f64_vec();
    tolerance.absolute("logits", DType::F32, at, expected, &logits);
}

/// Twelve greedy tokens from the recurrent state, and the logits of every step.
fn decode(model: &Mamba, adapter: &Adapter, io: &File, tolerance: &Tolerance, at: &str) {
    let (prompts, tokens) = (io.get("gen.prompt").tokens(), io.get("gen.tokens").tokens());
    let new = tokens[0].len() - prompts[0].len();
    let options = GenerateOptions { max_new_tokens: new, ..GenerateOptions::default() };
    let generated = model.generate(adapter.patches(), &prompts, &options, |_, _| {}).unwrap();
    for (s, result) in generated.iter().enumerate().filter(|_| !golden::computes_in_bf16()) {
        assert_eq!(result.tokens, tokens[s][prompts[s].len()..], "{at}: sequence {s}");
    }
    let (mut state, mut logits) = model.prefill(adapter.patches(), &prompts, 4).unwrap();
    if !io.with_prefix("after_prompt.").is_empty() {
        for (tensor, found) in state.tensors() {
            // Golden states of the convolution hold one input more than the next token needs.
            let golden = io.get(&format!("after_prompt.{tensor}"));
            let (width, wanted) = (golden.shape[2], found.shape()[2]);
            let expected: Vec<f64> =
                golden.numbers.chunks(width).flat_map(|row| row[width - wanted..].to_vec()).collect();
            tolerance.absolute("states", DType::F32, &format!("{at} {tensor}"), &expected, &found.to_f64_vec());
        }
    }
    let expected = &io.get("gen.step_logits").numbers;
    for step in 0..new {
        let expected = &expected[step * logits.len()..][..logits.len()];
        tolerance.absolute("step_logits", DType::F32, &format!("{at} step {step}"), expected, &logits.to_f64_vec());
        if step + 1 < new {
            let next: Vec<u32> = tokens.iter().map(|row| row[prompts[0].len() + step]).collect();
            (state, logits) = model.step(adapter.patches(), &state, &next).unwrap();
        }
    }
}

/// Ten AdamW steps on the case's batch.
fn ten_steps(case: &Case, path: &ComputePath, optimizer: &Value) {
    let at = |what: &str| format!("{} {} {what}", case.name, path.label);
    let (model, adapter) = load(case, path);
    let tolerance = Tolerance::read(&case.folder);
    let io = File::read(&case.folder.join("io.safetensors"));
    let batch = Batch::new(&io.get("input_ids").tokens()).unwrap();
    let (rows, targets) = golden::labelled(io.get("targets"));
    let number = |key: &str| optimizer[key].as_f64().unwrap_or_else(|| panic!("{}", at(key)));
    let steps = number("steps") as u64;
    let step = AdamWStep {
        lr: number("lr"),
        beta1: optimizer["betas"][0].as_f64().expect("a number"),
        beta2: optimizer["betas"][1].as_f64().expect("a number"),
        eps: number("eps"),
        weight_decay: number("weight_decay"),
        step: 0,
        grad_scale: 1.0,
    };
    let zeros = || {
        adapter
            .specs()
            .iter()
            .map(|spec| Tensor::zeros(Device::trained_type(path.compute), &spec.shape))
            .collect::<Vec<_>>()
    };
    let (mut m, mut v) = (zeros(), zeros());
    let mut losses = Vec::new();
    for i in 0..=steps {
        let tape = Tape::new(&path.device);
        let bound = Bound::new(&tape, &model, adapter.patches(), None).unwrap();
        let output = model.forward(&tape, &bound, &batch, None, false).unwrap();
        let loss = model.loss(&tape, &bound, &batch, &output.hidden, &rows, &targets, rows.len() as f64).unwrap().loss;
        losses.push(loss.tensor().item().unwrap());
        if i == steps {
            break;
        }
        let gradients = bound.gradients(&mut tape.backward(&loss).unwrap());
        drop((bound, output, tape));
        for (k, tensor) in adapter.patches().tensors().iter().enumerate() {
            let gradient = gradients[k].as_ref().expect("every tensor has a gradient");
            let settings = AdamWStep { step: i + 1, ..step };
            optim::adamw(&path.device, &tensor.buffer, (&mut m[k], &mut v[k]), gradient, &settings).unwrap();
        }
    }
    // Single-precision values are given for both; in double precision the losses too.
    tolerance.absolute("adamw.losses", DType::F32, &at("losses"), &io.get("adamw.losses").numbers, &losses);
    for (tensor, values) in io.with_prefix("adamw.after10.") {
        let (name, turned) = &case.names[tensor];
        let found = adapter.patches().tensor(name).unwrap().tensor().to_f64_vec();
        tolerance.absolute("adamw.after10", DType::F32, &at(tensor), &ours(values, *turned), &found);
    }
}

/// Beam search with and without adapters: sequences and scores.
#[test]
fn golden_generation_beam() {
    let mut cases = 0;
    for folder in golden::folders_with("cases.json") {
        let list = golden::json(&folder.join("cases.json"));
        let list: Vec<Value> = list.as_array().into_iter().flatten().cloned().collect();
        for (i, case) in list.iter().filter(|case| case.get("num_beams").is_some()).enumerate() {
            let (root, name) = (folder.parent().expect("a family's folder"), golden::name_of(&folder));
            for path in golden::paths() {
                let (model, patches) = match case["adapter"].as_str() {
                    None => {
                        let base = root.join("base/mamba1_std");
                        (Mamba::load(&base, &path.device, path.compute).unwrap(), Patches::none())
                    }
                    Some(adapter) => {
                        let adapter = root.join("ssm_peft").join(adapter);
                        let method = golden::json(&adapter.join("method.json"));
                        let (model, adapter) = load(&ssm_case(&adapter, &method).expect("of this family"), &path);
                        (model, adapter.patches().clone())
                    }
                };
                beam(&model, &patches, case, &Tolerance::read(&folder), &format!("{name} {i} {}", path.label));
            }
            cases += 1;
        }
    }
    golden::count("generation_beam", cases);
}

fn beam(model: &Mamba, patches: &Patches, case: &Value, tolerance: &Tolerance, at: &str) {
    let number = |key: &str| case[key].as_u64().unwrap_or_else(|| panic!("{at}: no `{key}`")) as usize;
    let tokens = |key: &str| -> Vec<u32> {
        let list = case[key].as_array().unwrap_or_else(|| panic!("{at}: no `{key}`"));
        list.iter().map(|token| token.as_u64().expect("a token") as u32).collect()
    };
    let options = BeamOptions {
        beams: number("num_beams"),
        max_new_tokens: number("max_new_tokens"),
        min_new_tokens: 0,
        min_length: number("min_length"),
        length_penalty: case["length_penalty"].as_f64().expect("a number"),
        early_stopping: case["early_stopping"].as_bool().expect("true or false"),
        end: number("eos_token_id") as u32,
        prefill_chunk: 3,
        sequences: 64,
    };
    let (prompt, sequence) = (tokens("prompt"), tokens("sequence"));
    let found = model.beam_search(patches, &[&prompt], &options).unwrap().remove(0);
    assert_eq!(found.len(), options.beams, "{at}");
    if golden::computes_in_bf16() {
        return; // what is rounded otherwise may choose another token
    }
    assert_eq!(found[0].tokens, sequence[prompt.len()..], "{at}");
    assert_eq!(Some(found[0].ended), case["ended_with_eos"].as_bool(), "{at}");
    let score = case["score"].as_f64().expect("a score");
    tolerance.absolute("score", DType::F32, at, &[score], &[found[0].score]);
}

/// Saved and read again, a PEFT folder is the same adapter, under the same names.
fn round_trip(case: &Case, path: &ComputePath, adapter: &Adapter) {
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "base").unwrap();
    let written = File::read(&folder.path().join("adapter_model.safetensors"));
    let names = |file: &File| file.tensors.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&written), names(&case.weights), "{} {}", case.name, path.label);
    for (name, values) in &written.tensors {
        assert_eq!(values.numbers, case.weights.get(name).numbers, "{}: {name}", case.name);
    }
    let (model, _) = load(case, path);
    let again = Adapter::load(folder.path(), &model).unwrap();
    assert_eq!(again.unused, Vec::<String>::new());
    for (a, b) in adapter.patches().tensors().iter().zip(again.adapter.patches().tensors()) {
        assert_eq!((&a.name, a.buffer.tensor().to_f64_vec()), (&b.name, b.buffer.tensor().to_f64_vec()));
    }
    assert_eq!(adapter.patches().patches(), again.adapter.patches().patches());
}
