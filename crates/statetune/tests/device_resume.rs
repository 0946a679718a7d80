//! Resumed = uninterrupted on a GPU, by the real binary, killed without warning. Runs where `STATETUNE_TEST_DEVICE` asks for
//! a device (`cargo xtask test --cuda`, or `--cuda-emulated`), and is no test elsewhere.
#![cfg(all(unix, feature = "cuda"))]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use support::kills::{Draws, Moment, SIGKILL, finish, killed_at, start, with_methods};
use support::same_results;

/// Steps that are captured and replayed; steps that are launched one by one, with masks that depend on the step; a warm-up
/// after which other tensors are trained.
const METHODS: [(&str, &[&str]); 3] = [
    ("state-offset-h", &["method = \"state-offset-h\""]),
    ("lora with dropout", &["method = \"lora\"\ntargets = [\"in_proj.x\", \"out_proj\"]\nrank = 4\ndropout = 0.2"]),
    (
        "sdt",
        &[
            "method = \"sdt\"\nchannels = 0.8\nstates = 0.6\nzero_channels = 0.1\nwarmup_steps = 6",
            "method = \"lora\"\ntargets = [\"out_proj\"]\nrank = 2",
        ],
    ),
];

#[test]
fn killed_and_resumed_on_the_device_is_uninterrupted() {
    let mut draws = Draws::new();
    for (what, methods) in METHODS {
        let methods = methods.iter().map(|text| text.parse().expect("a method")).collect();
        let fixture = with_methods(methods, 18);
        if !fixture.on_test_device() {
            return;
        }
        finish(&fixture, "whole");
        // The first kill is sure to hit a training, the second comes whenever it comes.
        let soon = Duration::from_secs_f64(draws.below(0.01));
        killed_at(&fixture, what, &Moment::Checkpoint(1, soon));
        let moment = Moment::After(Duration::from_secs_f64(draws.below(3.0)));
        let mut child = start(&fixture, "killed");
        if moment.wait(&mut child, &fixture.path("killed")) {
            child.kill().expect("a process to kill");
        }
        let output = child.wait_with_output().expect("its end");
        println!("{what}: {moment:?}: {}", output.status);
        let by_us = output.status.signal() == Some(SIGKILL);
        assert!(by_us || output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        finish(&fixture, "killed");
        same_results(what, &fixture.path("whole"), &fixture.path("killed"));
    }
}
