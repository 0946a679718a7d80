//! `cargo xtask test`: every test of the workspace.

use crate::Task;
use crate::command::{cargo, run};

pub const TASK: Task = Task {
    name: "test",
    usage: "[arguments of cargo test]",
    about: "Run every test of the workspace",
    run: |arguments| {
        let mut command = cargo(&["test", "--release", "--workspace"]);
        command.args(arguments);
        run(command)
    },
};
