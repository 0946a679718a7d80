//! The command line with names on the hub: training, its configuration with the commit, going on and evaluating at that
//! commit, every command that takes a model, and what is printed when a file cannot be had.

mod support;

#[cfg(feature = "hub")]
#[path = "support/hub_server.rs"]
mod hub_server;

use support::Fixture;

#[cfg(not(feature = "hub"))]
#[test]
fn a_build_without_the_hub_says_so() {
    let fixture = Fixture::new();
    for arguments in [&["inspect", "hf://o/n"][..], &["train", "run.toml", "--set", "model.path=hf://o/n"]] {
        fixture.run(arguments).refused(&["hf://o/n", "feature `hub`"]);
    }
    assert!(!fixture.path("out").exists());
}

#[cfg(feature = "hub")]
mod with_hub {
    use std::fs;

    use serde_json::Value;

    use super::Fixture;
    use super::hub_server::{Server, commit, files, noise};
    use crate::support::{Outcome, interrupted, same_results};

    const NAMES: [(&str, &str); 3] = [
        ("path = \"model\"", "path = \"hf://o/n\""),
        ("train = \"train.jsonl\"", "train = \"hf://datasets/o/d/train.jsonl\""),
        ("validation = \"validation.jsonl\"", "validation = \"hf://datasets/o/d@main/validation.jsonl\""),
    ];

    /// A fixture, and a hub that has its model and data at the commits `a`.
    fn fixture() -> (Fixture, Server) {
        let (fixture, server) = (Fixture::new(), Server::start());
        server.put("models/o/n", &commit('a'), model(&fixture));
        let data = ["train.jsonl", "validation.jsonl"].map(|name| (name, fixture.read(name).into_bytes()));
        let data: Vec<(&str, &[u8])> = data.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
        server.put("datasets/o/d", &commit('a'), files(&data));
        fixture.write("hub.toml", fixture.read("run.toml"));
        NAMES.iter().for_each(|(from, to)| fixture.edit("hub.toml", from, to));
        (fixture, server)
    }

    fn model(fixture: &Fixture) -> std::collections::BTreeMap<String, Vec<u8>> {
        fixture.tree("model")
    }

    fn run(fixture: &Fixture, server: &Server, arguments: &[&str]) -> Outcome {
        run_as(fixture, server, arguments, &[])
    }

    fn run_as(fixture: &Fixture, server: &Server, arguments: &[&str], more: &[(&str, &str)]) -> Outcome {
        let mut command = fixture.command(arguments);
        for variable in ["HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"] {
            command.env_remove(variable);
        }
        command.env("HF_ENDPOINT", server.endpoint()).env("HF_HOME", fixture.path("home"));
        command.envs(more.iter().copied()).output().expect("the binary starts").into()
    }

