//! The tests that run on a GPU, or on the emulator of one: the kernels' own, then the golden cases and the promises of the
//! processor's tests with the device in its place.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use crate::command::{root, run, run_held};
use crate::programs::{self, Program};

/// Packages whose tests take their device from `STATETUNE_TEST_DEVICE`, and which of their tests.
pub const ON_DEVICE: [(&str, &[&str]); 5] = [
    ("statetune-tensor", &["tensor_on_device"]),
    ("statetune-mamba-model", &["golden_base", "promises"]),
    ("statetune-peft-methods", &["golden_adapters", "golden_own", "golden_sdt", EXACT]),
    ("statetune-trainer", &["on_device", "long_on_device"]),
    ("statetune", &["device_resume"]),
];

/// The kernels' own tests, of which those named so need a device.
pub const KERNELS: [&str; 2] = ["statetune-ssm-kernels", "statetune_ssm_kernels"];
const OF_KERNELS: &str = "cuda_";

/// What only the emulator can be made to do: lose its device, and other faults.
const FAULTS: [&str; 2] = ["statetune", "device_faults"];

/// The contract of the methods compares two ways to one result, at the precision of f32.
const EXACT: &str = "contract";

/// Types of activations on the device, as `STATETUNE_TEST_DEVICE` names them.
pub const DEVICES: [&str; 2] = ["cuda", "cuda-bf16"];

/// Whether a test is for this type of activations.
pub fn runs_on(test: &str, device: &str) -> bool {
    device == "cuda" || test != EXACT
}

/// Runs them.
pub fn test(arguments: &[String], emulated: bool) -> anyhow::Result<()> {
    let emulator = emulated.then(build_emulator).transpose()?;
    let on_device = |mut command: Command| {
        if let Some(folder) = &emulator {
            emulate(&mut command, folder);
        }
        command
    };
    let programs = build(&[FAULTS[1]])?;
    let mut kernels = programs::find(&programs, KERNELS[0], KERNELS[1])?.command(arguments);
    kernels.arg(OF_KERNELS);
    run(on_device(kernels))?;
    // One device, whose products and launches tests count.
    let with_device = |program: &Program, device: &str| {
        let mut command = program.command(arguments);
        command.args(["--test-threads", "1"]).env("STATETUNE_TEST_DEVICE", device);
        on_device(command)
    };
    let with_activations = |device: &str, run: fn(Command) -> anyhow::Result<()>| {
        ON_DEVICE.iter().try_for_each(|(package, tests)| {
            let mut own = tests.iter().filter(|test| runs_on(test, device));
            own.try_for_each(|test| run(with_device(programs::find(&programs, package, test)?, device)))
        })
    };
    let [first, second] = DEVICES;
    if emulated {
        // Each process has a device of its own there.
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| with_activations(second, run_held));
            let here = with_activations(first, run);
            here.and(beside.join().expect("running tests does not panic"))
        })?;
    } else {
        with_activations(first, run)?;
        with_activations(second, run)?;
    }
    if emulated {
        run(with_device(programs::find(&programs, FAULTS[0], FAULTS[1])?, DEVICES[0]))?;
    }
    Ok(())
}

/// Builds the tests that run on a device, and these.
pub fn build(others: &[&str]) -> anyhow::Result<Vec<Program>> {
    let mut arguments = vec!["--lib"];
    let on_device = ON_DEVICE.iter().flat_map(|(_, tests)| *tests);
    on_device.chain(others).for_each(|test| arguments.extend(["--test", test]));
    programs::build(&arguments)
}

/// Puts the emulator's libraries in front of the machine's own.
fn emulate(command: &mut Command, folder: &Path) {
    let mut path = folder.as_os_str().to_owned();
    if let Some(present) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(present);
    }
    // Machine code of the emulator is none of a GPU: it has a cache of its own.
    command.env("LD_LIBRARY_PATH", path).env("STATETUNE_KERNEL_CACHE", folder.join("kernels"));
    command.env("STATETUNE_TEST_EMULATED", "1");
}

/// Builds the emulator into the target folder.
fn build_emulator() -> anyhow::Result<PathBuf> {
    let folder = root().join("target").join("cuda_emulator");
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut build = Command::new("bash");
    build.arg(root().join("tests/cuda_emulator/build.sh")).arg(&folder);
    run(build)?;
    Ok(folder)
}
