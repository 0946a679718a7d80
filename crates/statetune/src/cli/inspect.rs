//! `statetune inspect`

use std::path::Path;

use anyhow::bail;
use serde_json::{Value, json};
use statetune_mamba_model::checkpoint::Checkpoint;
use statetune_mamba_model::config::ModelConfig;
use statetune_mamba_model::{Mamba, linear_sites};
use statetune_peft_methods::Adapter;
use statetune_tensor::DType;
use statetune_trainer::memory::MemoryPlan;
use statetune_trainer::{PretrainConfig, TrainSettings, record};

use super::{InspectArguments, Output, named, pretrain, setup};
use crate::hub;

pub(super) fn run(arguments: &InspectArguments, output: Output) -> anyhow::Result<()> {
    let path = &hub::folder(&arguments.path)?;
    let is = |name: &str| path.join(name).is_file();
    let found = if is("config.toml") || path.extension().is_some_and(|extension| extension == "toml") {
        run_or_config(path)?
    } else if is("adapter_config.json") {
        adapter(path, arguments.model.as_deref())?
    } else if is("config.json") {
        model(path, arguments.sites)?
    } else if path.exists() {
        bail!("{} is no model, adapter or run folder: it has none of their files", path.display());
    } else {
        bail!("{} does not exist", path.display());
    };
    show(&found, output);
    Ok(())
}

/// An object as JSON, or as indented lines.
pub(super) fn show(found: &Value, output: Output) {
    if output.json {
        say!("{found:#}");
    } else {
        print(found, 0);
    }
}

/// Any object as indented lines.
fn print(value: &Value, depth: usize) {
    let pad = "  ".repeat(depth);
    let Value::Object(map) = value else { return };
    for (key, value) in map {
        match value {
            Value::Object(_) => {
                say!("{pad}{key}:");
                print(value, depth + 1);
            }
            Value::Array(list) if list.iter().any(Value::is_object) => {
                say!("{pad}{key}:");
                for (i, entry) in list.iter().enumerate() {
                    say!("{pad}  {}:", i + 1);
                    print(entry, depth + 2);
                }
            }
            Value::Array(list) => {
                say!("{pad}{key}:");
                list.iter()
                    .for_each(|entry| say!("{pad}  {}", entry.as_str().map_or(entry.to_string(), str::to_owned)));
            }
            Value::String(text) => say!("{pad}{key}: {text}"),
            other => say!("{pad}{key}: {other}"),
        }
    }
}

fn model(path: &Path, sites: bool) -> anyhow::Result<Value> {
    let checkpoint = Checkpoint::open(path)?;
    let unused = &checkpoint.config_file().unused_keys;
    let mut types = std::collections::BTreeMap::new();
    let mut bytes = 0;
    let mut elements = 0;
    for tensor in checkpoint.tensors() {
        *types.entry(tensor.dtype().to_string()).or_insert(0) += tensor.elements();
        bytes += tensor.elements() * tensor.dtype().bytes();
        elements += tensor.elements();
    }
    let mut found = json!({
        "model": path,
        "architecture": checkpoint.config().architecture(),
        "parameters": elements,
        "bytes": bytes,
        "parameters_by_type": types,
        "unused_config_keys": unused,
    });
    if let ModelConfig::Mamba(config) = checkpoint.config() {
        checkpoint.validate()?;
        found["shape"] = json!({
            "vocab_size": config.vocab_size, "d_model": config.d_model, "layers": config.num_hidden_layers,
            "d_inner": config.d_inner, "d_state": config.d_state, "d_conv": config.d_conv, "dt_rank": config.dt_rank,
            "tied_embeddings": config.tie_word_embeddings,
        });
        let all = linear_sites(config);
        let short = |name: &str| name.rsplit_once("mixer.").map_or(name, |(_, short)| short).to_owned();
        let mut names: Vec<String> =
            all.iter().map(|s| format!("{} [{}, {}]", short(&s.name), s.out_features(), s.in_features)).collect();
        if sites {
            names = all.iter().map(|s| format!("{} [{}, {}]", s.name, s.out_features(), s.in_features)).collect();
        } else {
            let mut seen = std::collections::BTreeSet::new();
            names.retain(|name| seen.insert(name.clone()));
        }
        found["linear_sites"] = json!(names);
    }
    Ok(found)
}

fn adapter(path: &Path, model: Option<&Path>) -> anyhow::Result<Value> {
    let base = super::adapters::base_of(path, model)?;
    let device = setup::device(&Default::default())?;
    let model = setup::model(&base, &device, DType::F32)?;
    let loaded = Adapter::load(path, &model)?;
    Ok(json!({
        "adapter": path,
        "base_model": base,
        "methods": loaded.adapter.config(),
        "trainable": loaded.adapter.trainable(),
        "percent_of_model": 100.0 * loaded.adapter.trainable() as f64 / model.size() as f64,
        "tensors": tensors(&loaded.adapter),
        "notes": loaded.unused,
    }))
}

