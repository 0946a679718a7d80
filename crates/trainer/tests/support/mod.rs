//! What the promises are tried on: every entry of METHODS with each of its examples on every path of computation, data
//! of unequal lengths, and one comparison.
// Each test file uses a part of it.
#![allow(dead_code)]

use serde_json::{Value, json};
use statetune_datasets_eval::{ClassLabel, Counts, Dataset, Example};
use statetune_mamba_model::Mamba;
use statetune_mamba_model::config::MambaConfig;
use statetune_peft_methods::{Adapter, METHODS, Method, MethodInfo, PeftError, TensorSpec, methods};
use statetune_ssm_kernels::Level;
use statetune_ssm_kernels::random::{normal, stream_of, uniform};
use statetune_tensor::{DType, Device, Tensor};
use statetune_trainer::record::Record;
use statetune_trainer::{Observer, TrainSettings};

/// Tokens of the small model.
pub const VOCAB: usize = 23;

/// 1, d_conv - 2, 17, one that crosses two borders of the scan's chunks of 32, and some between.
pub const LENGTHS: [usize; 8] = [1, 3, 17, 70, 2, 40, 9, 33];

/// A device, the type computed in, and how far two ways to one result may be apart.
pub struct ComputePath {
    pub label: String,
    pub level: Level,
    pub compute: DType,
    /// Of the largest value of a tensor, or of 1.
    pub tolerance: f64,
}

impl ComputePath {
    pub fn device(&self, threads: usize) -> Device {
        Device::cpu(self.level, threads).unwrap()
    }

    pub fn model(&self, config: &MambaConfig, threads: usize) -> Mamba {
        Mamba::random(config, &self.device(threads), self.compute, DType::F32, 1).unwrap()
    }
}

/// `f64` on the reference, `f32` at every level.
pub fn paths() -> Vec<ComputePath> {
    let path = |level: Level, compute: DType, tolerance: f64| {
        let label = format!("{compute} {level}");
        ComputePath { label, level, compute, tolerance }
    };
    let mut paths = vec![path(Level::Reference, DType::F64, 1e-10)];
    paths.extend(Level::available().into_iter().map(|level| path(level, DType::F32, 2e-4)));
    paths
}

/// K = 5, so that d_conv - 2 = 3 is a length of its own; N is no multiple of a vector.
pub fn config(tied: bool) -> MambaConfig {
    MambaConfig { d_state: 5, d_conv: 5, use_bias: true, tie_word_embeddings: tied, ..MambaConfig::new(VOCAB, 12, 2) }
}

/// A method with one of its example configurations, and others beside it.
#[derive(Clone)]
pub struct Case {
    pub info: &'static MethodInfo,
    pub example: Value,
    /// Configurations with their `method`.
    pub beside: Vec<Value>,
}

impl Case {
    pub fn name(&self) -> String {
        let beside: String = self.beside.iter().map(|config| format!(" with {config}")).collect();
        format!("{} {}{beside}", self.info.tag, self.example)
    }

    pub fn methods(&self) -> Vec<Box<dyn Method>> {
        let beside = self.beside.iter().map(|config| methods::parse_value(config.clone()).unwrap());
        std::iter::once((self.info.parse)(self.example.clone()).unwrap()).chain(beside).collect()
    }

    /// A new adapter. Where its start needs a feature that this build lacks, random numbers stand in for the decomposition:
    /// all but the start is tested.
    pub fn adapter(&self, model: &Mamba) -> Adapter {
        match Adapter::new(model, self.methods(), 3) {
            Err(PeftError::MissingFeature { feature, .. }) => {
                println!("{}: random numbers for a start that needs the feature `{feature}`", self.name());
                let plans = self.methods().into_iter().map(|method| method.plan(model.config()).unwrap());
                let tensors = plans.flat_map(|plan| plan.tensors).map(|spec| {
                    let mut values = vec![0f64; spec.shape.iter().product()];
                    // The start and its frozen copy are the same.
                    normal(&mut values, 0.0, 0.3, 3, stream_of(spec.name.trim_end_matches('0')));
                    (spec.name, Tensor::from_vec(values, &spec.shape).unwrap())
                });
                Adapter::with_tensors(model, self.methods(), tensors.collect()).unwrap()
            }
            other => other.unwrap(),
        }
    }

