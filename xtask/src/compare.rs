//! `cargo xtask compare`: every method once on the same rows of SST-2, each at its own default learning rate, and a table of
//! what came out. It can be stopped and started again: finished runs are kept, a run that was cut off is resumed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::command::{UserError, cargo, root, run, shown};
use crate::{Task, bench, unknown};

pub const TASK: Task = Task {
    name: "compare",
    usage: "--model FOLDER --data FOLDER [--folder FOLDER] [--rows 4000] [--epochs 2] [--products bf16] [--write]",
    about: "Train every method on the same rows of SST-2 and write a table; resumable",
    run: compare,
};

/// The page that holds the table, and the lines around it.
const PAGE: &str = "docs/src/methods-compared.md";
const BEGIN: &str = "<!-- begin: written by cargo xtask compare -->";
const END: &str = "<!-- end -->";

/// What was typed.
#[derive(Debug, PartialEq)]
struct Options {
    model: PathBuf,
    data: PathBuf,
    folder: PathBuf,
    rows: u64,
    epochs: u64,
    products: String,
    write: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Options, UserError> {
        let (mut model, mut data) = (None, None);
        let mut options = Options {
            model: PathBuf::new(),
            data: PathBuf::new(),
            folder: "target/compare".into(),
            rows: 4000,
            epochs: 2,
            products: "f32".into(),
            write: false,
        };
        let mut arguments = arguments.iter();
        while let Some(name) = arguments.next() {
            if name == "--write" {
                options.write = true;
                continue;
            }
            let known = ["--model", "--data", "--folder", "--rows", "--epochs", "--products", "--write"];
            if !known.contains(&name.as_str()) {
                return Err(UserError(unknown("option", name, known)));
            }
            let value = arguments.next().ok_or_else(|| UserError(format!("{name} needs a value")))?;
            let number = || {
                let found = value.parse::<u64>().ok().filter(|n| *n > 0);
                found.ok_or_else(|| UserError(format!("{name}: expected a number above 0, found `{value}`")))
            };
            match name.as_str() {
                "--model" => model = Some(PathBuf::from(value)),
                "--data" => data = Some(PathBuf::from(value)),
                "--folder" => options.folder = value.into(),
                "--rows" => options.rows = number()?,
                "--epochs" => options.epochs = number()?,
                _ => options.products = value.clone(),
            }
        }
        let missing = |name: &str| UserError(format!("{name} is missing; usage: cargo xtask compare {}", TASK.usage));
        options.model = model.ok_or_else(|| missing("--model"))?;
        options.data = data.ok_or_else(|| missing("--data"))?;
        for (path, what) in [(options.model.join("config.json"), "model"), (options.data.join("train.tsv"), "SST-2")] {
            if !root().join(&path).is_file() {
                return Err(UserError(format!("there is no {}: is it the folder of the {what}?", path.display())));
            }
        }
        Ok(options)
    }
}

