//! Programs that cargo has built. Tests are built all packages together and run by themselves: cargo takes the features of
//! dependencies from what is selected, and with a package alone most of what it depends on would be built anew.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::command::{cargo, shown};

/// One of them.
pub struct Program {
    package: String,
    target: String,
    /// Where it is.
    pub path: PathBuf,
    folder: PathBuf, // of its package, where cargo runs it
    is_test: bool,
}

/// Builds the tests that these arguments of `cargo test` select.
pub fn build(arguments: &[&str]) -> anyhow::Result<Vec<Program>> {
    let mut programs = built(&[&["test", "--no-run", "--release", "--workspace"], arguments].concat())?;
    programs.retain(|program| program.is_test);
    Ok(programs)
}

/// What cargo builds with these arguments.
pub fn built(arguments: &[&str]) -> anyhow::Result<Vec<Program>> {
    let mut command = cargo(arguments);
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let what = shown(&command);
    eprintln!("$ {what}");
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "`{what}` failed");
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(Program::read).collect())
}

/// The program of a package with this name: of tests, that of the library or of a file.
pub fn find<'a>(programs: &'a [Program], package: &str, target: &str) -> anyhow::Result<&'a Program> {
    let is = |program: &&Program| program.package == package && program.target == target;
    programs.iter().find(is).with_context(|| format!("cargo built no `{target}` of {package}"))
}

impl Program {
    /// From a line that cargo writes of what it has built.
    fn read(line: &str) -> Option<Program> {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        Some(Program {
            package: package_of(message["package_id"].as_str()?).to_owned(),
            target: text(&message["target"]["name"])?,
            path: text(&message["executable"])?.into(),
            folder: Path::new(message["manifest_path"].as_str()?).parent()?.to_owned(),
            is_test: message["profile"]["test"].as_bool()?,
        })
    }

    /// Whether it is of one of these packages.
    pub fn is_of(&self, packages: &[&str]) -> bool {
        packages.contains(&self.package.as_str())
    }

    /// With these arguments.
    pub fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(arguments).current_dir(&self.folder);
        command
    }
}

/// The name in `path+file:///some/folder#name@1.0.0`, or in `path+file:///some/name#1.0.0`.
fn package_of(id: &str) -> &str {
    let (path, rest) = id.rsplit_once('#').unwrap_or((id, id));
    match rest.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_what_cargo_writes() {
        let line = |test: bool, id: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","package_id":"{id}","manifest_path":"/some/place/Cargo.toml",
                "target":{{"kind":["test"],"name":"golden"}},"profile":{{"test":{test}}},"executable":"/target/golden-1"}}"#
            )
        };
        let id = "path+file:///some/place#statetune-tensor@0.1.0";
        let programs: Vec<Program> = Program::read(&line(true, id)).into_iter().collect();
        let found = find(&programs, "statetune-tensor", "golden").unwrap();
        assert_eq!(
            (found.path.as_path(), found.folder.as_path()),
            (Path::new("/target/golden-1"), Path::new("/some/place"))
        );
        assert!(found.is_of(&["statetune", "statetune-tensor"]) && !found.is_of(&["statetune"]));
        assert!(find(&programs, "statetune", "golden").is_err());
        let short = Program::read(&line(true, "path+file:///some/statetune#0.1.0")).unwrap();
        assert_eq!(short.package, "statetune");
        assert!(short.is_test && !Program::read(&line(false, id)).unwrap().is_test);
        assert!(Program::read("warning").is_none() && Program::read(r#"{"reason":"build-finished"}"#).is_none());
    }
}