    /// Whether a run of it begins by choosing what is trained; what it ends with is then another method's tensors.
    pub fn selects(&self) -> bool {
        self.methods().iter().any(|method| method.warmup_steps() > 0)
    }

    /// With tensors of order 0.1: at their initial zeros every equality is empty.
    pub fn random_adapter(&self, model: &Mamba) -> Adapter {
        let adapter = self.adapter(model);
        randomise(&adapter);
        adapter
    }

    /// The same without dropout, where the method has it.
    pub fn without_dropout(&self) -> Case {
        let mut case = self.clone();
        if self.info.options.iter().any(|option| option.name == "dropout") {
            case.example["dropout"] = 0.0.into();
        }
        for config in case.beside.iter_mut().filter(|config| config.get("dropout").is_some()) {
            config["dropout"] = 0.0.into();
        }
        case
    }
}

/// Every entry with every example.
pub fn cases() -> Vec<Case> {
    let cases: Vec<Case> = METHODS
        .iter()
        .flat_map(|&info| (info.examples)().into_iter().map(move |example| Case { info, example, beside: Vec::new() }))
        .collect();
    for info in METHODS {
        assert!(cases.iter().any(|case| case.info.tag == info.tag), "{} has no example to try", info.tag);
    }
    cases
}

/// Methods that people use together; the contract of METHODS tries many more.
pub fn pairs() -> Vec<Case> {
    let lora = json!({"method": "lora", "targets": ["in_proj.x", "out_proj"], "rank": 2, "dropout": 0.2});
    let pair = |tag: &str, example: Value, beside: Vec<Value>| {
        let info = methods::find(tag).unwrap();
        Case { info, example, beside }
    };
    let of = |tag: &str| json!({"method": tag});
    vec![
        pair("state-offset-h", json!({}), vec![lora.clone()]),
        pair(
            "initial-state",
            json!({}),
            vec![of("conv-initial-state"), json!({"method": "prefix-tuning", "tokens": 2})],
        ),
        pair("prompt-tuning", json!({"tokens": 3, "mlp": 2}), vec![lora.clone()]),
        pair("additional-scan", json!({"states": 2}), vec![of("state-to-output"), of("previous-state")]),
        pair("dora", json!({"targets": ["in_proj"], "rank": 2, "dropout": 0.2}), vec![of("bitfit")]),
        pair("sdt", json!({"channels": 0.8, "states": 0.6, "warmup_steps": 4}), vec![lora]),
    ]
}

/// Every path with every case and every pair, on tied and untied models.
pub fn for_every_method(mut test: impl FnMut(&str, &ComputePath, &Mamba, &Case)) {
    for path in paths() {
        for tied in [true, false] {
            let model = path.model(&config(tied), 2);
            for case in cases().into_iter().chain(pairs()) {
                test(&format!("{} on {}, tied: {tied}", case.name(), path.label), &path, &model, &case);
            }
        }
    }
}

