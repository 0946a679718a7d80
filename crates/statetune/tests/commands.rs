//! The commands as they are typed, one after another: train, eval, generate, inspect, methods; what they print with
//! `--json` and `--quiet`, and the report. What they refuse is in `bad_input.rs`.

mod support;

use serde_json::Value;
use statetune::peft_methods::METHODS;
use support::{Fixture, Outcome, RECORDS};

fn trained() -> (Fixture, Value) {
    let fixture = Fixture::new();
    let summary = fixture.run(&["train", "run.toml", "--json", "--quiet"]).well().json();
    (fixture, summary)
}

/// The evaluations of a run's log by step.
fn evaluations(fixture: &Fixture) -> Vec<(u64, Value)> {
    let log = fixture.read("out/metrics.jsonl");
    let records = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let evaluations = records.filter(|record| record["kind"] == "evaluation");
    evaluations.map(|record| (record["step"].as_u64().expect("a step"), record)).collect()
}

/// The same numbers, to the last digit.
#[track_caller]
fn same_scores(expected: &Value, found: &Value) {
    for pointer in [
        "/loss",
        "/perplexity",
        "/labelled",
        "/examples",
        "/classification/over_all_vocabulary/accuracy",
        "/classification/over_all_vocabulary/matthews",
        "/classification/over_labels/accuracy",
        "/classification/over_labels/f1",
        "/classification/out_of_class",
    ] {
        let (expected, found) = (expected.pointer(pointer), found.pointer(pointer));
        assert!(expected.is_some() && expected == found, "{pointer}: {expected:?}, {found:?}");
    }
}

#[test]
fn eval_finds_what_the_run_recorded() {
    let (fixture, summary) = trained();
    let evaluations = evaluations(&fixture);
    assert_eq!(evaluations.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [4, 8, 12]);
    let eval = |arguments: &[&str]| {
        let all = [&["eval", "out", "--json", "--quiet"], arguments].concat();
        let found = fixture.run(&all).well().json();
        assert_eq!(found["counts"]["rows"], 24);
        found["evaluation"].clone()
    };
    // A run folder stands for its best adapter.
    let best = summary["best"]["step"].as_u64().expect("a best step");
    let (_, record) = evaluations.iter().find(|(step, _)| *step == best).expect("its evaluation");
    same_scores(record, &eval(&[]));
    // The last adapter scores what the last evaluation did, which is the summary's.
    let (_, last) = evaluations.last().expect("an evaluation");
    same_scores(last, &eval(&["--adapter", "out/adapter"]));
    same_scores(last, &summary["evaluation"]);
    // Without an adapter it is another model; threads and packing change nothing but the last digits.
    let base = eval(&["--base"]);
    assert_ne!(base["loss"], eval(&[])["loss"]);
    assert_eq!(eval(&["--set", "device.threads=1"]), eval(&[]));
    let alone = eval(&["--set", "train.micro_batch_tokens=1"])["loss"].as_f64().expect("a loss");
    assert!((alone - eval(&[])["loss"].as_f64().expect("a loss")).abs() < 1e-5);
    // Other data can be named.
    let train = fixture.run(&["eval", "out", "--json", "--set", "data.validation=train.jsonl"]).well().json();
    assert_eq!(train["evaluation"]["examples"], 60);
}

#[test]
fn eval_before_training_is_of_the_base_model() {
    let fixture = Fixture::new();
    let text = fixture.run(&["eval", "run.toml", "--base"]).well().stdout;
    for part in ["24 examples, loss ", "perplexity ", "over all vocabulary: accuracy ", "outside the labels: "] {
        assert!(text.contains(part), "{text}");
    }
    // Nothing is there but the evaluation, and a run can still begin.
    assert!(fixture.tree("out").keys().all(|name| name.starts_with("evaluations/base/")), "{:?}", fixture.tree("out"));
    fixture.run(&["train", "run.toml", "--quiet", "--set", "train.max_steps=2"]).well();
}

/// A run on the generation data.
fn trained_on_records() -> Fixture {
    let fixture = Fixture::new();
    let text = fixture.read("run.toml");
    let (start, end) = (text.find("[data]").expect("a section"), text.find("[[methods]]").expect("a section"));
    let text = format!("{}{RECORDS}\n{}", &text[..start], &text[end..]);
    fixture.write("run.toml", text.replace("metric = \"accuracy\"\n", "").replace("1e-2", "1e-1"));
    fixture.run(&["train", "run.toml", "--quiet"]).well();
    fixture
}

