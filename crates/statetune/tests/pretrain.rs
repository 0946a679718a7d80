//! `statetune pretrain` by the real binary: what a run comes to is what its steps come to by hand; killed and resumed is
//! uninterrupted; by the clock; going on from a model; what is wrong is refused and leaves nothing.
#![cfg(unix)]

mod support;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use statetune::cli::pretrain;
use statetune::datasets_eval::world::World;
use statetune::datasets_eval::{PackingPlan, Pool, Split, Tokenizer, load_corpus};
use statetune::mamba_model::Mamba;
use statetune::tensor::{DType, Device};
use statetune::trainer::{AdamW, PretrainConfig, data, step};
use support::{Fixture, checkpoints, same_results, tree};

const CONFIG: &str = r#"[model]
config = "model/config.json"

[data]
train = ["text.jsonl", "more.txt"]
validation = "held_out.txt"
length = 24

[train]
max_steps = 12
batch_size = 4
micro_batch_tokens = 60
learning_rate = 1e-2
schedule = "linear"
warmup_steps = 2
constant_until = 0.5
final_rate = 0.02
seed = 5
log_every = 2
eval_every = 4
save_every = 3

[device]
threads = 2

[output]
folder = "out"
"#;

/// The fixture with text and the configuration, in `pretrain.toml`.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let text = |seed: u64, count: usize| World::new(1).text(seed, count).collect::<Vec<String>>();
    let lines = text(1, 20).iter().map(|text| serde_json::json!({"text": text}).to_string() + "\n").collect::<String>();
    fixture.write("text.jsonl", lines);
    fixture.write("more.txt", text(2, 6).join("<|endoftext|>"));
    fixture.write("held_out.txt", text(3, 3).join("<|endoftext|>"));
    fixture.write("pretrain.toml", CONFIG);
    fixture
}

fn pretrain<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["pretrain", "pretrain.toml", "--json", "--quiet"];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    arguments
}

fn log(fixture: &Fixture, run: &str, kind: &str) -> Vec<Value> {
    let text = fixture.read(&format!("{run}/metrics.jsonl"));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line"));
    lines.filter(|line| line["kind"] == kind).collect()
}

/// The weights of a model folder, by name.
fn weights(model: &Mamba) -> Vec<(String, Vec<f64>)> {
    model.parameters().iter().map(|p| (p.name.clone(), p.value.to_f64_vec())).collect()
}

/// The same run by hand: batch after batch, gradients, AdamW, with the rates written out.
#[test]
fn a_run_is_its_steps_and_lowers_the_loss() {
    let fixture = fixture();
    let summary = fixture.run(&pretrain(&[])).well().json();
    let device = Device::best_cpu().expect("the processor");
    let found = Mamba::load(&fixture.path("out/model"), &device, DType::F32).expect("the model");
    assert_eq!(fixture.read("out/model/tokenizer.json"), fixture.read("model/tokenizer.json"));

    let file = fixture.path("pretrain.toml");
    let mut config = PretrainConfig::read(&file, &[]).expect("the configuration");
    config.model.config = Some(fixture.path("model/config.json"));
    config.data.train.iter_mut().for_each(|file| *file = fixture.path(&file.to_string_lossy()));
    let model = pretrain::start(&config.model, &device, DType::F32, 5).expect("a start");
    let tokenizer = Tokenizer::open(&fixture.path("model/tokenizer.json")).expect("the tokenizer");
    let pool = Pool::new(1).expect("a pool");
    let rows = load_corpus(&config.data, Split::Train, &tokenizer, &pool, None, &|_, _| {}).expect("the text");
    let adapter = pretrain::adapter(&model, 0).expect("an adapter");
    let mut optimizer = AdamW::new(&adapter, config.train.adamw());
    let plan = PackingPlan::new(rows.lengths(), 4, 60, 5).expect("a plan");
    let rates = [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0].into_iter().chain((1..6).map(|i| 1.0 - 0.98 * f64::from(i) / 6.0));
    let mut losses = Vec::new();
    for (index, rate) in rates.enumerate() {
        let micro = |indices: &Vec<usize>| data::micro_batch(&rows, indices, false).expect("a batch");
        let micros: Vec<_> = plan.step(0, index).iter().map(micro).collect();
        assert!(micros.len() > 1, "gradients are accumulated");
        let result = step::gradients(&model, adapter.patches(), &micros, None).expect("gradients");
        let scale = (1.0 / (result.norm(&device).expect("a norm") + 1e-6)).min(1.0);
        optimizer.update(&device, &adapter, &result.gradients, 1e-2 * rate, scale).expect("an update");
        losses.push(result.loss);
    }
    let expected = adapter.merge(&model).expect("a model");
    assert!(weights(&found) == weights(&expected), "other bits than step by step");

    let steps = log(&fixture, "out", "step");
    for (line, pair) in steps.iter().zip(losses.chunks(2)) {
        let (logged, mean) = (line["loss"].as_f64().expect("a loss"), (pair[0] + pair[1]) / 2.0);
        assert!((logged - mean).abs() < 1e-12, "{logged} logged, {mean} by hand");
        assert!(line["tokens_per_second"].as_f64().is_some_and(|speed| speed > 0.0));
    }
    assert!(losses[11] < losses[0] - 0.3, "{losses:?}");
    assert!((steps[5]["learning_rate"].as_f64().expect("a rate") - 1e-2 * (1.0 - 0.98 * 5.0 / 6.0)).abs() < 1e-12);
    assert_eq!((summary["steps"].as_u64(), summary["tokens"].as_u64()), (Some(12), Some(12 * 4 * 24)));
    let evaluations = log(&fixture, "out", "evaluation");
    let last = evaluations.last().expect("an evaluation");
    assert_eq!((evaluations.len(), last["step"].as_u64()), (3, Some(12)));
    assert_eq!(summary["evaluation"]["loss"], last["loss"]);
    assert!(last["loss"].as_f64() < evaluations[0]["loss"].as_f64());
    // Every token of the held-out text but its first.
    let held_out = fs::read_to_string(fixture.path("held_out.txt")).expect("the text");
    assert_eq!(last["labelled"], tokenizer.encode(&held_out).expect("tokens").len());
}

