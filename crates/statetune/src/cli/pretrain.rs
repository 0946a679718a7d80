//! `statetune pretrain`: all weights of a model, on running text.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use statetune_mamba_model::Mamba;
use statetune_mamba_model::config::ConfigFile;
use statetune_peft_methods::{Adapter, methods};
use statetune_tensor::{DType, Device};
use statetune_trainer::config::{StartSection, WeightType};
use statetune_trainer::{PretrainConfig, Run};

use super::merge::companions_in;
use super::progress::RunProgress;
use super::train::{lines, result};
use super::{Output, TrainArguments, named, page, run_folder, setup, with_device};
use crate::hub;

/// The trained model in the run's folder.
pub const MODEL: &str = "model";

pub(super) fn run(arguments: &TrainArguments, output: Output) -> anyhow::Result<()> {
    let file = &arguments.config;
    let config = PretrainConfig::read(file, &with_device(&arguments.settings, arguments.device.as_ref()))?;
    let default = || PathBuf::from("runs").join(file.file_stem().unwrap_or_default());
    let folder = config.output.folder.clone().unwrap_or_else(default);
    let found = pretrain(&config, &folder, arguments.resume, output)?;
    if output.json {
        say!("{:#}", found.result);
    } else {
        say!("{}", found.lines);
    }
    Ok(())
}

/// A pretraining that is over.
pub struct Pretrained {
    /// What `summary.json` in the run folder says.
    pub result: Value,
    /// The same for people.
    pub lines: String,
}

/// Pretrains in a folder, from the beginning or from the folder's newest checkpoint, and writes model, summary and report.
///
/// # Errors
/// The configuration, the model, the tokenizer or the text cannot be used; the folder holds another run; those of
/// [`Run::train`].
pub fn pretrain(config: &PretrainConfig, folder: &Path, resume: bool, output: Output) -> anyhow::Result<Pretrained> {
    let config = named::pinned(config, Some(&folder.join("config.toml")), |file| PretrainConfig::read(file, &[]))?;
    let config = &PretrainConfig { device: setup::resolved(&config.device), ..config };
    let same = |before: &PretrainConfig| {
        let device = setup::going_on(&config.device, &before.device);
        // The training does not depend on what its model is written in.
        PretrainConfig { device, output: before.output.clone(), ..config.clone() }
    };
    run_folder::check(folder, resume, |file| PretrainConfig::read(file, &[]), same)?;
    let device = setup::device(&config.device)?;
    let model = start(&config.model, &device, setup::compute(&config.device)?, config.train.seed)?;
    let tokenizer = setup::tokenizer(&config.model.tokenizer_path(), &model)?;
    let cache = folder.parent().map(|parent| parent.join(".cache"));
    let (train, validation) = setup::corpus(&config.data, &tokenizer, &device, cache.as_deref(), output.quiet)?;
    let adapter = adapter(&model, config.train.seed)?;
    let from = config.model.path.as_deref().or(config.model.config.as_deref()).unwrap_or(Path::new(""));
    let base_model = from.display().to_string();
    let run = Run {
        model: &model,
        base_model: &base_model,
        train: &train,
        validation: validation.as_ref(),
        settings: &config.train,
        folder: Some(folder),
        keeps_adapters: false,
    };
    // Only after this: what is wrong with the input leaves no folder behind.
    run.check(&adapter)?;
    let tokens = |data: &statetune_datasets_eval::Dataset| data.lengths().iter().sum::<usize>();
    if !output.quiet {
        eprintln!(
            "{base_model}: {} parameters; {} tokens of {} documents to train on, {} to evaluate on; {device:?}",
            model.size(),
            tokens(&train),
            train.counts.rows,
            validation.as_ref().map_or(0, tokens),
        );
    }
    run_folder::open(folder, &config.to_toml())?;
    let summary = run.train(adapter, resume, &mut RunProgress::new(output))?;
    let trained = summary.adapter.merge(&model)?;
    let trained = match config.output.weights {
        WeightType::F32 => trained,
        WeightType::Bf16 => trained.stored_as(DType::Bf16)?,
    };
    let target = folder.join(MODEL);
    trained.save(&target, &companions(config)?)?;
    let counts = json!({"train": train.counts, "validation": validation.as_ref().map(|data| data.counts)});
    let mut result = result(folder, &config.train, &summary, counts);
    result["model"] = json!(target);
    result["tokens_per_epoch"] = json!(tokens(&train));
    let path = folder.join("summary.json");
    fs::write(&path, format!("{result:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    let report = page::of_run(folder)?;
    let mut text = lines(&summary, "loss", &report);
    if let Some(evaluation) = &summary.evaluation {
        let (loss, perplexity, labelled) = (evaluation.loss, evaluation.perplexity, evaluation.labelled);
        text += &format!("\nheld-out loss {loss:.4} (perplexity {perplexity:.2}) over {labelled} tokens");
    }
    text += &format!("\nmodel: {}", target.display());
    Ok(Pretrained { result, lines: text })
}

/// The model that training starts from, its tensors f32.
///
/// # Errors
/// The configuration or the folder cannot be used.
pub fn start(section: &StartSection, device: &Device, compute: DType, seed: u64) -> anyhow::Result<Mamba> {
    if let Some(folder) = &section.path {
        return Ok(setup::model(folder, device, compute)?.widened()?);
    }
    let Some(file) = &section.config else { bail!("`model.config` is missing") };
    let wrong = || format!("cannot use the configuration {}", file.display());
    let found = ConfigFile::read(&hub::file(file)?).with_context(wrong)?;
    let mut config = found.model.mamba().with_context(wrong)?.clone();
    config.initializer_range = section.initializer_range.unwrap_or(config.initializer_range);
    config.rescale_prenorm_residual = section.rescale_prenorm_residual.unwrap_or(config.rescale_prenorm_residual);
    Mamba::random(&config, device, compute, DType::F32, seed).with_context(wrong)
}

/// All of a model's tensors, to be trained.
///
/// # Errors
/// None for a valid model.
pub fn adapter(model: &Mamba, seed: u64) -> anyhow::Result<Adapter> {
    Ok(Adapter::new(model, vec![methods::parse_value(json!({"method": "full"}))?], seed)?)
}

/// The tokenizer's files, which go into the model's folder.
fn companions(config: &PretrainConfig) -> anyhow::Result<Vec<PathBuf>> {
    let tokenizer = hub::file(&config.model.tokenizer_path())?;
    let beside = match &config.model.path {
        Some(path) => hub::folder(path)?,
        None => tokenizer.with_file_name(""),
    };
    let mut found = companions_in(&beside);
    found.retain(|path| path.file_name() != tokenizer.file_name());
    found.insert(0, tokenizer);
    Ok(found)
}