/// Whether a tensor must have a gradient and move.
pub fn must_move(spec: &TensorSpec) -> bool {
    spec.trained && spec.may_stay.is_none()
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

/// Sets every element of a trained tensor.
pub fn fill(adapter: &Adapter, name: &str, value: f64) {
    let buffer = adapter.patches().tensor(name).unwrap();
    let old = buffer.tensor();
    buffer.set(Tensor::from_vec(vec![value; old.len()], old.shape()).unwrap().cast(old.dtype())).unwrap();
}

/// A sequence of its own for every (length, stream), of tokens below `vocab`.
pub fn tokens(length: usize, stream: u64, vocab: usize) -> Vec<u32> {
    let mut draws = vec![0f64; length];
    uniform(&mut draws, 0.0, vocab as f64, 5, stream << 32 ^ length as u64);
    draws.into_iter().map(|x| (x as u32).min(vocab as u32 - 1)).collect()
}

fn dataset(examples: Vec<Example>, classes: Vec<ClassLabel>) -> Dataset {
    let longest = examples.iter().map(|example| example.tokens.len()).max().unwrap_or(0);
    let counts = Counts { rows: examples.len(), kept: examples.len(), max_tokens: longest, ..Counts::default() };
    Dataset { examples, classes, counts, ..Dataset::default() }
}

/// One example per length, after a prefix that all share; example i has 1 + 3 i labelled tokens, or all it can have.
pub fn generation(prefix: usize, lengths: &[usize], vocab: usize) -> Dataset {
    let shared = tokens(prefix, 1000, vocab);
    let example = |(i, &length): (usize, &usize)| {
        // The last token is a target only.
        let own = tokens(length + 1, i as u64, vocab);
        let labelled_from = prefix + (length + 1).saturating_sub(1 + 3 * i).max(1);
        Example { id: i as u64 + 100, tokens: [&shared[..], &own].concat(), labelled_from, class: None }
    };
    dataset(lengths.iter().enumerate().map(example).collect(), Vec::new())
}

/// Two classes, tokens 1 and 2; the class is that of the example's first token.
pub fn classification(count: usize) -> Dataset {
    let classes = vec![ClassLabel { name: "1".into(), token: 1 }, ClassLabel { name: "2".into(), token: 2 }];
    let example = |i: usize| {
        let mut tokens = tokens(3 + i % 5, i as u64 + 50, VOCAB);
        let class = tokens[0] as usize % 2;
        tokens.push(classes[class].token);
        Example { id: i as u64, labelled_from: tokens.len() - 1, tokens, class: Some(class) }
    };
    dataset((0..count).map(example).collect(), classes.clone())
}

/// Few steps at a rate that moves everything.
pub fn settings(steps: u64) -> TrainSettings {
    TrainSettings {
        max_steps: steps,
        batch_size: 4,
        micro_batch_tokens: 60,
        learning_rate: 1e-2,
        warmup_steps: 1,
        seed: 3,
        log_every: 1,
        eval_every: 1,
        save_every: 1,
        ..TrainSettings::default()
    }
}

/// The bytes of every trained tensor.
pub fn bytes(adapter: &Adapter) -> Vec<(String, Vec<u8>)> {
    let tensors = adapter.patches().tensors().iter();
    tensors.map(|tensor| (tensor.name.clone(), tensor.buffer.tensor().to_le_bytes())).collect()
}

/// Keeps what is recorded, and interferes after steps.
#[derive(Default)]
pub struct Watcher<'a> {
    pub records: Vec<Record>,
    pub after_step: Option<Box<dyn FnMut(u64) + 'a>>,
}

impl Observer for Watcher<'_> {
    fn step(&mut self, done: u64, _: u64, _: u64, _: f64) {
        if let Some(act) = &mut self.after_step {
            act(done);
        }
    }

    fn record(&mut self, record: &Record) {
        self.records.push(record.clone());
    }
}

/// Holds two lists of numbers together, relative to the largest of them or to `floor`.
#[track_caller]
pub fn close(name: &str, expected: &[f64], found: &[f64], floor: f64, tolerance: f64) {
    assert_eq!(expected.len(), found.len(), "{name}: number of values");
    let scale = expected.iter().fold(floor, |scale, x| scale.max(x.abs()));
    let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs() / scale);
    let (at, worst) = differences.enumerate().fold(
        (0, 0.0),
        |worst: (usize, f64), (i, d)| {
            if d > worst.1 || d.is_nan() { (i, d) } else { worst }
        },
    );
    let percent = 100.0 * worst / tolerance;
    assert!(worst <= tolerance, "{name}: differs by {worst:e} at element {at}, {percent:.0}% of the tolerance");
}
