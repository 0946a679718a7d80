//! Adapters by name: one of them is that one, several at once are what they are as methods of one adapter, an average is
//! the sum of the changes to the stored tensors; what excludes each other is named.

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Bound, Mamba, Patches};
use statetune_peft_methods::{Adapter, AdapterSet, METHODS, PeftError, methods};
use statetune_ssm_kernels::Level;
use statetune_ssm_kernels::random::{normal, stream_of};
use statetune_tensor::{DType, Device, Tape, Tensor};

const TOLERANCE: f64 = 1e-11;

fn model(tied: bool) -> Mamba {
    let config =
        MambaConfig { d_state: 5, d_conv: 5, use_bias: true, tie_word_embeddings: tied, ..MambaConfig::new(23, 12, 2) };
    let device = Device::cpu(Level::Reference, 1).unwrap();
    Mamba::random(&config, &device, DType::F64, DType::F64, 1).unwrap()
}

/// An adapter moved off its start by numbers of order 0.1; those of another seed are others.
fn adapter(model: &Mamba, configs: &[Value], seed: u64) -> Adapter {
    let parsed = || configs.iter().map(|config| methods::parse_value(config.clone()).unwrap()).collect();
    let adapter = match Adapter::new(model, parsed(), 3) {
        // Any start will do where its decomposition is not there.
        Err(PeftError::MissingFeature { .. }) => {
            let plans = parsed().into_iter().flat_map(|method| method.plan(model.config()).unwrap().tensors);
            let tensors = plans.map(|spec| {
                let mut values = vec![0f64; spec.shape.iter().product()];
                normal(&mut values, 0.0, 0.3, 3, stream_of(spec.name.trim_end_matches('0')));
                (spec.name, Tensor::from_vec(values, &spec.shape).unwrap())
            });
            let tensors = tensors.collect();
            Adapter::with_tensors(model, parsed(), tensors).unwrap()
        }
        other => other.unwrap(),
    };
    for (tensor, spec) in adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.trained) {
        let value = tensor.buffer.tensor();
        let mut noise = vec![0f64; value.len()];
        normal(&mut noise, 0.0, 0.1, seed, stream_of(&spec.name));
        let sum: Vec<f64> = value.to_f64_vec().iter().zip(&noise).map(|(v, n)| v + n).collect();
        tensor.buffer.set(Tensor::from_vec(sum, value.shape()).unwrap()).unwrap();
    }
    adapter
}

fn set<'m>(model: &'m Mamba, adapters: impl IntoIterator<Item = (&'static str, Adapter)>) -> AdapterSet<'m> {
    let mut set = AdapterSet::new(model);
    adapters.into_iter().for_each(|(name, adapter)| set.insert(name, adapter).unwrap());
    set
}

fn logits(model: &Mamba, patches: &Patches) -> Vec<f64> {
    let sequence = |length: usize, seed: usize| (0..length).map(move |i| ((i * 7 + seed * 5 + i * i) % 23) as u32);
    let batch = Batch::new(&[sequence(17, 1).collect::<Vec<_>>(), sequence(40, 2).collect()]).unwrap();
    let tape = Tape::inference(model.device());
    let bound = Bound::new(&tape, model, patches, None).unwrap();
    let hidden = model.forward(&tape, &bound, &batch, None, false).unwrap().hidden;
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    model.logits(&tape, &bound, &hidden, &rows).unwrap().tensor().to_f64_vec()
}

fn largest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0f64, |m, (a, b)| m.max((a - b).abs()))
}

#[track_caller]
fn close(what: &str, a: &[f64], b: &[f64]) {
    let worst = largest(a, b);
    assert!(worst <= TOLERANCE, "{what}: differs by {worst:e}");
}

fn lora(targets: Value) -> Value {
    json!({"method": "lora", "targets": targets, "rank": 2, "alpha": 3})
}

