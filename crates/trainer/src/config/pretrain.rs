//! The configuration of a pretraining: all weights of a model are trained on running text.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use statetune_datasets_eval::CorpusConfig;

use super::{DeviceSection, TrainSettings, explain, from_toml, text_of};
use crate::TrainError;
use crate::schedule::ScheduleKind;

/// A whole pretraining.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PretrainConfig {
    /// What is trained, and from where.
    pub model: StartSection,
    /// The text.
    pub data: CorpusConfig,
    /// The training; its defaults are those of [`pretraining`].
    #[serde(default = "pretraining")]
    pub train: TrainSettings,
    /// The processor.
    #[serde(default)]
    pub device: DeviceSection,
    /// Where results go.
    #[serde(default)]
    pub output: ModelOutput,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StartSection {
    /// The `config.json` of a model to make anew, with random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Instead: the folder of a model to go on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Tokenizer file; default: `tokenizer.json` beside `config`, or in `path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Standard deviation of new embeddings, in place of that in `config`, which published files seldom set to what the
    /// model was made with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initializer_range: Option<f64>,
    /// Whether new `out_proj` are divided by the root of the number of layers, in place of what `config` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_prenorm_residual: Option<bool>,
}

impl StartSection {
    /// The tokenizer's file.
    pub fn tokenizer_path(&self) -> PathBuf {
        let beside = match (&self.path, &self.config) {
            (Some(folder), _) => folder.join("tokenizer.json"),
            (None, config) => config.as_deref().unwrap_or(Path::new("")).with_file_name("tokenizer.json"),
        };
        self.tokenizer.clone().unwrap_or(beside)
    }

    fn check(&self) -> Result<(), String> {
        match (&self.config, &self.path) {
            (None, None) => Err("`model.config` is missing: name the config.json of a model to make anew, or by \
                                 `model.path` the folder of one to go on from"
                .into()),
            (Some(_), Some(_)) => Err("`model.config` and `model.path` are both there: one makes a model anew, the \
                                       other goes on from one"
                .into()),
            (None, Some(_)) if self.initializer_range.is_some() || self.rescale_prenorm_residual.is_some() => {
                Err("`model.initializer_range` and `model.rescale_prenorm_residual` are for new weights, but \
                     `model.path` goes on from others"
                    .into())
            }
            _ => Ok(()),
        }
    }
}

/// What the trained model's tensors are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WeightType {
    /// As they were trained.
    #[default]
    F32,
    /// Rounded, `A_log` and D apart.
    Bf16,
}

/// `[output]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOutput {
    /// The run's folder; default: `runs/<name of the configuration file>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// "f32" (the default) or "bf16": what the trained model is written in.
    pub weights: WeightType,
}

/// Defaults of `[train]` for pretraining: AdamW's constants, clip and course of the rate as in the pretraining of Mamba (Gu
/// and Dao 2023, appendix E.2).
pub fn pretraining() -> TrainSettings {
    TrainSettings {
        batch_size: 64,
        micro_batch_tokens: 8192,
        learning_rate: 1e-3,
        schedule: ScheduleKind::Cosine,
        warmup_steps: 100,
        weight_decay: 0.1,
        beta1: 0.9,
        beta2: 0.95,
        eval_every: 500,
        share_prefix: false,
        ..TrainSettings::default()
    }
}

impl PretrainConfig {
    /// Reads a file and applies `key=value` settings to it. Relative paths stay relative to the working folder.
    ///
    /// # Errors
    /// The file is missing or no TOML; a key is unknown or has no use here; a value is of the wrong type or out of range.
    pub fn read(path: &Path, settings: &[String]) -> Result<PretrainConfig, TrainError> {
        PretrainConfig::parse(&text_of(path)?, path, settings)
    }

