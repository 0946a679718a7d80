//! What is done with trained adapters, as it is typed: merge, export, average, stack and switch, verify; and that Hugging
//! Face PEFT computes the same with what is exported, where it is there to be asked.

mod support;

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use statetune::mamba_model::config::MambaConfig;
use statetune::mamba_model::{Batch, Bound, Mamba, Patches};
use statetune::peft_methods::{Adapter, METHODS, linalg, methods};
use statetune::ssm_kernels::Level;
use statetune::ssm_kernels::random::{normal, stream_of};
use statetune::tensor::{DType, Device, Tape, Tensor};
use support::{Fixture, Outcome, VOCAB};

/// `run.toml` with other methods, and few steps.
fn with_methods(fixture: &Fixture, configs: &[Value]) {
    let text = fixture.read("run.toml");
    let (start, end) = (text.find("[[methods]]").expect("methods"), text.find("[train]").expect("a section"));
    let methods = toml::to_string(&json!({"methods": configs})).expect("TOML");
    let text = format!("{}{methods}\n{}", &text[..start], &text[end..]);
    fixture.write("run.toml", text.replace("max_steps = 12", "max_steps = 3"));
}

/// Trains methods into a folder.
fn train(fixture: &Fixture, configs: &[Value], folder: &str, seed: u64) {
    let text = fixture.read("run.toml");
    with_methods(fixture, configs);
    let (folder, seed) = (format!("output.folder={folder}"), format!("train.seed={seed}"));
    fixture.run(&["train", "run.toml", "--quiet", "--set", &folder, "--set", &seed]).well();
    fixture.write("run.toml", text);
}

fn lora(targets: Value) -> Value {
    json!({"method": "lora", "targets": targets, "rank": 2, "alpha": 8})
}

fn loss(fixture: &Fixture, arguments: &[&str]) -> f64 {
    let all = [&["eval", "run.toml", "--json", "--quiet"], arguments].concat();
    fixture.run(&all).well().json()["evaluation"]["loss"].as_f64().expect("a loss")
}

/// The command is refused and leaves no file.
#[track_caller]
fn refused(fixture: &Fixture, arguments: &[&str], parts: &[&str]) {
    let before = fixture.tree("");
    let outcome = fixture.run(arguments).refused(parts);
    assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
    assert_eq!(before, fixture.tree(""), "{arguments:?} left or changed a file");
}

#[test]
fn a_merged_lora_is_a_plain_model() {
    let fixture = Fixture::new();
    train(&fixture, &[lora(json!(["in_proj.x", "out_proj", "embeddings"]))], "out", 5);
    fixture.write("model/generation_config.json", "{\"eos_token_id\": 0}");
    let merged = fixture.run(&["merge", "out", "merged", "--json", "--quiet"]).well().json();
    assert!(merged["logits"]["difference"].as_f64().expect("a number") < 1e-4, "{merged}");
    assert_eq!(merged["tensors"].as_array().map(Vec::len), Some(5), "{merged}");
    let files: Vec<String> = fixture.tree("merged").into_keys().collect();
    assert_eq!(files, ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]);
    let config = |folder: &str| fixture.read(&format!("{folder}/config.json"));
    assert_eq!(config("merged"), config("model"));
    let base = loss(&fixture, &["--base"]);
    let found = loss(&fixture, &["--base", "--set", "model.path=merged"]);
    let expected = loss(&fixture, &["--adapter", "out"]);
    assert!((found - expected).abs() < 1e-5 && (found - base).abs() > 1e-4, "{found}, {expected}, {base}");
    // An adapter folder says where its base is.
    fixture.run(&["merge", "out/best", "again", "--quiet"]).well();
    assert!(fixture.tree("merged") == fixture.tree("again"));
    // An empty folder is as good as none, one with something in it is not touched.
    fs::create_dir(fixture.path("empty")).expect("a folder");
    fixture.run(&["merge", "out", "empty", "--quiet"]).well();
    assert!(fixture.tree("merged") == fixture.tree("empty"));
    refused(&fixture, &["merge", "out", "merged"], &["merged exists and is not empty", "another folder"]);
    refused(&fixture, &["merge", "out", "run.toml"], &["run.toml exists and is no folder"]);
}

