//! `statetune sweep` as it is typed: killed and started again, limits, refusals, the table.

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Fixture, RECORDS, SWEEP};

/// Three rates and two, and two seeds for each entry.
const RUNS: usize = 9;

fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("sweep.toml", SWEEP);
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
    sweep(&["--only", "lorra"]).refused(&["no entry and no task `lorra` (did you mean `lora`?)"]);
    sweep(&["--only", "lora", "--max-seconds", "18446744073709551615"]).well();
    sweep(&["--set", "train.batch_size=5"]).refused(&["line 1", "`train.batch_size` was 6 then, is 5 now"]);
    sweep(&["--set", "device.level=reference"]).refused(&["line 1", "`device.level` was", "is \"reference\" now"]);
    fixture.edit("validation.jsonl", "\"label\":1", "\"label\":0");
    sweep(&[]).refused(&["line 1", "another model or other data"]);
}

/// Rows that ask for written answers: [`SWEEP`]'s other half.
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
    let none = ["sweep", "sweep.toml", "--set", "tasks.0.evaluation.metrics=[]"];
    fixture.run(&none).refused(&["task `records`", "`evaluation.metrics` names no score"]);
}

/// The untuned model and two methods, whose answers are scored by all that the task usually is.
fn compared() -> Fixture {
    let fixture = Fixture::new();
    let more =
        "[[entries]]\nmethods = [{ method = \"lora\", rank = 2 }]\nrates = [0.01]\n\n[output]\nkeep_adapters = true\n";
    let text = WRITTEN.replace("[output]\n", more).replace("every_method = false", "every_method = false\nbase = true");
    fixture.write("sweep.toml", text.replace("metrics = [\"chrf\"], ", ""));
    fixture
}

const FOLDERS: [&str; 3] = ["base", "state-offset-h-3", "lora-3"];

#[test]
fn a_sweep_ends_with_the_comparison_and_keeps_what_it_is_of() {
    let fixture = compared();
    let told = fixture.run(&["sweep", "sweep.toml", "--quiet"]).well().stdout;
    assert!(told.contains("3 of 3 runs are finished"), "{told}");
    let named: Vec<String> = [("base", "base"), ("state-offset-h", "state-offset-h-3"), ("lora", "lora-3")]
        .map(|(name, folder)| format!("{name}=out/evaluations/records/{folder}"))
        .to_vec();
    let arguments: Vec<&str> = ["compare"].into_iter().chain(named.iter().map(String::as_str)).collect();
    let comparison = fixture.run(&arguments).well().stdout;
    for score in ["| exact match |", "| BLEU |", "| ROUGE-L |", "| loss |", "| perplexity |"] {
        assert!(comparison.contains(score), "{score} in {comparison}");
    }
    assert!(
        comparison.starts_with("| | base | state-offset-h | lora |\n") && comparison.contains('\u{2191}'),
        "{comparison}"
    );
    assert!(told.ends_with(&format!("\n## records\n\n{comparison}")), "{told}");
    let page = fixture.read("out/table.md");
    assert!(page.ends_with(&format!("\n## records\n\n{comparison}")), "{page}");
    assert!(page.contains("| records exact_match |") && page.contains("| base | 0 | – |"), "{page}");
    assert_eq!(fixture.run(&["sweep", "sweep.toml", "--table"]).well().stdout, page);
    assert!(fixture.read("out/table.csv").lines().nth(1).expect("a line").starts_with("base,records,exact_match,,0,"));
    // The folder alone: the untuned model comes first there too.
    let all = fixture.run(&["compare", "out/evaluations/records", "--json"]).well().json();
    assert_eq!(all["names"], json!(["records/base", "records/lora-3", "records/state-offset-h-3"]));
    // In every line all scores with intervals.
    for (line, name) in timeless(&fixture, "out/results.jsonl").iter().zip(FOLDERS) {
        let kept: Value =
            serde_json::from_str(&fixture.read(&format!("out/evaluations/records/{name}/evaluation.json")))
                .expect("JSON");
        assert_eq!(line["evaluation"]["metrics"], kept["metrics"], "{name}");
        assert_eq!((&line["score"], &kept["metrics"][0]["key"]), (&kept["metrics"][0]["value"], &"exact_match".into()));
    }
}

