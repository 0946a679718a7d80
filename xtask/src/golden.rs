//! `cargo xtask golden`: the tests that compare with golden numbers, and the sum of their cases.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::ensure;

use crate::Task;
use crate::command::{UserError, cargo, root, run_lines};

pub const TASK: Task = Task {
    name: "golden",
    usage: "[arguments of cargo test]  (STATETUNE_GOLDEN names another folder of cases)",
    about: "Run the tests against golden numbers and count their cases",
    run: golden,
};

fn golden(arguments: &[String]) -> anyhow::Result<()> {
    if let Some(folder) = std::env::var_os("STATETUNE_GOLDEN") {
        // As the tests read it: relative to the workspace.
        let folder = root().join(PathBuf::from(folder));
        if !folder.is_dir() {
            return Err(UserError(format!("STATETUNE_GOLDEN: there is no folder {}", folder.display())).into());
        }
    }
    let mut command = cargo(&["test", "--release", "--workspace", "--tests"]);
    command.args(arguments).args(["golden", "--", "--nocapture"]);
    let (mut families, mut later) = (BTreeMap::<String, u64>::new(), 0);
    run_lines(command, |line| {
        if let Some((family, cases)) = case_line(line) {
            *families.entry(family.to_owned()).or_default() += cases;
        }
        later += u64::from(line.contains("not yet: "));
    })?;
    let parts: Vec<String> = families.iter().map(|(family, cases)| format!("{family} {cases}")).collect();
    let sum: u64 = families.values().sum();
    ensure!(sum > 0, "no test printed a line `golden <family>: <n> cases`");
    println!("golden: {sum} cases ({}); {later} lines `not yet`", parts.join(", "));
    Ok(())
}

/// Family and count of a line `golden <family>: <n> cases`; the test runner may have written before it.
fn case_line(line: &str) -> Option<(&str, u64)> {
    let line = line.split_once(" ... ").map_or(line, |(_, rest)| rest);
    let (family, count) = line.strip_prefix("golden ")?.split_once(": ")?;
    Some((family, count.strip_suffix(" cases").or_else(|| count.strip_suffix(" case"))?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_lines_are_read_wherever_the_runner_puts_them() {
        assert_eq!(case_line("golden hf_peft: 5 cases"), Some(("hf_peft", 5)));
        assert_eq!(case_line("test golden_base ... golden base: 12 cases"), Some(("base", 12)));
        assert_eq!(case_line("test golden_base_models ... ok"), None);
    }
}