#[test]
fn one_end_of_tied_embeddings_unties_them() {
    let fixture = Fixture::new();
    train(&fixture, &[lora(json!(["lm_head"]))], "out", 5);
    let said = fixture.run(&["merge", "out", "merged", "--quiet"]).well().stdout;
    assert!(said.contains("embedding and head are two tensors now"), "{said}");
    assert!(fixture.read("merged/config.json").contains("\"tie_word_embeddings\": false"));
    let found = loss(&fixture, &["--base", "--set", "model.path=merged"]);
    assert!((found - loss(&fixture, &["--adapter", "out"])).abs() < 1e-5);
}

#[test]
fn merging_into_16_bits_tells_what_rounding_costs() {
    let fixture = Fixture::new();
    let device = Device::cpu(Level::best(), 1).expect("the processor");
    let model = Mamba::random(&MambaConfig::new(VOCAB, 16, 2), &device, DType::F32, DType::Bf16, 1).expect("a model");
    model.save(&fixture.path("model"), &[fixture.path("tokenizer.json")]).expect("saving the model");
    train(&fixture, &[lora(json!(["out_proj"]))], "out", 5);
    let said = fixture.run(&["merge", "out", "merged", "--quiet"]).well().stdout;
    for part in ["layers.1.mixer.out_proj.weight: rounded to bf16 by at most ", "2 tensors changed", "logits differ"] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    let found = fixture.run(&["merge", "out", "again", "--json", "--quiet"]).well().json();
    let tensor = &found["tensors"][0];
    assert_eq!(tensor["type"], "bf16");
    let (most, mean) = (tensor["max_rounding"].as_f64().unwrap(), tensor["rms_rounding"].as_f64().unwrap());
    assert!(0.0 < mean && mean < most && most < 0.01, "{tensor}");
    assert!(found["logits"]["difference"].as_f64().unwrap() > 1e-6, "{found}");
    // What rounding costs is no broken promise.
    assert_eq!(fixture.run(&["verify", "out", "--json", "--quiet"]).well().json()["kept"], true);
}

#[test]
fn what_has_no_tensor_in_a_checkpoint_is_not_merged() {
    let fixture = Fixture::new();
    train(&fixture, &[lora(json!(["out_proj"])), json!({"method": "state-offset-h"})], "out", 5);
    let parts = ["backbone.layers.0.mixer.state_offset cannot be merged", "Keep the adapter beside the base model"];
    refused(&fixture, &["merge", "out", "merged"], &parts);
}

