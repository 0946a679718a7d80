//! The worked example of the page "Adding a method": its code is that of `state_gain.rs`, which compiles here as it would in
//! `src/methods`, and keeps what every method owes. Not being in METHODS, it is read from files by its own entry.

mod state_gain;
// As in the crate itself, where `state_gain.rs` would lie in `src/methods`.
mod method {
    pub use statetune_peft_methods::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};
}
use statetune_peft_methods::PeftError;

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Bound, Mamba, Patches};
use statetune_peft_methods::{Adapter, adapter};
use statetune_ssm_kernels::random::{normal, stream_of};
use statetune_ssm_kernels::{Cpu, Level};
use statetune_tensor::{DType, Device, Tape, Tensor};

const PAGE: &str = include_str!("../../../../docs/src/adding-a-method.md");
const CODE: &str = include_str!("state_gain.rs");

/// 1, d_conv - 2, 17, and one that crosses two borders of the scan's chunks of 32.
const LENGTHS: [usize; 4] = [1, 3, 17, 70];

#[test]
fn the_page_shows_this_code() {
    let block = PAGE.split_once("```rust\n").and_then(|(_, rest)| rest.split_once("```\n")).map(|(block, _)| block);
    let block = block.expect("the page's first block of Rust is the method");
    let differs = CODE.lines().zip(block.lines()).find(|(is, shown)| is != shown);
    assert!(
        block == CODE,
        "docs/src/adding-a-method.md is stale: its first block of Rust should be \
         crates/peft-methods/tests/adding_a_method/state_gain.rs{}",
        differs.map_or_else(String::new, |(is, shown)| format!("\nthe code has {is}\nthe page  {shown}"))
    );
}

#[test]
fn its_entry_describes_its_options() {
    let method = parse(json!({}));
    assert_eq!(method.tag(), state_gain::INFO.tag);
    let keys = |config: &Value| config.as_object().expect("a table").keys().cloned().collect::<Vec<_>>();
    let options: Vec<String> = state_gain::INFO.options.iter().map(|option| option.name.to_owned()).collect();
    assert_eq!(keys(&method.config()), options);
    for example in (state_gain::INFO.examples)() {
        let config = parse(example.clone()).config();
        assert!(example.as_object().unwrap().iter().all(|(key, value)| config[key] == *value), "{example}: {config}");
    }
    let error = (state_gain::INFO.parse)(json!({"chanels": true})).unwrap_err().to_string();
    assert!(error.contains("did you mean `channels`"), "{error}");
    let error = (state_gain::INFO.parse)(json!({"channels": false, "states": false})).unwrap_err().to_string();
    assert!(error.contains("must be trained"), "{error}");
}

#[test]
fn the_model_is_unchanged_at_the_start_and_counts_match_the_formula() {
    for_every_example(|name, model, adapter, _| {
        let batch = Batch::new(&[sequence(17, 0)]).unwrap();
        let base = logits(model, &Patches::none(), &batch);
        let fresh = Adapter::new(model, again(adapter), 3).unwrap();
        close(name, &base, &logits(model, fresh.patches(), &batch), 1e-6);
        let formula: usize = adapter.methods().iter().map(|method| method.trainable(model.config()).unwrap()).sum();
        assert_eq!(adapter.trainable(), formula, "{name}");
        let change = base.iter().zip(logits(model, adapter.patches(), &batch)).map(|(a, b)| (a - b).abs());
        assert!(change.fold(0.0, f64::max) > 1e-4, "{name}: the adapter moves no logit");
    });
}

#[test]
fn parallel_is_recurrent() {
    for_every_example(|name, model, adapter, tolerance| {
        let vocab = model.config().vocab_size;
        for length in LENGTHS {
            let tokens = sequence(length, 1);
            let whole = logits(model, adapter.patches(), &Batch::new(&[&tokens]).unwrap());
            let start = length.div_ceil(2);
            let (mut state, mut last) = model.prefill(adapter.patches(), &[&tokens[..start]], 4).unwrap();
            for at in start..=length {
                let expected = &whole[(at - 1) * vocab..at * vocab];
                close(&format!("{name}, token {at} of {length}"), expected, &last.to_f64_vec(), tolerance);
                if at < length {
                    (state, last) = model.step(adapter.patches(), &state, &[tokens[at]]).unwrap();
                }
            }
        }
    });
}

