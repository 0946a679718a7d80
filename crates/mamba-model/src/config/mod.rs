//! Model configurations: the shapes and options of a model, read from `config.json` in the Hugging Face or in the
//! original layout.
//!
//! A [`ConfigFile`] is what stands in the file, with the keys that had no effect; a [`ModelConfig`] is the model it
//! describes. Weights are the business of [`crate::checkpoint`]; how blocks use the numbers, of the blocks.

mod fields;
mod hugging_face;
mod json;
mod mamba;
mod mamba2;
mod original;

pub use mamba::{HiddenAct, MambaConfig, TimeStepInit};
pub use mamba2::Mamba2Config;

use std::path::Path;

use crate::error::ModelError;
use fields::Fields;

/// The tokens with a meaning of their own, where the configuration names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `bos_token_id`: begins a text.
    pub bos: Option<u32>,
    /// `eos_token_id`: any of these ends a text. Often one, possibly none.
    pub eos: Vec<u32>,
    /// `pad_token_id`: fills up rows in foreign code; nothing is ever padded here.
    pub pad: Option<u32>,
}

/// Which field names a configuration file uses. The weights beside it may come in either layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigLayout {
    /// `model_type`, `hidden_size`, ... as the transformers library writes them.
    HuggingFace,
    /// `d_model`, `n_layer`, `ssm_cfg` as the authors of Mamba write them.
    Original,
}

/// A model of one of the known families.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelConfig {
    /// Mamba (selective scan).
    Mamba(MambaConfig),
    /// Mamba-2 (state space duality).
    Mamba2(Mamba2Config),
}

impl ModelConfig {
    /// The family's name, as in `model_type`.
    pub fn architecture(&self) -> &'static str {
        match self {
            ModelConfig::Mamba(_) => "mamba",
            ModelConfig::Mamba2(_) => "mamba2",
        }
    }

    /// The configuration if it is one that can be built.
    ///
    /// # Errors
    /// [`ModelError::NotSupportedYet`] for Mamba-2.
    pub fn mamba(&self) -> Result<&MambaConfig, ModelError> {
        match self {
            ModelConfig::Mamba(config) => Ok(config),
            ModelConfig::Mamba2(_) => Err(ModelError::NotSupportedYet { architecture: "Mamba-2" }),
        }
    }
}

/// A configuration file, understood.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigFile {
    /// The model it describes.
    pub model: ModelConfig,
    /// The field names it uses. With both schemes in one file the Hugging Face names decide.
    pub layout: ConfigLayout,
    /// Keys that had no effect on the model, in the file's order, to be reported.
    pub unused_keys: Vec<String>,
}

impl ConfigFile {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// The file cannot be read or is no JSON object; the architecture is unknown; a value is of the wrong type or out
    /// of range; an option is set that this crate does not compute (attention layers, other activations, LayerNorm,
    /// quantised weights). Each names the file and the key.
    pub fn read(path: &Path) -> Result<ConfigFile, ModelError> {
        let bytes =
            std::fs::read(path).map_err(|source| ModelError::Io { path: path.into(), action: "read", source })?;
        let origin = path.display().to_string();
        let text = String::from_utf8(bytes)
            .map_err(|error| ModelError::Json { origin: origin.clone(), reason: error.to_string() })?;
        ConfigFile::parse(&text, &origin)
    }

    /// Parses the text of a configuration file; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`ConfigFile::read`].
    pub fn parse(text: &str, origin: &str) -> Result<ConfigFile, ModelError> {
        let mut fields = Fields::new(origin, json::parse_object(text, origin)?);
        let hugging_face = ["model_type", "architectures", "hidden_size"].iter().any(|key| fields.has(key));
        let original = ["d_model", "n_layer", "ssm_cfg"].iter().any(|key| fields.has(key));
        refuse_attention(&mut fields)?;
        let (model, layout) = match (hugging_face, original) {
            (true, _) => (hugging_face::parse(&mut fields)?, ConfigLayout::HuggingFace),
            (false, true) => (original::parse(&mut fields)?, ConfigLayout::Original),
            (false, false) => {
                return Err(ModelError::UnknownArchitecture {
                    origin: origin.to_string(),
                    found: "(neither model_type and hidden_size nor d_model and n_layer)".to_string(),
                });
            }
        };
        Ok(ConfigFile { model, layout, unused_keys: fields.into_unused() })
    }
}

/// Hybrids keep the Mamba field names and add attention layers; their tensors would be the only other sign.
fn refuse_attention(fields: &mut Fields) -> Result<(), ModelError> {
    match fields.take("attn_layer_idx") {
        Some(serde_json::Value::Array(layers)) if layers.is_empty() => Ok(()),
        None => Ok(()),
        Some(found) => Err(fields.unsupported(
            format!("attn_layer_idx = {found} (attention layers)"),
            "models without attention layers".to_string(),
        )),
    }
}
