//! `statetune train`

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;
use statetune_peft_methods::Adapter;
use statetune_trainer::{Run, RunConfig, RunFolder, Summary};

use super::progress::RunProgress;
use super::{Output, TrainArguments, page, setup};

pub(super) fn run(arguments: &TrainArguments, output: Output) -> anyhow::Result<()> {
    let config = RunConfig::read(&arguments.config, &arguments.settings)?;
    let folder = setup::run_folder(&config, &arguments.config);
    prepare(&folder, &config, arguments.resume)?;
    let say = |line: String| {
        if !output.quiet {
            eprintln!("{line}");
        }
    };

    let device = setup::device(&config.device)?;
    let model = setup::model(&config.model.path, &device)?;
    let tokenizer = setup::tokenizer(&config.model.tokenizer_path(), &model)?;
    if config.data.train.is_none() {
        bail!("{}: `data.train` is missing: name the training file", arguments.config.display());
    }
    let cache = folder.parent().map(|parent| parent.join(".cache"));
    let (train, validation) = setup::data(&config.data, &tokenizer, &device, cache.as_deref())?;
    let train = train.context("training data was asked for")?;
    let adapter = Adapter::new(&model, config.methods()?, config.train.seed)?;
    say(format!(
        "{}: {} parameters, {} trained ({:.3}%); {} training and {} validation examples; {device:?}",
        config.model.path.display(),
        model.size(),
        adapter.trainable(),
        100.0 * adapter.trainable() as f64 / model.size() as f64,
        train.examples.len(),
        validation.as_ref().map_or(0, |v| v.examples.len()),
    ));

    let base_model = config.model.path.display().to_string();
    let run = Run {
        model: &model,
        base_model: &base_model,
        train: &train,
        validation: validation.as_ref(),
        settings: &config.train,
        folder: Some(&folder),
    };
    let mut progress = RunProgress::new(output);
    let trainable = adapter.trainable();
    let summary = run.train(adapter, arguments.resume, &mut progress)?;
    finish(&folder, &config, &summary, trainable, output)
}

/// Makes the run folder, or checks that the one there is this run's.
fn prepare(folder: &Path, config: &RunConfig, resume: bool) -> anyhow::Result<()> {
    let file = folder.join("config.toml");
    if !resume {
        if file.exists() {
            bail!(
                "{} holds a run already: go on with it by --resume, or choose another folder by --set output.folder=...",
                folder.display()
            );
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(&file, config.to_toml()).with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(());
    }
    if !file.is_file() {
        bail!("{} holds no run to resume: start it without --resume", folder.display());
    }
    let before = RunConfig::read(&file, &[])?;
    // The processor may differ; results do not depend on threads.
    let same = RunConfig { device: before.device.clone(), output: before.output.clone(), ..config.clone() };
    if same != before {
        let (old, new) = (before.to_toml(), same.to_toml());
        let difference = old.lines().zip(new.lines()).find(|(a, b)| a != b);
        let (was, is) = difference.unwrap_or(("(more keys)", "(more keys)"));
        bail!("{} was started with another configuration: `{was}` then, `{is}` now", folder.display());
    }
    Ok(())
}

/// Summary, report and the last lines.
fn finish(folder: &Path, config: &RunConfig, summary: &Summary, trainable: usize, output: Output) -> anyhow::Result<()> {
    let peak = setup::peak_memory_mib();
    let result = json!({
        "folder": folder,
        "trainable": trainable,
        "steps": summary.steps,
        "skipped_steps": summary.skipped_steps,
        "tokens": summary.tokens,
        "seconds": summary.seconds,
        "tokens_per_second": summary.tokens as f64 / summary.seconds.max(1e-9),
        "peak_memory_mib": peak,
        "stopped_early": summary.stopped_early,
        "metric": config.train.metric,
        "best": summary.best.map(|(value, step)| json!({"value": value, "step": step})),
        "evaluation": summary.evaluation,
    });
    let path = folder.join("summary.json");
    fs::write(&path, format!("{result:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    let report = page::of_run(folder)?;
    if output.json {
        println!("{result:#}");
        return Ok(());
    }
    println!(
        "{} steps, {} tokens in {:.1} s ({:.0} tokens/s){}{}",
        summary.steps,
        summary.tokens,
        summary.seconds,
        summary.tokens as f64 / summary.seconds.max(1e-9),
        peak.map_or(String::new(), |mib| format!(", {mib:.0} MiB at most")),
        if summary.skipped_steps > 0 { format!(", {} steps skipped", summary.skipped_steps) } else { String::new() },
    );
    if let Some((value, step)) = summary.best {
        println!("best {}: {value:.4} after step {step}, in {}", config.train.metric, RunFolder::best(folder).display());
    }
    println!("report: {}", report.display());
    Ok(())
}