#[test]
fn packed_is_alone() {
    for_every_example(|name, model, adapter, tolerance| {
        let sequences: Vec<Vec<u32>> = LENGTHS.iter().enumerate().map(|(s, &length)| sequence(length, s)).collect();
        let alone = sequences.iter().flat_map(|s| logits(model, adapter.patches(), &Batch::new(&[s]).unwrap()));
        let packed = logits(model, adapter.patches(), &Batch::new(&sequences).unwrap());
        close(name, &alone.collect::<Vec<_>>(), &packed, tolerance);
    });
}

/// The derivative along a random direction of all tensors against a central difference, in f64.
#[test]
fn gradients_match_differences() {
    let device = Device::Cpu(Cpu::new(Level::Reference, 1).unwrap());
    let model = Mamba::random(&config(), &device, DType::F64, DType::F32, 1).unwrap();
    for example in (state_gain::INFO.examples)() {
        let adapter = random_adapter(&model, example.clone());
        let ids = sequence(37, 2);
        let batch = Batch::new(&[&ids]).unwrap();
        let rows: Vec<u32> = (0..ids.len() as u32).collect();
        let loss = |tape: &Tape| {
            let bound = Bound::new(tape, &model, adapter.patches(), None).unwrap();
            let hidden = model.forward(tape, &bound, &batch, None, false).unwrap().hidden;
            (model.loss(tape, &bound, &batch, &hidden, &rows, &ids, 1.0).unwrap().loss, bound)
        };
        let tape = Tape::new(&device);
        let (value, bound) = loss(&tape);
        let gradients = bound.gradients(&mut tape.backward(&value).unwrap());
        drop(bound);
        let (mut analytic, mut moves) = (0.0, Vec::new());
        for (tensor, gradient) in adapter.patches().tensors().iter().zip(&gradients) {
            assert_eq!(tensor.trained, gradient.is_some(), "{example}: `{}`", tensor.name);
            let Some(gradient) = gradient else { continue };
            let direction = random(tensor.buffer.tensor().len(), 1.0, &tensor.name);
            analytic += gradient.to_f64_vec().iter().zip(&direction).map(|(g, d)| g * d).sum::<f64>();
            moves.push((tensor, tensor.buffer.tensor(), direction));
        }
        let at = |step: f64| {
            for (tensor, start, direction) in &moves {
                let moved = start.to_f64_vec().iter().zip(direction).map(|(x, d)| x + step * d).collect::<Vec<f64>>();
                tensor.buffer.set(Tensor::from_vec(moved, start.shape()).unwrap()).unwrap();
            }
            loss(&Tape::inference(&device)).0.tensor().item().unwrap()
        };
        let h = 1e-5;
        let numeric = (at(h) - at(-h)) / (2.0 * h);
        let error = (analytic - numeric).abs() / numeric.abs().max(1.0);
        assert!(error < 1e-6, "{example}: gradient {analytic}, difference {numeric}");
    }
}

