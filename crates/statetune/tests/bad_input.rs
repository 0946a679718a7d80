//! What a user can get wrong: each is refused with exit code 2 and one message that says where, what and what to do;
//! nothing that was there is changed and no half-made run is left. Damaged checkpoints are in `resume.rs`, a full disk
//! in `full_disk.rs`.

mod support;

use std::fs;

use support::{Fixture, RECORDS, Stored, change_weights};

/// The configuration for generation: its own data, the loss as metric.
fn for_generation(fixture: &Fixture) {
    let text = fixture.read("run.toml");
    let (start, end) = (text.find("[data]").expect("a section"), text.find("[[methods]]").expect("a section"));
    let text = format!("{}{RECORDS}\n{}", &text[..start], &text[end..]);
    fixture.write("run.toml", text.replace("metric = \"accuracy\"\n", ""));
}

/// Runs a command that must be refused with these words and change nothing.
#[track_caller]
fn refused(fixture: &Fixture, arguments: &[&str], parts: &[&str]) {
    let before = fixture.tree("");
    let outcome = fixture.run(arguments).refused(parts);
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
    let after = fixture.tree("");
    let new: Vec<&String> = after.keys().filter(|name| !before.contains_key(*name)).collect();
    assert!(new.is_empty(), "{arguments:?} left {new:?}");
    assert!(before == after, "{arguments:?} changed a file");
    let run = fixture.path("out");
    assert!(!run.exists() || before.keys().any(|name| name.starts_with("out")), "{arguments:?} left a run folder");
}

#[track_caller]
fn train_refused(fixture: &Fixture, settings: &[&str], parts: &[&str]) {
    let mut arguments = vec!["train", "run.toml"];
    settings.iter().for_each(|setting| arguments.extend(["--set", setting]));
    refused(fixture, &arguments, parts);
}

/// A fixture with one thing changed, whose training must be refused.
#[track_caller]
fn broken(change: impl FnOnce(&Fixture), parts: &[&str]) {
    let fixture = Fixture::new();
    change(&fixture);
    train_refused(&fixture, &[], parts);
}

#[test]
fn a_configuration_that_is_missing_or_no_toml() {
    let fixture = Fixture::new();
    refused(&fixture, &["train", "absent.toml"], &["cannot read absent.toml", "No such file"]);
    fixture.edit("run.toml", "max_steps = 12", "max_steps = = 12");
    train_refused(&fixture, &[], &["run.toml", "line 23", "max_steps = = 12"]);
}

#[test]
fn unknown_keys_are_named_with_the_nearest_known_one() {
    let fixture = Fixture::new();
    for (setting, parts) in [
        ("train.lerning_rate=0.1", &["run.toml", "`lerning_rate`", "did you mean `learning_rate`"][..]),
        ("data.max_token=9", &["`max_token`", "did you mean `max_tokens`"]),
        ("model.pth=\"x\"", &["`pth`", "did you mean `path`"]),
        ("device.thread=2", &["`thread`", "did you mean `threads`"]),
        ("otput.folder=\"x\"", &["`otput`", "did you mean `output`"]),
        ("methods.0.rnak=2", &["run.toml", "method `lora`", "`rnak`", "did you mean `rank`"]),
        ("methods.1.ranks=2", &["method `state-offset-h`", "`ranks`", "did you mean `rank`"]),
        ("methods.0.method=lroa", &["run.toml", "unknown method `lroa`", "did you mean `lora`", "state-offset-y"]),
        ("train.metric=acuracy", &["`train.metric`", "acuracy", "did you mean \"accuracy\""]),
        ("train.batch_size=0", &["`train.batch_size` must be at least 1"]),
        ("train.batch_size=many", &["batch_size", "invalid type", "many"]),
        ("train.schedule=lineal", &["unknown variant `lineal`", "linear"]),
        ("data.labels=[\"0\"]", &["run.toml", "labels", "at least two classes"]),
        ("methods.7.rank=2", &["methods.7.rank=2", "no entry of a list of 2"]),
        ("learning_rate", &["`--set learning_rate`", "expected key=value"]),
        ("device.level=avx1024", &["device.level", "avx1024"]),
    ] {
        train_refused(&fixture, &[setting], parts);
    }
    let text = fixture.read("run.toml");
    for (known, typed, parts) in [
        (
            "learning_rate = 1e-2",
            "lerning_rate = 1e-2",
            &["line 26", "`lerning_rate`", "did you mean `learning_rate`"][..],
        ),
        ("threads = 2", "treads = 2", &["line 35", "did you mean `threads`"]),
        ("rank = 4", "rnak = 4", &["method `lora` has no option `rnak`", "did you mean `rank`"]),
        ("\"lora\"", "\"lroa\"", &["unknown method `lroa`", "did you mean `lora`"]),
        ("method = \"lora\"\n", "", &["unknown method `nothing`"]),
    ] {
        fixture.write("run.toml", text.replace(known, typed));
        train_refused(&fixture, &[], parts);
    }
}

