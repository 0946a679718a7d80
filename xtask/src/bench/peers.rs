//! The training step in PyTorch, run by `benches/peers/train_peers.py`, and how much faster ours is.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::Metric;
use crate::command::{root, run_lines};

const STEP: &str = "train/mamba-130m/4x128/state-offset-h";
/// The implementations that are compared with, the first of which must be there.
const PEERS: [&str; 2] = ["transformers", "mambapy"];
const MODULES: [&str; 2] = ["torch", "transformers"];

fn python() -> OsString {
    std::env::var_os("STATETUNE_PYTHON").unwrap_or_else(|| "python3".into())
}

/// Whether the comparison can run.
///
/// # Errors
/// Names the interpreter or the modules that are missing.
pub(super) fn check() -> anyhow::Result<()> {
    let python = python();
    let shown = python.to_string_lossy().into_owned();
    let mut missing = Vec::new();
    for module in MODULES {
        let import = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
        let output = Command::new(&python).args(["-c", &import]).output();
        let output = output.with_context(|| format!("--peers needs Python: cannot start `{shown}`"))?;
        if !output.status.success() {
            missing.push(module);
        }
    }
    if !missing.is_empty() {
        bail!(
            "--peers: `{shown}` lacks the module{} {}; install with `{shown} -m pip install {}`, or name another \
             interpreter in STATETUNE_PYTHON",
            if missing.len() > 1 { "s" } else { "" },
            missing.join(" and "),
            missing.join(" ")
        );
    }
    Ok(())
}

/// Runs the peers and appends their metrics and the speedups, which are printed.
pub(super) fn compare(metrics: &mut Vec<Metric>, quick: bool) -> anyhow::Result<()> {
    let mut command = Command::new(python());
    command.arg("benches/peers/train_peers.py").current_dir(root());
    if quick {
        command.arg("--quick");
    }
    let mut malformed = Ok(());
    run_lines(command, |line| match Metric::parse(line) {
        Ok(metric) => metrics.extend(metric),
        Err(error) => malformed = Err(error),
    })?;
    malformed?;
    let found = speedups(metrics)?;
    for metric in &found {
        println!("METRIC:{}:{:.2}:{}", metric.name, metric.value, metric.unit);
    }
    metrics.extend(found);
    Ok(())
}

/// Ours over theirs, in tokens per second. A peer that did not run but the first is left out.
fn speedups(metrics: &[Metric]) -> anyhow::Result<Vec<Metric>> {
    let speed = |name: &str| {
        let name = format!("{STEP}/{name}");
        metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value)
    };
    let ours = speed("tokens_per_s").with_context(|| format!("the bench printed no `{STEP}/tokens_per_s`"))?;
    let mut found = Vec::new();
    for peer in PEERS {
        let Some(theirs) = speed(&format!("{peer}/tokens_per_s")) else {
            ensure!(peer != PEERS[0], "the peers printed no `{STEP}/{peer}/tokens_per_s`");
            continue;
        };
        let name = format!("{STEP}/speedup_vs_{peer}");
        found.push(Metric { name, value: ours / theirs, unit: "x".into() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speedups_are_ratios_of_tokens_per_second() {
        let metric = |name: &str, value| Metric { name: format!("{STEP}/{name}"), value, unit: "tokens/s".into() };
        let ours = metric("tokens_per_s", 300.0);
        let metrics = [ours.clone(), metric("transformers/tokens_per_s", 10.0), metric("mambapy/tokens_per_s", 20.0)];
        let found: Vec<_> = speedups(&metrics).unwrap().into_iter().map(|m| (m.name, m.value)).collect();
        let expected = [("transformers", 30.0), ("mambapy", 15.0)];
        assert_eq!(found, expected.map(|(peer, value)| (format!("{STEP}/speedup_vs_{peer}"), value)));
        assert_eq!(speedups(&metrics[..2]).unwrap().len(), 1);
        assert!(speedups(&[ours]).is_err() && speedups(&metrics[1..]).is_err());
    }
}