#[test]
fn adapters_stack_and_switch() {
    let fixture = Fixture::new();
    train(&fixture, &[lora(json!(["out_proj"]))], "runs/first", 5);
    train(&fixture, &[lora(json!(["in_proj", "out_proj"]))], "runs/second", 6);
    train(&fixture, &[json!({"method": "state-offset-h"})], "runs/offset", 7);
    let alone = |name: &str| loss(&fixture, &["--adapter", &format!("runs/{name}")]);
    let (first, second) = (alone("first"), alone("second"));
    let two = ["--adapter", "a=runs/first", "--adapter", "runs/second/best"];
    let both = loss(&fixture, &two);
    assert!(both != first && both != second && first != second);
    let using = |names: &str| loss(&fixture, &[&two[..], &["--use", names]].concat());
    assert_eq!([using("a"), using("best")], [first, second]);
    assert!((using("best,a") - both).abs() < 1e-6);
    // The stack of mergeable ones is what they merge into together.
    let merge = ["merge", "runs/first", "merged", "--adapter", "runs/second", "--json", "--quiet"];
    let merged = fixture.run(&merge).well().json();
    assert_eq!(merged["adapters"][1], json!({"name": "second", "path": "runs/second/best"}));
    assert!((loss(&fixture, &["--base", "--set", "model.path=merged"]) - both).abs() < 1e-5);
    // A state-offset on top of both, and in generation.
    let three = [&two[..], &["--adapter", "runs/offset"]].concat();
    assert_ne!(loss(&fixture, &three), both);
    let evaluation = fixture.run(&[&["eval", "run.toml", "--json", "--quiet"], &three[..]].concat()).well().json();
    assert_eq!(evaluation["adapters"][2]["name"], "offset");
    let generate = |arguments: &[&str]| {
        let all = ["generate", "model", "--prompt", "a", "--max-new-tokens", "8", "--json", "--quiet"];
        fixture.run(&[&all[..], arguments].concat()).well().json()
    };
    assert_eq!(generate(&[&three[..], &["--use", "offset"]].concat()), generate(&["--adapter", "runs/offset"]));
    generate(&three);
    // Of three prompts one or two at a time come to the same.
    let several = |batch: &str| {
        let batch = ["--batch", batch, "--prompt", "b c", "--prompt", "c"];
        let [one, beams] = [&[][..], &["--beams", "2"]].map(|more| generate(&[&batch[..], more].concat()));
        (one, beams)
    };
    assert_eq!(several("1"), several("64"));
    assert_eq!(several("2"), several("64"));

    let eval = |arguments: &[&str], parts: &[&str]| {
        refused(&fixture, &[&["eval", "run.toml"], arguments].concat(), parts);
    };
    eval(&[&two[..], &["--use", "bst"]].concat(), &["no adapter `bst`", "did you mean `best`", "there are: a, best"]);
    eval(&[&two[..], &["--use", "a,a"]].concat(), &["adapter `a`", "once"]);
    let twice = ["--adapter", "runs/first/best", "--adapter", "runs/second/best"];
    eval(&twice, &["are both called `best`", "NAME=PATH"]);
    eval(&["--adapter", "a=absent"], &["cannot read absent/adapter_config.json"]);
    eval(&["--adapter", "a="], &["`--adapter a=`", "NAME=PATH"]);
    refused(&fixture, &["generate", "model", "--prompt", "a", "--use", "a"], &["--adapter"]);
    let clash = json!({"method": "partial", "parameters": ["A_log"]});
    train(&fixture, &[clash], "runs/third", 5);
    train(&fixture, &[json!({"method": "full"})], "runs/fourth", 5);
    let parts = ["`third` and `fourth` cannot be stacked", "both train `backbone.layers.0.mixer.A_log`"];
    eval(&["--adapter", "runs/third", "--adapter", "runs/fourth"], &parts);
    refused(&fixture, &["merge", "runs/third", "other", "--adapter", "runs/fourth"], &parts);
}

#[test]
fn adapters_are_averaged() {
    let fixture = Fixture::new();
    train(&fixture, &[lora(json!(["out_proj"]))], "runs/first", 5);
    train(&fixture, &[lora(json!(["out_proj"]))], "runs/second", 6);
    train(&fixture, &[json!({"method": "state-offset-h"})], "runs/offset", 7);
    let two = ["--adapter", "a=runs/first", "--adapter", "b=runs/second"];
    let average = |out: &str, arguments: &[&str]| {
        fixture.run(&[&["average", out, "--json", "--quiet"], &two[..], arguments].concat())
    };
    let found = average("half", &[]).well().json();
    assert_eq!((&found["weights"], &found["methods"][0]["rank"]), (&json!([0.5, 0.5]), &json!(4)), "{found}");
    // The average of one alone is it; an average is an adapter like any other.
    average("all", &["--weights", "1,0"]).well();
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-5, "{a}, {b}");
    near(loss(&fixture, &["--adapter", "all"]), loss(&fixture, &["--adapter", "runs/first"]));
    average("beyond", &["--weights", "-0.5,1.5"]).well();
    fixture.run(&["verify", "half", "--quiet"]).well();
    // A quarter of one and three of the other are half of them and half of the other.
    average("quarter", &["--weights", "0.25,0.75"]).well();
    fixture.run(&["average", "same", "--adapter", "half", "--adapter", "runs/second", "--quiet"]).well();
    near(loss(&fixture, &["--adapter", "quarter"]), loss(&fixture, &["--adapter", "same"]));

    let refuse = |arguments: &[&str], parts: &[&str]| {
        refused(&fixture, &[&["average", "new"], arguments].concat(), parts);
    };
    refuse(&["--adapter", "half"], &["two adapters at least"]);
    refuse(&[&two[..], &["--weights", "0.5"]].concat(), &["--weights has 1 numbers for 2 adapters"]);
    refuse(&[&two[..], &["--weights", "0.5,0.6"]].concat(), &["the weights sum to 1.1"]);
    refuse(&["--adapter", "half", "--adapter", "runs/offset"], &["`half` is lora where `offset` is state-offset-h"]);
    refused(&fixture, &[&["average", "half"], &two[..]].concat(), &["half exists and is not empty"]);
    support::copy(&fixture.path("model"), &fixture.path("other"));
    fixture.edit("half/adapter_config.json", "\"model\"", "\"other\"");
    refuse(&["--adapter", "half", "--adapter", "runs/first"], &["`half` is for the model other", "--model"]);
}

