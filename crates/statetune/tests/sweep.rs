//! `statetune sweep` as it is typed: killed and started again, limits, refusals, the table.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::Fixture;

const CONFIG: &str = r#"
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

/// Three rates and two, and two seeds for each entry.
const RUNS: usize = 9;

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("sweep.toml", CONFIG);
    fixture
}

/// The lines without what another time measures otherwise.
fn timeless(fixture: &Fixture, file: &str) -> Vec<Value> {
    let without = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("a line");
        for key in ["seconds", "peak_memory_mib", "workers"] {
            line.as_object_mut().expect("an object").remove(key).expect(key);
        }
        line
    };
    fixture.read(file).lines().map(without).collect()
}

#[test]
fn a_kill_costs_one_run() {
    let fixture = fixture();
    let whole = fixture.run(&["sweep", "sweep.toml", "--set", "output.folder=whole", "--quiet"]).well();
    assert!(whole.stdout.contains("9 of 9 runs are finished"), "{}", whole.stdout);
    // As soon as a run is there the process is killed.
    let mut child = fixture.command(&["sweep", "sweep.toml", "--quiet"]).spawn().expect("the binary starts");
    let started = Instant::now();
    let lines = || std::fs::read_to_string(fixture.path("out/results.jsonl")).map_or(0, |text| text.lines().count());
    while lines() < 1 && started.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("a kill");
    child.wait().expect("its end");
    let before = lines();
    assert!((1..RUNS).contains(&before), "{before} runs were finished");
    let again = fixture.run(&["sweep", "sweep.toml"]).well();
    assert_eq!(again.stderr.lines().filter(|line| line.starts_with('[')).count(), RUNS - before, "{}", again.stderr);
    assert_eq!(timeless(&fixture, "out/results.jsonl"), timeless(&fixture, "whole/results.jsonl"));
    // Nothing is left to do.
    let none = fixture.run(&["sweep", "sweep.toml", "--json"]).well().json();
    assert_eq!((none["done"].as_u64(), none["of"].as_u64()), (Some(9), Some(9)));
}

#[test]
fn limits_workers_and_the_table() {
    let fixture = fixture();
    let none = fixture.run(&["sweep", "sweep.toml", "--max-seconds", "0", "--quiet"]).well();
    assert!(none.stdout.contains("0 of 9 runs") && none.stdout.contains("9 are left"), "{}", none.stdout);
    fixture.run(&["sweep", "sweep.toml", "--workers", "3", "--quiet"]).well();
    let table = fixture.run(&["sweep", "sweep.toml", "--table"]).well().stdout;
    assert!(table.contains("| state-offset-h | ") && table.contains("with up to 3 runs"), "{table}");
    // The same beside the results.
    assert_eq!(fixture.read("out/table.md").trim_end(), table.trim_end());
    assert_eq!(fixture.read("out/table.csv").lines().count(), 3);
    let page = fixture.read("out/report.html");
    assert!(page.contains("feeling: score by trained numbers") && page.contains("feeling: loss in training"), "{page}");
    let json = fixture.run(&["sweep", "sweep.toml", "--table", "--json"]).well().json();
    assert_eq!(json["rows"].as_array().map(Vec::len), Some(2));
    assert_eq!(json["rows"][1]["scores"].as_array().map(Vec::len), Some(2));
    fixture.run(&["sweep", "sweep.toml", "--set", "output.folder=alone", "--quiet"]).well();
    let sorted = |file: &str| {
        let mut lines: Vec<String> = timeless(&fixture, file).iter().map(Value::to_string).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted("out/results.jsonl"), sorted("alone/results.jsonl"));
}

