//! What the promises are tried on: every entry of METHODS with each of its examples, pairs that people use together, models
//! of every kind, and one comparison.

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Bound, Mamba, Patches};
use statetune_peft_methods::{Adapter, METHODS, Method, MethodInfo, PeftError, methods};
use statetune_ssm_kernels::random::{normal, stream_of};
use statetune_ssm_kernels::{Cpu, Level};
use statetune_tensor::{DType, Device, Tape, Tensor};

/// Tokens of the models.
pub const VOCAB: usize = 23;

/// 1, d_conv - 2, 17, and one that crosses two borders of the scan's chunks of 32.
pub const LENGTHS: [usize; 4] = [1, 3, 17, 70];

/// K = 5, so that d_conv - 2 = 3 is a length of its own; N is no multiple of a vector.
pub fn config(tied: bool, biases: bool) -> MambaConfig {
    MambaConfig { d_state: 5, d_conv: 5, use_bias: biases, tie_word_embeddings: tied, ..MambaConfig::new(VOCAB, 12, 2) }
}

/// One method or several, as configurations.
pub struct Subject {
    pub name: String,
    pub configs: Vec<Value>,
    /// Whether the model is unchanged before training.
    pub starts_unchanged: bool,
    /// Whether it can be merged into a checkpoint.
    pub merges: bool,
}

impl Subject {
    /// From configurations with their `method`.
    pub fn new(configs: Vec<Value>) -> Subject {
        let infos: Vec<&MethodInfo> =
            configs.iter().map(|config| methods::find(config["method"].as_str().unwrap()).unwrap()).collect();
        Subject {
            name: configs.iter().map(Value::to_string).collect::<Vec<_>>().join(" with "),
            starts_unchanged: infos.iter().all(|info| info.starts_unchanged),
            merges: infos.iter().all(|info| info.mergeable),
            configs,
        }
    }

    pub fn methods(&self) -> Vec<Box<dyn Method>> {
        self.configs.iter().map(|config| methods::parse_value(config.clone()).unwrap()).collect()
    }

    /// A new adapter. Where its start needs a feature that this build lacks, random numbers stand in for the decomposition:
    /// all but the start is tested.
    pub fn start(&self, model: &Mamba) -> Adapter {
        match Adapter::new(model, self.methods(), 3) {
            Err(PeftError::MissingFeature { feature: "lapack", .. }) => self.stand_in(model),
            other => other.unwrap_or_else(|error| panic!("{}: {error}", self.name)),
        }
    }

    fn stand_in(&self, model: &Mamba) -> Adapter {
        let mut tensors = Vec::new();
        for config in &self.configs {
            let alone = Subject::new(vec![config.clone()]);
            if let Ok(adapter) = Adapter::new(model, alone.methods(), 3) {
                let saved = adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved);
                tensors.extend(saved.map(|(tensor, _)| (tensor.name.clone(), tensor.buffer.tensor())));
                continue;
            }
            for spec in alone.methods().remove(0).plan(model.config()).unwrap().tensors {
                let mut values = vec![0f64; spec.shape.iter().product()];
                // The start and its frozen copy are the same.
                normal(&mut values, 0.0, 0.3, 3, stream_of(spec.name.trim_end_matches('0')));
                tensors.push((spec.name, Tensor::from_vec(values, &spec.shape).unwrap()));
            }
        }
        Adapter::with_tensors(model, self.methods(), tensors).unwrap()
    }

    /// With tensors of order 0.1 away from the start.
    pub fn random(&self, model: &Mamba) -> Adapter {
        let adapter = self.start(model);
        randomise(&adapter);
        adapter
    }
}

/// Every entry with each of its examples.
pub fn entries() -> Vec<Subject> {
    let with_tag = |info: &MethodInfo, mut example: Value| {
        example["method"] = info.tag.into();
        Subject::new(vec![example])
    };
    METHODS.iter().flat_map(|&info| (info.examples)().into_iter().map(move |e| with_tag(info, e))).collect()
}

/// The example of an entry whose configuration has this key.
pub fn example_with(tag: &str, key: &str) -> Value {
    let examples = (methods::find(tag).unwrap().examples)();
    let mut example = examples.into_iter().find(|example| example.get(key).is_some()).expect("an example with the key");
    example["method"] = tag.into();
    example
}