fn prompts(fixture: &Fixture) -> Vec<String> {
    let rows = fixture.read("records-validation.jsonl");
    let row =
        |line: &str| serde_json::from_str::<Value>(line).expect("a row")["prompt"].as_str().expect("text").to_owned();
    let mut prompts: Vec<String> = rows.lines().take(4).map(row).collect();
    prompts.push("a".into());
    prompts
}

#[test]
fn generation_is_deterministic_and_a_batch_is_its_prompts_one_by_one() {
    let fixture = trained_on_records();
    let prompts = prompts(&fixture);
    let generate = |arguments: &[&str], prompts: &[String]| -> Vec<Value> {
        let mut all = [&["generate", "out", "--json", "--quiet", "--max-new-tokens", "12"], arguments].concat();
        prompts.iter().for_each(|prompt| all.extend(["--prompt", prompt]));
        fixture.run(&all).well().json().as_array().expect("a list").clone()
    };
    let together = generate(&[], &prompts);
    assert_eq!(together.len(), prompts.len());
    assert_eq!(together, generate(&[], &prompts), "again");
    assert_eq!(together, generate(&["--threads", "1"], &prompts), "with one thread");
    for (prompt, together) in prompts.iter().zip(&together) {
        assert_eq!(together["prompt"], **prompt);
        assert!(!together["tokens"].as_array().expect("tokens").is_empty());
        assert_eq!(*together, generate(&[], std::slice::from_ref(prompt))[0], "alone");
    }
    // The adapter has an effect, and is the run's best.
    assert_eq!(together, generate(&["--adapter", "out/best"], &prompts));
    let base = fixture.run(&["generate", "model", "--json", "--max-new-tokens", "12", "--prompt", &prompts[0]]).well();
    assert_ne!(base.json()[0]["tokens"], together[0]["tokens"]);
    // A file of prompts, and text.
    fixture.write("prompts.txt", prompts.join("\n"));
    let file = fixture.run(&["generate", "out", "--json", "--max-new-tokens", "12", "--prompts", "prompts.txt"]).well();
    assert_eq!(file.json(), Value::Array(together.clone()));
    let text = fixture.run(&["generate", "out", "--max-new-tokens", "12", "--prompt", &prompts[0]]).well().stdout;
    assert_eq!(text, format!("{}{}\n\n", prompts[0], together[0]["completion"].as_str().expect("text")));
    // Draws depend on their seed.
    let draw = |seed: &str| generate(&["--temperature", "1.5", "--seed", seed], &prompts);
    assert_eq!(draw("3"), draw("3"));
    assert_ne!(draw("3"), draw("4"));
}

#[test]
fn inspect_shows_models_adapters_and_runs() {
    let (fixture, summary) = trained();
    let inspect = |path: &str| fixture.run(&["inspect", path, "--json"]).well().json();
    let model = inspect("model");
    assert_eq!(model["shape"]["vocab_size"], 512);
    assert_eq!((&model["shape"]["d_model"], &model["shape"]["layers"]), (&16.into(), &2.into()));
    let sites = fixture.run(&["inspect", "model", "--sites"]).well().stdout;
    assert!(sites.contains("backbone.layers.1.mixer.in_proj.x [32, 16]"), "{sites}");

    let adapter = inspect("out/best");
    assert_eq!(adapter["trainable"], summary["trainable"]);
    assert_eq!(
        (&adapter["methods"][0]["method"], &adapter["methods"][1]["method"]),
        (&"lora".into(), &"state-offset-h".into())
    );
    let tensors = adapter["tensors"].as_array().expect("a list");
    assert!(tensors.contains(&"backbone.layers.0.mixer.state_offset_h [32, 16]".into()), "{tensors:?}");

    for path in ["out", "run.toml"] {
        let run = inspect(path);
        assert_eq!((&run["trainable"], &run["parameters"]), (&summary["trainable"], &model["parameters"]), "{path}");
        assert!(run["planned_peak_memory_mib"]["total"].as_f64().is_some(), "{path}");
        assert_eq!(run["last_step"]["step"], 12, "{path}");
        same_scores(&run["last_evaluation"], &summary["evaluation"]);
        assert_eq!(run["checkpoints"].as_array().map(Vec::len), Some(2), "{path}");
    }
    // The same for people.
    let text = fixture.run(&["inspect", "out"]).well().stdout;
    assert!(text.contains("trainable: ") && text.contains("planned_peak_memory_mib:"), "{text}");
    // From elsewhere the adapter's base is named.
    let found = fixture.run(&["inspect", "out/best", "--json", "--model", "model"]).well().json();
    assert_eq!(found["trainable"], summary["trainable"]);
}

