//! `cargo xtask pretrain-tiny`: makes the small model in the repository anew.

use crate::Task;
use crate::command::example;

pub const TASK: Task = Task {
    name: "pretrain-tiny",
    usage: "[arguments of the example]",
    about: "Pretrain the small Mamba in the repository on generated text",
    run: |arguments| example("pretrain_tiny", arguments),
};
