//! From a configuration to what a run needs: device, model, tokenizer, data.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, anyhow, bail};
use statetune_datasets_eval::{
    CorpusConfig, DataConfig, Dataset, END_OF_TEXT, Pool, Split, Tokenizer, Watch, load_corpus, load_watched,
};
use statetune_mamba_model::Mamba;
use statetune_peft_methods::{Adapter, Method};
use statetune_ssm_kernels::{Cpu, Level, Products};
use statetune_tensor::{DType, Device};
use statetune_trainer::config::DeviceSection;
use statetune_trainer::{PretrainConfig, RunConfig, RunFolder};

use super::pretrain::MODEL;
use super::progress::Bar;
use super::{Output, named};
use crate::hub;

/// The configured device. Of the processor the best instruction set and all cores are taken unless told otherwise.
///
/// # Errors
/// The processor lacks the instruction set; there is no such GPU or no driver; a key is for the other kind of device.
pub fn device(section: &DeviceSection) -> anyhow::Result<Device> {
    let kind = section.kind.as_deref().unwrap_or("cpu");
    let only = |key: &str, given: bool, of: &str| match given {
        true => bail!("`device.{key}` is for {of}, but `device.kind` is \"{kind}\""),
        false => Ok(()),
    };
    if kind == "cpu" {
        only("compute", section.compute.is_some(), "GPUs")?;
        only("recompute", section.recompute.is_some(), "GPUs")?;
        let level = match &section.level {
            Some(name) => name.parse::<Level>().with_context(|| format!("`device.level` = \"{name}\""))?,
            None => Level::best(),
        };
        let products = match &section.products {
            Some(name) => name.parse::<Products>().with_context(|| format!("`device.products` = \"{name}\""))?,
            None => Products::default(),
        };
        return Ok(Device::Cpu(Cpu::new(level, section.threads.unwrap_or(0))?.with_products(products)?));
    }
    let ordinal = match kind.strip_prefix("cuda") {
        Some("") => 0,
        Some(rest) => rest
            .strip_prefix(':')
            .and_then(|number| number.parse::<usize>().ok())
            .with_context(|| format!("`device.kind` = \"{kind}\": expected \"cuda\" or \"cuda:<number>\""))?,
        None => bail!("`device.kind` = \"{kind}\": expected \"cpu\", \"cuda\" or \"cuda:<number>\""),
    };
    only("level", section.level.is_some(), "the processor")?;
    only("products", section.products.is_some(), "the processor (a GPU has `device.compute`)")?;
    compute(section)?;
    cuda(ordinal, section.recompute.unwrap_or(true))
}

/// The section as it is kept with a run, whose bits depend on the instruction set.
pub fn resolved(section: &DeviceSection) -> DeviceSection {
    let mut section = section.clone();
    if section.kind.as_deref().unwrap_or("cpu") == "cpu" {
        section.level.get_or_insert_with(|| Level::best().to_string());
    }
    section
}

/// The section with what results do not depend on taken from the one before.
pub fn going_on(section: &DeviceSection, before: &DeviceSection) -> DeviceSection {
    DeviceSection { threads: before.threads, recompute: before.recompute, ..section.clone() }
}

