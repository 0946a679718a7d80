//! A folder with a small random Mamba, its tokenizer and generated data, and the `statetune` binary to run in it.
// Each test file uses a part of it.
#![allow(dead_code)]

#[cfg(unix)]
pub mod kills;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use statetune::datasets_eval::world::{Family, Split, World, bpe};
use statetune::mamba_model::Mamba;
use statetune::mamba_model::config::MambaConfig;
use statetune::ssm_kernels::Level;
use statetune::tensor::{DType, Device};
use tempfile::TempDir;

/// Rows of the model's embedding and tokens of its tokenizer.
pub const VOCAB: usize = 512;

/// LoRA with dropout and State-offset (h) together, on the classification data, for so many steps that a kill can fall
/// between them.
pub const CONFIG: &str = r#"[model]
path = "model"

[data]
format = "jsonl"
train = "train.jsonl"
validation = "validation.jsonl"
prompt_field = "prompt"
label_field = "label"
labels = ["0", "1"]
max_tokens = 110

[[methods]]
method = "lora"
targets = ["in_proj.x", "out_proj"]
rank = 4
dropout = 0.2

[[methods]]
method = "state-offset-h"

[train]
max_steps = 12
batch_size = 6
micro_batch_tokens = 400
learning_rate = 1e-2
warmup_steps = 2
seed = 5
log_every = 2
eval_every = 4
save_every = 3
metric = "accuracy"

[device]
threads = 2

[output]
folder = "out"
"#;

/// The `[data]` of the generation data.
pub const RECORDS: &str = r#"[data]
format = "jsonl"
train = "records.jsonl"
validation = "records-validation.jsonl"
prompt_field = "prompt"
completion_field = "completion"
"#;

/// A sweep of two methods with a search each and two seeds, on the classification data.
pub const SWEEP: &str = r#"
seeds = [0, 1]
every_method = false

[model]
path = "model"

[train]
batch_size = 6
warmup_steps = 1
epochs = 6

[search]
rows = 12
share = 0.5

[[tasks]]
name = "feeling"
metric = "accuracy"

[tasks.data]
format = "jsonl"
train = "train.jsonl"
validation = "validation.jsonl"
prompt_field = "prompt"
label_field = "label"
labels = ["0", "1"]
max_tokens = 110

[[entries]]
methods = [{ method = "state-offset-h" }]

[[entries]]
methods = [{ method = "lora", rank = 2, dropout = 0.2 }]
rates = [0.01, 0.05]

[output]
folder = "out"
"#;

/// What a command ended with.
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Outcome {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

impl Outcome {
    /// It ended well.
    #[track_caller]
    pub fn well(self) -> Outcome {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// It refused its input, with these words on standard error.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) -> Outcome {
        assert_eq!(self.code, Some(2), "expected {parts:?}\n{}\n{}", self.stdout, self.stderr);
        assert!(self.stderr.contains("error: "), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in:\n{}", self.stderr);
        }
        self
    }

    /// Its standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in:\n{}", self.stdout))
    }
}

/// The folder; commands run in it.
pub struct Fixture {
    folder: TempDir,
}

impl Fixture {
    /// `model/`, `train.jsonl` and `validation.jsonl` (two classes), `records.jsonl` and `records-validation.jsonl`
    /// (generation), `run.toml` with [`CONFIG`].
    pub fn new() -> Fixture {
        let fixture = Fixture { folder: tempfile::tempdir().expect("a temporary folder") };
        fixture.write("tokenizer.json", tokenizer());
        let device = Device::cpu(Level::best(), 1).expect("the processor");
        let config = MambaConfig::new(VOCAB, 16, 2);
        let model = Mamba::random(&config, &device, DType::F32, DType::F32, 1).expect("a model");
        model.save(&fixture.path("model"), &[fixture.path("tokenizer.json")]).expect("saving the model");
        for (name, text) in data() {
            fixture.write(name, text);
        }
        fixture.write("run.toml", CONFIG);
        fixture
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A file with `from` replaced by `to`, which must be in it.
    #[track_caller]
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = self.read(name);
        assert!(text.contains(from), "{name} has no {from:?}:\n{text}");
        self.write(name, text.replace(from, to));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        // On a machine without cargo the binary is elsewhere than where the tests were built.
        let binary = std::env::var_os("STATETUNE_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_statetune").into());
        let mut command = Command::new(binary);
        command.args(arguments).current_dir(self.root()).env("RUST_BACKTRACE", "0");
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.command(arguments).output().expect("the binary starts").into()
    }

    /// Lets `run.toml` run on the GPU that `STATETUNE_TEST_DEVICE` asks for (`cuda`, or `cuda-bf16` for activations in
    /// bf16); false, and nothing is changed, where it asks for none.
    pub fn on_test_device(&self) -> bool {
        let Ok(name) = std::env::var("STATETUNE_TEST_DEVICE") else { return false };
        let compute = match name.as_str() {
            "cuda" => "f32",
            "cuda-bf16" => "bf16",
            other => panic!("STATETUNE_TEST_DEVICE is `{other}`: expected cuda or cuda-bf16"),
        };
        self.edit("run.toml", "[device]\n", &format!("[device]\nkind = \"cuda\"\ncompute = \"{compute}\"\n"));
        true
    }

    /// Every file below a folder with its bytes, the cache of tokens apart.
    pub fn tree(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        tree(&self.path(name))
    }
}

