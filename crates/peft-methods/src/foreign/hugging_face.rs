//! LoRA folders of Hugging Face PEFT (format of version 0.9 to 0.21), in and out, with PEFT's meaning.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::site::linear_sites;
use statetune_tensor::Tensor;

use super::authors;
use crate::methods::lora::Lora;
use crate::{Adapter, Method, PeftError};

/// Keys that say nothing about what is computed.
const HARMLESS: [&str; 12] = [
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "inference_mode",
    "init_lora_weights",
    "megatron_core",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
];

/// Keys that are understood.
const USED: [&str; 8] = [
    "alpha_pattern",
    "ensure_weight_tying",
    "lora_alpha",
    "lora_dropout",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
];

/// Keys that change what is computed and are not supported: refused unless they ask for nothing.
const REFUSED: [&str; 14] = [
    "alora_invocation_tokens",
    "exclude_modules",
    "fan_in_fan_out",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
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

pub(super) fn method(
    path: &Path,
    config: &Map<String, Value>,
    model: &MambaConfig,
) -> Result<(Box<dyn Method>, Vec<String>), PeftError> {
    let unsupported = |feature: String| PeftError::Unsupported { path: path.to_path_buf(), feature };
    let refused = |key: &&&str| config.get(**key).is_some_and(|value| !is_neutral(value));
    if let Some(key) = REFUSED.iter().find(refused) {
        return Err(unsupported(format!("`{key}` = {}", config[*key])));
    }
    if let Some(bias) = config.get("bias").filter(|bias| **bias != json!("none") && !is_neutral(bias)) {
        return Err(unsupported(format!("`bias` = {bias}")));
    }
    let get = |key: &str| config.get(key).filter(|value| !value.is_null());
    let invalid = |key: &str, expected: &str| {
        let found = get(key).map_or("nothing".to_owned(), Value::to_string);
        crate::adapter::bad(path, format!("`{key}` should be {expected}, found {found}"))
    };
    let rank = get("r").and_then(Value::as_u64).ok_or_else(|| invalid("r", "a number"))? as usize;
    let alpha = get("lora_alpha").map_or(Some(8.0), Value::as_f64).ok_or_else(|| invalid("lora_alpha", "a number"))?;
    let dropout = get("lora_dropout").map_or(Some(0.0), Value::as_f64);
    let flag = |key: &str| get(key).is_some_and(|value| value == &json!(true));

    // Modules are the whole sites; the authors' code has parts too, under names of its own.
    let modules: Vec<String> = linear_sites(model).into_iter().map(|site| site.name).collect();
    let targets = match get("target_modules") {
        Some(Value::String(all)) if all == "all-linear" => {
            let linear = |name: &&String| name.ends_with("_proj");
            modules.iter().filter(linear).cloned().collect()
        }
        Some(Value::String(pattern)) => {
            let pattern = full_match(pattern).ok_or_else(|| invalid("target_modules", "a regular expression"))?;
            let whole = |name: &&String| !is_part(name);
            modules.iter().filter(whole).filter(|name| pattern.is_match(name)).cloned().collect()
        }
        Some(Value::Array(list)) => {
            let names = list.iter().map(|name| name.as_str().map(authors::target)).collect::<Option<Vec<_>>>();
            names.ok_or_else(|| invalid("target_modules", "a list of names"))?
        }
        _ => return Err(invalid("target_modules", "a list of names or a regular expression")),
    };
    let mut lora = Lora {
        targets,
        rank,
        alpha,
        dropout: dropout.ok_or_else(|| invalid("lora_dropout", "a number"))? as f32,
        rslora: flag("use_rslora"),
        input_embedding_only: !flag("ensure_weight_tying"),
        ..Lora::default()
    };
    lora.check()?;
    // Per module the first pattern that matches counts, as in PEFT; written out module by module.
    let chosen = lora.sites(model)?;
    for (key, integer) in [("rank_pattern", true), ("alpha_pattern", false)] {
        let Some(patterns) = get(key) else { continue };
        let patterns = patterns.as_object().ok_or_else(|| invalid(key, "a table of patterns"))?;
        let mut compiled = Vec::new();
        for (pattern, value) in patterns {
            let regex = full_match(&format!("(.*\\.)?({})", authors::target(pattern)));
            compiled.push((regex.ok_or_else(|| invalid(key, "a table of regular expressions"))?, value));
        }
        for site in &chosen {
            let Some((_, value)) = compiled.iter().find(|(regex, _)| regex.is_match(&site.name)) else { continue };
            if integer {
                let rank = value.as_u64().ok_or_else(|| invalid(key, "a table of numbers"))? as usize;
                lora.rank_pattern.insert(site.name.clone(), rank);
            } else {
                let alpha = value.as_f64().ok_or_else(|| invalid(key, "a table of numbers"))?;
                lora.alpha_pattern.insert(site.name.clone(), alpha);
            }
        }
    }
    lora.check()?;
    let known = |key: &str| USED.contains(&key) || HARMLESS.contains(&key) || REFUSED.contains(&key);
    let unused = config.iter().filter(|(key, value)| !known(key) && !is_neutral(value));
    Ok((Box::new(lora), unused.map(|(key, _)| key.clone()).collect()))
}

/// Python's `re.fullmatch`.
fn full_match(pattern: &str) -> Option<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).ok()
}

/// Whether a site is a part of a module: its last word is not a module's name.
fn is_part(site: &str) -> bool {
    site.contains("_proj.")
}

/// The folder's contents in PEFT's form, if PEFT has a form for this adapter: a single LoRA on whole modules.
pub(crate) fn export(adapter: &Adapter, base_model: &str) -> Option<(Value, Vec<(String, Tensor)>)> {
    let [method] = adapter.methods() else { return None };
    if method.tag() != crate::methods::lora::INFO.tag {
        return None;
    }
    let lora: Lora = serde_json::from_value(method.config()).ok()?;
    if adapter.patches().tensors().iter().any(|tensor| is_part(tensor.name.rsplit_once(".lora_").map_or("", |n| n.0))) {
        return None;
    }
    // PEFT takes the first pattern that matches, we the longest: written longest first they agree.
    let alphas = longest_first(lora.alpha_pattern.iter().map(|(pattern, alpha)| (pattern, json!(alpha))));
    let ranks = longest_first(lora.rank_pattern.iter().map(|(pattern, rank)| (pattern, json!(rank))));
    let config = json!({
        "alpha_pattern": alphas,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "ensure_weight_tying": !lora.input_embedding_only,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": lora.rank,
        "rank_pattern": ranks,
        "target_modules": lora.targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": lora.rslora,
    });
    let tensors = adapter.patches().tensors().iter().map(|tensor| {
        let (module, factor) = tensor.name.rsplit_once(".lora_")?;
        let value = tensor.buffer.tensor();
        if module.ends_with("embeddings") {
            let factor = if factor == "A" { "B" } else { "A" };
            return Some((
                format!("base_model.model.{module}.lora_embedding_{factor}"),
                super::transposed(&value).ok()?,
            ));
        }
        Some((format!("base_model.model.{module}.lora_{factor}.weight"), value))
    });
    Some((config, tensors.collect::<Option<_>>()?))
}

fn longest_first<'a>(patterns: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let mut patterns: Vec<_> = patterns.map(|(pattern, value)| (pattern.clone(), value)).collect();
    patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    Value::Object(patterns.into_iter().collect())
}