#[test]
fn methods_lists_every_entry() {
    let fixture = Fixture::new();
    let list = fixture.run(&["methods", "--json"]).well().json();
    let list = list.as_array().expect("one array");
    assert_eq!(list.len(), METHODS.len());
    let text = fixture.run(&["methods"]).well().stdout;
    for (entry, info) in list.iter().zip(METHODS) {
        assert_eq!((&entry["method"], &entry["mergeable"]), (&info.tag.into(), &info.mergeable.into()));
        let options: Vec<&str> =
            entry["options"].as_array().expect("a list").iter().filter_map(|o| o["name"].as_str()).collect();
        assert_eq!(options, info.options.iter().map(|option| option.name).collect::<Vec<_>>());
        assert!(text.contains(info.tag) && text.contains(info.summary), "{}", info.tag);
    }
}

#[test]
fn quiet_says_nothing_but_the_result() {
    let fixture = Fixture::new();
    let silent = |outcome: Outcome| {
        assert_eq!(outcome.stderr, "");
        outcome.stdout
    };
    let text = silent(fixture.run(&["train", "run.toml", "--quiet"]).well());
    assert!(text.contains("12 steps, ") && text.contains("report: out/report.html"), "{text}");
    silent(fixture.run(&["eval", "out", "--quiet"]).well());
    silent(fixture.run(&["generate", "out", "--quiet", "--prompt", "a", "--max-new-tokens", "2"]).well());
    silent(fixture.run(&["inspect", "out", "--quiet"]).well());
    silent(fixture.run(&["methods", "--quiet"]).well());
    // Without it a run tells where it is.
    let told = fixture.run(&["train", "run.toml", "--json", "--set", "output.folder=told"]).well();
    for part in ["60 training and 24 validation examples", "step ", "evaluation after step 12"] {
        assert!(told.stderr.contains(part), "{}", told.stderr);
    }
    assert_eq!(told.json()["steps"], 12);
}

#[test]
fn the_report_stands_alone_and_shows_the_loss() {
    let (fixture, summary) = trained();
    let page = fixture.read("out/report.html");
    for outside in ["http://", "https://", "<script", "<link", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
    for part in ["<svg", "Training loss", "Validation loss", "Validation accuracy", "<polyline", "Evaluations"] {
        assert!(page.contains(part), "{part}");
    }
    let last = summary["evaluation"]["loss"].as_f64().expect("a loss");
    assert!(page.contains(&format!("{last:.4}")), "the last evaluation is in the table");
    // What it was made from is beside it.
    let written: Value = serde_json::from_str(&fixture.read("out/summary.json")).expect("JSON");
    assert_eq!(written, summary);
    assert!(fixture.read("out/config.toml").contains("learning_rate = 0.01"));
}

/// Settings of the command line are part of the resolved configuration, with which a run can be repeated to the bit.
#[test]
fn the_resolved_configuration_repeats_the_run() {
    let fixture = Fixture::new();
    let train = ["train", "run.toml", "--quiet", "--set", "train.max_steps=5", "--set", "methods.0.rank=2"];
    fixture.run(&train).well();
    let again = ["train", "out/config.toml", "--quiet", "--set", "output.folder=again", "--set", "device.threads=1"];
    fixture.run(&again).well();
    support::same_results("again", &fixture.path("out"), &fixture.path("again"));
}

/// A reader that has seen enough, such as `head`, is no error.
#[test]
fn a_closed_pipe_ends_the_output() {
    let fixture = Fixture::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = fixture.command(&["methods"]);
    let child = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().expect("the binary starts");
    let output = child.wait_with_output().expect("its end");
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}
