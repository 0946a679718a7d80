//! Out of disk: the message says which file could not be written, and the last good checkpoint goes on once there is
//! room again. A limit on the size of files stands for it everywhere; where mounting is permitted, a small disk too.
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Fixture, Outcome, SWEEP, checkpoints, interrupted, same_results};

/// Runs a command under a limit on the size of any file it writes, in KiB. The signal is ignored, so that the write
/// fails as on a full disk.
fn limited(fixture: &Fixture, kib: usize, arguments: &[&str]) -> Outcome {
    let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_statetune")]).args(arguments).current_dir(fixture.root());
    command.output().expect("bash starts").into()
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_those_before_it() {
    let fixture = Fixture::new();
    fixture.edit("run.toml", "max_steps = 12", "max_steps = 12\nkeep_checkpoints = 100");
    fixture.run(&["train", "run.toml", "--quiet", "--set", "output.folder=whole"]).well();
    let run = fixture.path("out");
    // The adapter's file is within the limit, the optimiser's state, twice as large, is not; then neither is.
    let size =
        |file: &str| fixture.path(&format!("whole/checkpoints/step-00000003/{file}")).metadata().expect("a file").len();
    let (weights, state) = (size("adapter_model.safetensors") as usize, size("trainer_state.bin") as usize);
    for (file, limit) in [("trainer_state.bin", (weights + state) / 2), ("adapter_model.safetensors", weights / 2)] {
        interrupted(&fixture.path("whole"), 6, &run);
        let before: Vec<_> = checkpoints(&run);
        let outcome = limited(&fixture, limit / 1024, &["train", "run.toml", "--quiet", "--resume"]);
        outcome.refused(&["cannot write", file, "File too large"]);
        assert_eq!(checkpoints(&run), before, "{file}");
        let hidden = fixture.tree("out").into_keys().find(|name| name.contains("/.") || name.contains("tmp"));
        assert_eq!(hidden, None, "{file}: half a file is left");
        fixture.run(&["train", "run.toml", "--quiet", "--resume"]).well();
        same_results(file, &fixture.path("whole"), &run);
        std::fs::remove_dir_all(&run).expect("the run");
    }
}

#[test]
fn a_configuration_that_cannot_be_written_leaves_no_run() {
    let fixture = Fixture::new();
    limited(&fixture, 0, &["train", "run.toml", "--quiet"]).refused(&[".tokens", "could not be written", "free space"]);
    // With the tokens in the cache the configuration is the first file.
    fixture.run(&["train", "run.toml", "--quiet", "--set", "output.folder=other"]).well();
    limited(&fixture, 0, &["train", "run.toml", "--quiet"]).refused(&["cannot write out/config.toml", "too large"]);
    assert!(!fixture.path("out").exists());
}

/// A folder that a command makes is there whole or not at all.
#[test]
fn a_folder_that_cannot_be_written_is_not_begun() {
    let fixture = Fixture::new();
    let lora = "methods=[{ method = \"lora\", targets = [\"in_proj\"], rank = 8 }]";
    fixture.run(&["train", "run.toml", "--quiet", "--set", lora]).well();
    let before = fixture.tree("");
    for arguments in [
        &["merge", "out", "new/merged"][..],
        &["export", "out", "new/exported"],
        &["average", "new/average", "--adapter", "a=out", "--adapter", "b=out/adapter"],
    ] {
        limited(&fixture, 1, arguments).refused(&["cannot write", "new/", "File too large"]);
        assert!(before == fixture.tree(""), "{arguments:?} left a file");
        fixture.run(&[arguments, &["--quiet"]].concat()).well();
        std::fs::remove_dir_all(fixture.path("new")).expect("what was written");
    }
}

/// Many short runs.
/// Of a line that cannot be written whole nothing stays, so that none comes after half a line.
#[test]
fn results_of_a_sweep_are_whole_lines() {
    let fixture = Fixture::new();
    fixture.write("sweep.toml", SWEEP);
    let seeds = format!("seeds={:?}", (0..20).collect::<Vec<_>>());
    let entries = r#"entries=[{ methods = [{ method = "state-offset-h" }], rates = [0.01] }]"#;
    let sweep = ["sweep", "sweep.toml", "--quiet", "--set", &seeds, "--set", entries, "--set", "train.max_steps=2"];
    fixture.run(&[&sweep[..], &["--set", "output.folder=whole"]].concat()).well();
    // The pages are much smaller than the results.
    let [size, page] = ["results.jsonl", "report.html"].map(|name| fixture.read(&format!("whole/{name}")).len());
    assert!(2 * page < size, "{page} and {size} bytes");
    limited(&fixture, size / 1024 / 4 * 3, &[&sweep[..], &["--workers", "2"]].concat())
        .refused(&["cannot write out/results.jsonl", "File too large"]);
    let lines = |name: &str| fixture.read(name).lines().count();
    let before = lines("out/results.jsonl");
    assert!(before > 10 && before < 20 && fixture.read("out/results.jsonl").ends_with('\n'), "{before}");
    fixture.run(&sweep).well();
    assert_eq!(lines("out/results.jsonl"), 20);
}

/// A disk of its own in memory, unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where mounting is not permitted.
    fn mount(at: &Path, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir(at).expect("a folder");
        let options = format!("size={size}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| SmallDisk(at.to_path_buf()))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).output().expect("mount starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The folder is a temporary one, which cannot be removed while it is mounted; a failure shows there.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_a_run_that_goes_on_once_there_is_room() {
    let fixture = Fixture::new();
    let Some(disk) = SmallDisk::mount(&fixture.path("disk"), "320k") else {
        println!("mounting is not permitted here: the limit on files of the other tests stands for a full disk");
        return;
    };
    fixture.edit("run.toml", "max_steps = 12", "max_steps = 60\nkeep_checkpoints = 100");
    fixture.run(&["train", "run.toml", "--quiet", "--set", "output.folder=whole"]).well();
    let train = ["train", "run.toml", "--quiet", "--set", "output.folder=disk/out"];
    let outcome = fixture.run(&train).refused(&["disk/out/", "No space left on device"]);
    println!("{}", outcome.stderr);
    let run = fixture.path("disk/out");
    let kept = checkpoints(&run);
    assert!(!kept.is_empty() && kept.len() < 20, "{kept:?}");
    let resume = [&train[..], &["--resume"]].concat();
    fixture.run(&resume).refused(&["disk/out/", "No space left on device"]);
    assert_eq!(checkpoints(&run), kept, "checkpoints are as they were");
    disk.resize("8m");
    fixture.run(&resume).well();
    same_results("full disk", &fixture.path("whole"), &run);
}