fn compare(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    let lapack = crate::test::has_openblas();
    let mut build = cargo(&["build", "--release", "--package", "statetune"]);
    if lapack {
        build.args(["--features", "lapack"]);
    }
    run(build)?;
    let binary = target().join("release").join("statetune");
    let listed = std::process::Command::new(&binary).args(["methods", "--json"]).output().context("the binary")?;
    let methods: Vec<Value> = serde_json::from_slice(&listed.stdout).context("`statetune methods --json`")?;
    ensure!(!methods.is_empty(), "`statetune methods --json` lists no method");
    let (mut rows, mut left_out) = (Vec::new(), Vec::new());
    for method in &methods {
        let tag = method["method"].as_str().context("a method's name")?;
        if !lapack && method["summary"].as_str().is_some_and(|summary| summary.contains("`lapack`")) {
            left_out.push(tag);
            continue;
        }
        rows.push(train(&options, &binary, tag)?);
    }
    if !left_out.is_empty() {
        println!("left out, for want of the feature `lapack` (install libopenblas-dev): {}", left_out.join(", "));
    }
    let table = table(&options, &rows, &left_out);
    println!("{table}");
    if options.write {
        write(&table)?;
        let metrics = rows.iter().flat_map(Row::metrics).collect::<Vec<_>>();
        let typed = format!("cargo xtask compare {}", arguments.join(" "));
        println!("recorded in {}", bench::keep("compare", &typed, &metrics)?.display());
    }
    Ok(())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// One method's result.
struct Row {
    tag: String,
    rate: f64,
    trainable: u64,
    accuracy: f64,
    label_accuracy: f64,
    seconds: f64,
    peak_mib: f64,
}

impl Row {
    fn metrics(&self) -> [(String, f64, &'static str); 5] {
        let name = |what: &str| format!("compare/sst2/{}/{what}", self.tag);
        [
            (name("trainable"), self.trainable as f64, "numbers"),
            (name("accuracy"), 100.0 * self.accuracy, "%"),
            (name("label_accuracy"), 100.0 * self.label_accuracy, "%"),
            (name("train_s"), self.seconds, "s"),
            (name("peak_mib"), self.peak_mib, "MiB"),
        ]
    }
}

/// Runs a method, or what is left of it, and reads its summary.
fn train(options: &Options, binary: &Path, tag: &str) -> anyhow::Result<Row> {
    let folder = root().join(&options.folder);
    let run_folder = folder.join(tag);
    let summary = run_folder.join("summary.json");
    if !summary.is_file() {
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let file = folder.join(format!("{tag}.toml"));
        fs::write(&file, configuration(options, tag)).with_context(|| file.display().to_string())?;
        let mut command = std::process::Command::new(binary);
        command.arg("train").arg(&file).current_dir(root());
        command.args(["--quiet", "--set", &format!("output.folder={}", run_folder.display())]);
        if run_folder.join("config.toml").is_file() {
            command.arg("--resume");
        }
        println!("{tag}: {}", shown(&command));
        run(command)?;
    }
    let text = fs::read_to_string(&summary).with_context(|| summary.display().to_string())?;
    let found: Value = serde_json::from_str(&text).with_context(|| summary.display().to_string())?;
    let config = fs::read_to_string(run_folder.join("config.toml")).context("the run's configuration")?;
    let rate = config.lines().find_map(|line| line.strip_prefix("learning_rate = ")?.parse().ok());
    let number =
        |value: &Value, what: &str| value.as_f64().with_context(|| format!("{}: no {what}", summary.display()));
    let scores = &found["evaluation"]["classification"];
    Ok(Row {
        tag: tag.to_owned(),
        rate: rate.context("the run's learning rate")?,
        trainable: found["trainable"].as_u64().context("trainable")?,
        accuracy: number(&scores["over_all_vocabulary"]["accuracy"], "accuracy")?,
        label_accuracy: number(&scores["over_labels"]["accuracy"], "accuracy over the labels")?,
        seconds: number(&found["seconds"], "seconds")?,
        peak_mib: number(&found["peak_memory_mib"], "peak memory")?,
    })
}

fn configuration(options: &Options, tag: &str) -> String {
    let file = |name: &str| options.data.join(name).display().to_string();
    let quoted = |text: String| Value::String(text).to_string();
    // A selection is made in so many steps before the run: as long as one pass over the rows.
    let selection =
        if tag == "sdt" { format!("warmup_steps = {}\n", options.rows.div_ceil(32)) } else { String::new() };
    format!(
        "[model]\npath = {}\n\n[data]\nformat = \"glue\"\ntask = \"sst2\"\ntrain = {}\nvalidation = {}\nlimit = {}\n\n\
         [[methods]]\nmethod = \"{tag}\"\n{selection}\n[train]\nepochs = {}\nbatch_size = 32\nseed = 0\nsave_every = 50\n\
         metric = \"accuracy\"\n\n[device]\nproducts = \"{}\"\n",
        quoted(options.model.display().to_string()),
        quoted(file("train.tsv")),
        quoted(file("dev.tsv")),
        options.rows,
        options.epochs,
        options.products,
    )
}

fn table(options: &Options, rows: &[Row], left_out: &[&str]) -> String {
    let mut text = format!(
        "{} rows of SST-2, passes: {}, batch 32, one seed, products in {}; accuracy on the 872 rows of dev, over all vocabulary \
         and over the two labels.\n\n| method | learning rate | trained | accuracy % | of the labels % | seconds | peak MiB |\n\
         |---|---|---|---|---|---|---|\n",
        options.rows, options.epochs, options.products
    );
    for row in rows {
        text += &format!(
            "| {} | {} | {} | {:.1} | {:.1} | {:.0} | {:.0} |\n",
            row.tag,
            row.rate,
            row.trainable,
            100.0 * row.accuracy,
            100.0 * row.label_accuracy,
            row.seconds,
            row.peak_mib
        );
    }
    if !left_out.is_empty() {
        text += &format!("\nLeft out, for want of the feature `lapack`: {}.\n", left_out.join(", "));
    }
    text
}

/// Puts the table into its page.
fn write(table: &str) -> anyhow::Result<()> {
    let path = root().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} lacks the line `{BEGIN}`"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} lacks the line `{END}`"))?;
    let host: Value = json!(bench::host());
    let place = format!("On {} cores of {}.", host["cores"], host["cpu"].as_str().unwrap_or("an unknown processor"));
    let page = format!("{before}{BEGIN}\n\n{place} {table}\n{END}{after}");
    fs::write(&path, page).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        let parse = |text: &str| Options::parse(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        assert!(parse("--model m").unwrap_err().0.contains("--data is missing"));
        assert!(parse("--mdoel m").unwrap_err().0.contains("did you mean `--model`"));
        assert!(parse("--rows 0").unwrap_err().0.contains("above 0"));
        assert!(parse("--model nowhere --data nowhere").unwrap_err().0.contains("there is no nowhere/config.json"));
    }

    #[test]
    fn a_configuration_is_toml_and_a_table_has_a_line_per_method() {
        let options = Options {
            model: "a\"b".into(),
            data: "d".into(),
            folder: "f".into(),
            rows: 64,
            epochs: 1,
            products: "f32".into(),
            write: false,
        };
        let text = configuration(&options, "sdt");
        assert!(text.contains("path = \"a\\\"b\"") && text.contains("warmup_steps = 2"), "{text}");
        let row = Row {
            tag: "lora".into(),
            rate: 0.002,
            trainable: 12,
            accuracy: 0.5,
            label_accuracy: 0.75,
            seconds: 2.4,
            peak_mib: 99.6,
        };
        let text = table(&options, &[row], &["pissa"]);
        assert!(text.contains("| lora | 0.002 | 12 | 50.0 | 75.0 | 2 | 100 |") && text.contains("pissa"), "{text}");
    }
}
