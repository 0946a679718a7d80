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
        // Without GPUs there is less code, and some that is left may have nothing to do. With LAPACK there is more; checking
        // links nothing, so OpenBLAS need not be there. Of all packages, whose dependencies then have the features they had.
        for features in [&["--no-default-features"][..], &["--features", "statetune/lapack"]] {
            let mut clippy = cargo(&["clippy", "--workspace", "--all-targets", "--release"]);
            clippy.args(features).args(["--", "-D", "warnings"]);
            run(clippy)?;
        }
        run(cargo(&["test", "--release", "--quiet", "--package", "xtask", "tidy"]))
    },
};