#[test]
fn targets_that_match_nothing_are_named_with_the_nearest_site() {
    let fixture = Fixture::new();
    train_refused(
        &fixture,
        &["methods.0.targets=[\"x_proj\", \"out_prj\"]"],
        &["method `lora`", "`out_prj` matches nothing", "did you mean `out_proj`", "in_proj.x"],
    );
    train_refused(&fixture, &["methods.0.targets=[]"], &["`targets` must name at least one site"]);
    train_refused(&fixture, &["methods.0.rank_pattern={ dt_proj = 2 }"], &["`dt_proj` matches none"]);
    train_refused(&fixture, &["methods.0.dropout=1.0"], &["`dropout`", "below 1"]);
}

#[test]
fn settings_without_an_effect() {
    let fixture = Fixture::new();
    train_refused(&fixture, &["methods=[]"], &["nothing to train", "name at least one method"]);
    for_generation(&fixture);
    train_refused(
        &fixture,
        &["train.metric=accuracy"],
        &["`train.metric`", "\"accuracy\"", "no classes", "use \"loss\""],
    );
    fixture.edit("run.toml", "validation = \"records-validation.jsonl\"\n", "");
    train_refused(&fixture, &["train.early_stop=2"], &["`train.early_stop`", "`data.validation`"]);
    fixture.edit("run.toml", "train = \"records.jsonl\"\n", "");
    train_refused(&fixture, &[], &["`data.train` is missing"]);
}

#[test]
fn model_folders_that_are_missing_or_incomplete() {
    let gone = |name: &'static str| move |fixture: &Fixture| fs::remove_file(fixture.path(name)).expect("a file");
    broken(|fixture| fixture.edit("run.toml", "path = \"model\"", "path = \"modle\""), &["modle", "No such file"]);
    broken(gone("model/config.json"), &["cannot read model/config.json"]);
    broken(gone("model/model.safetensors"), &["model holds no weights", "model.safetensors"]);
    broken(gone("model/tokenizer.json"), &["model/tokenizer.json", "give a readable tokenizer.json"]);
}

#[test]
fn weights_that_are_damaged_or_do_not_fit() {
    let cut = |fixture: &Fixture| {
        let path = fixture.path("model/model.safetensors");
        let bytes = fs::read(&path).expect("the weights");
        fs::write(path, &bytes[..bytes.len() - 7]).expect("cut weights");
    };
    broken(cut, &["model/model.safetensors is damaged or incomplete", "Copy or download it again"]);
    let changed =
        |change: fn(&mut Vec<Stored>)| move |fixture: &Fixture| change_weights(&fixture.path("model"), change);
    let name = "backbone.layers.1.mixer.out_proj.weight";
    broken(
        changed(|tensors| tensors.retain(|(name, ..)| name != "backbone.layers.1.mixer.out_proj.weight")),
        &["lacks 1 of the tensors", name],
    );
    broken(
        changed(|tensors| tensors.push(("backbone.layers.1.mixer.q_proj.weight".into(), vec![2], vec![0.0; 2]))),
        &["gives no place to", "backbone.layers.1.mixer.q_proj.weight"],
    );
    broken(
        changed(|tensors| {
            let tensor = tensors.iter_mut().find(|(name, ..)| name.ends_with("layers.1.mixer.out_proj.weight"));
            tensor.expect("the tensor").1.reverse();
        }),
        &["model.safetensors", name, "[32, 16]", "calls for [16, 32]"],
    );
    broken(
        changed(|tensors| {
            let tensor = tensors.iter_mut().find(|(name, ..)| name.ends_with("layers.1.mixer.out_proj.weight"));
            tensor.expect("the tensor").2[5] = f32::NAN;
        }),
        &["model.safetensors", name, "NaN at element 5", "unusable"],
    );
}

