//! Running programs from the workspace's root, and how their failures become exit codes.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;

/// A mistake in what was typed: exit code 2.
#[derive(Debug)]
pub struct UserError(pub String);

impl fmt::Display for UserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// A program that ended badly; its exit code becomes ours.
#[derive(Debug)]
pub struct ChildFailed {
    what: String,
    status: ExitStatus,
}

impl ChildFailed {
    /// The program's exit code; 1 where a signal ended it.
    pub fn code(&self) -> u8 {
        self.status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0).unwrap_or(1)
    }
}

impl fmt::Display for ChildFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed ({})", self.what, self.status)
    }
}

impl std::error::Error for ChildFailed {}

/// The workspace's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Cargo with these arguments, in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let words = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

/// Runs to the end, output straight through.
pub fn run(mut command: Command) -> anyhow::Result<()> {
    let what = shown(&command);
    eprintln!("$ {what}");
    let status = command.status().with_context(|| format!("cannot start `{what}`"))?;
    if status.success() { Ok(()) } else { Err(ChildFailed { what, status }.into()) }
}

/// Runs to the end and prints its output then, so that it does not mix with that of a program beside it.
pub fn run_held(mut command: Command) -> anyhow::Result<()> {
    let what = shown(&command);
    let output = command.output().with_context(|| format!("cannot start `{what}`"))?;
    eprintln!("$ {what}");
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr().lock());
    out.write_all(&output.stdout)
        .and_then(|()| err.write_all(&output.stderr))
        .context("printing a program's output")?;
    if output.status.success() { Ok(()) } else { Err(ChildFailed { what, status: output.status }.into()) }
}

/// Runs to the end; every line of its standard output is printed and then handed over.
pub fn run_lines(mut command: Command, mut line: impl FnMut(&str)) -> anyhow::Result<()> {
    let what = shown(&command);
    eprintln!("$ {what}");
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{what}`"))?;
    let output = child.stdout.take().expect("standard output is piped");
    for text in BufReader::new(output).lines() {
        let text = text.with_context(|| format!("reading the output of `{what}`"))?;
        println!("{text}");
        line(&text);
    }
    let status = child.wait().with_context(|| format!("waiting for `{what}`"))?;
    if status.success() { Ok(()) } else { Err(ChildFailed { what, status }.into()) }
}

/// Runs an example of the `statetune` package with the arguments that were typed.
pub fn example(name: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut command = cargo(&["run", "--release", "--package", "statetune", "--example", name, "--"]);
    command.args(arguments.strip_prefix(&["--".to_owned()]).unwrap_or(arguments));
    run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_hands_its_exit_code_on() {
        let error = run(cargo(&["no-such-subcommand"])).unwrap_err();
        let failed = error.downcast_ref::<ChildFailed>().expect("a program that failed");
        assert!(failed.code() > 0 && failed.to_string().contains("no-such-subcommand"), "{failed}");
        let held = run_held(cargo(&["no-such-subcommand"])).unwrap_err();
        assert_eq!(held.downcast_ref::<ChildFailed>().expect("a program that failed").code(), failed.code());
        run_held(cargo(&["--version"])).unwrap();
    }

    #[test]
    fn lines_are_handed_over() {
        let mut lines = Vec::new();
        run_lines(cargo(&["--version"]), |line| lines.push(line.to_owned())).unwrap();
        assert!(lines.len() == 1 && lines[0].starts_with("cargo "), "{lines:?}");
    }
}
