//! The configuration of a run: one TOML file, plain structs, unknown keys refused with the nearest known one.

mod evaluation;
mod pretrain;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use statetune_datasets_eval::DataConfig;
use statetune_peft_methods::{Method, methods, nearest};

use crate::error::io_error;
use crate::long::CHUNK_TOKENS;
use crate::schedule::ScheduleKind;
use crate::{AdamWSettings, TrainError};

pub use evaluation::EvaluationSection;
pub use pretrain::{ModelOutput, PretrainConfig, StartSection, WeightType, pretraining};

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// The base model.
    pub model: ModelSection,
    /// The data.
    pub data: DataConfig,
    /// The methods, applied together; none evaluates the base model.
    #[serde(default)]
    pub methods: Vec<serde_json::Map<String, serde_json::Value>>,
    /// The training.
    #[serde(default)]
    pub train: TrainSettings,
    /// What `statetune eval` generates and scores.
    #[serde(default)]
    pub evaluation: EvaluationSection,
    /// The processor.
    #[serde(default)]
    pub device: DeviceSection,
    /// Where results go.
    #[serde(default)]
    pub output: OutputSection,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// Model folder: Hugging Face or original layout. The command line also takes a name on the hub here and for files.
    pub path: PathBuf,
    /// Tokenizer file; default: `tokenizer.json` in the model folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
}

impl ModelSection {
    /// The tokenizer's file.
    pub fn tokenizer_path(&self) -> PathBuf {
        self.tokenizer.clone().unwrap_or_else(|| self.path.join("tokenizer.json"))
    }
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSection {
    /// "cpu" (the default), "cuda", or "cuda:1" for the second NVIDIA GPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// On a GPU the type of activations and frozen matrices: "bf16" (the default) or "f32". Trained tensors, states, sums and
    /// the optimiser are f32 in both. The processor computes in f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute: Option<String>,
    /// On a GPU whether the backward pass computes u and Δ of the scan again (the default), or they are kept, which is
    /// faster and takes a quarter to two fifths more memory. Results do not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recompute: Option<bool>,
    /// Instruction set: "avx512", "avx2", "portable" or "reference"; default: the best this processor has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// What operands of dense products are rounded to: "f32" (the default), or "bf16", twice as fast on a processor with
    /// AVX512-BF16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub products: Option<String>,
    /// Threads; default: one per core. Results do not depend on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputSection {
    /// The run's folder; default: `runs/<name of the configuration file>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
}

/// `[train]`: optimiser, schedule, evaluation, checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// Passes over the training data.
    pub epochs: u64,
    /// Ends the run after so many steps; 0: after the epochs.
    pub max_steps: u64,
    /// Ends the run after so many seconds of training, whatever the epochs; 0: never.
    pub max_seconds: f64,
    /// Examples per step.
    pub batch_size: usize,
    /// Tokens that are computed at once; a step's examples are split accordingly and gradients added. Bounds memory.
    pub micro_batch_tokens: usize,
    /// A longer sequence goes through the model so many tokens at a time: the same gradient for one forward pass more, in
    /// memory that does not grow with it but for a recurrent state per chunk; 0: never.
    pub chunk_tokens: usize,
    /// Learning rate after the warm-up; default: that of the methods (`statetune methods`), the lowest of several.
    pub learning_rate: f64,
    /// Its course: "linear", "cosine" or "constant".
    pub schedule: ScheduleKind,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// The share of the run after which the rate falls; 0: right after the warm-up.
    pub constant_until: f64,
    /// What the rate falls to, as a share of `learning_rate`.
    pub final_rate: f64,
    /// AdamW's decoupled weight decay; never on `A_log`, D, biases, norms and state tensors.
    pub weight_decay: f64,
    /// AdamW's first decay.
    pub beta1: f64,
    /// AdamW's second decay.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub eps: f64,
    /// Gradients are scaled down to this global norm; 0: never.
    pub clip_norm: f64,
    /// Seed of initial values, order of the data and dropout.
    pub seed: u64,
    /// A line in `metrics.jsonl` every so many steps.
    pub log_every: u64,
    /// Evaluate every so many steps; 0: after each epoch.
    pub eval_every: u64,
    /// Write a checkpoint every so many steps; 0: with each evaluation.
    pub save_every: u64,
    /// Checkpoints that are kept.
    pub keep_checkpoints: usize,
    /// What makes a checkpoint the best: "accuracy", "f1", "matthews", "label_accuracy" (higher is better) or "loss".
    pub metric: String,
    /// Stop after so many evaluations without a gain; 0: never.
    pub early_stop: u32,
    /// Run a prefix that all examples of a micro-batch share (an instruction) once. Off where dropout is on.
    pub share_prefix: bool,
}