#[test]
fn what_is_kept_is_what_an_evaluation_of_the_adapter_writes() {
    let fixture = compared();
    fixture.run(&["sweep", "sweep.toml", "--quiet"]).well();
    fixture.write(
        "alone.toml",
        format!("[model]\npath = \"model\"\n{RECORDS}[evaluation]\nmax_new_tokens = 8\n[output]\nfolder = \"alone\"\n"),
    );
    for name in FOLDERS {
        let adapter = format!("out/adapters/records/{name}");
        let of = if name == "base" { ["--base"].to_vec() } else { ["--adapter", &adapter].to_vec() };
        let own = ["eval", "alone.toml", "--quiet", "--out", name];
        fixture.run(&[&own[..], &of].concat()).well();
        let (mut kept, mut own) = (fixture.tree(&format!("out/evaluations/records/{name}")), fixture.tree(name));
        // What it is called depends on who asks.
        let told = [&mut kept, &mut own].map(|tree| {
            let text = tree.remove("evaluation.json").expect("its file");
            let mut value: Value = serde_json::from_slice(&text).expect("JSON");
            value["subject"].as_object_mut().expect("an object").remove("name").expect("a name");
            value
        });
        assert_eq!(told[0], told[1], "{name}");
        assert!(kept.len() == 2 && kept == own, "{name}");
    }
    assert!(!fixture.path("out/adapters/records/base").exists());
    // Adapters are kept where that is asked for.
    let other = ["--set", "output.keep_adapters=false", "--set", "output.folder=other"];
    fixture.run(&[&["sweep", "sweep.toml", "--quiet", "--only", "lora"], &other[..]].concat()).well();
    assert!(fixture.path("other/evaluations/records/lora-3").is_dir() && !fixture.path("other/adapters").exists());
}

#[test]
fn what_is_judged_is_not_judged_again() {
    let fixture = compared();
    let sweep = |more: &[&str]| fixture.run(&[&["sweep", "sweep.toml"], more].concat()).well();
    let made = |outcome: &support::Outcome| outcome.stderr.lines().filter(|line| line.starts_with('[')).count();
    let base = sweep(&["--only", "base"]);
    assert!(made(&base) == 1 && base.stderr.contains("[1/3] base on records: "), "{}", base.stderr);
    let first = fixture.tree("out/evaluations/records");
    assert!(!fixture.read("out/table.md").contains("## records"), "one alone is not compared");
    assert_eq!(made(&sweep(&[])), 2);
    let whole = fixture.tree("out/evaluations/records");
    assert!(first.iter().all(|(name, bytes)| whole.get(name) == Some(bytes)) && whole.len() == 9, "{:?}", whole.keys());
    // How many prompts are answered at once is nothing to the results.
    let again = sweep(&["--set", "tasks.0.evaluation.sequences=1"]);
    assert!(made(&again) == 0 && again.stdout.contains("## records"), "{}", again.stdout);
    // A run whose result is gone, and what was half written when it was killed.
    let lines = fixture.read("out/results.jsonl");
    fixture.write("out/results.jsonl", &lines[..lines.trim_end().rfind('\n').expect("lines") + 20]);
    fixture.edit("out/evaluations/records/lora-3/predictions.jsonl", "prediction", "nothing");
    std::fs::create_dir_all(fixture.path("out/evaluations/records/.lora-3.writing")).expect("a folder");
    assert_eq!(made(&sweep(&["--set", "tasks.0.evaluation.sequences=2"])), 1);
    let after = fixture.tree("out/evaluations/records");
    assert!(whole.iter().all(|(name, bytes)| name == "lora-3/evaluation.json" || after.get(name) == Some(bytes)));
    assert_eq!(whole.len(), after.len(), "{:?}", after.keys());
    assert_eq!(fixture.read("out/results.jsonl").lines().count(), 3);
    assert!(again.stdout.contains("3 of 3 runs are finished, 0 of them"), "{}", again.stdout);
    // An evaluation of that name that is another's.
    let place = "out/evaluations/records/state-offset-h-3/evaluation.json";
    let own = fixture.read(place);
    let whole = serde_json::from_str::<Value>(&own).expect("JSON");
    let last = whole["metrics"].as_array().expect("a list").len() - 1;
    for score in [0, last] {
        let mut other = whole.clone();
        other["metrics"][score]["value"] = 0.875.into();
        fixture.write(place, other.to_string());
        let told = sweep(&["--quiet"]).stdout;
        assert!(told.ends_with("Judged, but without an evaluation in this folder: state-offset-h.\n"), "{told}");
    }
    fixture.write(place, own);
    // Results travel without their evaluations.
    std::fs::remove_dir_all(fixture.path("out/evaluations/records/lora-3")).expect("its folder");
    let told = sweep(&["--quiet"]).stdout;
    assert!(told.ends_with("Judged, but without an evaluation in this folder: lora.\n"), "{told}");
    assert!(told.contains("| | base | state-offset-h |\n"), "{told}");
}