#[test]
fn one_name_is_that_adapter_and_none_the_base() {
    let model = model(true);
    let set = set(
        &model,
        [
            ("a", adapter(&model, &[lora(json!(["out_proj"]))], 1)),
            ("b", adapter(&model, &[json!({"method": "state-offset-h"})], 2)),
        ],
    );
    assert_eq!(set.names().collect::<Vec<_>>(), ["a", "b"]);
    for name in ["a", "b"] {
        let found = logits(&model, &set.patches(&[name]).unwrap());
        assert_eq!(found, logits(&model, set.get(name).unwrap().patches()), "{name}");
    }
    assert_eq!(logits(&model, &set.patches(&[""; 0]).unwrap()), logits(&model, &Patches::none()));
    let [a, b] = ["a", "b"].map(|name| logits(&model, &set.patches(&[name]).unwrap()));
    assert!(largest(&a, &b) > 1e-3);
}

/// The handle is the adapter's: what is trained afterwards is seen.
#[test]
fn patches_share_the_adapters_tensors() {
    let model = model(true);
    let set = set(
        &model,
        [
            ("a", adapter(&model, &[json!({"method": "state-offset-y"})], 1)),
            ("b", adapter(&model, &[json!({"method": "state-offset-h"})], 2)),
        ],
    );
    let stack = set.patches(&["a", "b"]).unwrap();
    let before = logits(&model, &stack);
    let buffer = &set.get("a").unwrap().patches().tensors()[0].buffer;
    buffer.set(Tensor::from_vec(vec![1.0; buffer.tensor().len()], &buffer.shape()).unwrap()).unwrap();
    assert!(largest(&before, &logits(&model, &stack)) > 1e-3);
}

#[test]
fn stacked_offsets_add_up() {
    let model = model(true);
    let config = [json!({"method": "state-offset-h"})];
    let (a, b) = (adapter(&model, &config, 1), adapter(&model, &config, 2));
    let sum = a.patches().tensors().iter().zip(b.patches().tensors()).map(|(a, b)| {
        let (x, y) = (a.buffer.tensor(), b.buffer.tensor());
        let sum: Vec<f64> = x.to_f64_vec().iter().zip(y.to_f64_vec()).map(|(x, y)| x + y).collect();
        (a.name.clone(), Tensor::from_vec(sum, x.shape()).unwrap())
    });
    let method = methods::parse_value(config[0].clone()).unwrap();
    let whole = Adapter::with_tensors(&model, vec![method], sum.collect()).unwrap();
    let set = set(&model, [("a", a), ("b", b)]);
    close("h'", &logits(&model, &set.patches(&["a", "b"]).unwrap()), &logits(&model, whole.patches()));
}

/// Of every kind of method: beside a LoRA and another of its own kind.
#[test]
fn a_stack_is_both_in_one_adapter() {
    for tied in [true, false] {
        let model = model(tied);
        let beside = [lora(json!(["in_proj.x", "embeddings"])), json!({"method": "state-offset-y"})];
        for info in METHODS {
            let mut config = (info.examples)().remove(0);
            config["method"] = info.tag.into();
            if info.tag == "lora" {
                config["targets"] = json!(["in_proj.z"]);
            }
            if info.tag == "state-offset-y" {
                continue;
            }
            let other = adapter(&model, std::slice::from_ref(&config), 2);
            let tensors = |adapter: &Adapter| {
                let saved = adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved);
                saved.map(|(tensor, _)| (tensor.name.clone(), tensor.buffer.tensor())).collect::<Vec<_>>()
            };
            let first = adapter(&model, &beside, 1);
            let both = beside.iter().chain([&config]).map(|config| methods::parse_value(config.clone()).unwrap());
            let both =
                Adapter::with_tensors(&model, both.collect(), [tensors(&first), tensors(&other)].concat()).unwrap();
            let set = set(&model, [("first", first), ("other", other)]);
            let expected = logits(&model, both.patches());
            close(info.tag, &logits(&model, &set.patches(&["first", "other"]).unwrap()), &expected);
        }
    }
}