#[test]
fn an_adapter_is_exported_if_peft_computes_the_same() {
    let fixture = Fixture::new();
    train(&fixture, &[lora(json!(["x_proj", "in_proj"]))], "runs/lora", 5);
    train(&fixture, &[lora(json!(["embeddings"]))], "runs/embeddings", 5);
    train(&fixture, &[json!({"method": "state-offset-h"})], "runs/offset", 5);
    train(&fixture, &[json!({"method": "lora-fa"}), json!({"method": "bitfit"})], "runs/two", 5);
    train(&fixture, &[json!({"method": "lora-plus", "targets": ["in_proj"]})], "runs/plus", 5);
    train(&fixture, &[json!({"method": "prompt-tuning", "tokens": 2, "mlp": 3})], "runs/prompt", 5);
    for (run, kind) in [("runs/lora", "LORA"), ("runs/plus", "LORA"), ("runs/prompt", "PROMPT_TUNING")] {
        fixture.run(&["export", run, "peft", "--quiet"]).well();
        assert_eq!(
            fixture.tree("peft").into_keys().collect::<Vec<_>>(),
            ["adapter_config.json", "adapter_model.safetensors"]
        );
        let config: Value = serde_json::from_str(&fixture.read("peft/adapter_config.json")).expect("JSON");
        assert_eq!(config["peft_type"], kind);
        assert_eq!(loss(&fixture, &["--adapter", "peft"]), loss(&fixture, &["--adapter", run]), "{run}");
        refused(&fixture, &["export", run, "peft"], &["peft exists and is not empty"]);
        fs::remove_dir_all(fixture.path("peft")).expect("the export");
    }
    let parts = ["both ends of tied embeddings", "`statetune merge`", "`input_embedding_only = true`"];
    refused(&fixture, &["export", "runs/embeddings", "peft"], &parts);
    train(&fixture, &[lora(json!(["in_proj", "dt_proj"]))], "runs/dt", 5);
    train(&fixture, &[json!({"method": "dora"})], "runs/dora", 5);
    let parts = ["has no effect", "`dt_proj`", "`statetune merge runs/dt FOLDER`"];
    refused(&fixture, &["export", "runs/dt", "peft"], &parts);
    let parts = ["PEFT has refused adapters on `out_proj`", "`statetune merge runs/dora FOLDER`"];
    refused(&fixture, &["export", "runs/dora", "peft"], &parts);
    let parts = ["PEFT has no form for lora-fa with bitfit", "`statetune merge runs/two FOLDER`"];
    refused(&fixture, &["export", "runs/two", "peft"], &parts);
    let parts = ["PEFT has no form for state-offset-h", "cannot be merged into a model either"];
    refused(&fixture, &["export", "runs/offset", "peft"], &parts);
}

/// Every family, after three steps.
#[test]
fn every_method_is_verified() {
    let fixture = Fixture::new();
    for info in METHODS {
        if ["pissa", "olora"].contains(&info.tag) && linalg::available(info.tag).is_err() {
            println!("left out: {} starts with the feature `lapack`", info.tag);
            continue;
        }
        let mut config = (info.examples)().remove(0);
        config["method"] = info.tag.into();
        if info.tag == "sdt" {
            config["warmup_steps"] = 2.into();
        }
        let run = format!("runs/{}", info.tag);
        train(&fixture, &[config], &run, 5);
        let found = fixture.run(&["verify", &run, "--json", "--quiet"]).well().json();
        assert_eq!(found["kept"], true, "{}: {found:#}", info.tag);
        let promises = found["promises"].as_array().expect("a list");
        assert_eq!(promises.len(), 10);
        for promise in promises {
            let expected = match promise["promise"].as_str().expect("a name") {
                "merged = unmerged" if !info.mergeable => "skipped",
                "untrained = base" if !info.starts_unchanged => "skipped",
                _ => "ok",
            };
            assert_eq!(promise["outcome"], expected, "{}: {promise:#}", info.tag);
        }
        // The adapter alone.
        let alone = fixture.run(&["verify", &format!("{run}/best"), "--json", "--quiet"]).well().json();
        assert_eq!(alone["promises"].as_array().map(Vec::len), Some(8));
    }
}

