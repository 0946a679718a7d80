//! Folders of Hugging Face PEFT (format of version 0.9 to 0.21), in and out, with PEFT's meaning: LoRA, rsLoRA and DoRA with
//! their patterns, chosen layers and `modules_to_save`, and prompt tuning.

mod export;
mod modules;

pub use export::{Folder, computed_alike, export};

use std::path::Path;

use serde_json::{Map, Value, json};
use statetune_mamba_model::config::MambaConfig;

use self::modules::Modules;
use super::authors;
use crate::{PeftError, methods};

/// Keys that say nothing about what is computed.
const HARMLESS: [&str; 20] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "init_lora_weights",
    "megatron_core",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "peft_type",
    "peft_version",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
];

/// Keys that are understood.
const USED: [&str; 14] = [
    "alpha_pattern",
    "ensure_weight_tying",
    "exclude_modules",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_dropout",
    "modules_to_save",
    "num_virtual_tokens",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
];

/// Keys that change what is computed and are not supported: refused unless they ask for nothing.
const REFUSED: [&str; 10] = [
    "alora_invocation_tokens",
    "fan_in_fan_out",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
    "velora_config",
    "monteclora_config",
];

/// Whether a value asks for nothing.
pub(super) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// A configuration, read with errors that name the file and the key.
pub(super) struct Keys<'a> {
    path: &'a Path,
    config: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.config.get(key).filter(|value| !value.is_null())
    }

    pub fn flag(&self, key: &str) -> bool {
        self.get(key) == Some(&json!(true))
    }

    pub fn invalid(&self, key: &str, expected: &str) -> PeftError {
        let found = self.get(key).map_or("nothing".to_owned(), Value::to_string);
        crate::adapter::bad(self.path, format!("`{key}` should be {expected}, found {found}"))
    }

    fn refuse_unsupported(&self) -> Result<(), PeftError> {
        let unsupported = |feature: String| Err(PeftError::Unsupported { path: self.path.to_path_buf(), feature });
        if let Some(key) = REFUSED.iter().find(|key| self.config.get(**key).is_some_and(|value| !is_neutral(value))) {
            return unsupported(format!("`{key}` = {}", self.config[*key]));
        }
        // Adapters that start from a decomposition, or beside a quantised base, go with another base than the one they name.
        let plain = [json!(true), json!(false), json!("gaussian"), json!("eva"), json!("orthogonal")];
        if let Some(start) = self.get("init_lora_weights").filter(|start| !plain.contains(start)) {
            return unsupported(format!(
                "`init_lora_weights` = {start}: the adapter belongs to a changed base (save it converted to a plain LoRA)"
            ));
        }
        match self.config.get("bias").filter(|bias| **bias != json!("none") && !is_neutral(bias)) {
            Some(bias) => unsupported(format!("`bias` = {bias}")),
            None => Ok(()),
        }
    }

    /// Keys that asked for something and had no effect.
    fn unused(&self) -> Vec<String> {
        let known = |key: &str| USED.contains(&key) || HARMLESS.contains(&key) || REFUSED.contains(&key);
        let unused = self.config.iter().filter(|(key, value)| !known(key) && !is_neutral(value));
        unused.map(|(key, _)| format!("`{key}`")).collect()
    }
}

/// The methods of a LoRA or DoRA configuration: the adapter, and the modules that are trained whole.
pub(super) fn lora(path: &Path, config: &Map<String, Value>, model: &MambaConfig) -> Result<super::Methods, PeftError> {
    let keys = Keys { path, config };
    keys.refuse_unsupported()?;
    let number = |key: &str, default: Option<f64>| {
        let found = keys.get(key).map_or(default, Value::as_f64);
        found.ok_or_else(|| keys.invalid(key, "a number"))
    };
    let rank = keys.get("r").and_then(Value::as_u64).ok_or_else(|| keys.invalid("r", "a number"))?;
    let modules = Modules::new(&keys, model)?;
    let dora = keys.flag("use_dora");
    let input_only = !keys.flag("ensure_weight_tying");
    let method = methods::parse_value(json!({
        "method": if dora { methods::dora::INFO.tag } else { methods::lora::INFO.tag },
        "targets": modules.targets,
        "rank": rank,
        "alpha": number("lora_alpha", Some(8.0))?,
        "dropout": number("lora_dropout", Some(0.0))?,
        "rslora": keys.flag("use_rslora"),
        "rank_pattern": modules.pattern(&keys, "rank_pattern", |value| value.as_u64().map(|rank| json!(rank)))?,
        "alpha_pattern": modules.pattern(&keys, "alpha_pattern", |value| value.as_f64().map(|alpha| json!(alpha)))?,
        "input_embedding_only": input_only,
    }))?;
    let mut all = vec![method];
    let whole = modules::whole(&keys, model)?;
    if !whole.is_empty() {
        let tag = methods::partial::INFO.tag;
        all.push(methods::parse_value(
            json!({"method": tag, "parameters": whole, "input_embedding_only": input_only}),
        )?);
    }
    Ok((all, keys.unused()))
}

/// The method of a prompt-tuning configuration.
pub(super) fn prompt_tuning(path: &Path, config: &Map<String, Value>) -> Result<super::Methods, PeftError> {
    let keys = Keys { path, config };
    keys.refuse_unsupported()?;
    let tokens = keys.get("num_virtual_tokens").and_then(Value::as_u64);
    let tokens = tokens.ok_or_else(|| keys.invalid("num_virtual_tokens", "a number"))?;
    let method = methods::parse_value(json!({"method": methods::prompt_tuning::INFO.tag, "tokens": tokens}))?;
    Ok((vec![method], keys.unused()))
}
