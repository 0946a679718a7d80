//! Resumed = uninterrupted, by the real binary: killed at random moments, torn files, damaged checkpoints. What cannot
//! be resumed is in `bad_input.rs`, a full disk in `full_disk.rs`.
#![cfg(unix)]

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use statetune::mamba_model::Mamba;
use statetune::mamba_model::config::MambaConfig;
use statetune::peft_methods::{Adapter, METHODS, MethodInfo, PeftError};
use statetune::ssm_kernels::Level;
use statetune::tensor::{DType, Device};
use support::kills::{Draws, Moment, SIGKILL, finish, killed_at, start, with_methods};
use support::{Fixture, VOCAB, checkpoints, interrupted, same_results};

/// A fixture whose run is long enough to be killed several times, and that run without a kill, in `whole`. Rows are too
/// long for it, so that its log has notes.
fn uninterrupted(steps: u64, keep: usize) -> Fixture {
    let fixture = Fixture::new();
    fixture.edit("run.toml", "max_steps = 12", &format!("max_steps = {steps}\nkeep_checkpoints = {keep}"));
    fixture.edit("run.toml", "max_tokens = 110", "max_tokens = 60");
    finish(&fixture, "whole");
    assert!(fixture.read("whole/metrics.jsonl").contains("training rows are longer than the limit"));
    fixture
}

#[test]
fn killed_and_resumed_is_uninterrupted() {
    const STEPS: u64 = 120;
    let fixture = uninterrupted(STEPS, 2);
    let mut draws = Draws::new();
    let (mut killed, mut in_training) = (0, 0);
    for session in 0..9 {
        let done = checkpoints(&fixture.path("killed")).last().map_or(0, |(step, _)| *step);
        // The first is sure to hit a training: the others may come too late.
        let moment = match session {
            0 => Moment::Checkpoint(1, Duration::ZERO),
            _ => Moment::draw(&mut draws, done, STEPS),
        };
        let mut child = start(&fixture, "killed");
        let running = moment.wait(&mut child, &fixture.path("killed"));
        if running {
            child.kill().expect("a process to kill");
        }
        let output = child.wait_with_output().expect("its end");
        let by_us = output.status.signal() == Some(SIGKILL);
        assert!(by_us || output.status.success(), "{moment:?}: {}", String::from_utf8_lossy(&output.stderr));
        let log = fs::read_to_string(fixture.path("killed/metrics.jsonl")).unwrap_or_default();
        let reached = checkpoints(&fixture.path("killed")).last().map_or(0, |(step, _)| *step);
        println!(
            "{moment:?}: killed: {by_us}, checkpoint {done} before and {reached} after, {} lines",
            log.lines().count()
        );
        killed += u32::from(by_us);
        in_training += u32::from(by_us && log.contains("\"kind\":\"step\""));
        if !by_us {
            break;
        }
    }
    assert!(killed > 0 && in_training > 0, "{killed} kills, {in_training} of them in training");
    finish(&fixture, "killed");
    same_results("killed", &fixture.path("whole"), &fixture.path("killed"));
}

/// The feature that a method's start needs and this build lacks.
fn missing_feature(info: &MethodInfo, example: &serde_json::Value) -> Option<&'static str> {
    let device = Device::cpu(Level::best(), 1).expect("the processor");
    let model = Mamba::random(&MambaConfig::new(VOCAB, 16, 2), &device, DType::F32, DType::F32, 1).expect("a model");
    match Adapter::new(&model, vec![(info.parse)(example.clone()).expect("an example")], 0) {
        Err(PeftError::MissingFeature { feature, .. }) => Some(feature),
        other => other.map(|_| None).expect("an example that fits"),
    }
}

/// Every entry of METHODS with one of its examples, killed once at a random step. Which example is drawn; the trainer's
/// tests resume all of them.
#[test]
fn every_method_killed_and_resumed_is_uninterrupted() {
    const STEPS: u64 = 40;
    let mut draws = Draws::new();
    let mut left_out = Vec::new();
    for info in METHODS {
        let examples = (info.examples)();
        let example = &examples[draws.below(examples.len() as f64) as usize];
        if let Some(feature) = missing_feature(info, example) {
            left_out.push((info.tag, feature));
            continue;
        }
        let what = format!("{} {example}", info.tag);
        let mut method = toml::Table::try_from(example).expect("an example without nulls");
        method.insert("method".into(), info.tag.into());
        let fixture = with_methods(vec![method], STEPS);
        finish(&fixture, "whole");
        let step = 1 + draws.below(STEPS as f64 / 2.0) as u64;
        killed_at(&fixture, &what, &Moment::Checkpoint(step, Duration::from_secs_f64(draws.below(0.01))));
        finish(&fixture, "killed");
        same_results(&what, &fixture.path("whole"), &fixture.path("killed"));
    }
    println!(
        "{} methods killed and resumed; left out for a missing feature: {left_out:?}",
        METHODS.len() - left_out.len()
    );
    assert!(
        left_out.iter().all(|left_out| [("pissa", "lapack"), ("olora", "lapack")].contains(left_out)),
        "{left_out:?}"
    );
}