    /// The same from a text; `path` is named in messages.
    ///
    /// # Errors
    /// As [`PretrainConfig::read`].
    pub fn parse(text: &str, path: &Path, settings: &[String]) -> Result<PretrainConfig, TrainError> {
        let fail = |reason: String| TrainError::Config { path: path.to_path_buf(), reason };
        // As it is given, so that messages show the line.
        from_toml::<PretrainConfig>(text, path, settings)?;
        let mut table: toml::Table = from_toml(text, path, settings)?;
        // What is given stands over the defaults of pretraining.
        let mut defaults = toml::Table::try_from(pretraining()).expect("plain settings");
        if let Some(toml::Value::Table(given)) = table.remove("train") {
            defaults.extend(given);
        }
        table.insert("train".into(), toml::Value::Table(defaults));
        let config: PretrainConfig = table.try_into().map_err(|error| fail(explain(&error)))?;
        config.check().map_err(fail)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        self.model.check()?;
        self.train.check()?;
        self.data.check().map_err(|error| error.to_string())?;
        if self.train.share_prefix {
            return Err("`train.share_prefix` has no use here: rows of running text share no instruction".into());
        }
        if self.data.train.is_empty() {
            return Err("`data.train` is missing: name the text to train on".into());
        }
        Ok(())
    }

    /// The configuration as a file, with every key that has a value.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("a configuration that was read from TOML")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[model]\nconfig = \"m/config.json\"\n[data]\ntrain = \"a.txt\"\n";

    fn parse(text: &str, settings: &[&str]) -> Result<PretrainConfig, String> {
        let settings: Vec<String> = settings.iter().map(|s| s.to_string()).collect();
        PretrainConfig::parse(text, Path::new("run.toml"), &settings).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_given_stands_over_the_defaults_of_pretraining() {
        let plain = parse(MINIMAL, &[]).unwrap();
        assert_eq!(plain.train, pretraining());
        assert_eq!((plain.data.length, plain.data.train.len()), (512, 1));
        assert_eq!(plain.model.tokenizer_path(), Path::new("m/tokenizer.json"));
        let text = format!("{MINIMAL}validation = [\"b.txt\", \"c.jsonl.zst\"]\n[train]\nmax_steps = 7\n");
        for config in [parse(&text, &[]), parse(&text, &["train.seed=0"])] {
            let config = config.unwrap();
            assert_eq!(config.train, TrainSettings { max_steps: 7, ..pretraining() });
            assert_eq!(config.data.validation.len(), 2);
            assert_eq!(parse(&config.to_toml(), &[]).unwrap(), config);
        }
    }

    #[test]
    fn mistakes_are_named() {
        let error = parse(&format!("{MINIMAL}[train]\nlerning_rate = 1\n"), &[]).unwrap_err();
        assert!(error.contains("did you mean `learning_rate`") && error.contains("line 6"), "{error}");
        for (setting, part) in [
            ("train.lerning_rate=1", "did you mean `learning_rate`"),
            ("train.share_prefix=true", "no use here"),
            ("train.final_rate=2", "`train.final_rate` must be"),
            ("train.constant_until=1.0", "`train.constant_until` must be"),
            ("model.path=m", "`model.config` and `model.path` are both there"),
            ("data.length=0", "length: expected at least 1"),
            ("data.train=7", "a path or a list of paths"),
            ("data.validation=[\"x\", \"x\"]", "x twice"),
            ("output.weights=f16", "unknown variant `f16`"),
        ] {
            let error = parse(MINIMAL, &[setting]).unwrap_err();
            assert!(error.contains(part), "{setting}: {error}");
        }
        assert!(parse(MINIMAL, &["train.schedule=constant"]).is_ok());
        for key in ["final_rate", "constant_until"] {
            let error = parse(MINIMAL, &["train.schedule=constant", &format!("train.{key}=0.5")]).unwrap_err();
            assert!(error.contains("have no use with `train.schedule` = \"constant\""), "{error}");
        }
        let error = parse("[model]\n[data]\ntrain = \"a\"\n", &[]).unwrap_err();
        assert!(error.contains("`model.config` is missing"), "{error}");
        let error = parse("[model]\nconfig = \"c\"\n[data]\n", &[]).unwrap_err();
        assert!(error.contains("`data.train` is missing"), "{error}");
        let error = parse("[model]\npath = \"m\"\ninitializer_range = 0.1\n[data]\ntrain = \"a\"\n", &[]).unwrap_err();
        assert!(error.contains("are for new weights"), "{error}");
    }
}
