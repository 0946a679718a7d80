//! Every golden Mamba-1 model: logits, loss, the gradient of every parameter, decoding and states.

#[path = "../../../tests/support/golden.rs"]
mod golden;

use std::path::Path;

use golden::{ComputePath, File, Tolerance};
use statetune_mamba_model::checkpoint::Checkpoint;
use statetune_mamba_model::config::ModelConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::Site;
use statetune_mamba_model::{Batch, Bound, GenerateOptions, Mamba, Patches, State};
use statetune_tensor::{DType, Tape, Tensor};

#[test]
fn golden_base_models() {
    let mut cases = 0;
    for folder in golden::folders_with("config.json") {
        let name = golden::name_of(&folder);
        if !folder.join("io.safetensors").is_file() {
            continue; // a layout of the model in the folder above, whose weights are compared elsewhere
        }
        let checkpoint = Checkpoint::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        if let ModelConfig::Mamba2(_) = checkpoint.config() {
            println!("not yet: {name}");
            continue;
        }
        for path in golden::paths() {
            check(&folder, &name, &path);
        }
        cases += 1;
    }
    golden::count("base", cases);
}

fn check(folder: &Path, name: &str, path: &ComputePath) {
    let at = |what: &str| format!("{name} {} {what}", path.label);
    let model = Mamba::load(folder, &path.device, path.compute).unwrap();
    let tolerance = Tolerance::read(folder);
    let io = File::read(&folder.join("io.safetensors"));
    // Some layouts have single-precision values only.
    let exact = folder.join("io_f64.safetensors");
    let double = path.compute == DType::F64 && exact.is_file();
    let expected = if double { File::read(&exact) } else { File::read(&folder.join("io.safetensors")) };
    let compute = if double { DType::F64 } else { DType::F32 };
    let lengths: Vec<String> =
        io.tensors.keys().filter_map(|key| key.strip_suffix(".input_ids").map(str::to_owned)).collect();
    assert!(!lengths.is_empty(), "{name}: no `L<n>.input_ids`");
    let (mut with_loss, mut with_gradients) = (0, 0);
    for length in lengths {
        let batch = Batch::new(&io.get(&format!("{length}.input_ids")).tokens()).unwrap();
        let patches = train_everything(&model);
        let tape = Tape::new(&path.device);
        let bound = Bound::new(&tape, &model, &patches, None).unwrap();
        let output = model.forward(&tape, &bound, &batch, None, false).unwrap();
        let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
        let logits = model.logits(&tape, &bound, &output.hidden, &rows).unwrap().tensor().to_f64_vec();
        let logits_expected = &expected.get(&format!("{length}.logits")).numbers;
        tolerance.absolute("logits", compute, &at(&format!("{length}.logits")), logits_expected, &logits);

        if !io.has(&format!("{length}.targets")) {
            continue;
        }
        let (rows, targets) = golden::labelled(io.get(&format!("{length}.targets")));
        if rows.is_empty() {
            continue; // a single token predicts nothing
        }
        with_loss += 1;
        let loss = model.loss(&tape, &bound, &batch, &output.hidden, &rows, &targets, rows.len() as f64).unwrap().loss;
        let loss_expected = &expected.get(&format!("{length}.loss")).numbers;
        let found = [loss.tensor().item().unwrap()];
        tolerance.absolute("loss", compute, &at(&format!("{length}.loss")), loss_expected, &found);

        let mut gradients = tape.backward(&loss).unwrap();
        let gradients = bound.gradients(&mut gradients);
        let prefix = format!("{length}.grad.");
        let mut checked = 0;
        for (parameter, values) in expected.with_prefix(&prefix) {
            let i = patches.tensors().iter().position(|t| t.name == parameter);
            let i = i.unwrap_or_else(|| panic!("{name}: gradient of unknown parameter `{parameter}`"));
            let found = gradients[i].as_ref().map_or(vec![0.0; values.numbers.len()], Tensor::to_f64_vec);
            tolerance.gradient(compute, &at(&format!("{prefix}{parameter}")), &values.numbers, &found);
            checked += 1;
        }
        if checked > 0 {
            assert_eq!(checked, patches.tensors().len(), "{name}: every parameter has a golden gradient");
            with_gradients += 1;
        }
    }
    assert!(with_loss == 0 || with_gradients > 0, "{name}: no length has gradients");
    decode(&model, &io, &tolerance, name, path);
}

/// Patches that train every stored tensor.
fn train_everything(model: &Mamba) -> Patches {
    let patch = |name: &str, rows: usize| Patch {
        site: Site::Rows { parameter: name.to_owned(), rows: 0..rows },
        change: Change::train(name),
    };
    let patches = model.parameters().iter().map(|p| patch(&p.name, p.value.shape()[0])).collect();
    let tensors = model.parameters().iter().map(|p| (p.name.clone(), p.value.cast(model.trained_type())));
    Patches::new(model, patches, tensors.collect()).unwrap()
}

/// Greedy decoding: tokens, the logits of every step, the states after the prompt and before the last token.
fn decode(model: &Mamba, io: &File, tolerance: &Tolerance, name: &str, path: &ComputePath) {
    let none = Patches::none();
    for (case, prompts) in io.with_prefix("gen").into_iter().filter_map(|(k, v)| Some((k.strip_suffix(".prompt")?, v)))
    {
        let at = |what: &str| format!("{name} {} gen{case} {what}", path.label);
        let prompts = prompts.tokens();
        let tokens = io.get(&format!("gen{case}.tokens")).tokens();
        let step_logits = &io.get(&format!("gen{case}.step_logits")).numbers;
        let new = tokens[0].len() - prompts[0].len();
        let options = GenerateOptions { max_new_tokens: new, ..GenerateOptions::default() };
        let generated = model.generate(&none, &prompts, &options, |_, _| {}).unwrap();
        for (s, result) in generated.iter().enumerate().filter(|_| !golden::computes_in_bf16()) {
            assert_eq!(result.tokens, tokens[s][prompts[s].len()..], "{}", at(&format!("sequence {s}")));
        }
        // The same by hand: prefill in chunks of 3, then steps.
        let (mut state, mut logits) = model.prefill(&none, &prompts, 3).unwrap();
        states(&state, io, &format!("gen{case}.after_prompt."), tolerance, path.compute, &at("after_prompt"));
        let width = logits.len();
        for step in 0..new {
            let expected = &step_logits[step * width..][..width];
            let what = at(&format!("step {step}"));
            tolerance.absolute("step_logits", DType::F32, &what, expected, &logits.to_f64_vec());
            if step + 1 < new {
                let next: Vec<u32> = tokens.iter().map(|row| row[prompts[0].len() + step]).collect();
                (state, logits) = model.step(&none, &state, &next).unwrap();
            }
        }
        states(&state, io, &format!("gen{case}.after_last_step."), tolerance, path.compute, &at("after_last_step"));
    }
}

/// Golden states hold the last K inputs of the convolution; a state here the K - 1 that the next token needs.
fn states(state: &State, io: &File, prefix: &str, tolerance: &Tolerance, _: DType, at: &str) {
    for (tensor, found) in state.tensors() {
        let golden = io.get(&format!("{prefix}{tensor}"));
        let width = found.shape()[2];
        let expected: Vec<f64> = match golden.shape[2] {
            k if k == width => golden.numbers.clone(),
            k => {
                assert_eq!(k, width + 1, "{at} {tensor}");
                golden.numbers.chunks(k).flat_map(|row| row[1..].to_vec()).collect()
            }
        };
        tolerance.absolute("states", DType::F32, &format!("{at} {tensor}"), &expected, &found.to_f64_vec());
    }
}