/// Methods that people use together, and those that meet at one site.
pub fn pairs() -> Vec<Subject> {
    let sdt = || example_with("sdt", "selection");
    let lora = |targets: Value| json!({"method": "lora", "targets": targets, "rank": 2, "dropout": 0.2});
    let scan = || json!({"method": "additional-scan", "states": 3});
    let plain = |tag: &str| json!({"method": tag});
    let tokens = |tag: &str, tokens: usize| json!({"method": tag, "tokens": tokens});
    let dora = |targets: Value| json!({"method": "dora", "targets": targets, "rank": 2, "dropout": 0.2});
    let vera = |targets: Value| json!({"method": "vera", "targets": targets, "rank": 3});
    let pairs = vec![
        // State-based methods with each other and with LoRA.
        vec![plain("state-offset-h"), lora(json!(["out_proj"]))],
        vec![json!({"method": "state-offset-h", "rank": 2, "rank_ratio": 2}), plain("state-offset-y")],
        vec![plain("initial-state"), plain("conv-initial-state")],
        vec![plain("state-to-output"), plain("state-offset-h"), plain("state-offset-y"), lora(json!(["x_proj"]))],
        vec![plain("previous-state"), plain("initial-state")],
        // Virtual inputs: with trained initial states, with changed projections, with each other.
        vec![plain("initial-state"), plain("conv-initial-state"), tokens("prefix-tuning", 2)],
        vec![json!({"method": "affix-tuning", "tokens": 6, "mlp": 3}), lora(json!(["in_proj", "x_proj.b"]))],
        vec![tokens("prompt-tuning", 3), lora(json!(["in_proj.x", "out_proj"]))],
        vec![
            json!({"method": "prompt-tuning", "tokens": 4, "mlp": 3}),
            json!({"method": "prefix-tuning", "tokens": 5, "mlp": 2}),
            tokens("affix-tuning", 1),
        ],
        // Further state dimensions under every operand.
        vec![scan(), plain("state-to-output")],
        vec![scan(), plain("state-offset-h"), plain("initial-state")],
        vec![scan(), plain("previous-state")],
        vec![scan(), tokens("prefix-tuning", 6)],
        vec![scan(), sdt(), lora(json!(["x_proj", "x_proj.c"]))],
        // One matrix changed in several ways.
        vec![sdt(), lora(json!(["out_proj"]))],
        vec![dora(json!(["in_proj.x"])), lora(json!(["in_proj"]))],
        vec![dora(json!(["in_proj"])), json!({"method": "bitfit", "targets": ["in_proj"], "add_missing": true})],
        vec![dora(json!(["x_proj"])), sdt()],
        vec![
            json!({"method": "partial", "parameters": ["in_proj.weight", "out_proj.weight"]}),
            dora(json!(["in_proj"])),
        ],
        vec![plain("full"), lora(json!(["in_proj", "embeddings", "lm_head"]))],
        vec![plain("conv-lora"), json!({"method": "partial", "parameters": ["conv1d.weight"]})],
        vec![plain("bitfit"), lora(json!(["dt_proj"]))],
        vec![
            json!({"method": "pissa", "targets": ["x_proj"], "rank": 2}),
            json!({"method": "lora-fa", "targets": ["in_proj.z"], "rank": 2, "dropout": 0.2}),
        ],
        // Frozen projections that two share.
        vec![vera(json!(["in_proj.x"])), vera(json!(["in_proj.z", "lm_head"])), plain("state-offset-y")],
        // Trained tensors beside operands.
        vec![plain("full"), plain("state-offset-h")],
        vec![json!({"method": "partial", "parameters": ["A_log", "D", "norm.weight"]}), plain("state-offset-h")],
        // Both ends of the embeddings.
        vec![lora(json!(["embeddings"])), dora(json!(["lm_head"]))],
        vec![
            json!({"method": "dora", "targets": ["embeddings"], "rank": 2, "input_embedding_only": true}),
            lora(json!(["lm_head"])),
        ],
        vec![json!({"method": "partial", "parameters": ["lm_head.weight"]}), lora(json!(["embeddings"]))],
    ];
    let mut pairs: Vec<Subject> = pairs.into_iter().map(Subject::new).collect();
    // A head has no bias in any checkpoint.
    let head = json!({"method": "bitfit", "targets": ["lm_head"], "add_missing": true});
    pairs.push(Subject { merges: false, ..Subject::new(vec![head, lora(json!(["lm_head"]))]) });
    pairs
}

#[path = "../../../../tests/support/test_device.rs"]
mod test_device;

/// A model, and how far two ways to one result may be apart on it.
pub struct Ground {
    pub label: String,
    pub model: Mamba,
    pub tolerance: f64,
}