/// The configured device, or in place of a GPU the plan of one.
///
/// # Errors
/// Those of [`device`].
pub fn planning(section: &DeviceSection) -> anyhow::Result<Device> {
    #[cfg(feature = "cuda")]
    if section.kind.as_deref().is_some_and(|kind| kind.starts_with("cuda")) {
        let plan = statetune_ssm_kernels::runtime::Cuda::planning();
        plan.set_recompute(section.recompute.unwrap_or(true));
        return Ok(Device::Cuda(plan));
    }
    device(section)
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize, recompute: bool) -> anyhow::Result<Device> {
    let device = Device::cuda(ordinal)?;
    if let Device::Cuda(cuda) = &device {
        cuda.set_recompute(recompute);
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize, _: bool) -> anyhow::Result<Device> {
    bail!("this build has no CUDA: build it with the feature `cuda`, or use `--device cpu`")
}

/// The type that activations have on the configured device.
///
/// # Errors
/// The name is of no such type.
pub fn compute(section: &DeviceSection) -> anyhow::Result<DType> {
    let on_gpu = section.kind.as_deref().is_some_and(|kind| kind != "cpu");
    match section.compute.as_deref() {
        None if on_gpu => Ok(DType::Bf16),
        None | Some("f32") => Ok(DType::F32),
        Some("bf16") => Ok(DType::Bf16),
        Some(other) => bail!("`device.compute` = \"{other}\": expected \"bf16\" or \"f32\""),
    }
}

/// The base model of a configuration, from its folder or from the hub.
///
/// # Errors
/// Those of [`Mamba::load`]; it cannot be downloaded.
pub fn model(path: &Path, device: &Device, compute: DType) -> anyhow::Result<Mamba> {
    let wrong = || format!("cannot use the model {}", path.display());
    let folder = hub::folder(path).with_context(wrong)?;
    Mamba::load(&folder, device, compute).with_context(wrong)
}

/// A tokenizer, checked against the model it is for.
///
/// # Errors
/// The file cannot be read or downloaded, or has more tokens than the model has embeddings.
pub fn tokenizer(path: &Path, model: &Mamba) -> anyhow::Result<Tokenizer> {
    let tokenizer = Tokenizer::open(&hub::file(path)?)?;
    let (tokens, rows) = (tokenizer.ids(), model.config().vocab_size);
    if tokens > rows {
        bail!(
            "{} has {tokens} tokens, but the model's embedding only {rows} rows: they do not belong together",
            path.display()
        );
    }
    Ok(tokenizer)
}

/// The methods of a configuration, their texts turned into tokens.
///
/// # Errors
/// An unknown method or option; a text that cannot be used.
pub fn methods(config: &RunConfig, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Box<dyn Method>>> {
    let tokenize = |text: &str| tokenizer.encode(text).map_err(|error| error.to_string());
    let resolved = |method: Box<dyn Method>| Ok(method.with_text(&tokenize)?.unwrap_or(method));
    config.methods()?.into_iter().map(resolved).collect()
}

/// An adapter on its model; what its configuration says without effect is reported.
///
/// # Errors
/// Those of [`Adapter::load`].
pub fn adapter(path: &Path, model: &Mamba, output: Output) -> anyhow::Result<Adapter> {
    let loaded = Adapter::load(path, model)?;
    for note in loaded.unused.iter().filter(|_| !output.quiet) {
        eprintln!("note: {}: {note}", path.display());
    }
    Ok(loaded.adapter)
}

/// The tokens that end a text: those of the model's configuration, else the tokenizer's `<|endoftext|>`, which the
/// original layout does not name.
pub fn stop_tokens(model: &Mamba, tokenizer: &Tokenizer) -> Vec<u32> {
    match &model.config().special_tokens.eos[..] {
        [] => tokenizer.token(END_OF_TEXT).into_iter().collect(),
        named => named.to_vec(),
    }
}

/// Training and validation data of a configuration, tokenised, with a cache in the run folder's neighbourhood.
///
/// # Errors
/// Those of [`load_watched`]; a file cannot be downloaded.
pub fn data(
    config: &DataConfig,
    tokenizer: &Tokenizer,
    device: &Device,
    cache: Option<&Path>,
    quiet: bool,
) -> anyhow::Result<(Option<Dataset>, Option<Dataset>)> {
    let pool = pool(device)?;
    let config = &named::local_data(config)?;
    let read = |split: Split, present: bool| -> anyhow::Result<Option<Dataset>> {
        present.then(|| shown(quiet, |watch| load_watched(config, split, tokenizer, &pool, cache, watch))).transpose()
    };
    Ok((read(Split::Train, config.train.is_some())?, read(Split::Validation, config.validation.is_some())?))
}

/// The text of a pretraining, tokenised, with the same cache.
///
/// # Errors
/// Those of [`load_corpus`]; a file cannot be downloaded.
pub fn corpus(
    config: &CorpusConfig,
    tokenizer: &Tokenizer,
    device: &Device,
    cache: Option<&Path>,
    quiet: bool,
) -> anyhow::Result<(Dataset, Option<Dataset>)> {
    let pool = pool(device)?;
    let config = &named::local_corpus(config)?;
    let read = |split| shown(quiet, |watch| load_corpus(config, split, tokenizer, &pool, cache, watch));
    let validation = (!config.validation.is_empty()).then(|| read(Split::Validation)).transpose()?;
    Ok((read(Split::Train)?, validation))
}

/// Threads for tokenising, as many as a device computes with; all cores beside a GPU.
fn pool(device: &Device) -> anyhow::Result<Pool> {
    let threads = match device {
        Device::Cpu(cpu) => cpu.threads(),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    Ok(Pool::new(threads)?)
}

/// Tokenises with a bar.
fn shown<T>(quiet: bool, tokenise: impl FnOnce(Watch<'_>) -> statetune_datasets_eval::Result<T>) -> anyhow::Result<T> {
    let bar = Mutex::new(Bar::new("tokenising", quiet));
    let watch = |done: usize, of: usize| {
        // Only who shows a bar could have panicked with it.
        bar.lock().expect("a bar").at(done as u64, of as u64, String::new);
    };
    Ok(tokenise(&watch)?)
}

/// A run's configuration from its folder or from a TOML file, and the folder. Names on the hub stand for the commits that
/// the run recorded, or else for those of now.
///
/// # Errors
/// It is neither, or the configuration is not valid; a name cannot be looked up.
pub fn configuration(path: &Path, settings: &[String]) -> anyhow::Result<(RunConfig, PathBuf)> {
    let (file, folder) = match path.is_dir() {
        true => (path.join("config.toml"), Some(path.to_path_buf())),
        false => (path.to_path_buf(), None),
    };
    if path.is_dir() && !file.is_file() {
        bail!("{} is no run folder: it has no config.toml", path.display());
    }
    let config = RunConfig::read(&file, settings).map_err(|error| match PretrainConfig::read(&file, settings) {
        Ok(_) => anyhow!(
            "{} is a pretraining, which has no adapter: give the folder of its model (`{MODEL}` in the run's folder) instead",
            path.display()
        ),
        Err(_) => error.into(),
    })?;
    let folder = folder.unwrap_or_else(|| run_folder(&config, path));
    let config = named::pinned(&config, Some(&folder.join("config.toml")), |file| RunConfig::read(file, &[]))?;
    Ok((config, folder))
}

/// Where a configuration's run goes.
pub fn run_folder(config: &RunConfig, file: &Path) -> PathBuf {
    let default = || PathBuf::from("runs").join(file.file_stem().unwrap_or_default());
    config.output.folder.clone().unwrap_or_else(default)
}

/// The adapter folder of a run: the best one, or the last where there was no evaluation.
pub fn best_adapter(folder: &Path) -> Option<PathBuf> {
    [RunFolder::best(folder), RunFolder::last(folder)].into_iter().find(|path| path.is_dir())
}

/// The processor's peak memory use of this process, in MiB, where the system tells.
pub fn peak_memory_mib() -> Option<f64> {
    statetune_trainer::memory::process_peak_mib()
}