#[test]
fn the_table_says_what_was_compared_and_what_is_broken() {
    let fixture = Fixture::new();
    fixture.run(&["train", "run.toml", "--quiet", "--set", "train.max_steps=3"]).well();
    let before = fixture.tree("");
    let said = fixture.run(&["verify", "out", "--quiet"]).well().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 11, "{said}");
    for part in [
        "difference  tolerance  compared",
        "logits of sequences of 1, 2, 17, 70 tokens",
        "merged = unmerged     skipped",
        "state_offset cannot be merged",
        "the checksums of step-00000003",
        "after step 4, taken twice",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    assert!(before == fixture.tree(""), "verify changed a file");
    // Without its data a run cannot go on, which is no broken promise.
    fs::rename(fixture.path("train.jsonl"), fixture.path("moved.jsonl")).expect("the data");
    let said = fixture.run(&["verify", "out", "--quiet"]).well().stdout;
    assert!(said.contains("resumed = repeated    skipped") && said.contains("train.jsonl"), "{said}");
    fs::rename(fixture.path("moved.jsonl"), fixture.path("train.jsonl")).expect("the data");
    // A damaged checkpoint is.
    let state = "out/checkpoints/step-00000003/trainer_state.bin";
    let mut bytes = fs::read(fixture.path(state)).expect("a checkpoint");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fixture.write(state, bytes);
    let outcome: Outcome = fixture.run(&["verify", "out", "--quiet"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stdout.contains("checkpoint = whole    failed"), "{}", outcome.stdout);
    let outcome = fixture.run(&["verify", "out", "--json", "--quiet"]);
    assert_eq!((outcome.code, &outcome.json()["kept"]), (Some(1), &Value::Bool(false)));
}

#[test]
fn wrong_paths() {
    let fixture = Fixture::new();
    fs::create_dir(fixture.path("empty")).expect("a folder");
    train(&fixture, &[lora(json!(["out_proj"]))], "out", 5);
    support::copy(&fixture.path("out/best"), &fixture.path("adapter"));
    fixture.edit("adapter/adapter_config.json", "\"model\"", "\"gone\"");
    let start = fixture.read("out/config.toml");
    fs::create_dir(fixture.path("started")).expect("a folder");
    fixture.write("started/config.toml", start);
    for command in ["merge", "export", "verify"] {
        let with = |path: &'static str| match command {
            "verify" => vec![command, path],
            _ => vec![command, path, "new"],
        };
        refused(&fixture, &with("absent"), &["absent does not exist"]);
        refused(&fixture, &with("empty"), &["empty is no adapter and no run", "adapter_config.json nor config.toml"]);
        refused(&fixture, &with("started"), &["started has no adapter yet", "train first"]);
        refused(&fixture, &with("adapter"), &["adapter is for the model gone", "--model"]);
        refused(&fixture, &[with("adapter"), vec!["--model", "absent"]].concat(), &["cannot use the model absent"]);
    }
    fixture.run(&["verify", "adapter", "--model", "model", "--quiet"]).well();
}