#[test]
fn saved_is_loaded_and_merging_is_refused() {
    for_every_example(|name, model, adapter, _| {
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path(), "base").unwrap();
        let file = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        let config: Value = serde_json::from_slice(&file(adapter::ADAPTER_CONFIG)).unwrap();
        let mut options = config["methods"][0].clone();
        assert_eq!(options.as_object_mut().unwrap().remove("method"), Some(json!(state_gain::INFO.tag)), "{name}");
        let weights = file(adapter::ADAPTER_WEIGHTS);
        let saved = safetensors::SafeTensors::deserialize(&weights).unwrap();
        assert_eq!(saved.len(), adapter.specs().iter().filter(|spec| spec.saved).count(), "{name}");
        let tensors = saved.tensors().into_iter().map(|(name, view)| {
            let double = view.dtype() == safetensors::Dtype::F64;
            let values: Vec<f64> = match double {
                true => view.data().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
                false => {
                    view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect()
                }
            };
            (name, Tensor::from_vec(values, view.shape()).unwrap())
        });
        let loaded = Adapter::with_tensors(model, vec![parse(options)], tensors.collect()).unwrap();
        assert_eq!(adapter.patches().patches(), loaded.patches().patches(), "{name}");
        for (a, b) in adapter.patches().tensors().iter().zip(loaded.patches().tensors()) {
            assert_eq!(a.buffer.tensor().to_le_bytes(), b.buffer.tensor().to_le_bytes(), "{name}: `{}`", a.name);
        }
        let refused = adapter.merge(model).map(|_| ()).unwrap_err();
        assert!(matches!(refused, PeftError::NotMergeable { .. }) && !state_gain::INFO.mergeable, "{name}: {refused}");
    });
}

fn config() -> MambaConfig {
    MambaConfig { d_state: 5, d_conv: 5, ..MambaConfig::new(23, 12, 2) }
}

/// Every example on every level and on the reference in f64, with tensors moved at random by 0.1.
fn for_every_example(test: impl Fn(&str, &Mamba, &Adapter, f64)) {
    let levels = Level::available().into_iter().map(|level| (level, DType::F32, 2e-4));
    for (level, dtype, tolerance) in std::iter::once((Level::Reference, DType::F64, 1e-10)).chain(levels) {
        let device = Device::Cpu(Cpu::new(level, 2).unwrap());
        let model = Mamba::random(&config(), &device, dtype, DType::F32, 1).unwrap();
        for example in (state_gain::INFO.examples)() {
            let name = format!("{example} {dtype} {device:?}");
            test(&name, &model, &random_adapter(&model, example), tolerance);
        }
    }
}

fn parse(options: Value) -> Box<dyn method::Method> {
    (state_gain::INFO.parse)(options).unwrap()
}

fn again(adapter: &Adapter) -> Vec<Box<dyn method::Method>> {
    adapter.methods().iter().map(|method| parse(method.config())).collect()
}

fn random_adapter(model: &Mamba, example: Value) -> Adapter {
    let adapter = Adapter::new(model, vec![parse(example)], 3).unwrap();
    for (tensor, _) in adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved) {
        let value = tensor.buffer.tensor();
        let noise = random(value.len(), 0.1, &tensor.name);
        let sum: Vec<f64> = value.to_f64_vec().iter().zip(&noise).map(|(v, n)| v + n).collect();
        tensor.buffer.set(Tensor::from_vec(sum, value.shape()).unwrap().cast(value.dtype())).unwrap();
    }
    adapter
}

fn random(count: usize, deviation: f64, name: &str) -> Vec<f64> {
    let mut values = vec![0f64; count];
    normal(&mut values, 0.0, deviation, 9, stream_of(name));
    values
}

fn sequence(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 7 + seed * 5 + i * i) % 23) as u32).collect()
}

fn logits(model: &Mamba, patches: &Patches, batch: &Batch) -> Vec<f64> {
    let tape = Tape::inference(model.device());
    let bound = Bound::new(&tape, model, patches, None).unwrap();
    let hidden = model.forward(&tape, &bound, batch, None, false).unwrap().hidden;
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    model.logits(&tape, &bound, &hidden, &rows).unwrap().tensor().to_f64_vec()
}

#[track_caller]
fn close(name: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{name}: number of values");
    let far = |(a, b): (&f64, &f64)| (a - b).abs() / (1.0 + a.abs());
    let worst = a.iter().zip(b).map(far).fold(0f64, |most, d| if d > most || d.is_nan() { d } else { most });
    assert!(worst <= tolerance, "{name}: differs by {worst:e}, {:.0}% of the tolerance", 100.0 * worst / tolerance);
}
