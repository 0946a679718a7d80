//! What fails on a GPU, by the real binary: too little memory, a lost device, a kernel that does not compile, a device that
//! is too old. The message says what to do, the process ends, the last checkpoint is whole and goes on to the same bits.
//!
//! Only the emulator can be made to fail (`cargo xtask test --cuda-emulated`); these are no tests elsewhere.
#![cfg(all(unix, feature = "cuda"))]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::{Fixture, Outcome, checkpoints, interrupted, same_results, tree};

/// A process that has not ended after so long hangs.
const PATIENCE: Duration = Duration::from_secs(180);

/// The checkpoint after which things go wrong.
const LAST: u64 = 6;

/// LoRA with dropout and an offset, and that run without a fault in `whole`; `None` where there is no emulator.
fn uninterrupted() -> Option<Fixture> {
    std::env::var_os("STATETUNE_TEST_EMULATED")?;
    let fixture = Fixture::new();
    fixture.edit("run.toml", "max_steps = 12", "max_steps = 12\nkeep_checkpoints = 100");
    assert!(fixture.on_test_device(), "an emulator, but STATETUNE_TEST_DEVICE does not ask for it");
    train(&fixture, "whole", &[]).well();
    Some(fixture)
}

/// Starts a run, or goes on with it where there is one, in this environment. It ends by itself.
fn train(fixture: &Fixture, run: &str, environment: &[(&str, &Path)]) -> Outcome {
    let folder = format!("output.folder={run}");
    let mut arguments = vec!["train", "run.toml", "--quiet", "--set", &folder];
    if fixture.path(run).join("config.toml").exists() {
        arguments.push("--resume");
    }
    let mut command = fixture.command(&arguments);
    command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, started) = (command.spawn().expect("the binary starts"), Instant::now());
    while child.try_wait().expect("its status").is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().expect("a process to kill");
            panic!("{environment:?}: it hangs");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output").into()
}

fn checkpoint(fixture: &Fixture, run: &str) -> PathBuf {
    fixture.path(run).join(format!("checkpoints/step-{LAST:08}"))
}

/// The checkpoint of step `LAST` is the run's newest, with the bytes of the run without a fault, and goes on to its bits.
#[track_caller]
fn goes_on(fixture: &Fixture, run: &str) {
    assert_eq!(checkpoints(&fixture.path(run)).last().map(|(step, _)| *step), Some(LAST), "{run}");
    let timeless = |folder: PathBuf| {
        let mut files = tree(&folder);
        files.retain(|name, _| name != "trainer_state.bin"); // tells the seconds so far
        files
    };
    let files = timeless(checkpoint(fixture, run));
    assert!(!files.is_empty() && files == timeless(checkpoint(fixture, "whole")), "{run}: the checkpoint differs");
    train(fixture, run, &[]).well();
    same_results(run, &fixture.path("whole"), &fixture.path(run));
}

#[test]
fn a_device_that_is_lost_or_full_or_cannot_compile_leaves_the_last_checkpoint() {
    let Some(fixture) = uninterrupted() else { return };

    let lost = train(&fixture, "lost", &[("CUDA_EMULATOR_LOST_ONCE", &checkpoint(&fixture, "lost"))]);
    lost.refused(&["the device is lost", "CUDA_ERROR_ECC_UNCORRECTABLE", "nvidia-smi", "`--resume`"]);
    goes_on(&fixture, "lost");

    // With an allocation for each array there is one in each step, as there is in a step of a new size.
    let environment: [(&str, &Path); 2] =
        [("CUDA_EMULATOR_FULL_ONCE", &checkpoint(&fixture, "full")), ("STATETUNE_CUDA_SEPARATE", Path::new("1"))];
    let full = train(&fixture, "full", &environment);
    full.refused(&[
        "out of device memory",
        " more were needed for ",
        " already held",
        "0 bytes of 8.00 GiB are free",
        "larger device",
    ]);
    goes_on(&fixture, "full");

    interrupted(&fixture.path("whole"), LAST, &fixture.path("uncompilable"));
    let environment = without_compiler(&fixture, "conv1d");
    let environment = environment.each_ref().map(|(name, path)| (*name, path.as_path()));
    let uncompilable = train(&fixture, "uncompilable", &environment);
    uncompilable.refused(&[
        "`conv1d` does not compile for sm_90",
        "newer CUDA toolkit",
        "`--device cpu`",
        "no such kernel",
    ]);
    goes_on(&fixture, "uncompilable");
}

/// An environment with a cache of all kernels but one source's, and a compiler that refuses it.
fn without_compiler(fixture: &Fixture, source: &str) -> [(&'static str, PathBuf); 2] {
    let (cache, compiler) = (fixture.path("kernels"), fixture.path("compiler"));
    fs::create_dir(&cache).expect("a folder");
    let whole = std::env::var("STATETUNE_KERNEL_CACHE").expect("the emulator has a cache of its own");
    for entry in fs::read_dir(whole).expect("a cache") {
        let entry = entry.expect("an entry");
        if !entry.file_name().to_string_lossy().starts_with(source) {
            fs::copy(entry.path(), cache.join(entry.file_name())).expect("a copy");
        }
    }
    fixture.write("compiler", "#!/bin/sh\necho 'no such kernel' >&2\nexit 1\n");
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).expect("a program");
    [("STATETUNE_KERNEL_CACHE", cache), ("CUDA_EMULATOR_CXX", compiler)]
}

#[test]
fn a_device_that_is_too_small_or_too_old_is_refused_before_there_is_a_run() {
    let Some(fixture) = uninterrupted() else { return };
    let small = train(&fixture, "small", &[("CUDA_EMULATOR_MEMORY", Path::new("50000"))]);
    small.refused(&["out of device memory", "weights", "`device.compute`", "larger device"]);
    let old = train(&fixture, "old", &[("CUDA_EMULATOR_CAPABILITY", Path::new("7.5"))]);
    old.refused(&["compute capability 7.5", "at least 8.0 is needed", "`--device cpu`"]);
    assert!(!fixture.path("small").exists() && !fixture.path("old").exists());
}
