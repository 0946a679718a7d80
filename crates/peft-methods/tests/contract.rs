//! What every entry of METHODS owes: identity at the start, count = formula, parallel = recurrent, packed = alone,
//! merged = unmerged, saved = loaded, gradients that are right. Tensors are random of order 0.1: at their zeros every
//! equality would be empty.

use serde_json::Value;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Bound, DropoutStep, Held, Mamba, Patches};
use statetune_peft_methods::{Adapter, METHODS, MethodInfo, PeftError, methods};
use statetune_ssm_kernels::random::{normal, stream_of};
use statetune_ssm_kernels::{Cpu, Level};
use statetune_tensor::{DType, Device, Tape, Tensor};

/// K = 5, so that d_conv - 2 = 3 is a length of its own; N is no multiple of a vector.
fn config() -> MambaConfig {
    MambaConfig { d_state: 5, d_conv: 5, use_bias: true, ..MambaConfig::new(23, 12, 2) }
}

/// 1, d_conv - 2, 17, and one that crosses two borders of the scan's chunks of 32.
const LENGTHS: [usize; 4] = [1, 3, 17, 70];

fn devices() -> Vec<(Device, DType, f64)> {
    let device = |level| Device::Cpu(Cpu::new(level, 2).unwrap());
    let mut all = vec![(device(Level::Reference), DType::F64, 1e-10)];
    all.extend(Level::available().into_iter().map(|level| (device(level), DType::F32, 2e-4)));
    all
}

/// Every method with every example configuration, on every device, with random tensors.
fn for_every_method(test: impl Fn(&str, &MethodInfo, &Mamba, &Adapter, f64)) {
    for (device, dtype, tolerance) in devices() {
        for tied in [true, false] {
            let config = MambaConfig { tie_word_embeddings: tied, ..config() };
            let model = Mamba::random(&config, &device, dtype, DType::F32, 1).unwrap();
            for info in METHODS {
                for example in (info.examples)() {
                    let name = format!("{} {example} {dtype} {device:?} tied: {tied}", info.tag);
                    let adapter = start(&model, info, example);
                    randomise(&adapter);
                    test(&name, info, &model, &adapter, tolerance);
                }
            }
        }
    }
}

/// A new adapter. Where its start needs a feature that this build lacks, random numbers stand in for the decomposition: all
/// but the start is tested.
fn start(model: &Mamba, info: &MethodInfo, example: Value) -> Adapter {
    match Adapter::new(model, vec![(info.parse)(example.clone()).unwrap()], 3) {
        Err(PeftError::MissingFeature { .. }) => {
            let method = (info.parse)(example).unwrap();
            let tensors = method.plan(model.config()).unwrap().tensors.into_iter().map(|spec| {
                let mut values = vec![0f64; spec.shape.iter().product()];
                normal(&mut values, 0.0, 0.3, 3, stream_of(spec.name.trim_end_matches('0')));
                (spec.name, Tensor::from_vec(values, &spec.shape).unwrap())
            });
            Adapter::with_tensors(model, vec![method], tensors.collect()).unwrap()
        }
        other => other.unwrap(),
    }
}

/// Adds numbers of order 0.1 to every tensor that is saved: what is made from a seed must stay what it is.
fn randomise(adapter: &Adapter) {
    for (tensor, _) in adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved) {
        let value = tensor.buffer.tensor();
        let mut noise = vec![0f64; value.len()];
        normal(&mut noise, 0.0, 0.1, 9, stream_of(&tensor.name));
        let sum: Vec<f64> = value.to_f64_vec().iter().zip(&noise).map(|(v, n)| v + n).collect();
        tensor.buffer.set(Tensor::from_vec(sum, value.shape()).unwrap().cast(value.dtype())).unwrap();
    }
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
    let worst = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs() / (1.0 + a.abs()))
        .fold(0f64, |m, d| if d > m || d.is_nan() { d } else { m });
    assert!(worst <= tolerance, "{name}: differs by {worst:e}, {:.0}% of the tolerance", 100.0 * worst / tolerance);
}

