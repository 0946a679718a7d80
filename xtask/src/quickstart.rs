//! `cargo xtask quickstart`: the example that fine-tunes the small model in the repository.

use crate::Task;
use crate::command::example;

pub const TASK: Task = Task {
    name: "quickstart",
    usage: "[arguments of the example]",
    about: "Fine-tune the small Mamba in the repository with three methods, side by side",
    run: |arguments| example("quickstart", arguments),
};