/// Merged in one go = stacked, in any order that the patches' own order does not depend on.
#[test]
fn a_merged_stack_is_the_stack() {
    for tied in [true, false] {
        let dora = json!({"method": "dora", "targets": ["out_proj", "in_proj"], "rank": 2});
        let partial = json!({"method": "partial", "parameters": ["A_log", "out_proj.weight"]});
        let embedding = json!({"method": "lora", "targets": ["embeddings"], "rank": 2, "input_embedding_only": true});
        let model = model(tied);
        let set = set(
            &model,
            [
                ("lora", adapter(&model, &[lora(json!(["in_proj", "x_proj.b", "out_proj"]))], 1)),
                ("again", adapter(&model, &[lora(json!(["in_proj"]))], 2)),
                ("dora", adapter(&model, &[dora], 3)),
                ("partial", adapter(&model, &[partial], 4)),
                ("embedding", adapter(&model, &[embedding], 5)),
                ("states", adapter(&model, &[json!({"method": "additional-scan", "states": 2})], 6)),
            ],
        );
        for names in [
            &["lora", "again"][..],
            &["again", "dora"],
            &["dora", "partial"],
            &["states", "partial", "lora"],
            &["lora", "again", "dora", "partial", "embedding", "states"],
        ] {
            let (merged, report) = set.merge(names).unwrap();
            let stacked = logits(&model, &set.patches(names).unwrap());
            close(&format!("{names:?}"), &stacked, &logits(&merged, &Patches::none()));
            assert!(!report.tensors.is_empty());
        }
    }
}

#[test]
fn what_excludes_each_other_is_named() {
    let model = model(true);
    let dora = |target: &str| json!({"method": "dora", "targets": [target], "rank": 2});
    let partial = |name: &str| json!({"method": "partial", "parameters": [name]});
    let adapters = [
        ("full", adapter(&model, &[json!({"method": "full"})], 1)),
        ("conv", adapter(&model, &[partial("layers.1.mixer.conv1d.weight")], 1)),
        ("head", adapter(&model, &[partial("lm_head.weight")], 1)),
        ("dora", adapter(&model, &[dora("in_proj")], 1)),
        ("part", adapter(&model, &[dora("layers.1.mixer.in_proj.x")], 1)),
        ("rest", adapter(&model, &[dora("layers.1.mixer.in_proj.z")], 1)),
    ];
    let lookup = json!({"method": "partial", "parameters": ["embeddings.weight"], "input_embedding_only": true});
    let set = set(&model, adapters.into_iter().chain([("lookup", adapter(&model, &[lookup], 1))]));
    let refused = |names: &[&str], parts: &[&str]| {
        let error = set.patches(names).unwrap_err();
        assert!(matches!(error, PeftError::CannotStack { .. }), "{error}");
        let error = error.to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in: {error}"));
    };
    refused(&["full", "conv"], &["`full` and `conv`", "both train `backbone.layers.1.mixer.conv1d.weight`"]);
    refused(&["conv", "full"], &["`conv` and `full`"]);
    refused(&["dora", "conv", "part"], &["`dora` and `part`", "magnitude of `backbone.layers.1.mixer.in_proj.weight"]);
    refused(&["head", "full"], &["`head` and `full`", "both train `backbone.embeddings.weight`"]);
    // Other rows, another end.
    for names in [["part", "rest"], ["head", "lookup"], ["full", "dora"]] {
        logits(&model, &set.patches(&names).unwrap());
    }
    let unknown = set.patches(&["ful"]).unwrap_err().to_string();
    assert!(unknown.contains("no adapter `ful`") && unknown.contains("did you mean `full`"), "{unknown}");
    assert!(set.patches(&["full", "full"]).unwrap_err().to_string().contains("once"));
    let mut set = set;
    let again = || adapter(&model, &[json!({"method": "state-offset-y"})], 1);
    assert!(set.insert("full", again()).unwrap_err().to_string().contains("already"));
    assert!(set.insert("", again()).is_err());
    let other = Mamba::random(&MambaConfig::new(23, 16, 2), model.device(), DType::F64, DType::F64, 1).unwrap();
    let error = set.insert("other", adapter(&other, &[lora(json!(["out_proj"]))], 1)).unwrap_err().to_string();
    assert!(error.contains("`other`") && error.contains("another model"), "{error}");
}