fn tensors(adapter: &Adapter) -> Vec<String> {
    adapter.specs().iter().map(|spec| format!("{} {:?}", spec.name, spec.shape)).collect()
}

/// A pretraining, by its configuration or its folder.
fn pretraining(config: &PretrainConfig, folder: Option<&Path>) -> anyhow::Result<Value> {
    let device = setup::planning(&config.device)?;
    let model = pretrain::start(&config.model, &device, setup::compute(&config.device)?, config.train.seed)?;
    setup::tokenizer(&config.model.tokenizer_path(), &model)?;
    let adapter = pretrain::adapter(&model, config.train.seed)?;
    let mut found = json!({
        "pretraining": config.model.config.as_ref().or(config.model.path.as_ref()),
        "parameters": model.size(),
        "tokens_per_step": config.train.batch_size * config.data.length,
        "planned_peak_memory_mib": planned(&config.train, config.data.length, &model, &adapter)?,
    });
    if let Some(folder) = folder {
        run_so_far(&mut found, folder)?;
    }
    Ok(found)
}

fn run_or_config(path: &Path) -> anyhow::Result<Value> {
    let file = if path.is_dir() { path.join("config.toml") } else { path.to_path_buf() };
    if let Ok(config) = PretrainConfig::read(&file, &[]) {
        let config = named::pinned(&config, None, |file| PretrainConfig::read(file, &[]))?;
        return pretraining(&config, path.is_dir().then_some(path));
    }
    let (config, folder) = setup::configuration(path, &[])?;
    // What a GPU would hold is planned, not tried: none need be here.
    let device = setup::planning(&config.device)?;
    let model = setup::model(&config.model.path, &device, setup::compute(&config.device)?)?;
    let tokenizer = setup::tokenizer(&config.model.tokenizer_path(), &model)?;
    let adapter = Adapter::new(&model, setup::methods(&config, &tokenizer)?, config.train.seed)?;
    let mut found = json!({
        "run": folder,
        "base_model": config.model.path,
        "parameters": model.size(),
        "methods": adapter.config(),
        "trainable": adapter.trainable(),
        "percent_of_model": 100.0 * adapter.trainable() as f64 / model.size() as f64,
        "planned_peak_memory_mib": planned(&config.train, 512, &model, &adapter)?,
    });
    if folder.join("config.toml").is_file() {
        run_so_far(&mut found, &folder)?;
    }
    Ok(found)
}

/// Adds what a run's folder says of it.
fn run_so_far(found: &mut Value, folder: &Path) -> anyhow::Result<()> {
    let records = record::read(folder)?;
    let last = |kind: &str| records.iter().rfind(|record| record["kind"] == kind).cloned();
    found["last_step"] = last("step").unwrap_or(Value::Null);
    found["last_evaluation"] = last("evaluation").unwrap_or(Value::Null);
    let checkpoints = statetune_trainer::checkpoint::list(&statetune_trainer::RunFolder::checkpoints(folder))?;
    found["checkpoints"] = json!(checkpoints.iter().map(|(_, path)| path).collect::<Vec<_>>());
    Ok(())
}

/// For sequences of so many tokens.
fn planned(train: &TrainSettings, length: usize, model: &Mamba, adapter: &Adapter) -> anyhow::Result<Value> {
    #[cfg(feature = "cuda")]
    if let statetune_tensor::Device::Cuda(_) = model.device() {
        let (tokens, settings) = (train.micro_batch_tokens, train.adamw());
        let plan = statetune_trainer::cuda::planned(model, adapter, settings, tokens, tokens.min(length))?;
        let mib = |bytes: statetune_ssm_kernels::runtime::cuda::Bytes| (bytes.0 as f64 / (1 << 20) as f64).round();
        return Ok(json!({
            "weights, trained tensors, moments": mib(plan.peak[0]), "a step's working memory": mib(plan.peak[1]),
            "total": mib(plan.reserved),
        }));
    }
    #[cfg(not(feature = "cuda"))]
    let _ = length;
    let tokens = train.micro_batch_tokens;
    let plan = MemoryPlan::new(model, adapter.patches(), tokens, tokens);
    let mib = |bytes: usize| (bytes as f64 / (1 << 20) as f64).round();
    Ok(json!({
        "weights": mib(plan.weights), "trained": mib(plan.trained), "activations": mib(plan.activations),
        "working": mib(plan.working), "logits": mib(plan.logits), "total": mib(plan.total()),
    }))
}