#[test]
fn models_of_another_kind() {
    let config =
        |from: &'static str, to: &'static str| move |fixture: &Fixture| fixture.edit("model/config.json", from, to);
    let gpt2 = |fixture: &Fixture| fixture.write("model/config.json", r#"{"model_type": "gpt2", "n_embd": 16}"#);
    broken(gpt2, &["model/config.json", "unknown architecture", "gpt2", "known: mamba"]);
    broken(config("\"silu\"", "\"gelu\""), &["model/config.json", "hidden_act", "gelu", "not supported", "silu"]);
    let cut = |fixture: &Fixture| fixture.write("model/config.json", "{\"model_type\": ");
    broken(cut, &["model/config.json", "not a valid JSON object"]);
}

#[test]
fn tokenizers_that_do_not_fit_or_are_cut() {
    broken(
        |fixture| {
            let text = fixture.read("model/tokenizer.json");
            fixture.write("model/tokenizer.json", &text[..text.len() / 2]);
        },
        &["tokenizer model/tokenizer.json", "give a complete tokenizer.json"],
    );
    // A model of fewer rows, as when it is cut to another vocabulary.
    broken(
        |fixture| {
            fixture.edit("model/config.json", "\"vocab_size\": 512", "\"vocab_size\": 500");
            change_weights(&fixture.path("model"), |tensors| {
                let embeddings = tensors.iter_mut().find(|(name, ..)| name == "backbone.embeddings.weight");
                let (_, shape, values) = embeddings.expect("the tensor");
                shape[0] = 500;
                values.truncate(500 * 16);
            });
        },
        &["model/tokenizer.json has 512 tokens", "only 500 rows", "do not belong together"],
    );
}

#[test]
fn data_files_that_are_missing_or_empty() {
    broken(|fixture| fixture.edit("run.toml", "\"train.jsonl\"", "\"tain.jsonl\""), &["tain.jsonl", "readable file"]);
    broken(|fixture| fixture.write("train.jsonl", ""), &["train.jsonl: no examples: 0 rows read"]);
    broken(|fixture| fixture.write("validation.jsonl", "\n\n"), &["validation.jsonl: no examples: 0 rows read"]);
    broken(
        |fixture| fixture.edit("run.toml", "max_tokens = 110", "max_tokens = 3"),
        &["train.jsonl: no examples: 60 rows read, 60 longer than max_tokens = 3", "raise max_tokens"],
    );
}

/// Replaces the third line of the training data.
fn third_line(text: &'static str) -> impl Fn(&Fixture) {
    move |fixture| {
        let data = fixture.read("train.jsonl");
        let lines: Vec<&str> = data.lines().enumerate().map(|(i, line)| if i == 2 { text } else { line }).collect();
        fixture.write("train.jsonl", lines.join("\n"));
    }
}

#[test]
fn rows_are_named_by_file_and_line() {
    broken(
        third_line(r#"{"promt": "a", "label": 1}"#),
        &["train.jsonl:3", "no field `prompt`", "did you mean `promt`"],
    );
    broken(third_line(r#"{"prompt": "a"}"#), &["train.jsonl:3", "no field `label`"]);
    broken(third_line(r#"{"prompt": "a", "label": 7}"#), &["train.jsonl:3", "`label`", "one of `0`, `1`", "found `7`"]);
    broken(third_line(r#"{"prompt": ["a"], "label": 1}"#), &["train.jsonl:3", "`prompt`", "a list"]);
    broken(third_line(r#"{"prompt": "", "label": 1}"#), &["train.jsonl:3", "the prompt has no tokens"]);
    broken(third_line("{\"prompt\": "), &["train.jsonl:3", "one JSON object", "invalid JSON"]);
    let bad = |fixture: &Fixture| {
        fixture.edit("run.toml", "labels = [\"0\", \"1\"]", "labels = [\"0\", \"1\", \"very bad\"]");
    };
    broken(bad, &["label `very bad` is", "tokens of this tokenizer, expected one"]);
}

#[test]
fn rows_of_csv_files_are_named_by_file_and_line() {
    let csv = |text: &'static str| {
        move |fixture: &Fixture| {
            fixture.edit("run.toml", "format = \"jsonl\"", "format = \"csv\"");
            fixture.edit("run.toml", "train.jsonl", "train.csv");
            fixture.write("train.csv", text);
        }
    };
    broken(csv("promt,label\na,1\n"), &["train.csv:2", "no field `prompt`", "did you mean `promt`"]);
    broken(csv("prompt,label\na,1\nb\n"), &["train.csv:3", "expected 2 fields, found 1"]);
    broken(csv("prompt,label\na,1\n\"b,0\n"), &["train.csv:3", "quote"]);
}

#[test]
fn a_completion_without_tokens() {
    let fixture = Fixture::new();
    for_generation(&fixture);
    let rows = fixture.read("records.jsonl");
    fixture.write("records.jsonl", format!("{rows}{}\n", r#"{"prompt": "name: a ###", "completion": ""}"#));
    train_refused(&fixture, &[], &["records.jsonl:25", "the completion has no tokens", "correct or remove the row"]);
}

/// Too long a row is dropped and counted everywhere a run is looked at, or refused by its line.
#[test]
fn rows_that_are_too_long_are_counted_or_refused() {
    let fixture = Fixture::new();
    let rows = fixture.read("train.jsonl");
    let long = format!("{{\"prompt\": \"{}\", \"label\": 1}}\n", "long ".repeat(200));
    fixture.write("train.jsonl", format!("{rows}{long}"));
    train_refused(
        &fixture,
        &["data.on_too_long=error"],
        &["train.jsonl:61", "more than max_tokens = 110", "raise max_tokens or set on_too_long"],
    );
    let outcome = fixture.run(&["train", "run.toml", "--json"]).well();
    let note = "1 of 61 training rows are longer than the limit and were left out";
    assert!(outcome.stderr.contains(note), "{}", outcome.stderr);
    let counts = &outcome.json()["data"]["train"];
    assert_eq!(
        (&counts["rows"], &counts["kept"], &counts["too_long"]),
        (&61.into(), &60.into(), &1.into()),
        "{counts}"
    );
    for file in ["out/metrics.jsonl", "out/report.html"] {
        assert!(fixture.read(file).contains(note), "{file}");
    }
    assert!(fixture.read("out/summary.json").contains("\"too_long\": 1"));
}

#[test]
fn a_folder_that_holds_a_run() {
    let fixture = Fixture::new();
    fixture.run(&["train", "run.toml", "--quiet"]).well();
    train_refused(&fixture, &[], &["out holds a run already", "--resume", "--set output.folder="]);
    // Another configuration is named by the key that differs.
    for (setting, parts) in [
        ("train.learning_rate=0.5", &["out was started", "`train.learning_rate` was 0.01 then, is 0.5 now"][..]),
        ("methods.0.rank=2", &["another configuration", "`methods.0.rank` was 4 then, is 2 now"]),
        ("data.limit=20", &["another configuration", "`data.limit` was not set then, is 20 now"]),
        (
            "methods=[{ method = \"state-offset-y\" }]",
            &["another configuration", "`methods.0.dropout` was 0.2 then, is not set now"],
        ),
    ] {
        refused(&fixture, &["train", "run.toml", "--resume", "--set", setting], parts);
    }
    let resume = ["train", "run.toml", "--resume", "--set", "output.folder=elsewhere"];
    refused(&fixture, &resume, &["elsewhere holds no run to resume", "without --resume"]);
    // Threads may differ.
    fixture.run(&["train", "run.toml", "--quiet", "--resume", "--set", "device.threads=1"]).well();
}

#[test]
fn an_output_folder_that_cannot_be_made() {
    let fixture = Fixture::new();
    fixture.write("file", "in the way");
    train_refused(&fixture, &["output.folder=file/out"], &["file"]);
    train_refused(&fixture, &["output.folder=file"], &["file"]);
}

#[test]
fn wrong_paths_of_the_other_commands() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("empty")).expect("a folder");
    for (arguments, parts) in [
        (&["eval", "absent"][..], &["cannot read absent", "No such file"][..]),
        (&["eval", "empty"], &["empty is no run folder", "config.toml"]),
        (&["eval", "run.toml"], &["out has no adapter yet", "--adapter", "--base"]),
        (&["eval", "run.toml", "--adapter", "absent"], &["cannot read absent/adapter_config.json"]),
        (&["eval", "run.toml", "--base", "--set", "model.path=absent"], &["cannot use the model absent"]),
        (&["eval", "run.toml", "--base", "--set", "data.validation=absent"], &["absent", "readable file"]),
        (&["eval", "run.toml", "--base", "--set", "data.validtion=x"], &["did you mean `validation`"]),
        (&["generate", "absent", "--prompt", "a"], &["cannot use the model absent", "absent/config.json"]),
        (&["generate", "empty", "--prompt", "a"], &["cannot use the model empty", "empty/config.json"]),
        (&["generate", "model", "--prompt", "a", "--adapter", "absent"], &["cannot read absent/adapter_config.json"]),
        (&["generate", "model", "--prompt", "a", "--tokenizer", "absent"], &["absent", "readable tokenizer.json"]),
        (&["generate", "model", "--prompts", "absent"], &["cannot read absent"]),
        (&["generate", "model", "--prompts", "empty.txt"], &["there is no prompt", "empty.txt"]),
        (&["generate", "model", "--prompt", ""], &["prompt 0 has no tokens"]),
        (&["generate", "model"], &["--prompt"]),
        (&["inspect", "absent"], &["absent does not exist"]),
        (&["inspect", "absent.toml"], &["cannot read absent.toml"]),
        (&["inspect", "empty"], &["empty is no model, adapter or run folder"]),
        (&["inspect", "model/model.safetensors"], &["no model, adapter or run folder"]),
        (&["inspct", "model"], &["inspct", "inspect"]),
    ] {
        fixture.write("empty.txt", "\n\n");
        refused(&fixture, arguments, parts);
    }
}

#[test]
fn adapters_that_do_not_fit() {
    let fixture = Fixture::new();
    fixture.run(&["train", "run.toml", "--quiet", "--set", "train.max_steps=3"]).well();
    let generate = ["generate", "model", "--adapter", "out/best", "--prompt", "a"];
    fixture.run(&generate).well();
    let config = fixture.read("out/best/adapter_config.json");
    let broken = |from: &str, to: &str, parts: &[&str]| {
        fixture.edit("out/best/adapter_config.json", from, to);
        refused(&fixture, &generate, parts);
        fixture.write("out/best/adapter_config.json", &config);
    };
    broken("\"lora\"", "\"lroa\"", &["out/best/adapter_config.json", "unknown method `lroa`", "did you mean `lora`"]);
    broken("\"rank\": 4", "\"rank\": 5", &["adapter_model.safetensors", "shape", "expected"]);
    broken("\"out_proj\"", "\"x_proj\"", &["adapter_model.safetensors", "lacks this tensor"]);
    broken("\"version\": 1", "\"version\": 99", &["adapter_config.json", "version 99"]);
    let weights = fixture.path("out/best/adapter_model.safetensors");
    let bytes = fs::read(&weights).expect("the adapter");
    fs::write(&weights, &bytes[..bytes.len() - 3]).expect("a cut adapter");
    refused(&fixture, &generate, &["out/best/adapter_model.safetensors", "damaged or incomplete"]);
}