/// SDT with LoRA beside it: killed in its warm-up, and again after it has chosen.
#[test]
fn killed_in_a_warm_up_and_after_it_is_uninterrupted() {
    const WARMUP: u64 = 60;
    let methods = [
        format!("method = \"sdt\"\nchannels = 0.8\nstates = 0.6\nzero_channels = 0.1\nwarmup_steps = {WARMUP}"),
        "method = \"lora\"\ntargets = [\"out_proj\"]\nrank = 2\ndropout = 0.2".to_owned(),
    ];
    let methods = methods.iter().map(|text| text.parse().expect("a method")).collect();
    let fixture = with_methods(methods, 60);
    finish(&fixture, "whole");
    let mut draws = Draws::new();
    let newest = || checkpoints(&fixture.path("killed")).last().map_or(0, |(step, _)| *step);
    let soon = |draws: &mut Draws| Duration::from_secs_f64(draws.below(0.01));
    let step = 1 + draws.below(WARMUP as f64 / 3.0) as u64;
    killed_at(&fixture, "in the warm-up", &Moment::Checkpoint(step, soon(&mut draws)));
    assert!((step..WARMUP).contains(&newest()), "killed with a checkpoint of step {}, not in the warm-up", newest());
    let step = WARMUP + 1 + draws.below(20.0) as u64;
    killed_at(&fixture, "after the warm-up", &Moment::Checkpoint(step, soon(&mut draws)));
    assert!(newest() >= step, "killed with a checkpoint of step {}", newest());
    finish(&fixture, "killed");
    same_results("sdt", &fixture.path("whole"), &fixture.path("killed"));
    let config: serde_json::Value =
        serde_json::from_str(&fixture.read("killed/adapter/adapter_config.json")).expect("the adapter's configuration");
    let layers = config["methods"][0]["selection"].as_array().expect("a selection in the adapter");
    assert!(
        layers.len() == 2 && layers.iter().all(|layer| layer["zero"].as_array().is_some_and(|zero| zero.len() == 3))
    );
}

/// From every checkpoint, and from before the first.
#[test]
fn resumed_from_any_checkpoint_is_uninterrupted() {
    let fixture = uninterrupted(12, 100);
    for step in [0, 3, 6, 9, 12] {
        let run = format!("from-{step}");
        interrupted(&fixture.path("whole"), step, &fixture.path(&run));
        finish(&fixture, &run);
        same_results(&run, &fixture.path("whole"), &fixture.path(&run));
    }
}

#[test]
fn resume_after_the_end_changes_nothing() {
    let fixture = uninterrupted(12, 2);
    let timeless = |mut files: std::collections::BTreeMap<String, Vec<u8>>| {
        // Both tell the peak memory of the last process.
        files.retain(|name, _| name != "summary.json" && name != "report.html");
        files
    };
    let before = timeless(fixture.tree("whole"));
    finish(&fixture, "whole");
    let after = timeless(fixture.tree("whole"));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (name, bytes) in &before {
        assert!(after[name] == *bytes, "{name} has changed");
    }
}