/// The stored tensors after merging, less the base's, with heads of their own.
fn deltas(base: &Mamba, adapter: &Adapter) -> Vec<(String, Vec<f64>)> {
    let (merged, base) = (adapter.merge(base).unwrap().untied().unwrap(), base.untied().unwrap());
    let pairs = merged.parameters().iter().zip(base.parameters());
    let delta = pairs.map(|(new, old)| {
        assert_eq!(new.name, old.name);
        let (new_values, old_values) = (new.value.to_f64_vec(), old.value.to_f64_vec());
        (new.name.clone(), new_values.iter().zip(old_values).map(|(new, old)| new - old).collect())
    });
    delta.collect()
}

const WEIGHTS: [f64; 3] = [0.5, 0.7, -0.2];

/// An average of three with the weights above is the weighted sum of what each adds to the stored tensors.
#[track_caller]
fn adds_the_weighted_sum(model: &Mamba, configs: [&[Value]; 3], ranks: &[(&str, usize)]) {
    let names = ["a", "b", "c"];
    let adapters = [0, 1, 2].map(|i| adapter(model, configs[i], i as u64 + 1));
    let parts = adapters.each_ref().map(|adapter| deltas(model, adapter));
    let mut set = set(model, names.into_iter().zip(adapters));
    let average = set.average("mean", &[0, 1, 2].map(|i| (names[i], WEIGHTS[i]))).unwrap();
    for (i, (name, found)) in deltas(model, average).iter().enumerate() {
        let sum: Vec<f64> =
            (0..found.len()).map(|j| (0..3).map(|part| WEIGHTS[part] * parts[part][i].1[j]).sum()).collect();
        close(&format!("{configs:?} {name}"), &sum, found);
    }
    for (tensor, rank) in ranks {
        assert_eq!(average.patches().tensor(tensor).unwrap().shape()[0], *rank, "{tensor}");
    }
    // What was averaged is an adapter like any other.
    let folder = tempfile::tempdir().unwrap();
    average.save(folder.path(), "base").unwrap();
    let again = Adapter::load(folder.path(), model).unwrap().adapter;
    close("saved and loaded", &logits(model, average.patches()), &logits(model, again.patches()));
    assert_eq!(set.names().last(), Some("mean"));
}

#[test]
fn an_average_of_low_rank_adapters_is_the_sum_of_their_products() {
    for tied in [true, false] {
        let model = model(tied);
        let same = [lora(json!(["in_proj", "x_proj.b", "embeddings"]))];
        let a = "backbone.layers.0.mixer.in_proj.lora_A";
        adds_the_weighted_sum(&model, [&same, &same, &same], &[(a, 6)]);
        // Other sites, ranks, scales and kinds.
        let ranks = [json!({"method": "lora-plus", "targets": ["in_proj", "out_proj"], "rank": 3, "alpha": 7,
            "rank_pattern": {"out_proj": 1}, "rslora": true, "dropout": 0.3})];
        let frozen = [json!({"method": "lora-fa", "targets": ["layers.0.mixer.in_proj", "lm_head"], "rank": 2})];
        adds_the_weighted_sum(&model, [&same, &ranks, &frozen], &[(a, 7)]);
        // Two that began at one decomposition take it away once.
        let pissa = [json!({"method": "pissa", "targets": ["in_proj", "dt_proj"], "rank": 1, "alpha": 2})];
        adds_the_weighted_sum(&model, [&pissa, &pissa, &same], &[(a, 1 + 1 + 1 + 2)]);
        let conv = |rank: usize| [json!({"method": "conv-lora", "rank": rank, "alpha": 3})];
        let conv_a = "backbone.layers.1.mixer.conv1d.lora_A";
        adds_the_weighted_sum(&model, [&conv(1), &conv(1), &conv(2)], &[(conv_a, 4)]);
        adds_the_weighted_sum(&model, [&conv(2), &conv(4), &conv(1)], &[(conv_a, 5)]);
        let tensors = [json!({"method": "partial"}), json!({"method": "bitfit", "targets": ["in_proj"]})];
        adds_the_weighted_sum(&model, [&tensors, &tensors, &tensors], &[]);
    }
}