    #[test]
    fn a_run_is_the_same_and_keeps_its_commits() {
        let (fixture, server) = fixture();
        fixture.run(&["train", "run.toml", "--quiet", "--set", "output.folder=local"]).well();
        run(&fixture, &server, &["train", "hub.toml", "--quiet"]).well();
        let pinned = [
            format!("path = \"hf://o/n@main:{}\"", commit('a')),
            format!("train = \"hf://datasets/o/d@main:{}/train.jsonl\"", commit('a')),
            format!("validation = \"hf://datasets/o/d@main:{}/validation.jsonl\"", commit('a')),
        ];
        let recorded = fixture.read("out/config.toml");
        pinned.iter().for_each(|line| assert!(recorded.contains(line), "no {line} in:\n{recorded}"));
        let adapter: Value = serde_json::from_str(&fixture.read("out/adapter/adapter_config.json")).expect("JSON");
        assert_eq!(adapter["base_model_name_or_path"], format!("hf://o/n@main:{}", commit('a')));
        let weights =
            |run: &str| fs::read(fixture.path(run).join("adapter/adapter_model.safetensors")).expect("weights");
        assert!(weights("local") == weights("out"), "another adapter than from local files");

        // The branches move on, to what could not be used.
        server.put("models/o/n", &commit('b'), files(&[("config.json", b"{}")]));
        server.put("datasets/o/d", &commit('b'), files(&[("train.jsonl", b"x"), ("validation.jsonl", b"x")]));
        let expected = run(&fixture, &server, &["eval", "local", "--json"]).well().json()["evaluation"].clone();
        for given in ["out", "hub.toml"] {
            let found = run(&fixture, &server, &["eval", given, "--json"]).well().json()["evaluation"].clone();
            assert_eq!(found, expected, "{given}");
        }
        interrupted(&fixture.path("out"), 6, &fixture.path("again"));
        let resume = ["train", "hub.toml", "--quiet", "--resume", "--set", "output.folder=again"];
        fixture.edit("again/config.toml", "folder = \"out\"", "folder = \"again\"");
        run(&fixture, &server, &resume).well();
        same_results("resumed", &fixture.path("out"), &fixture.path("again"));
        // Who asks for another revision has another configuration.
        let setting = format!("model.path=hf://o/n@{}", commit('b'));
        let other = [&resume[..], &["--set", &setting]].concat();
        fs::remove_dir_all(fixture.path("again")).expect("the run");
        interrupted(&fixture.path("out"), 6, &fixture.path("again"));
        run(&fixture, &server, &other).refused(&["`model.path` was", &commit('a'), "is", &commit('b')]);
        // A new run takes the branches as they are now.
        run(&fixture, &server, &["train", "hub.toml", "--set", "output.folder=new"]).refused(&[
            "cannot use the model hf://o/n@main:bbbb",
            "model o/n at bbbb",
            "no model.safetensors",
        ]);
        assert!(!fixture.path("new").exists());

        // All of it without the server.
        server.stop();
        let found = run(&fixture, &server, &["eval", "out", "--json"]).well().json()["evaluation"].clone();
        assert_eq!(found, expected);
        let verified = run(&fixture, &server, &["verify", "out", "--json"]).well().json();
        assert_eq!(verified["kept"], true);
        // It needs the data.
        let promises = verified["promises"].as_array().expect("promises");
        let resumed = promises.iter().find(|one| one["promise"] == statetune::trainer::verify::RESUMED);
        assert_eq!(resumed.expect("the promise")["outcome"], "ok");
    }