/// What a run folder suffers, in words and by hand.
type Tear = (&'static str, fn(&Path));

/// What a kill can leave in the middle of a write.
#[test]
fn torn_files_are_handled() {
    let fixture = uninterrupted(12, 100);
    let tears: [Tear; 5] = [
        ("a last line that is cut off", |run| {
            let log = fs::read_to_string(run.join("metrics.jsonl")).expect("a log");
            fs::write(run.join("metrics.jsonl"), &log[..log.len() - 20]).expect("a cut log");
        }),
        ("an empty log", |run| fs::write(run.join("metrics.jsonl"), "").expect("an empty log")),
        ("half of a new log", |run| fs::write(run.join("metrics.tmp"), "{\"kind\":").expect("a file")),
        ("checkpoints that were being written and removed", |run| {
            for name in [".writing-00000009", ".writing-00000777", ".removing-step-00000003"] {
                let folder = run.join("checkpoints").join(name);
                fs::create_dir_all(&folder).expect("a folder");
                fs::write(folder.join("adapter_model.safetensors"), "half").expect("a file");
            }
        }),
        ("half of an adapter", |run| {
            for folder in ["adapter", "best"] {
                fs::create_dir_all(run.join(folder)).expect("a folder");
                fs::write(run.join(folder).join("adapter_model.tmp"), "half").expect("a file");
                fs::write(run.join(folder).join("adapter_config.tmp"), "half").expect("a file");
            }
        }),
    ];
    for (i, (what, tear)) in tears.into_iter().enumerate() {
        let run = format!("torn-{i}");
        interrupted(&fixture.path("whole"), 6, &fixture.path(&run));
        tear(&fixture.path(&run));
        finish(&fixture, &run);
        if what == "an empty log" {
            // Lines from before the checkpoint are gone for good; the rest is there.
            let log = fixture.read(&format!("{run}/metrics.jsonl"));
            fs::copy(fixture.path("whole/metrics.jsonl"), fixture.path(&run).join("metrics.jsonl")).expect("a copy");
            assert!(log.lines().count() > 3 && !log.contains("\"step\":6,"), "{log}");
        }
        same_results(what, &fixture.path("whole"), &fixture.path(&run));
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_goes_on() {
    let fixture = uninterrupted(12, 100);
    let run = fixture.path("damaged");
    let newest = run.join("checkpoints/step-00000009");
    let cut: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() - 5);
    let flip: fn(&mut Vec<u8>) = |bytes| {
        let at = bytes.len() - 9;
        bytes[at] ^= 1;
    };
    let damages = [("cut", cut), ("flipped", flip), ("empty", Vec::clear)];
    for file in ["trainer_state.bin", "adapter_model.safetensors", "adapter_config.json"] {
        for (how, damage) in damages {
            if (file, how) == ("adapter_config.json", "flipped") {
                continue; // JSON may well mean the same; tensors that do not fit it are refused
            }
            interrupted(&fixture.path("whole"), 9, &run);
            let mut bytes = fs::read(newest.join(file)).expect("a checkpoint's file");
            damage(&mut bytes);
            fs::write(newest.join(file), bytes).expect("a damaged file");
            refused(&fixture, file);
            fs::remove_dir_all(&run).expect("the run");
        }
        interrupted(&fixture.path("whole"), 9, &run);
        fs::remove_file(newest.join(file)).expect("a checkpoint's file");
        refused(&fixture, file);
        // As the message says.
        fs::remove_dir_all(&newest).expect("the checkpoint");
        finish(&fixture, "damaged");
        same_results(file, &fixture.path("whole"), &run);
        fs::remove_dir_all(&run).expect("the run");
    }
}

/// The message names the file and says what to do; nothing is changed.
#[track_caller]
fn refused(fixture: &Fixture, file: &str) {
    let before = fixture.tree("damaged");
    let named = format!("step-00000009/{file}");
    let advice = "remove that folder to resume from the checkpoint before it";
    fixture.run(&["train", "run.toml", "--set", "output.folder=damaged", "--resume"]).refused(&[&named, advice]);
    assert!(before == fixture.tree("damaged"), "{file}: something has changed");
}

#[test]
fn other_data_or_another_base_model_is_no_resume() {
    let fixture = uninterrupted(6, 100);
    interrupted(&fixture.path("whole"), 3, &fixture.path("part"));
    let resume = ["train", "run.toml", "--set", "output.folder=part", "--resume"];
    let reason = ["step-00000003", "the base model or the training data is not what this run was started with"];
    let (data, before) = (fixture.read("train.jsonl"), fixture.tree("part"));
    let shorter = data.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
    fixture.write("train.jsonl", shorter);
    fixture.run(&resume).refused(&reason);
    fixture.write("train.jsonl", data);
    let weights = fs::read(fixture.path("model/model.safetensors")).expect("the weights");
    support::change_weights(&fixture.path("model"), |tensors| tensors[0].2[0] += 0.125);
    fixture.run(&resume).refused(&reason);
    fixture.write("model/model.safetensors", weights);
    assert!(before == fixture.tree("part"), "something has changed");
    finish(&fixture, "part");
    same_results("restored", &fixture.path("whole"), &fixture.path("part"));
}
