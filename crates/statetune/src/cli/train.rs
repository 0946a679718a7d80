//! `statetune train`

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use statetune_datasets_eval::Tokenizer;
use statetune_mamba_model::Mamba;
use statetune_peft_methods::Adapter;
use statetune_ssm_kernels::Level;
use statetune_trainer::config::DeviceSection;
use statetune_trainer::{Run, RunConfig, Summary};

use super::progress::RunProgress;
use super::{Output, TrainArguments, page, setup, with_device};

pub(super) fn run(arguments: &TrainArguments, output: Output) -> anyhow::Result<()> {
    if arguments.config.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
        let file = arguments.config.display();
        bail!(
            "{file} is YAML, a configuration is TOML: `statetune convert {file} --out run.toml` writes one, and says \
             what changes"
        );
    }
    let config = RunConfig::read(&arguments.config, &with_device(&arguments.settings, arguments.device.as_ref()))?;
    let folder = setup::run_folder(&config, &arguments.config);
    let trained = train(&config, &folder, arguments.resume, output)?;
    if output.json {
        say!("{:#}", trained.result);
    } else {
        say!("{}", trained.lines(&config.train.metric));
    }
    Ok(())
}

/// A run that is over.
pub struct Trained {
    /// The base model.
    pub model: Mamba,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// What the training came to.
    pub summary: Summary,
    /// What `summary.json` in the run folder says.
    pub result: Value,
    /// The run's page.
    pub report: PathBuf,
}

