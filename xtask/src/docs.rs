//! `cargo xtask docs`: the API's documentation without a warning, then the book under `docs`. With `--write` the parts of
//! the pages that the list of methods makes are written anew first; a test of the command line finds them stale.

use std::process::{Command, Stdio};

use anyhow::bail;

use crate::command::{UserError, cargo, root, run};
use crate::{Task, book};

pub const TASK: Task = Task {
    name: "docs",
    usage: "[--write]  (--write: first renew the tables of methods in the pages)",
    about: "Build the API's documentation and the book, links checked",
    run: build,
};

/// The pages with parts that are made from the list of methods.
const FILLED: [&str; 2] = ["docs/src/methods.md", "README.md"];

fn build(arguments: &[String]) -> anyhow::Result<()> {
    match arguments {
        [] => {}
        [write] if write == "--write" => {
            let mut fill = cargo(&["run", "--quiet", "--release", "--package", "statetune", "--", "methods"]);
            for page in FILLED {
                fill.arg("--fill").arg(root().join(page));
            }
            run(fill)?;
        }
        _ => return Err(UserError(format!("`docs` takes `--write` only, found `{}`", arguments.join(" "))).into()),
    }
    let flags = std::env::var("RUSTDOCFLAGS").unwrap_or_default();
    let mut rustdoc = cargo(&["doc", "--release", "--workspace", "--no-deps"]);
    rustdoc.env("RUSTDOCFLAGS", format!("{flags} -D warnings").trim());
    run(rustdoc)?;

    let docs = root().join("docs");
    let broken = book::broken(&docs)?;
    if !broken.is_empty() {
        bail!("broken links:\n{}", broken.join("\n"));
    }
    let mut version = Command::new("mdbook");
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if version.status().is_ok_and(|status| status.success()) {
        let mut mdbook = Command::new("mdbook");
        mdbook.arg("build").arg(&docs);
        run(mdbook)
    } else {
        println!("mdbook is not installed: the book's links were checked, no pages were written");
        Ok(())
    }
}