/// Every file below a folder with its bytes, the cache of tokens apart.
pub fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut open) = (BTreeMap::new(), vec![folder.to_path_buf()]);
    while let Some(folder_now) = open.pop() {
        for entry in fs::read_dir(&folder_now).unwrap_or_else(|error| panic!("{}: {error}", folder_now.display())) {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(folder).expect("below it").to_string_lossy().into_owned();
            if path.is_dir() && !path.ends_with(".cache") {
                open.push(path);
            } else if path.is_file() {
                found.insert(name, fs::read(&path).expect("a readable file"));
            }
        }
    }
    found
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    for (name, bytes) in tree(from) {
        let file = to.join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a new folder");
        fs::write(file, bytes).expect("a new file");
    }
}

/// What a run is judged by: the files of the last and the best adapter, and the log without its wall-clock fields.
pub fn results(run: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut results = tree(run);
    results.retain(|name, _| name.starts_with("adapter/") || name.starts_with("best/"));
    let log = fs::read_to_string(run.join("metrics.jsonl")).expect("a log");
    // `seconds` is the last key of a line.
    let timeless: Vec<&str> = log.lines().map(|line| line.split(",\"seconds\":").next().expect("a line")).collect();
    results.insert("metrics.jsonl".into(), timeless.join("\n").into());
    results
}

/// Holds two runs to the same results.
#[track_caller]
pub fn same_results(what: &str, expected: &Path, found: &Path) {
    let (expected, found) = (results(expected), results(found));
    let names = |results: &BTreeMap<String, Vec<u8>>| results.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found), "{what}: files");
    for (name, bytes) in &expected {
        let found = &found[name];
        let texts = || (String::from_utf8_lossy(bytes).into_owned(), String::from_utf8_lossy(found).into_owned());
        assert!(
            name.ends_with(".safetensors") || texts().0 == texts().1,
            "{what}: {name}\n{}\n{}",
            texts().0,
            texts().1
        );
        assert!(bytes == found, "{what}: {name} has other bytes");
    }
}

/// A run folder as one that was interrupted after the checkpoint of `step`: later checkpoints, the last adapter and the
/// summary are taken away. The log and the best adapter are those of the end, which a resume has to take back.
pub fn interrupted(whole: &Path, step: u64, to: &Path) {
    copy(whole, to);
    for name in ["adapter", "checkpoints"] {
        fs::remove_dir_all(to.join(name)).expect("a finished run");
    }
    for name in ["summary.json", "report.html"] {
        fs::remove_file(to.join(name)).expect("a finished run");
    }
    for (kept, path) in checkpoints(whole) {
        if kept <= step {
            copy(&path, &to.join("checkpoints").join(path.file_name().expect("a name")));
        }
    }
}

/// The checkpoints of a run by step, oldest first.
pub fn checkpoints(run: &Path) -> Vec<(u64, PathBuf)> {
    let Ok(entries) = fs::read_dir(run.join("checkpoints")) else { return Vec::new() };
    let mut found: Vec<(u64, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        })
        .collect();
    found.sort();
    found
}

/// A stored tensor: name, shape, `f32` values.
pub type Stored = (String, Vec<usize>, Vec<f32>);

/// Changes the tensors of a model's weights file.
pub fn change_weights(model: &Path, change: impl FnOnce(&mut Vec<Stored>)) {
    let path = model.join("model.safetensors");
    let bytes = fs::read(&path).expect("the weights");
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let mut tensors: Vec<Stored> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            (name, view.shape().to_vec(), values)
        })
        .collect();
    change(&mut tensors);
    let raw: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&raw).map(|((name, shape, _), raw)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), raw).expect("a tensor")) //
    });
    let views: BTreeMap<&str, TensorView> = views.collect();
    safetensors::serialize_to_file(views, None, &path).expect("writing the weights");
}

/// The `tokenizer.json` of all fixtures.
fn tokenizer() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut documents: Vec<String> = World::new(1).text(1, 300).collect();
        // So few tokens would not include the labels, of which there are few in so little text.
        documents.push(" 0 1".repeat(1000));
        bpe::train(&documents, VOCAB).expect("a tokenizer").to_string(false).expect("its file")
    })
}

/// The data files of all fixtures.
fn data() -> &'static [(&'static str, String)] {
    static FILES: OnceLock<Vec<(&str, String)>> = OnceLock::new();
    FILES.get_or_init(|| {
        let classes = |split, count| lines(Family::Feeling, split, count);
        let records = |split, count| lines(Family::Records, split, count);
        vec![
            ("train.jsonl", classes(Split::Train, 60)),
            ("validation.jsonl", classes(Split::Validation, 24)),
            ("records.jsonl", records(Split::Train, 24)),
            ("records-validation.jsonl", records(Split::Validation, 12)),
        ]
    })
}

fn lines(family: Family, split: Split, count: usize) -> String {
    let row = |example: statetune::datasets_eval::world::TaskExample| match example.label {
        Some(label) => json!({"prompt": example.prompt, "label": label}),
        None => json!({"prompt": example.prompt, "completion": example.completion}),
    };
    World::new(1).task(family, split, 1, count).map(|example| format!("{}\n", row(example))).collect()
}