/// Runs a configuration in a folder, from its beginning or from the folder's newest checkpoint, and writes summary and
/// report.
///
/// # Errors
/// The configuration, the model, the tokenizer or the data cannot be used; the folder holds another run; those of
/// [`Run::train`].
pub fn train(config: &RunConfig, folder: &Path, resume: bool, output: Output) -> anyhow::Result<Trained> {
    if config.data.train.is_none() {
        bail!("`data.train` is missing from the configuration: name the training file");
    }
    // The bits of a run depend on the instruction set: it is part of the resolved configuration.
    let mut config = config.clone();
    if config.device.kind.as_deref().unwrap_or("cpu") == "cpu" {
        config.device.level.get_or_insert_with(|| Level::best().to_string());
    }
    let config = &config;
    check_folder(folder, config, resume)?;
    let device = setup::device(&config.device)?;
    let model = setup::model(&config.model.path, &device, setup::compute(&config.device)?)?;
    let tokenizer = setup::tokenizer(&config.model.tokenizer_path(), &model)?;
    let cache = folder.parent().map(|parent| parent.join(".cache"));
    let (train, validation) = setup::data(&config.data, &tokenizer, &device, cache.as_deref(), output.quiet)?;
    let train = train.context("training data was asked for")?;
    let adapter = Adapter::new(&model, setup::methods(config, &tokenizer)?, config.train.seed)?;
    let base_model = config.model.path.display().to_string();
    let run = Run {
        model: &model,
        base_model: &base_model,
        train: &train,
        validation: validation.as_ref(),
        settings: &config.train,
        folder: Some(folder),
    };
    // Only after this: what is wrong with the input leaves no folder behind.
    run.check(&adapter)?;
    if !output.quiet {
        eprintln!(
            "{}: {} parameters, {} trained ({:.3}%); {} training and {} validation examples; {device:?}",
            config.model.path.display(),
            model.size(),
            adapter.trainable(),
            100.0 * adapter.trainable() as f64 / model.size() as f64,
            train.examples.len(),
            validation.as_ref().map_or(0, |v| v.examples.len()),
        );
    }
    open_folder(folder, config)?;
    let summary = run.train(adapter, resume, &mut RunProgress::new(output))?;
    let counts = json!({"train": train.counts, "validation": validation.as_ref().map(|validation| validation.counts)});
    let result = result(folder, config, &summary, counts);
    let path = folder.join("summary.json");
    fs::write(&path, format!("{result:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    let report = page::of_run(folder)?;
    Ok(Trained { model, tokenizer, summary, result, report })
}

/// Checks that a folder can take this run: empty for a new one, with this very configuration for one that goes on.
fn check_folder(folder: &Path, config: &RunConfig, resume: bool) -> anyhow::Result<()> {
    let file = folder.join("config.toml");
    if !resume {
        if file.exists() {
            bail!(
                "{} holds a run already: go on with it by --resume, or choose another folder by --set output.folder=...",
                folder.display()
            );
        }
        return Ok(());
    }
    if !file.is_file() {
        bail!("{} holds no run to resume: start it without --resume", folder.display());
    }
    let before = RunConfig::read(&file, &[])?;
    // Results do not depend on threads.
    let device = DeviceSection { threads: before.device.threads, ..config.device.clone() };
    let same = RunConfig { device, output: before.output.clone(), ..config.clone() };
    if same != before {
        let (key, was, is) = difference(&before, &same)?;
        bail!("{} was started with another configuration: `{key}` was {was} then, is {is} now", folder.display());
    }
    Ok(())
}

/// The first key that two configurations do not agree on, with both values.
fn difference(before: &RunConfig, now: &RunConfig) -> anyhow::Result<(String, String, String)> {
    let (before, now) = (leaves(before)?, leaves(now)?);
    let key = before.keys().chain(now.keys()).filter(|key| before.get(*key) != now.get(*key)).min();
    let key = key.context("configurations that differ do so in a key")?;
    let text =
        |leaves: &BTreeMap<String, toml::Value>| leaves.get(key).map_or("not set".into(), toml::Value::to_string);
    Ok((key.clone(), text(&before), text(&now)))
}

/// The values of a configuration by dotted key, as `--set` takes them.
fn leaves(config: &RunConfig) -> anyhow::Result<BTreeMap<String, toml::Value>> {
    fn walk(key: String, value: toml::Value, found: &mut BTreeMap<String, toml::Value>) {
        let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
        match value {
            toml::Value::Table(table) => table.into_iter().for_each(|(part, value)| walk(below(&part), value, found)),
            toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                list.into_iter().enumerate().for_each(|(i, value)| walk(below(&i.to_string()), value, found));
            }
            other => drop(found.insert(key, other)),
        }
    }
    let mut found = BTreeMap::new();
    walk(String::new(), toml::Value::try_from(config)?, &mut found);
    Ok(found)
}

/// Makes the folder of a new run, with its configuration.
fn open_folder(folder: &Path, config: &RunConfig) -> anyhow::Result<()> {
    let file = folder.join("config.toml");
    if file.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Whole or not at all: half a configuration could neither be resumed nor started anew.
    let temporary = folder.join("config.tmp");
    let written = fs::write(&temporary, config.to_toml()).and_then(|()| fs::rename(&temporary, &file));
    if written.is_err() {
        // What could not be written is of no use; the error that matters is the first.
        let _ = fs::remove_file(&temporary);
        let _ = fs::remove_dir(folder);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}

fn result(folder: &Path, config: &RunConfig, summary: &Summary, counts: Value) -> Value {
    json!({
        "folder": folder,
        "trainable": summary.adapter.trainable(),
        "steps": summary.steps,
        "skipped_steps": summary.skipped_steps,
        "tokens": summary.tokens,
        "seconds": summary.seconds,
        "tokens_per_second": summary.tokens as f64 / summary.seconds.max(1e-9),
        "peak_memory_mib": setup::peak_memory_mib(),
        "stopped_early": summary.stopped_early,
        "metric": config.train.metric,
        "best": summary.best.map(|(value, step)| json!({"value": value, "step": step})),
        "evaluation": summary.evaluation,
        "data": counts,
    })
}

impl Trained {
    /// The last lines of a run, for people.
    fn lines(&self, metric: &str) -> String {
        let summary = &self.summary;
        let mut lines = format!(
            "{} steps, {} tokens in {:.1} s ({:.0} tokens/s){}{}",
            summary.steps,
            summary.tokens,
            summary.seconds,
            summary.tokens as f64 / summary.seconds.max(1e-9),
            setup::peak_memory_mib().map_or(String::new(), |mib| format!(", {mib:.0} MiB at most")),
            if summary.skipped_steps > 0 {
                format!(", {} steps skipped", summary.skipped_steps)
            } else {
                String::new()
            },
        );
        if let Some((value, step)) = summary.best {
            lines += &format!("\nbest {metric}: {value:.4} after step {step}");
        }
        lines + &format!("\nreport: {}", self.report.display())
    }
}