impl Default for TrainSettings {
    /// PyTorch's AdamW without decay, a clip at 1 and a linear schedule: the fine-tuning of the State-offset paper.
    fn default() -> TrainSettings {
        let adamw = AdamWSettings::default();
        TrainSettings {
            epochs: 1,
            max_steps: 0,
            max_seconds: 0.0,
            batch_size: 32,
            micro_batch_tokens: 2048,
            chunk_tokens: CHUNK_TOKENS,
            learning_rate: 3e-3,
            schedule: ScheduleKind::Linear,
            warmup_steps: 20,
            constant_until: 0.0,
            final_rate: 0.0,
            weight_decay: adamw.weight_decay,
            beta1: adamw.beta1,
            beta2: adamw.beta2,
            eps: adamw.eps,
            clip_norm: 1.0,
            seed: 0,
            log_every: 10,
            eval_every: 0,
            save_every: 0,
            keep_checkpoints: 2,
            metric: "loss".into(),
            early_stop: 0,
            share_prefix: true,
        }
    }
}

/// The metrics a best checkpoint can be chosen by.
pub const METRICS: [&str; 5] = ["loss", "accuracy", "f1", "matthews", "label_accuracy"];

impl TrainSettings {
    /// The optimiser's constants.
    pub fn adamw(&self) -> AdamWSettings {
        AdamWSettings { beta1: self.beta1, beta2: self.beta2, eps: self.eps, weight_decay: self.weight_decay }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    /// The key, what was expected, what was found.
    pub fn check(&self) -> Result<(), String> {
        let ends = self.max_steps > 0 || self.max_seconds > 0.0;
        let ranges = [
            ("batch_size", self.batch_size > 0, "at least 1"),
            ("micro_batch_tokens", self.micro_batch_tokens > 0, "at least 1"),
            ("epochs", self.epochs > 0 || ends, "at least 1 (or set `max_steps` or `max_seconds`)"),
            ("max_seconds", self.max_seconds >= 0.0 && self.max_seconds.is_finite(), "at least 0"),
            ("constant_until", (0.0..1.0).contains(&self.constant_until), "at least 0 and below 1"),
            ("final_rate", (0.0..=1.0).contains(&self.final_rate), "from 0 to 1"),
            ("learning_rate", self.learning_rate > 0.0 && self.learning_rate.is_finite(), "above 0"),
            ("weight_decay", self.weight_decay >= 0.0 && self.weight_decay.is_finite(), "at least 0"),
            ("beta1", (0.0..1.0).contains(&self.beta1), "at least 0 and below 1"),
            ("beta2", (0.0..1.0).contains(&self.beta2), "at least 0 and below 1"),
            ("eps", self.eps > 0.0, "above 0"),
            ("clip_norm", self.clip_norm >= 0.0, "at least 0"),
            ("log_every", self.log_every > 0, "at least 1"),
            ("keep_checkpoints", self.keep_checkpoints > 0, "at least 1"),
        ];
        if let Some((key, _, expected)) = ranges.iter().find(|(_, valid, _)| !valid) {
            return Err(format!("`train.{key}` must be {expected}"));
        }
        if self.schedule == ScheduleKind::Constant && (self.constant_until > 0.0 || self.final_rate > 0.0) {
            return Err(
                "`train.constant_until` and `train.final_rate` have no use with `train.schedule` = \"constant\": \
                        the rate does not fall"
                    .into(),
            );
        }
        if !METRICS.contains(&self.metric.as_str()) {
            let hint = nearest(&self.metric, METRICS).map_or(String::new(), |n| format!(" (did you mean \"{n}\"?)"));
            return Err(format!("`train.metric` must be one of {METRICS:?}, found \"{}\"{hint}", self.metric));
        }
        Ok(())
    }
}

impl RunConfig {
    /// Reads a file and applies `key=value` settings to it. Relative paths stay relative to the working folder.
    ///
    /// # Errors
    /// The file is missing or no TOML; a key is unknown; a value is of the wrong type or out of range.
    pub fn read(path: &Path, settings: &[String]) -> Result<RunConfig, TrainError> {
        RunConfig::parse(&text_of(path)?, path, settings)
    }

    /// The same from a text; `path` is named in messages.
    ///
    /// # Errors
    /// As [`RunConfig::read`].
    pub fn parse(text: &str, path: &Path, settings: &[String]) -> Result<RunConfig, TrainError> {
        let fail = |reason: String| TrainError::Config { path: path.to_path_buf(), reason };
        // Without a rate of its own a run takes the methods'.
        let rate_in =
            |table: &toml::Table| table.get("train").is_some_and(|train| train.get("learning_rate").is_some());
        let given = text.parse::<toml::Table>().is_ok_and(|table| rate_in(&table))
            || settings
                .iter()
                .any(|setting| setting.split('=').next().is_some_and(|k| k.trim() == "train.learning_rate"));
        let mut config: RunConfig = from_toml(text, path, settings)?;
        let methods = config.methods().map_err(|error| fail(error.to_string()))?;
        if !given {
            config.train.learning_rate = default_rate(&methods);
        }
        config.train.check().map_err(fail)?;
        config.data.check().map_err(|error| fail(error.to_string()))?;
        config.evaluation.check(&config.data).map_err(fail)?;
        Ok(config)
    }

    /// The configured methods.
    ///
    /// # Errors
    /// An unknown method or option.
    pub fn methods(&self) -> Result<Vec<Box<dyn Method>>, TrainError> {
        Ok(self.methods.iter().map(|method| methods::parse(method.clone())).collect::<Result<_, _>>()?)
    }