#[test]
fn judges_read_the_rows_that_an_evaluation_reads_and_mistakes_come_first() {
    let fixture = compared();
    let rows = fixture.read("records-validation.jsonl");
    fixture.write("records-validation.jsonl", rows + "{\"prompt\": \"a\"}\n");
    let set = |setting: &'static str| ["sweep", "sweep.toml", "--quiet", "--only", "base", "--set", setting];
    fixture.run(&set("output.folder=out")).well();
    let kept: Value =
        serde_json::from_str(&fixture.read("out/evaluations/records/base/evaluation.json")).expect("JSON");
    assert_eq!((&kept["data"]["rows"], &kept["data"]["counts"]["bad"]), (&12.into(), &1.into()));
    let few = [&set("output.folder=few")[..], &["--set", "tasks.0.evaluation.limit=5"]].concat();
    fixture.run(&few).well();
    assert_eq!(fixture.read("few/evaluations/records/base/predictions.jsonl").lines().count(), 5);
    let absent = [
        &set("output.folder=none")[..],
        &["--set", "tasks.0.evaluation.metrics=[\"meteor\"]", "--set", "tasks.0.evaluation.wordnet=absent"],
    ];
    fixture.run(&absent.concat()).refused(&["task `records`", "absent"]);
    assert_eq!(fixture.read("none/results.jsonl"), "");
    // Several: the first is in the table.
    let several =
        [&set("output.folder=two")[..], &["--set", "tasks.0.evaluation.metrics=[\"rougeL\",\"chrf\"]"]].concat();
    fixture.run(&several).well();
    let kept: Value =
        serde_json::from_str(&fixture.read("two/evaluations/records/base/evaluation.json")).expect("JSON");
    let keys: Vec<&Value> = kept["metrics"].as_array().expect("a list").iter().map(|metric| &metric["key"]).collect();
    assert_eq!(keys, ["rougeL", "chrf", "loss", "perplexity"]);
    assert!(fixture.read("two/table.md").contains("| records rougeL |"));
}

#[test]
fn how_far_it_is_is_told_now_and_then() {
    let fixture = compared();
    let sweep =
        |more: &[&str]| fixture.run(&[&["sweep", "sweep.toml", "--progress", "0"], more].concat()).well().stderr;
    let told = sweep(&[]);
    let has = |text: &str| assert!(told.contains(text), "{text} in {told}");
    has("\nrun 1 of 3, base on records: generating, 12 of 12 rows\n");
    has("\nrun 2 of 3, state-offset-h on records, seed 3, rate 0.02: step 3 of 8, loss ");
    has("\nrun 3 of 3, lora on records, seed 3, rate 0.01: evaluating, 12 of 12 examples\n");
    has("\n[3/3] lora on records, seed 3, rate 0.01: ");
    let step = told.lines().find(|line| line.contains("lora") && line.contains("step 4 of 8")).expect("a step");
    assert!(step.contains(" tokens/s, ") && step.ends_with(" left"), "{step}");
    // It is nothing to what is written.
    let set = ["--set", "output.folder=other"];
    assert_eq!(sweep(&[&set[..], &["--quiet"]].concat()), "");
    assert_eq!(timeless(&fixture, "out/results.jsonl"), timeless(&fixture, "other/results.jsonl"));
    // Several at once in one line.
    let told = sweep(&["--workers", "2", "--set", "output.folder=both"]);
    let (under_way, last) =
        (" of 3 runs are finished; under way: ", "state-offset-h on records, seed 3, rate 0.02: step 8/8");
    let all = |line: &str| line.contains(under_way) && line.contains(last);
    assert!(told.lines().any(all) && !told.contains("run 1 of 3"), "{told}");
    // Without a word about it no line comes before ten seconds, and none of these runs takes so long.
    let told = fixture.run(&["sweep", "sweep.toml", "--set", "output.folder=seldom"]).well().stderr;
    assert!(!told.contains("run 1 of 3"), "{told}");
}
