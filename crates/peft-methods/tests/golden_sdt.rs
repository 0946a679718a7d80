//! The golden cases of sparse dimension tuning: what a warm-up's change selects, and what the selection then does.

#[path = "../../../tests/support/golden.rs"]
mod golden;

use std::path::Path;

use golden::{ComputePath, File, Tolerance};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::site::mixer_path;
use statetune_mamba_model::{Batch, Bound, Mamba};
use statetune_peft_methods::methods::sdt::selection::{Fractions, Selection};
use statetune_peft_methods::{Adapter, methods};
use statetune_tensor::{Tape, Tensor};

#[test]
fn golden_sdt() {
    let mut cases = 0;
    for folder in golden::folders_with("method.json") {
        let method = golden::json(&folder.join("method.json"));
        if method.get("freeze_fraction").is_none() {
            continue; // a case of another family
        }
        let base = folder.join(method["base_model"].as_str().expect("a base model"));
        let selected = select(&folder, &method, &Mamba::load(&base, &device(), statetune_tensor::DType::F64).unwrap());
        for path in golden::paths() {
            let model = Mamba::load(&base, &path.device, path.compute).unwrap();
            check(&folder, &model, &path, &selected);
        }
        cases += 1;
    }
    golden::count("sdt", cases);
}

/// The selection is made from numbers on the host, in double precision.
fn device() -> statetune_tensor::Device {
    statetune_tensor::Device::cpu(statetune_ssm_kernels::Level::Reference, 1).unwrap()
}

/// The selection of every layer, whose masks must be those of the case.
fn select(folder: &Path, method: &Value, model: &Mamba) -> Vec<Selection> {
    let name = golden::name_of(folder);
    let file = File::read(&folder.join("adapter.safetensors"));
    let MambaConfig { d_inner: d, d_state: n, num_hidden_layers, .. } = *model.config();
    let fraction = |key: &str| method["freeze_fraction"][key].as_f64().expect("a fraction");
    let fractions = Fractions { channels: fraction("channel"), states: fraction("state"), zero_channels: 0.0 };
    let layer = |i: usize| {
        let update = &file.get(&format!("layers.{i}.A_log.warmup_delta")).numbers;
        let selection = Selection::from_update(update, d, n, fractions);
        let mut a_log = vec![0.0; d * n];
        selection.entries(n).iter().for_each(|&entry| a_log[entry as usize] = 1.0);
        assert_eq!(a_log, file.get(&format!("layers.{i}.A_log.mask")).numbers, "{name}: A_log of layer {i}");
        let mut columns = vec![0.0; n * d];
        for row in columns.chunks_exact_mut(d) {
            selection.channels.iter().for_each(|&channel| row[channel as usize] = 1.0);
        }
        for part in ["x_proj_B", "x_proj_C"] {
            let mask = &file.get(&format!("layers.{i}.{part}.mask")).numbers;
            assert_eq!(&columns, mask, "{name}: {part} of layer {i}");
        }
        selection
    };
    (0..num_hidden_layers).map(layer).collect()
}

fn check(folder: &Path, model: &Mamba, path: &ComputePath, selected: &[Selection]) {
    let at = |what: &str| format!("{} {} {what}", golden::name_of(folder), path.label);
    let (tolerance, io) = (Tolerance::read(folder), File::read(&folder.join("io.safetensors")));
    let file = File::read(&folder.join("adapter.safetensors"));
    let MambaConfig { d_inner: d, d_state: n, num_hidden_layers: layers, .. } = *model.config();
    let sdt = methods::parse_value(json!({"method": "sdt", "selection": selected})).unwrap();
    let parts = [("A_log", "A_log"), ("x_proj.b", "x_proj_B"), ("x_proj.c", "x_proj_C")];
    let mut tensors = Vec::new();
    for (i, selection) in selected.iter().enumerate() {
        for (ours, theirs) in parts {
            let values = file.get(&format!("layers.{i}.{theirs}.values")).numbers.clone();
            let columns = selection.channels.len();
            let shape = if ours == "A_log" { vec![values.len()] } else { vec![n, columns] };
            tensors.push((format!("{}.{ours}.sdt", mixer_path(i)), Tensor::from_vec(values, &shape).unwrap()));
        }
    }
    let adapter = Adapter::with_tensors(model, vec![sdt], tensors).unwrap();

    let batch = Batch::new(&io.get("input_ids").tokens()).unwrap();
    let (rows, targets) = golden::labelled(io.get("targets"));
    let tape = Tape::new(&path.device);
    let bound = Bound::new(&tape, model, adapter.patches(), None).unwrap();
    let output = model.forward(&tape, &bound, &batch, None, false).unwrap();
    let all: Vec<u32> = (0..batch.tokens() as u32).collect();
    let logits = model.logits(&tape, &bound, &output.hidden, &all).unwrap().tensor().to_f64_vec();
    // The case has numbers in single precision only.
    let single = statetune_tensor::DType::F32;
    tolerance.absolute("logits", single, &at("logits"), &io.get("logits").numbers, &logits);
    let loss = model.loss(&tape, &bound, &batch, &output.hidden, &rows, &targets, rows.len() as f64).unwrap().loss;
    tolerance.absolute("loss", single, &at("loss"), &io.get("loss").numbers, &[loss.tensor().item().unwrap()]);
    let gradients = bound.gradients(&mut tape.backward(&loss).unwrap());
    for i in 0..layers {
        for (ours, theirs) in parts {
            let name = format!("{}.{ours}.sdt", mixer_path(i));
            let index = adapter.specs().iter().position(|spec| spec.name == name).expect("a tensor of the adapter");
            let found = gradients[index].as_ref().expect("a gradient").to_f64_vec();
            let mut dense = vec![0.0; d * n];
            if ours == "A_log" {
                selected[i].entries(n).iter().zip(&found).for_each(|(&entry, &g)| dense[entry as usize] = g);
            } else {
                let columns = &selected[i].channels;
                for (row, found) in dense.chunks_exact_mut(d).zip(found.chunks_exact(columns.len())) {
                    columns.iter().zip(found).for_each(|(&column, &g)| row[column as usize] = g);
                }
            }
            let expected = &io.get(&format!("grad.layers.{i}.{theirs}.dense")).numbers;
            tolerance.gradient(single, &at(&format!("{theirs} of layer {i}")), expected, &dense);
        }
    }
    // Written into the model the selection does the same.
    let merged = adapter.merge(model).unwrap();
    let none = Adapter::new(&merged, Vec::new(), 0).unwrap();
    let tape = Tape::inference(&path.device);
    let bound = Bound::new(&tape, &merged, none.patches(), None).unwrap();
    let hidden = merged.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
    let logits = merged.logits(&tape, &bound, &hidden, &all).unwrap().tensor().to_f64_vec();
    tolerance.absolute("logits", single, &at("merged"), &io.get("logits").numbers, &logits);
}
