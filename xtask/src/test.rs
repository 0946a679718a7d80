//! `cargo xtask test`: every test of the workspace, those that need LAPACK where OpenBLAS is installed.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::Task;
use crate::command::{UserError, cargo, root, run};
use crate::{cuda, nvrtc, programs};

pub const TASK: Task = Task {
    name: "test",
    usage: "[--lapack] [arguments of cargo test] | (--cuda | --cuda-emulated | --nvrtc) [arguments of the test programs]  \
            (--lapack: a missing OpenBLAS is an error; --cuda: what runs on a GPU, on the one that must be here; \
            --cuda-emulated: the same on an emulator; --nvrtc: kernels compiled for every GPU, with the library that must be \
            here)",
    about: "Run every test of the workspace",
    run: test,
};

/// How to get what the feature `lapack` links.
const INSTALL: &str = "apt-get install libopenblas-dev";

/// What runs once more with the feature, of these packages: the decompositions, the contract of the methods that start from
/// them, and `extract` as it is typed.
const LAPACK: [&str; 7] = ["--features", "statetune/lapack", "--lib", "--test", "lapack*", "--test", "contract"];
const WITH_LAPACK: [&str; 2] = ["statetune-peft-methods", "statetune"];

fn test(arguments: &[String]) -> anyhow::Result<()> {
    match arguments.split_first() {
        Some((first, rest)) if first == "--cuda" => return cuda::test(rest, false),
        Some((first, rest)) if first == "--cuda-emulated" => return cuda::test(rest, true),
        Some((first, rest)) if first == "--nvrtc" => return nvrtc::test(rest),
        _ => {}
    }
    let ours = |argument: &&String| *argument == "--lapack";
    let before = arguments.iter().take_while(|argument| *argument != "--").count();
    let asked = arguments[..before].iter().any(|argument| ours(&argument));
    let theirs = || arguments[..before].iter().filter(|a| !ours(a)).chain(&arguments[before..]);
    let installed = has_openblas();
    if asked && !installed {
        return Err(UserError(format!("--lapack: no OpenBLAS to link; install it with `{INSTALL}`")).into());
    }
    let mut command = cargo(&["test", "--release", "--workspace"]);
    command.args(theirs());
    if !theirs().any(|argument| argument == "--") {
        command.arg("--");
    }
    // Tests of these names need a device or its compiler, and fail without: they are for `--cuda` and `--nvrtc`.
    command.args(["--skip", "cuda_", "--skip", "nvrtc_"]);
    run(command)?;
    println!(
        "left out: the tests that need a GPU; for them `cargo xtask test --cuda`, or `--cuda-emulated` without one, and \
         `--nvrtc`"
    );
    if installed {
        // Names of tests, and what is for the test programs: not cargo's options.
        let names = arguments[..before].iter().filter(|argument| !argument.starts_with('-'));
        let arguments: Vec<String> = names.chain(arguments[before..].iter().skip(1)).cloned().collect();
        let programs = programs::build(&LAPACK)?;
        let own = programs.iter().filter(|program| program.is_of(&WITH_LAPACK));
        return own.map(|program| program.command(&arguments)).try_for_each(run);
    }
    let count = count_lapack_tests(&root().join("crates"))?;
    println!("left out: {count} tests that need the feature lapack; for them `{INSTALL}`");
    Ok(())
}

/// Whether a program can be linked with OpenBLAS: pkg-config knows it, or the C compiler finds it.
pub fn has_openblas() -> bool {
    let quiet = |command: &mut Command| {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    quiet(Command::new("pkg-config").args(["--exists", "openblas"])) || links("openblas")
}

/// Whether the C compiler links an empty program with a library.
fn links(library: &str) -> bool {
    let program = std::env::temp_dir().join(format!("statetune-links-{library}-{}", std::process::id()));
    let mut compiler = Command::new("cc");
    compiler.args(["-x", "c", "-", "-x", "none", &format!("-l{library}"), "-o"]).arg(&program);
    compiler.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let linked = compiler.spawn().and_then(|mut child| {
        child.stdin.take().expect("standard input is piped").write_all(b"int main(void) { return 0; }\n")?;
        child.wait()
    });
    // Where nothing was linked there is nothing to remove.
    let _ = fs::remove_file(&program);
    linked.is_ok_and(|status| status.success())
}

/// The tests in files named `lapack*.rs`, which are compiled with the feature only.
fn count_lapack_tests(folder: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            count += count_lapack_tests(&path)?;
        } else if name.starts_with("lapack") && name.ends_with(".rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            count += text.lines().filter(|line| line.trim() == "#[test]").count();
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_compiler_cannot_find_is_not_linked() {
        assert!(links("c"), "the C library is everywhere");
        assert!(!links("statetune-no-such-library"));
    }

    #[test]
    fn tests_that_would_be_left_out_are_counted() {
        assert!(count_lapack_tests(&root().join("crates/peft-methods")).unwrap() > 5);
        assert_eq!(count_lapack_tests(&root().join("xtask")).unwrap(), 0);
    }
}
