//! `cargo xtask bundle --cuda`: a folder with all that a GPU machine without cargo needs to run the tests and the bench.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::Task;
use crate::command::{UserError, root, run};
use crate::cuda::{self, DEVICES, KERNELS, ON_DEVICE, runs_on};
use crate::programs;

pub const TASK: Task = Task {
    name: "bundle",
    usage: "--cuda [FOLDER]  (default: target/bundle-cuda)",
    about: "Make a folder with program, tests, golden cases and a script for a GPU machine without cargo",
    run: bundle,
};

fn bundle(arguments: &[String]) -> anyhow::Result<()> {
    let folder = match arguments {
        [flag] if flag == "--cuda" => root().join("target/bundle-cuda"),
        [flag, folder] if flag == "--cuda" => PathBuf::from(folder),
        _ => return Err(UserError(format!("expected: bundle {}", TASK.usage)).into()),
    };
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let program = ["build", "--release", "--package", "statetune", "--bin", "statetune", "--example", "cuda_bench"];
    let built = programs::built(&program)?;
    for target in ["statetune", "cuda_bench"] {
        copy_stripped(&programs::find(&built, "statetune", target)?.path, &folder.join(target))?;
    }
    let programs = cuda::build(&[])?;
    let tests = ON_DEVICE.iter().flat_map(|(package, tests)| tests.iter().map(move |test| [*package, *test]));
    for [package, target] in tests.chain([KERNELS]) {
        copy_stripped(&programs::find(&programs, package, target)?.path, &folder.join(target))?;
    }
    for (from, to) in [("tests/golden", "cases"), ("tests/golden_own", "own_cases")] {
        copy_folder(&root().join(from), &folder.join(to))?;
    }
    fs::write(folder.join("run.sh"), script()).context("cannot write run.sh")?;
    fs::write(folder.join("sanitize.sh"), SANITIZE).context("cannot write sanitize.sh")?;
    println!("{}: on the GPU machine, `bash run.sh [RESULTS]`", folder.display());
    Ok(())
}

fn copy_stripped(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    let mut strip = Command::new("strip");
    strip.arg(to);
    run(strip)
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        let target = to.join(path.file_name().expect("an entry of a folder"));
        match path.is_dir() {
            true => copy_folder(&path, &target)?,
            false => drop(fs::copy(&path, &target).with_context(|| format!("cannot copy {}", path.display()))?),
        }
    }
    Ok(())
}

/// Runs everything, writes logs, and fails if a test did.
fn script() -> String {
    let mut lines = vec![
        "# Tests and bench of statetune on an NVIDIA GPU; logs go to the folder named, or to results beside this script.".to_owned(),
        "here=$(cd \"$(dirname \"$0\")\" && pwd)".into(),
        "results=${1:-$here/results}".into(),
        "mkdir -p \"$results\"".into(),
        "export STATETUNE_GOLDEN=\"$here/cases\" STATETUNE_GOLDEN_OWN=\"$here/own_cases\" STATETUNE_BINARY=\"$here/statetune\""
            .into(),
        "failed=0".into(),
        "check() { log=\"$results/$1.log\"; shift; \"$@\" > \"$log\" 2>&1; rc=$?; \
         echo \"$(basename \"$log\" .log): exit $rc, $(grep -h '^test result' \"$log\" | tail -1)\"; \
         [ $rc -eq 0 ] || failed=1; }"
            .into(),
        "check doctor \"$here/statetune\" doctor --device cuda --quiet".into(),
        "check kernels \"$here/statetune_ssm_kernels\" cuda_".into(),
    ];
    for device in DEVICES {
        for test in ON_DEVICE.iter().flat_map(|(_, tests)| *tests).filter(|test| runs_on(test, device)) {
            lines.push(format!(
                "check {test}-{device} env STATETUNE_TEST_DEVICE={device} \"$here/{test}\" --test-threads 1 --nocapture"
            ));
        }
    }
    lines.push("\"$here/cuda_bench\" all > \"$results/bench.log\" 2>&1 || failed=1".into());
    lines.push(
        "! command -v compute-sanitizer > /dev/null || bash \"$here/sanitize.sh\" \"$results\" || failed=1".into(),
    );
    lines.push("grep ^METRIC \"$results/bench.log\"".into());
    lines.push("exit $failed\n".into());
    lines.join("\n")
}

/// Runs the kernels' tests under the tools of compute-sanitizer, one log each.
const SANITIZE: &str = include_str!("sanitize.sh");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_runs_every_test_on_every_device_it_is_for() {
        let script = script();
        for test in [
            "golden_base-cuda ",
            "golden_base-cuda-bf16 ",
            "contract-cuda ",
            "on_device-cuda-bf16 ",
            "device_resume-cuda ",
        ] {
            assert!(script.contains(test), "{test}\n{script}");
        }
        assert!(!script.contains("contract-cuda-bf16"));
        // What is typed by tests is the program beside them.
        assert!(script.contains("STATETUNE_BINARY=\"$here/statetune\""));
    }
}