#[test]
fn an_average_of_low_rank_offsets_is_the_sum_of_their_products() {
    let model = model(true);
    let offset = |rank: usize| [json!({"method": "state-offset-h", "rank": rank, "rank_ratio": 2})];
    let (a, b) = (adapter(&model, &offset(2), 1), adapter(&model, &offset(3), 2));
    let value = |adapter: &Adapter| {
        let patch = &adapter.patches().patches()[1].change;
        let statetune_mamba_model::patch::Change::Operand(value) = patch else { panic!("{patch:?}") };
        adapter.patches().value(model.device(), value).unwrap().to_f64_vec()
    };
    let sum: Vec<f64> = value(&a).iter().zip(value(&b)).map(|(a, b)| 0.25 * a + 0.75 * b).collect();
    let mut set = set(&model, [("a", a), ("b", b)]);
    let average = set.average("mean", &[("a", 0.25), ("b", 0.75)]).unwrap();
    close("h'", &sum, &value(average));
    assert_eq!(average.config(), [json!({"method": "state-offset-h", "rank": 5, "rank_ratio": 2})]);
}

/// Every method: with itself it is itself, and tensors that are averaged one by one are their weighted means.
#[test]
fn every_method_is_averaged() {
    let model = model(true);
    for info in METHODS {
        for mut config in (info.examples)() {
            config["method"] = info.tag.into();
            let name = config.to_string();
            let one = || adapter(&model, std::slice::from_ref(&config), 1);
            let mut set = set(&model, [("a", one()), ("b", one()), ("c", adapter(&model, &[config.clone()], 2))]);
            let own = logits(&model, &set.patches(&["a"]).unwrap());
            let same = set.average("same", &[("a", 0.3), ("b", 0.7)]).unwrap();
            close(&name, &own, &logits(&model, same.patches()));
            set.average("mean", &[("a", 0.3), ("c", 0.7)]).unwrap();
            let at = |name: &str| set.get(name).unwrap().exported(&model).unwrap();
            let (a, c, mean) = (at("a"), at("c"), at("mean"));
            let names = |adapter: &Adapter| adapter.specs().iter().map(|spec| spec.shape.clone()).collect::<Vec<_>>();
            if names(&a) != names(&mean) {
                continue; // side by side, tested above
            }
            for tensor in mean.patches().tensors().iter().filter(|tensor| tensor.trained) {
                let of = |adapter: &Adapter| adapter.patches().tensor(&tensor.name).unwrap().tensor().to_f64_vec();
                let expected: Vec<f64> = of(&a).iter().zip(of(&c)).map(|(a, c)| 0.3 * a + 0.7 * c).collect();
                close(&format!("{name} `{}`", tensor.name), &expected, &tensor.buffer.tensor().to_f64_vec());
            }
        }
    }
}