impl Ground {
    fn on_asked_for(tied: bool, biases: bool) -> Option<Ground> {
        let (label, device, compute) = test_device::asked_for()?;
        let model = Mamba::random(&config(tied, biases), &device, compute, DType::F32, 1).unwrap();
        let label = format!("{label}, tied: {tied}, biases: {biases}");
        Some(Ground { label, model, tolerance: if compute == DType::Bf16 { 5e-2 } else { 4e-4 } })
    }

    fn new(level: Level, compute: DType, tied: bool, biases: bool) -> Ground {
        let device = Device::Cpu(Cpu::new(level, 2).unwrap());
        let model = Mamba::random(&config(tied, biases), &device, compute, DType::F32, 1).unwrap();
        let label = format!("{compute} {level}, tied: {tied}, biases: {biases}");
        Ground { label, model, tolerance: if compute == DType::F64 { 1e-10 } else { 2e-4 } }
    }
}

/// `f64` on the reference, also where a GPU is asked for.
pub fn exact(tied: bool, biases: bool) -> Ground {
    Ground::new(Level::Reference, DType::F64, tied, biases)
}

/// Both kinds of embeddings and of projections: in `f64`, and on the fastest path.
pub fn few() -> Vec<Ground> {
    let kinds = [(true, true), (false, false)];
    if test_device::asked_for().is_some() {
        return kinds.into_iter().filter_map(|(tied, biases)| Ground::on_asked_for(tied, biases)).collect();
    }
    let both = |(tied, biases)| [exact(tied, biases), Ground::new(Level::best(), DType::F32, tied, biases)];
    kinds.into_iter().flat_map(both).collect()
}

/// Those, and every level.
pub fn all() -> Vec<Ground> {
    let mut grounds = few();
    if test_device::asked_for().is_some() {
        return grounds;
    }
    for level in Level::available().into_iter().filter(|&level| level != Level::best()) {
        grounds.extend([true, false].map(|tied| Ground::new(level, DType::F32, tied, tied)));
    }
    grounds
}

/// Every entry everywhere, and every pair on a few grounds, with random tensors.
pub fn for_every_method(test: impl Fn(&str, &Ground, &Subject, &Adapter)) {
    let over = |grounds: Vec<Ground>, subjects: Vec<Subject>| {
        for ground in grounds {
            for subject in &subjects {
                let name = format!("{} on {}", subject.name, ground.label);
                test(&name, &ground, subject, &subject.random(&ground.model));
            }
        }
    };
    over(all(), entries());
    over(few(), pairs());
}

/// Adds numbers of order 0.1 to every tensor that is saved: what is made from a seed must stay what it is.
pub fn randomise(adapter: &Adapter) {
    for (tensor, _) in adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved) {
        let value = tensor.buffer.tensor();
        let mut noise = vec![0f64; value.len()];
        normal(&mut noise, 0.0, 0.1, 9, stream_of(&tensor.name));
        let sum: Vec<f64> = value.to_f64_vec().iter().zip(&noise).map(|(v, n)| v + n).collect();
        tensor.buffer.set(Tensor::from_vec(sum, value.shape()).unwrap().cast(value.dtype())).unwrap();
    }
}

pub fn sequence(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|i| ((i * 7 + seed * 5 + i * i) % VOCAB) as u32).collect()
}

pub fn logits(model: &Mamba, patches: &Patches, batch: &Batch) -> Vec<f64> {
    let tape = Tape::inference(model.device());
    let bound = Bound::new(&tape, model, patches, None).unwrap();
    let hidden = model.forward(&tape, &bound, batch, None, false).unwrap().hidden;
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    model.logits(&tape, &bound, &hidden, &rows).unwrap().tensor().to_f64_vec()
}

#[track_caller]
pub fn close(name: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{name}: number of values");
    let worst = a
        .iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs() / (1.0 + a.abs()))
        .fold(0f64, |m, d| if d > m || d.is_nan() { d } else { m });
    assert!(worst <= tolerance, "{name}: differs by {worst:e}, {:.0}% of the tolerance", 100.0 * worst / tolerance);
}

/// The bytes of every tensor, by name.
pub fn bytes(adapter: &Adapter) -> Vec<(String, Vec<u8>)> {
    let tensors = adapter.patches().tensors().iter();
    tensors.map(|tensor| (tensor.name.clone(), tensor.buffer.tensor().to_le_bytes())).collect()
}