#[test]
fn the_model_is_unchanged_at_the_start() {
    for (device, dtype, _) in devices() {
        let model = Mamba::random(&config(), &device, dtype, DType::F32, 1).unwrap();
        let batch = Batch::new(&[sequence(17, 0)]).unwrap();
        let base = logits(&model, &Patches::none(), &batch);
        for info in METHODS.iter().filter(|info| info.starts_unchanged) {
            for example in (info.examples)() {
                let adapter = start(&model, info, example.clone());
                let found = logits(&model, adapter.patches(), &batch);
                close(&format!("{} {example} {dtype} {device:?}", info.tag), &base, &found, 1e-6);
            }
        }
    }
}

#[test]
fn counts_match_the_formula_and_tensors_their_specification() {
    for_every_method(|name, _, model, adapter, _| {
        let formula: usize = adapter.methods().iter().map(|m| m.trainable(model.config()).unwrap()).sum();
        assert_eq!(adapter.trainable(), formula, "{name}");
        for (spec, tensor) in adapter.specs().iter().zip(adapter.patches().tensors()) {
            assert_eq!((&spec.name, &spec.shape), (&tensor.name, &tensor.buffer.shape()), "{name}");
        }
    });
}

#[test]
fn random_tensors_change_the_model() {
    for_every_method(|name, _, model, adapter, _| {
        let batch = Batch::new(&[sequence(17, 0)]).unwrap();
        let (base, found) = (logits(model, &Patches::none(), &batch), logits(model, adapter.patches(), &batch));
        let change = base.iter().zip(&found).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
        assert!(change > 1e-4, "{name}: the adapter moves no logit by more than {change:e}");
    });
}

#[test]
fn parallel_is_recurrent() {
    for_every_method(|name, _, model, adapter, tolerance| {
        let vocab = model.config().vocab_size;
        for length in LENGTHS {
            let tokens = sequence(length, 1);
            let whole = logits(model, adapter.patches(), &Batch::new(&[&tokens]).unwrap());
            // A prefill of part of it in chunks, then token by token.
            let start = length.div_ceil(2);
            let (mut state, mut last) = model.prefill(adapter.patches(), &[&tokens[..start]], 4).unwrap();
            for at in start..=length {
                let expected = &whole[(at - 1) * vocab..at * vocab];
                close(&format!("{name} length {length} token {at}"), expected, &last.to_f64_vec(), tolerance);
                if at < length {
                    (state, last) = model.step(adapter.patches(), &state, &[tokens[at]]).unwrap();
                }
            }
        }
    });
}

#[test]
fn packed_is_alone() {
    for_every_method(|name, _, model, adapter, tolerance| {
        let sequences: Vec<Vec<u32>> = LENGTHS.iter().enumerate().map(|(s, &length)| sequence(length, s)).collect();
        let packed = logits(model, adapter.patches(), &Batch::new(&sequences).unwrap());
        let alone: Vec<f64> = sequences
            .iter()
            .flat_map(|sequence| logits(model, adapter.patches(), &Batch::new(&[sequence]).unwrap()))
            .collect();
        close(name, &alone, &packed, tolerance);
    });
}