    #[test]
    fn every_command_that_takes_a_model_takes_a_name() {
        let (fixture, server) = fixture();
        fixture.edit("run.toml", "max_steps = 12", "max_steps = 2");
        let lora = "methods=[{ method = \"lora\", targets = [\"in_proj\"], rank = 4 }]";
        fixture.run(&["train", "run.toml", "--quiet", "--set", lora]).well();
        let adapter = ["adapter_config.json", "adapter_model.safetensors"]
            .map(|name| (name, fs::read(fixture.path("out/adapter").join(name)).expect("the adapter")));
        let adapter: Vec<(&str, &[u8])> = adapter.iter().map(|(name, bytes)| (*name, &**bytes)).collect();
        server.put("models/o/tone", &commit('c'), files(&adapter));

        let prompt = ["--prompt", "One", "--max-new-tokens", "4", "--json"];
        let generate = |model: &str, more: &[&str]| {
            run(&fixture, &server, &[&["generate", model], &prompt[..], more].concat()).well().json()
        };
        assert_eq!(generate("hf://o/n", &[]), generate("model", &[]));
        assert_eq!(
            generate("hf://o/n", &["--adapter", "hf://o/tone", "--use", "tone"]),
            generate("model", &["--adapter", "out/adapter"])
        );
        let tokenizer = generate("model", &["--tokenizer", "hf://o/n/tokenizer.json"]);
        assert_eq!(tokenizer, generate("model", &[]));

        let inspect = |arguments: &[&str]| run(&fixture, &server, arguments).well().json();
        let [local, hub] = ["model", "hf://o/n"].map(|model| inspect(&["inspect", model, "--json"]));
        assert_eq!(local["shape"], hub["shape"]);
        let found = inspect(&["inspect", "hf://o/tone", "--model", "hf://o/n", "--json"]);
        assert_eq!(found["base_model"], format!("hf://o/n@main:{}", commit('a')));
        assert_eq!(inspect(&["verify", "hf://o/tone", "--model", "hf://o/n@main", "--json"])["kept"], true);
        run(&fixture, &server, &["merge", "hf://o/tone", "merged", "--model", "hf://o/n", "--quiet"]).well();
        assert!(fixture.path("merged/tokenizer.json").is_file());
        let average = ["average", "mean", "--adapter", "a=hf://o/tone", "--adapter", "b=out/adapter"];
        run(&fixture, &server, &[&average[..], &["--model", "hf://o/n", "--quiet"]].concat()).well();
        let mean: Value = serde_json::from_str(&fixture.read("mean/adapter_config.json")).expect("JSON");
        assert_eq!(mean["base_model_name_or_path"], format!("hf://o/n@main:{}", commit('a')));
        // What is written is found again by the name it was given.
        run(&fixture, &server, &["inspect", "mean"]).well();
        let pretrain = "[model]\npath = \"hf://o/n\"\n[data]\ntrain = \"hf://datasets/o/d/train.jsonl\"\n\
            text_field = \"prompt\"\nlength = 16\n[train]\nmax_steps = 1\nbatch_size = 2\n[output]\nfolder = \"p\"\n";
        fixture.write("pretrain.toml", pretrain);
        run(&fixture, &server, &["pretrain", "pretrain.toml", "--quiet"]).well();
        assert!(fixture.read("p/config.toml").contains(&format!("hf://o/n@main:{}", commit('a'))));
        assert!(fixture.path("p/model/tokenizer.json").is_file());
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        let (fixture, server) = fixture();
        run(&fixture, &server, &["inspect", "hf://n"]).refused(&["`hf://n` is no name on the hub", "hf://OWNER/NAME"]);
        run(&fixture, &server, &["generate", "hf://o/none", "--prompt", "x"]).refused(&[
            "model o/none",
            "401",
            "HF_TOKEN",
        ]);
        let offline = [("HF_HUB_OFFLINE", "1")];
        run_as(&fixture, &server, &["train", "hub.toml"], &offline).refused(&[
            "model o/n: not in the cache",
            "HF_HUB_OFFLINE is set",
            "revision main",
            "nothing",
        ]);
        run(&fixture, &server, &["inspect", "hf://o/n"]).well();
        run_as(&fixture, &server, &["train", "hub.toml"], &offline).refused(&["data set o/d", "revision main"]);
        assert!(!fixture.path("out").exists());
        let given = [("HF_TOKEN", " secret\n")];
        server.log();
        run_as(&fixture, &server, &["train", "hub.toml", "--quiet"], &given).well();
        let log = server.log();
        assert!(log.iter().all(|line| line.ends_with(" with secret") == line.starts_with("hub")), "{log:#?}");
        run_as(&fixture, &server, &["eval", "out"], &offline).well();
        // A path that only looks like one of the hub's is local.
        run(&fixture, &server, &["inspect", "o/n"]).refused(&["o/n does not exist"]);
    }

    /// A limit on the size of files stands for a full disk.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_named_and_gone_on_from() {
        let (fixture, server) = fixture();
        let mut repository = model(&fixture);
        repository.insert("model.safetensors".into(), noise(200_000));
        server.put("models/o/large", &commit('d'), repository);
        let mut command = std::process::Command::new("bash");
        let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
        command.args(["-c", script, env!("CARGO_BIN_EXE_statetune"), "inspect", "hf://o/large"]);
        command.current_dir(fixture.root()).env("HF_ENDPOINT", server.endpoint()).env("HF_HOME", fixture.path("home"));
        let outcome: Outcome = command.output().expect("bash starts").into();
        outcome.refused(&["model o/large", "cannot write", ".incomplete", "too large", "free space", "HF_HOME"]);
        server.log();
        run(&fixture, &server, &["inspect", "hf://o/large"]).refused(&["model.safetensors"]);
        let ranges: Vec<String> =
            server.log().into_iter().filter(|line| line.starts_with("large") && line.contains("safetensors")).collect();
        assert!(matches!(&ranges[..], [line] if line.ends_with(" from 65536")), "{ranges:?}");
    }
}
