//! `cargo xtask compare`: builds the program, lets `statetune sweep` run what is missing, and puts the table into its page.
//! Results of another machine, a GPU's mostly, come in by `--from`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::command::{UserError, cargo, root, run, shown};
use crate::{Task, bench, unknown};

pub const TASK: Task = Task {
    name: "compare",
    usage: "[--in FOLDER] [--from RESULTS] [--write] [-- arguments of statetune sweep]  (--in: where models/ and data/ are; \
            --from: nothing is run, the table is that of a results.jsonl)",
    about: "Compare every method on SST-2 and CoLA and write a table; resumable",
    run: compare,
};

/// The comparison.
const CONFIG: &str = "benches/sweep-glue.toml";

/// The page that holds the table, and the lines around it.
const PAGE: &str = "docs/src/methods-compared.md";
const BEGIN: &str = "<!-- begin: written by cargo xtask compare -->";
const END: &str = "<!-- end -->";

/// What was typed.
#[derive(Debug, Default, PartialEq)]
struct Options {
    folder: Option<PathBuf>,
    from: Option<PathBuf>,
    write: bool,
    rest: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, UserError> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--write" => options.write = true,
                "--" => options.rest = arguments.by_ref().cloned().collect(),
                "--in" | "--from" => {
                    let value = arguments.next().ok_or_else(|| UserError(format!("{name} needs a path")))?;
                    let slot = if name == "--in" { &mut options.folder } else { &mut options.from };
                    *slot = Some(root().join(value));
                }
                other => return Err(UserError(unknown("option", other, ["--in", "--from", "--write", "--"]))),
            }
        }
        if options.from.is_none() {
            let folder = options.folder.clone().unwrap_or_else(root);
            if !folder.join("models").is_dir() || !folder.join("data").is_dir() {
                let folder = folder.display();
                return Err(UserError(format!(
                    "{folder} has no models/ and data/: name the folder that has them by --in"
                )));
            }
        }
        Ok(options)
    }
}

fn compare(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    let mut build = cargo(&["build", "--release", "--package", "statetune"]);
    if crate::test::has_openblas() {
        // PiSSA and OLoRA start from a decomposition.
        build.args(["--features", "lapack"]);
    }
    run(build)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let results = options.from.clone().unwrap_or_else(|| target.join("compare").join("results.jsonl"));
    let statetune = |more: &[&str]| {
        let mut command = Command::new(target.join("release").join("statetune"));
        command.arg("sweep").arg(root().join(CONFIG)).arg("--results").arg(&results).args(more);
        command.current_dir(options.folder.clone().unwrap_or_else(root));
        command
    };
    // Of the arguments the settings are for the table too: they are part of what results are checked against.
    let settings: Vec<&str> =
        options.rest.windows(2).filter(|pair| pair[0] == "--set").flatten().map(String::as_str).collect();
    if options.from.is_none() {
        let mut command = statetune(&[]);
        command.args(&options.rest);
        run(command)?;
    }
    let mut command = statetune(&settings);
    command.args(["--table", "--json"]);
    let output = command.output().with_context(|| format!("cannot start `{}`", shown(&command)))?;
    ensure!(output.status.success(), "`{}`: {}", shown(&command), String::from_utf8_lossy(&output.stderr).trim());
    let table: Value = serde_json::from_slice(&output.stdout).with_context(|| shown(&command))?;
    let markdown = table["markdown"].as_str().context("a table")?;
    println!("{markdown}");
    if options.write {
        write(&root().join(PAGE), markdown)?;
        let typed = format!("cargo xtask compare {}", arguments.join(" "));
        println!(
            "recorded in {}",
            bench::keep("compare", &typed, &metrics(&table)?, gpu(&results)?.as_deref())?.display()
        );
    }
    Ok(())
}

/// The GPUs that results come from; none if a processor's.
fn gpu(results: &Path) -> anyhow::Result<Option<String>> {
    let text = fs::read_to_string(results).with_context(|| results.display().to_string())?;
    let mut names: Vec<String> = Vec::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).with_context(|| results.display().to_string())?;
        let name = line["device"]["name"].as_str().unwrap_or_default().to_owned();
        if line["device"]["kind"] == "cuda" && !names.contains(&name) {
            names.push(name);
        }
    }
    Ok((!names.is_empty()).then(|| names.join(", ")))
}

/// The table's numbers as those of a bench.
fn metrics(table: &Value) -> anyhow::Result<Vec<(String, f64, &'static str)>> {
    let mut metrics = Vec::new();
    for row in table["rows"].as_array().context("rows")? {
        let name = |what: &str| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            format!("compare/{}/{}/{what}", text("task"), text("entry"))
        };
        let values = [
            ("learning_rate", "learning_rate", "1"),
            ("trained", "trained", "numbers"),
            ("mean", "score", "of the metric"),
            ("deviation", "deviation", "of the metric"),
            ("seconds", "train_s", "s"),
            ("peak_memory_mib", "peak_mib", "MiB"),
        ];
        // A rate is found before there is a score.
        if row["mean"].is_null() {
            continue;
        }
        metrics.extend(values.into_iter().filter_map(|(key, what, unit)| Some((name(what), row[key].as_f64()?, unit))));
    }
    Ok(metrics)
}

/// Puts the table into its page.
fn write(path: &Path, table: &str) -> anyhow::Result<()> {
    let page = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let page = placed(&page, table).with_context(|| format!("{} lacks `{BEGIN}` or `{END}`", path.display()))?;
    fs::write(path, page).with_context(|| path.display().to_string())
}

fn placed(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", table.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let parse = |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert!(parse("--form r").unwrap_err().0.contains("did you mean `--from`"));
        assert!(parse("--from").unwrap_err().0.contains("needs a path"));
        assert!(parse("--in nowhere").unwrap_err().0.contains("no models/ and data/"));
        let options = parse("--from r.jsonl --write -- --set a=1").unwrap();
        assert!(options.write && options.from.is_some());
        assert_eq!(options.rest, ["--set", "a=1"]);
    }

    #[test]
    fn a_table_goes_between_its_markers() {
        let page = format!("before\n{BEGIN}\n\nold\n{END}\nafter\n");
        assert_eq!(placed(&page, "new\n").unwrap(), format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert!(placed("no markers", "new").is_none());
        let page = fs::read_to_string(root().join(PAGE)).unwrap();
        assert!(placed(&page, "").is_some(), "{PAGE} lacks the markers");
    }

    #[test]
    fn rows_with_a_score_become_metrics() {
        let rows = serde_json::json!({"rows": [
            {"entry": "lora", "task": "sst2", "mean": 81.5, "learning_rate": 0.002, "deviation": null, "seconds": 6.7},
            {"entry": "sdt", "task": "sst2", "mean": null, "learning_rate": 0.005},
        ]});
        let metrics = metrics(&rows).unwrap();
        assert_eq!(metrics.len(), 3);
        assert!(metrics.contains(&("compare/sst2/lora/score".into(), 81.5, "of the metric")), "{metrics:?}");
    }
}
