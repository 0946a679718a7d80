//! `cargo xtask lint`: formatting, clippy without a warning, and the checks of `tidy`.

use crate::Task;
use crate::command::{UserError, cargo, run};

pub const TASK: Task = Task {
    name: "lint",
    usage: "",
    about: "Check formatting, clippy and the repository's own rules",
    run: |arguments| {
        if let Some(found) = arguments.first() {
            return Err(UserError(format!("`lint` takes no arguments, found `{found}`")).into());
        }
        run(cargo(&["fmt", "--all", "--check"]))?;
        run(cargo(&["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"]))?;
        // Without GPUs there is less code, and some that is left may have nothing to do.
        let plain = ["clippy", "--package", "statetune", "--all-targets", "--release", "--no-default-features"];
        let mut clippy = cargo(&plain);
        clippy.args(["--", "-D", "warnings"]);
        run(clippy)?;
        // Checking links nothing, so OpenBLAS need not be there.
        let lapack =
            ["--package", "statetune-peft-methods", "--package", "statetune", "--features", "statetune/lapack"];
        let mut clippy = cargo(&["clippy", "--all-targets", "--release"]);
        clippy.args(lapack).args(["--", "-D", "warnings"]);
        run(clippy)?;
        run(cargo(&["test", "--release", "--quiet", "--package", "xtask", "tidy"]))
    },
};