/// DoRA's direction is averaged as a sum of products, its magnitude as a mean.
#[test]
fn dora_is_averaged_in_direction_and_magnitude() {
    let model = model(true);
    let config = [json!({"method": "dora", "targets": ["out_proj"], "rank": 2})];
    let mut set = set(&model, [("a", adapter(&model, &config, 1)), ("b", adapter(&model, &config, 2))]);
    set.average("mean", &[("a", 0.5), ("b", 0.5)]).unwrap();
    let of = |name: &str, tensor: &str| {
        let name_of = format!("backbone.layers.0.mixer.out_proj.lora_{tensor}");
        set.get(name).unwrap().patches().tensor(&name_of).unwrap().tensor()
    };
    assert_eq!((of("mean", "A").shape(), of("mean", "B").shape()), (&[4, 24][..], &[12, 4][..]));
    let [a, b, mean] = ["a", "b", "mean"].map(|name| of(name, "magnitude").to_f64_vec());
    let expected: Vec<f64> = a.iter().zip(&b).map(|(a, b)| 0.5 * a + 0.5 * b).collect();
    close("m", &expected, &mean);
}

#[test]
fn what_cannot_be_averaged_is_named() {
    let model = model(true);
    let of = |config: Value| adapter(&model, &[config], 1);
    let selection = |channel: u32| json!([{"channels": [channel], "states": [[0]], "zero": []}, {"channels": [1], "states": [[0]], "zero": []}]);
    let mut set = set(
        &model,
        [
            ("lora", of(lora(json!(["embeddings"])))),
            ("lookup", of(json!({"method": "lora", "targets": ["embeddings"], "input_embedding_only": true}))),
            ("dora", of(json!({"method": "dora", "targets": ["out_proj"]}))),
            ("dora2", of(json!({"method": "dora", "targets": ["out_proj", "in_proj"]}))),
            ("whole", of(json!({"method": "state-offset-h"}))),
            ("low", of(json!({"method": "state-offset-h", "rank": 1}))),
            ("two", adapter(&model, &[json!({"method": "state-offset-h"}), json!({"method": "state-offset-y"})], 1)),
            ("vera", of(json!({"method": "vera", "rank": 3}))),
            ("vera2", of(json!({"method": "vera", "rank": 3, "projection_seed": 1}))),
            ("sdt", of(json!({"method": "sdt", "selection": selection(0)}))),
            ("sdt2", of(json!({"method": "sdt", "selection": selection(2)}))),
        ],
    );
    for (first, second, parts) in [
        ("lora", "lookup", &["`lora` and `lookup`", "both ends"][..]),
        ("lora", "dora", &["`lora` is lora where `dora` is dora"]),
        ("dora", "dora2", &["`dora` has no magnitudes for `backbone.layers.0.mixer.in_proj`"]),
        ("whole", "low", &["`whole` has", "state_offset_h` [24, 5]", "`low` has"]),
        ("whole", "two", &["`whole` is state-offset-h", "`two` is state-offset-h with state-offset-y"]),
        ("vera", "vera2", &["`vera` has", "seed0", "`vera2` has", "seed1"]),
        ("sdt", "sdt2", &["`sdt` and `sdt2` use their tensors differently"]),
    ] {
        let error = set.average("mean", &[(first, 0.5), (second, 0.5)]).unwrap_err();
        assert!(matches!(error, PeftError::CannotAverage { .. }), "{error}");
        let error = error.to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in: {error}"));
    }
    for weights in [[0.5, 0.6], [f64::NAN, 0.5], [f64::INFINITY, f64::NEG_INFINITY]] {
        let error = set.average("mean", &[("lora", weights[0]), ("lora", weights[1])]).unwrap_err().to_string();
        assert!(error.contains("sum to 1"), "{error}");
    }
    assert!(set.average("mean", &[("", 0.0); 0]).is_err());
    assert!(set.average("mean", &[("lroa", 1.0)]).unwrap_err().to_string().contains("did you mean `lora`"));
    assert!(set.average("dora", &[("lora", 1.0)]).unwrap_err().to_string().contains("already"));
    assert_eq!(set.names().count(), 11);
}