/// Gradients with dropout on, where the method has it: of the packed batch, and as the sum of the sequences alone.
#[test]
fn packed_gradients_are_alone_gradients_and_every_patch_has_one() {
    for_every_method(|name, _, model, adapter, tolerance| {
        let sequences: Vec<Vec<u32>> = LENGTHS[1..].iter().enumerate().map(|(s, &l)| sequence(l, s)).collect();
        let tokens: usize = sequences.iter().map(Vec::len).sum();
        let gradient = |members: &[usize]| -> Vec<Vec<f64>> {
            let tape = Tape::new(model.device());
            let bound = Bound::new(&tape, model, adapter.patches(), Some(DropoutStep { seed: 4, step: 2 })).unwrap();
            let ids: Vec<u32> = members.iter().flat_map(|&s| sequences[s].clone()).collect();
            let mut offsets = vec![0];
            members.iter().for_each(|&s| offsets.push(offsets.last().unwrap() + sequences[s].len()));
            let examples: Vec<u64> = members.iter().map(|&s| s as u64 + 100).collect();
            let batch = Batch::packed(ids.clone(), offsets, &examples, &vec![0; members.len()]).unwrap();
            let hidden = model.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
            let rows: Vec<u32> = (0..ids.len() as u32).collect();
            let loss = model.loss(&tape, &bound, &batch, &hidden, &rows, &ids, tokens as f64).unwrap().loss;
            let gradients = bound.gradients(&mut tape.backward(&loss).unwrap());
            gradients.iter().map(|g| g.as_ref().map_or(Vec::new(), Tensor::to_f64_vec)).collect()
        };
        let packed = gradient(&[0, 1, 2]);
        let alone: Vec<_> = (0..3).map(|s| gradient(&[s])).collect();
        for (i, spec) in adapter.specs().iter().enumerate() {
            if !spec.trained {
                assert!(packed[i].is_empty(), "{name}: the constant `{}` has a gradient", spec.name);
                continue;
            }
            let zero = packed[i].iter().all(|&g| g == 0.0);
            assert!(!zero || spec.may_stay.is_some(), "{name}: `{}` has no gradient", spec.name);
            let sum: Vec<f64> = (0..packed[i].len()).map(|j| alone.iter().map(|g| g[i][j]).sum()).collect();
            let scale = sum.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
            let scaled = |g: &[f64]| g.iter().map(|g| g / scale).collect::<Vec<_>>();
            close(&format!("{name} `{}`", spec.name), &scaled(&sum), &scaled(&packed[i]), tolerance);
        }
    });
}

/// The directional derivative along a random direction of all tensors, dropout on, in f64.
#[test]
fn gradients_match_differences() {
    let device = Device::Cpu(Cpu::new(Level::Reference, 1).unwrap());
    let model = Mamba::random(&config(), &device, DType::F64, DType::F32, 1).unwrap();
    for info in METHODS {
        for example in (info.examples)() {
            let adapter = start(&model, info, example.clone());
            randomise(&adapter);
            let ids = sequence(37, 2);
            let batch = Batch::new(&[&ids]).unwrap();
            let rows: Vec<u32> = (0..ids.len() as u32).collect();
            let loss = |tape: &Tape, held: Option<&Held>| {
                let dropout = Some(DropoutStep { seed: 4, step: 2 });
                let bound = Bound::holding(tape, &model, adapter.patches(), dropout, held).unwrap();
                let hidden = model.forward(tape, &bound, &batch, None, false).unwrap().hidden;
                (model.loss(tape, &bound, &batch, &hidden, &rows, &ids, 1.0).unwrap().loss, bound)
            };
            let tape = Tape::new(&device);
            let (value, bound) = loss(&tape, None);
            // What the backward holds constant, the difference holds too.
            let held = bound.held().clone();
            let gradients = bound.gradients(&mut tape.backward(&value).unwrap());
            drop(bound);
            let mut analytic = 0.0;
            let mut moves = Vec::new();
            for (tensor, gradient) in adapter.patches().tensors().iter().zip(&gradients).filter(|(t, _)| t.trained) {
                let mut direction = vec![0f64; tensor.buffer.tensor().len()];
                normal(&mut direction, 0.0, 1.0, 5, stream_of(&tensor.name));
                let gradient = gradient.as_ref().expect("a gradient").to_f64_vec();
                analytic += gradient.iter().zip(&direction).map(|(g, d)| g * d).sum::<f64>();
                moves.push((tensor, tensor.buffer.tensor(), direction));
            }
            let at = |step: f64| {
                for (tensor, start, direction) in &moves {
                    let moved: Vec<f64> = start.to_f64_vec().iter().zip(direction).map(|(x, d)| x + step * d).collect();
                    tensor.buffer.set(Tensor::from_vec(moved, start.shape()).unwrap()).unwrap();
                }
                loss(&Tape::inference(&device), Some(&held)).0.tensor().item().unwrap()
            };
            let h = 1e-5;
            let numeric = (at(h) - at(-h)) / (2.0 * h);
            let error = (analytic - numeric).abs() / numeric.abs().max(1.0);
            assert!(error < 1e-6, "{} {example}: gradient {analytic}, difference {numeric}", info.tag);
        }
    }
}