#[test]
fn what_cannot_be_is_refused() {
    let fixture = fixture();
    let sweep = |more: &[&str]| fixture.run(&[&["sweep", "sweep.toml", "--quiet"], more].concat());
    sweep(&["--table"]).refused(&["results.jsonl"]);
    sweep(&["--set", "search.rows=40"]).refused(&["`search.rows` is 40", "60 training rows"]);
    sweep(&["--set", "entries.1.methods.0.targets=[\"x_prj\"]"]).refused(&["lora on feeling", "x_prj"]);
    sweep(&["--set", "train.metric=loss"]).refused(&["`train.metric`", "sets it itself"]);
    sweep(&["--workers", "0"]).refused(&["--workers"]);
    sweep(&["--only", "lora", "--max-seconds", "100"]).well();
    sweep(&["--set", "train.batch_size=5"]).refused(&["line 1", "`train.batch_size` was 6 then, is 5 now"]);
    sweep(&["--set", "device.level=reference"]).refused(&["line 1", "`device.level` was", "is \"reference\" now"]);
    fixture.edit("validation.jsonl", "\"label\":1", "\"label\":0");
    sweep(&[]).refused(&["line 1", "another model or other data"]);
}

/// Rows that ask for written answers: [`CONFIG`]'s other half.
const WRITTEN: &str = r#"
seeds = [3]
every_method = false

[model]
path = "model"

[train]
batch_size = 6
warmup_steps = 1
epochs = 2

[[tasks]]
name = "records"
metric = "loss"
evaluation = { metrics = ["chrf"], max_new_tokens = 8 }

[tasks.data]
format = "jsonl"
train = "records.jsonl"
validation = "records-validation.jsonl"
prompt_field = "prompt"
completion_field = "completion"

[[entries]]
methods = [{ method = "state-offset-h" }]
rates = [0.02]

[output]
folder = "out"
"#;

#[test]
fn answers_judge_as_an_evaluation_scores_them() {
    let fixture = Fixture::new();
    fixture.write("sweep.toml", WRITTEN);
    fixture.run(&["sweep", "sweep.toml", "--quiet"]).well();
    let lines = timeless(&fixture, "out/results.jsonl");
    let (score, loss) = (&lines[0]["score"], &lines[0]["loss"]);
    assert_ne!(score, loss);
    let table = fixture.run(&["sweep", "sweep.toml", "--table"]).well().stdout;
    assert!(table.contains("| records chrf |"), "{table}");
    // The same run by itself.
    let (tasks, methods) = ("[[tasks]]", "[[entries]]\nmethods = [{ method = \"state-offset-h\" }]\nrates = [0.02]\n");
    let run = WRITTEN
        .replace("seeds = [3]\nevery_method = false\n", "")
        .replace(methods, "[[methods]]\nmethod = \"state-offset-h\"\n");
    let run = run.replace(tasks, "[evaluation]").replace("name = \"records\"\nmetric = \"loss\"\n", "");
    let run = run.replace(
        "evaluation = { metrics = [\"chrf\"], max_new_tokens = 8 }",
        "metrics = [\"chrf\"]\nmax_new_tokens = 8",
    );
    let run = run
        .replace("[tasks.data]", "[data]")
        .replace("epochs = 2", "epochs = 2\nlearning_rate = 0.02\nseed = 3\neval_every = 100000");
    fixture.write("alone.toml", run.replace("folder = \"out\"", "folder = \"alone\""));
    fixture.run(&["train", "alone.toml", "--quiet"]).well();
    let found = fixture.run(&["eval", "alone", "--json", "--quiet"]).well().json();
    let metrics = found["metrics"].as_array().expect("a list");
    let chrf = metrics.iter().find(|metric| metric["key"] == "chrf").unwrap_or_else(|| panic!("{found}"));
    assert_eq!(&chrf["value"], score, "{found}");
    // Other answers are another result.
    let other = ["sweep", "sweep.toml", "--set", "tasks.0.evaluation.max_new_tokens=9"];
    fixture.run(&other).refused(&["line 1", "`evaluation.max_new_tokens` was 8 then, is 9 now"]);
    let two = ["sweep", "sweep.toml", "--set", "tasks.0.evaluation.metrics=[\"chrf\",\"bleu\"]"];
    fixture.run(&two).refused(&["task `records`", "must name one score"]);
}
