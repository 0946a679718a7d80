//! `statetune train`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use statetune_datasets_eval::Tokenizer;
use statetune_mamba_model::Mamba;
use statetune_peft_methods::Adapter;
use statetune_trainer::{Run, RunConfig, Summary, TrainSettings};

use super::progress::RunProgress;
use super::{Output, TrainArguments, named, page, run_folder, setup, with_device};

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
        say!("{}", lines(&trained.summary, &config.train.metric, &trained.report));
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
    let config = named::pinned(config, Some(&folder.join("config.toml")), |file| RunConfig::read(file, &[]))?;
    let config = &RunConfig { device: setup::resolved(&config.device), ..config };
    let same = |before: &RunConfig| {
        let device = setup::going_on(&config.device, &before.device);
        // What is scored after a run has no part in it.
        RunConfig { device, output: before.output.clone(), evaluation: before.evaluation.clone(), ..config.clone() }
    };
    run_folder::check(folder, resume, |file| RunConfig::read(file, &[]), same)?;
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
        keeps_adapters: true,
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
    run_folder::open(folder, &config.to_toml())?;
    let summary = run.train(adapter, resume, &mut RunProgress::new(output))?;
    let counts = json!({"train": train.counts, "validation": validation.as_ref().map(|validation| validation.counts)});
    let result = result(folder, &config.train, &summary, counts);
    let path = folder.join("summary.json");
    fs::write(&path, format!("{result:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    let report = page::of_run(folder)?;
    Ok(Trained { model, tokenizer, summary, result, report })
}

/// What `summary.json` says of a run.
pub(super) fn result(folder: &Path, settings: &TrainSettings, summary: &Summary, counts: Value) -> Value {
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
        "metric": settings.metric,
        "best": summary.best.map(|(value, step)| json!({"value": value, "step": step})),
        "evaluation": summary.evaluation,
        "data": counts,
    })
}

/// The last lines of a run, for people.
pub(super) fn lines(summary: &Summary, metric: &str, report: &Path) -> String {
    let mut lines = format!(
        "{} steps, {} tokens in {:.1} s ({:.0} tokens/s){}{}",
        summary.steps,
        summary.tokens,
        summary.seconds,
        summary.tokens as f64 / summary.seconds.max(1e-9),
        setup::peak_memory_mib().map_or(String::new(), |mib| format!(", {mib:.0} MiB at most")),
        if summary.skipped_steps > 0 { format!(", {} steps skipped", summary.skipped_steps) } else { String::new() },
    );
    if let Some((value, step)) = summary.best {
        lines += &format!("\nbest {metric}: {value:.4} after step {step}");
    }
    lines + &format!("\nreport: {}", report.display())
}