#[test]
fn merged_is_unmerged() {
    for_every_method(|name, info, model, adapter, tolerance| {
        let batch = Batch::new(&[sequence(17, 3), sequence(5, 4)]).unwrap();
        match adapter.merge(model) {
            Ok(merged) => {
                assert!(info.mergeable, "{name}: merged, but its entry says it cannot be");
                let unmerged = logits(model, adapter.patches(), &batch);
                close(name, &unmerged, &logits(&merged, &Patches::none(), &batch), tolerance);
            }
            Err(PeftError::NotMergeable { .. }) => assert!(!info.mergeable, "{name}: its entry says it merges"),
            Err(error) => panic!("{name}: {error}"),
        }
    });
}

#[test]
fn saved_is_loaded() {
    for_every_method(|name, _, model, adapter, _| {
        let folder = tempfile::tempdir().unwrap();
        adapter.save(folder.path(), "base").unwrap();
        let again = Adapter::load(folder.path(), model).unwrap();
        assert!(again.unused.is_empty(), "{name}: {:?}", again.unused);
        assert_eq!(adapter.patches().patches(), again.adapter.patches().patches(), "{name}");
        for (a, b) in adapter.patches().tensors().iter().zip(again.adapter.patches().tensors()) {
            assert_eq!(a.name, b.name, "{name}");
            assert_eq!(a.buffer.tensor().to_le_bytes(), b.buffer.tensor().to_le_bytes(), "{name}: `{}`", a.name);
        }
    });
}

#[test]
fn methods_compose() {
    let (device, dtype, tolerance) = devices().remove(0);
    let model = Mamba::random(&config(), &device, dtype, DType::F32, 1).unwrap();
    let parse = |text: &str| match serde_json::from_str(text).unwrap() {
        Value::Object(object) => methods::parse(object).unwrap(),
        other => panic!("{other}"),
    };
    let both =
        || vec![parse(r#"{"method": "state-offset-h"}"#), parse(r#"{"method": "lora", "targets": ["out_proj"]}"#)];
    let adapter = Adapter::new(&model, both(), 3).unwrap();
    randomise(&adapter);
    assert_eq!(adapter.trainable(), both().iter().map(|m| m.trainable(model.config()).unwrap()).sum::<usize>());
    let folder = tempfile::tempdir().unwrap();
    adapter.save(folder.path(), "base").unwrap();
    let again = Adapter::load(folder.path(), &model).unwrap().adapter;
    let batch = Batch::new(&[sequence(17, 3)]).unwrap();
    let (before, after) = (logits(&model, adapter.patches(), &batch), logits(&model, again.patches(), &batch));
    close("saved and loaded", &before, &after, tolerance);
    // The same tensor cannot be trained twice.
    assert!(Adapter::new(&model, vec![parse(r#"{"method": "full"}"#), parse(r#"{"method": "full"}"#)], 0).is_err());
}

#[test]
fn entries_describe_their_options() {
    for (i, info) in METHODS.iter().enumerate() {
        assert!(METHODS[..i].iter().all(|other| other.tag != info.tag), "two methods are called {}", info.tag);
        assert!(!info.summary.is_empty() && !info.reference.is_empty() && !(info.examples)().is_empty());
        let method = (info.parse)(Value::Object(Default::default())).unwrap();
        assert_eq!(method.tag(), info.tag);
        let Value::Object(config) = method.config() else { panic!("{}: options are a table", info.tag) };
        let mut options: Vec<&str> = info.options.iter().map(|option| option.name).collect();
        let mut keys: Vec<&str> = config.keys().map(String::as_str).collect();
        options.sort_unstable();
        keys.sort_unstable();
        assert_eq!(options, keys, "{}", info.tag);
        // What a configuration says is what is written.
        for example in (info.examples)() {
            let written = (info.parse)(example.clone()).unwrap().config();
            for (key, value) in example.as_object().unwrap() {
                let same = written[key] == *value || written[key].as_f64() == value.as_f64() && value.is_number();
                assert!(
                    same || value.as_f64().is_some_and(|v| (v - written[key].as_f64().unwrap()).abs() < 1e-6)
                        || written[key].is_object(),
                    "{}: {key}",
                    info.tag
                );
            }
        }
    }
    let error = methods::find("state-ofset-h").err().unwrap().to_string();
    assert!(error.contains("did you mean `state-offset-h`"), "{error}");
}