#[test]
fn killed_and_resumed_is_uninterrupted() {
    let fixture = fixture();
    fixture.edit("pretrain.toml", "max_steps = 12", "max_steps = 90");
    fixture.run(&pretrain(&["output.folder=whole"])).well();
    for kill_after in [3, 30, 60] {
        let resume = fixture.path("killed/config.toml").exists();
        let arguments = pretrain(&["output.folder=killed"]);
        let arguments: Vec<&str> = arguments.into_iter().chain(resume.then_some("--resume")).collect();
        let mut child =
            fixture.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        let started = Instant::now();
        while checkpoints(&fixture.path("killed")).last().is_none_or(|(step, _)| *step < kill_after) {
            assert!(started.elapsed() < Duration::from_secs(120) && child.try_wait().expect("its status").is_none());
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().expect("a process to kill");
        assert!(!child.wait().expect("its end").success(), "it was over before it could be killed");
        assert!(!fixture.path("killed/model").exists());
    }
    let arguments = pretrain(&["output.folder=killed", "device.threads=1"]);
    fixture.run(&[&arguments[..], &["--resume"]].concat()).well();
    same_results("killed", &fixture.path("whole"), &fixture.path("killed"));
    assert!(tree(&fixture.path("whole/model")) == tree(&fixture.path("killed/model")), "another model");
    // Other text is another run.
    fixture.write("more.txt", "Nothing that was there before. ".repeat(50));
    fixture.run(&[&arguments[..], &["--resume"]].concat()).refused(&["the training data is not what this run"]);
    let other = pretrain(&["output.folder=killed", "train.learning_rate=1e-3"]);
    fixture.run(&[&other[..], &["--resume"]].concat()).refused(&["`train.learning_rate` was 0.01 then, is 0.001 now"]);
}

#[test]
fn the_clock_ends_a_run_and_its_rate_falls_by_it() {
    let fixture = fixture();
    let settings = ["train.max_steps=0", "train.max_seconds=0.6", "train.eval_every=100000", "train.save_every=100000"];
    let summary = fixture.run(&pretrain(&settings)).well().json();
    let (steps, seconds) = (summary["steps"].as_u64().expect("steps"), summary["seconds"].as_f64().expect("seconds"));
    assert!(steps > 12 && (0.6..5.0).contains(&seconds), "{steps} steps in {seconds} s");
    let lines = log(&fixture, "out", "step");
    let rate = |line: &Value| line["learning_rate"].as_f64().expect("a rate");
    for pair in lines.windows(2).filter(|pair| pair[0]["step"].as_u64() > Some(2)) {
        // The last step of a line began after the line before was written.
        let (before, after) = (pair[0]["seconds"].as_f64().expect("seconds"), pair[1]["seconds"].as_f64().expect("s"));
        let at = |seconds: f64| 1e-2 * (1.0 - 0.98 * ((seconds / 0.6 - 0.5) / 0.5).clamp(0.0, 1.0));
        assert!((at(after) - 1e-9..at(before) + 1e-9).contains(&rate(&pair[1])), "{pair:?}");
    }
    let last = lines.last().expect("a line");
    assert!(rate(last) < 5e-3 && last["step"].as_u64() == Some(steps), "{last}");
    assert_eq!(checkpoints(&fixture.path("out")).last().map(|(step, _)| *step), Some(steps));
    assert_eq!(log(&fixture, "out", "evaluation").len(), 1);
    // What is over stays over.
    fixture.run(&[&pretrain(&settings)[..], &["--resume"]].concat()).well();
    assert_eq!(checkpoints(&fixture.path("out")).last().map(|(step, _)| *step), Some(steps));
}

#[test]
fn a_model_goes_on_and_is_written_as_asked() {
    let fixture = fixture();
    fixture.run(&pretrain(&["output.weights=bf16"])).well();
    let inspected = fixture.run(&["inspect", "out/model", "--json"]).well().json();
    let types = inspected["parameters_by_type"].as_object().expect("types");
    // A_log [32, 16] and D [32] of two layers.
    assert_eq!((types.len(), &types["f32"]), (2, &Value::from(2 * (32 * 16 + 32))));
    let first = log(&fixture, "out", "step")[0]["loss"].as_f64().expect("a loss");
    fixture.edit("pretrain.toml", "config = \"model/config.json\"", "path = \"out/model\"");
    let summary = fixture.run(&pretrain(&["output.folder=on", "train.max_steps=4"])).well().json();
    let on = log(&fixture, "on", "step")[0]["loss"].as_f64().expect("a loss");
    assert!(on < first - 0.5, "{on} after {first}");
    assert_eq!(summary["model"], "on/model");
    let text = fixture.run(&["generate", "on/model", "--prompt", "The", "--max-new-tokens", "3", "--quiet"]).well();
    assert!(!text.stdout.trim().is_empty());
    let run = fixture.run(&["inspect", "on", "--json"]).well().json();
    assert_eq!((run["last_step"]["step"].as_u64(), run["tokens_per_step"].as_u64()), (Some(4), Some(96)));
    fixture.run(&["eval", "on"]).refused(&["on is a pretraining, which has no adapter", "`model` in the run's folder"]);
}

#[test]
fn what_cannot_be_used_is_refused_and_leaves_nothing() {
    let fixture = fixture();
    fixture.write("bad.jsonl", "{\"text\": \"good\"}\n{\"text\": \n");
    fixture.write("small.txt", "a few words");
    let narrow = fixture.read("model/config.json").replace("512", "100");
    fixture.write("narrow.json", narrow);
    for (settings, parts) in [
        (&["data.train=absent.txt"][..], &["absent.txt", "give the path of a readable file"][..]),
        (&["data.train=bad.jsonl"], &["bad.jsonl:2"]),
        (&["data.train=small.txt"], &["small.txt", "fewer than the 25 of one row"]),
        (&["data.validation=absent.jsonl.zst"], &["absent.jsonl.zst"]),
        (&["data.lenght=3"], &["pretrain.toml", "did you mean `length`"]),
        (&["methods.method=full"], &["unknown field `methods`"]),
        (&["model.config=absent.json"], &["cannot use the configuration absent.json", "No such file"]),
        (
            &["model.config=narrow.json", "model.tokenizer=model/tokenizer.json"],
            &["tokenizer.json has 512 tokens, but the model's embedding only 100 rows"],
        ),
        (&["model.tokenizer=absent.json"], &["absent.json", "give a readable tokenizer.json"]),
        (&["model.path=model"], &["`model.config` and `model.path` are both there"]),
        (&["train.max_seconds=-1.0"], &["`train.max_seconds` must be at least 0"]),
        (&["train.metric=accuracy"], &["`train.metric` is \"accuracy\", but the validation data has no classes"]),
        (&["output.weights=int8"], &["unknown variant `int8`"]),
    ] {
        let before = fixture.tree("");
        fixture.run(&pretrain(settings)).refused(parts);
        assert!(before == fixture.tree(""), "{settings:?} changed a file");
        assert!(!fixture.path("out").exists(), "{settings:?} left a run folder");
    }
    fixture.run(&["pretrain", "absent.toml"]).refused(&["cannot read absent.toml"]);
    fixture.run(&[&pretrain(&[])[..], &["--resume"]].concat()).refused(&["out holds no run to resume"]);
}

/// The recipe in the repository is a configuration, with the schedule that it says.
#[test]
fn the_recipe_is_valid() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../benches/pretrain-31m.toml");
    let config = PretrainConfig::read(&file, &[]).expect("the recipe");
    let train = &config.train;
    assert_eq!(train.batch_size * config.data.length, train.micro_batch_tokens);
    assert_eq!((train.constant_until, train.final_rate, train.beta2, train.weight_decay), (0.5, 0.02, 0.95, 0.1));
}