/// What a Python with torch, transformers and peft says of our folders: `STATETUNE_PYTHON` names it.
#[test]
fn an_exported_adapter_loads_in_peft() {
    let Some(python) = std::env::var_os("STATETUNE_PYTHON") else {
        println!("left out: no STATETUNE_PYTHON");
        return;
    };
    let fixture = Fixture::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/peft_logits.py");
    let tokens: Vec<u32> = (0..19).map(|i| (i * i * 7 + 3 * i + 11) % VOCAB as u32).collect();
    fixture.write("tokens.json", json!(tokens).to_string());
    let device = Device::cpu(Level::best(), 1).expect("the processor");
    let model = Mamba::load(&fixture.path("model"), &device, DType::F32).expect("the model");
    let all = json!(["in_proj", "x_proj"]);
    let whole = |names: Value| json!({"method": "partial", "parameters": names, "input_embedding_only": true});
    let cases = [
        vec![json!({"method": "lora", "targets": all, "rank": 4, "alpha": 8})],
        vec![json!({"method": "lora", "targets": all, "rank": 4, "rslora": true,
            "rank_pattern": {"in_proj": 2, "layers.1.mixer.in_proj": 3}, "alpha_pattern": {"x_proj": 5}})],
        vec![json!({"method": "lora", "targets": ["embeddings", "x_proj"], "rank": 2, "input_embedding_only": true})],
        vec![json!({"method": "lora", "targets": ["lm_head"], "rank": 2})],
        vec![json!({"method": "dora", "targets": all, "rank": 4, "alpha": 8})],
        vec![json!({"method": "dora", "targets": ["embeddings"], "rank": 2, "input_embedding_only": true})],
        vec![lora(json!(["in_proj"])), whole(json!(["norm_f.weight", "dt_proj.weight", "dt_proj.bias"]))],
        vec![lora(json!(["in_proj"])), whole(json!(["embeddings.weight"]))],
        vec![json!({"method": "prompt-tuning", "tokens": 3})],
    ];
    let ours = |patches: &Patches| {
        let tape = Tape::inference(&device);
        let bound = Bound::new(&tape, &model, patches, None).expect("patches that fit");
        let batch = Batch::new(&[&tokens]).expect("a batch");
        let hidden = model.forward(&tape, &bound, &batch, None, false).expect("hidden states").hidden;
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        model.logits(&tape, &bound, &hidden, &rows).expect("logits").tensor().to_f64_vec()
    };
    let base = ours(&Patches::none());
    let (mut adapted, mut folders) = (Vec::new(), Vec::new());
    for (i, configs) in cases.iter().enumerate() {
        let parse = |config: &Value| methods::parse_value(config.clone()).expect("a method");
        let adapter = Adapter::new(&model, configs.iter().map(parse).collect(), 3).expect("an adapter");
        for tensor in adapter.patches().tensors() {
            let value = tensor.buffer.tensor();
            let mut noise = vec![0f64; value.len()];
            normal(&mut noise, 0.0, 0.1, 9, stream_of(&tensor.name));
            let sum: Vec<f64> = value.to_f64_vec().iter().zip(&noise).map(|(v, n)| v + n).collect();
            let sum = Tensor::from_vec(sum, value.shape()).expect("its shape").cast(DType::F32);
            tensor.buffer.set(sum).expect("its shape");
        }
        let folder = format!("peft-{i}");
        adapter.save_peft(&fixture.path(&folder), "model").unwrap_or_else(|error| panic!("{configs:?}: {error}"));
        adapted.push(ours(adapter.patches()));
        folders.push(folder);
    }
    let mut command = Command::new(&python);
    command.arg(script).args(["model", "tokens.json", "logits.json"]).args(&folders).current_dir(fixture.root());
    let output = command.output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Vec<Vec<f64>>> = serde_json::from_str(&fixture.read("logits.json")).expect("rows of logits");
    assert_eq!(theirs.len(), cases.len());
    for ((configs, ours), theirs) in cases.iter().zip(&adapted).zip(theirs) {
        let apart = |one: &[f64], other: &[f64]| {
            assert_eq!(one.len(), other.len(), "{configs:?}");
            one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0f64, f64::max)
        };
        let (worst, change) = (apart(ours, &theirs.concat()), apart(ours, &base));
        let largest = ours.iter().fold(1f64, |m, x| m.max(x.abs()));
        assert!(worst <= 1e-4 * largest, "{configs:?}: logits of size {largest:.2} differ by {worst:e}");
        assert!(change > 1e-2, "{configs:?}: the adapter moves no logit by more than {change:e}");
    }
}