    /// The configuration as a file, with every key that has a value.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration that was read from TOML")
    }
}

/// The learning rate of a run that gives none: the lowest of its methods' own, since one rate is for all.
pub(crate) fn default_rate(methods: &[Box<dyn Method>]) -> f64 {
    let rates = methods.iter().filter_map(|method| methods::find(method.tag()).ok()).map(|info| info.learning_rate);
    rates.reduce(f64::min).unwrap_or(TrainSettings::default().learning_rate)
}

/// The text of a configuration's file.
pub(crate) fn text_of(path: &Path) -> Result<String, TrainError> {
    fs::read_to_string(path).map_err(|source| io_error(path, "read", source))
}

/// A configuration from its text with `key=value` settings applied; `path` is named in messages.
pub(crate) fn from_toml<C: serde::de::DeserializeOwned>(
    text: &str,
    path: &Path,
    settings: &[String],
) -> Result<C, TrainError> {
    let fail = |reason: String| TrainError::Config { path: path.to_path_buf(), reason };
    if settings.is_empty() {
        // The text itself, so that messages show the line.
        return toml::from_str(text).map_err(|error| fail(explain(&error)));
    }
    let mut table: toml::Table = text.parse().map_err(|error| fail(explain(&error)))?;
    for setting in settings {
        set(&mut table, setting).map_err(fail)?;
    }
    table.try_into().map_err(|error| fail(explain(&error)))
}

/// A TOML error's message, with the nearest key where one is unknown.
pub(crate) fn explain(error: &toml::de::Error) -> String {
    let message = error.to_string().trim_end().to_owned();
    let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
    match quoted.split_first() {
        Some((found, known)) if error.message().starts_with("unknown field") => {
            let near = nearest(found, known.iter().copied());
            near.map_or(message.clone(), |near| format!("{message}\ndid you mean `{near}`?"))
        }
        _ => message,
    }
}

/// Applies `a.b=value`: the value is TOML, or else a string. `methods.0.rank=4` reaches into lists.
fn set(table: &mut toml::Table, setting: &str) -> Result<(), String> {
    let (key, text) = setting.split_once('=').ok_or_else(|| format!("`--set {setting}`: expected key=value"))?;
    let parsed: Result<toml::Table, _> = format!("value = {text}").parse();
    let value = parsed.ok().and_then(|mut t| t.remove("value")).unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut parts = key.trim().split('.').peekable();
    let first = parts.next().unwrap_or_default();
    if parts.peek().is_none() {
        table.insert(first.to_owned(), value);
        return Ok(());
    }
    let mut at = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    while let Some(part) = parts.next() {
        let slot = match at {
            toml::Value::Table(table) => table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new())),
            toml::Value::Array(list) => {
                let len = list.len();
                let entry = part.parse::<usize>().ok().and_then(|i| list.get_mut(i));
                entry.ok_or_else(|| format!("`--set {setting}`: `{part}` is no entry of a list of {len}"))?
            }
            other => return Err(format!("`--set {setting}`: `{part}` is inside {other}, which is no table")),
        };
        if parts.peek().is_none() {
            *slot = value;
            return Ok(());
        }
        at = slot;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[model]\npath = \"m\"\n[data]\nformat = \"glue\"\ntask = \"sst2\"\ntrain = \"d/train.tsv\"\n[[methods]]\nmethod = \"state-offset-h\"\n";

    fn parse(text: &str, settings: &[&str]) -> Result<RunConfig, String> {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        RunConfig::parse(text, Path::new("run.toml"), &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn the_resolved_configuration_reads_back() {
        let config = parse(MINIMAL, &["train.learning_rate=0.01", "methods.0.rank=4", "output.folder=out"]).unwrap();
        assert_eq!((config.train.learning_rate, config.output.folder.clone()), (0.01, Some("out".into())));
        assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
    }

    #[test]
    fn mistakes_are_named_with_the_nearest_key() {
        let error = parse(&format!("{MINIMAL}[train]\nlerning_rate = 1\n"), &[]).unwrap_err();
        assert!(error.contains("did you mean `learning_rate`") && error.contains("line 10"), "{error}");
        let error = parse(MINIMAL, &["train.batchsize=3"]).unwrap_err();
        assert!(error.contains("did you mean `batch_size`"), "{error}");
        let error = parse(MINIMAL, &["methods.0.rnak=3"]).unwrap_err();
        assert!(error.contains("did you mean `rank`"), "{error}");
        let error = parse(MINIMAL, &["methods.1.rank=3"]).unwrap_err();
        assert!(error.contains("no entry of a list of 1"), "{error}");
        let error = parse(MINIMAL, &["train.batch_size=0"]).unwrap_err();
        assert!(error.contains("`train.batch_size` must be at least 1"), "{error}");
        let error = parse(MINIMAL, &["train.metric=acuracy"]).unwrap_err();
        assert!(error.contains("did you mean \"accuracy\""), "{error}");
        let error = parse(MINIMAL, &["seed"]).unwrap_err();
        assert!(error.contains("key=value"), "{error}");
    }
}
