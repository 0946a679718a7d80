//! Adapters as PEFT writes them.

use serde_json::{Value, json};
use statetune_mamba_model::patch::{Change, Ends};
use statetune_mamba_model::site::Site;
use statetune_tensor::Tensor;

use super::modules::is_part;
use crate::methods::lora::Lora;
use crate::methods::{dora, lora, lora_fa, lora_plus, partial, prompt_tuning};
use crate::{Adapter, PeftError};

/// A configuration and tensors by PEFT's names.
pub type Folder = (Value, Vec<(String, Tensor)>);

fn refuse(reason: impl Into<String>) -> PeftError {
    PeftError::NotExportable { reason: reason.into() }
}

/// The folder's contents in PEFT's form. Only what PEFT computes alike has one: LoRA and DoRA on whole modules, with tensors
/// trained whole beside them, and prompt tuning.
///
/// # Errors
/// [`PeftError::NotExportable`] with the reason.
pub fn export(adapter: &Adapter, base_model: &str) -> Result<Folder, PeftError> {
    let tags: Vec<&str> = adapter.methods().iter().map(|method| method.tag()).collect();
    let low_rank = [lora::INFO.tag, dora::INFO.tag, lora_plus::INFO.tag, lora_fa::INFO.tag];
    match tags[..] {
        [tag] if tag == prompt_tuning::INFO.tag => prompt(adapter, base_model),
        [tag] if low_rank.contains(&tag) => low_rank_folder(adapter, base_model, tag == dora::INFO.tag),
        [tag, whole] if low_rank.contains(&tag) && whole == partial::INFO.tag => {
            low_rank_folder(adapter, base_model, tag == dora::INFO.tag)
        }
        _ => Err(refuse(format!("PEFT has no form for {}", tags.join(" with ")))),
    }
}

/// Checks that PEFT, on transformers' models, computes with the folder what we compute with the adapter. It does not where
/// a weight is read past the module that was adapted.
///
/// # Errors
/// [`PeftError::NotExportable`] with the module and the reason.
pub fn computed_alike(adapter: &Adapter) -> Result<(), PeftError> {
    for patch in adapter.patches().patches() {
        let (Site::Rows { parameter, .. }, Change::LowRank { .. }) = (&patch.site, &patch.change) else { continue };
        if parameter.ends_with("out_proj.weight") {
            return Err(refuse(
                "PEFT has refused adapters on `out_proj` of Mamba models since 0.16, because fused kernels pass them by",
            ));
        }
        if parameter.ends_with("dt_proj.weight") {
            return Err(refuse(
                "transformers multiplies with the weight of `dt_proj` itself, so PEFT's adapter on it has no effect",
            ));
        }
    }
    Ok(())
}

fn prompt(adapter: &Adapter, base_model: &str) -> Result<Folder, PeftError> {
    let [tensor] = adapter.patches().tensors() else {
        return Err(refuse("soft tokens behind an MLP: export the adapter without it"));
    };
    let shape = tensor.buffer.shape();
    let config = json!({
        "base_model_name_or_path": base_model,
        "inference_mode": true,
        // PEFT asks for these of model families it does not know; a state space model has no heads.
        "num_attention_heads": 1,
        "num_layers": 1,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": shape[0],
        "peft_type": "PROMPT_TUNING",
        "prompt_tuning_init": "RANDOM",
        "task_type": "CAUSAL_LM",
        "token_dim": shape[1],
    });
    Ok((config, vec![("prompt_embeddings".into(), tensor.buffer.tensor())]))
}

fn low_rank_folder(adapter: &Adapter, base_model: &str, dora: bool) -> Result<Folder, PeftError> {
    let invalid = |error: serde_json::Error| refuse(error.to_string());
    let options: Lora = serde_json::from_value(adapter.methods()[0].config()).map_err(invalid)?;
    for patch in adapter.patches().patches() {
        let Site::Rows { parameter, .. } = &patch.site else { continue };
        let tied = parameter == statetune_mamba_model::checkpoint::EMBEDDING && !adapter.is_untied();
        let ends = match patch.change {
            Change::LowRank { ends, .. } | Change::Train { ends, .. } => ends,
            _ => Ends::Both,
        };
        if tied && ends == Ends::Both {
            return Err(refuse(
                "it changes both ends of tied embeddings, PEFT's adapters the input side only: merge it into a model \
                 (`statetune merge`), or train with `input_embedding_only = true`",
            ));
        }
    }
    let mut whole = Vec::new();
    let mut tensors = Vec::new();
    for tensor in adapter.patches().tensors() {
        let value = tensor.buffer.tensor();
        let Some((module, factor)) = tensor.name.rsplit_once(".lora_") else {
            // A tensor trained whole, under its own name.
            let module = tensor.name.rsplit_once('.').map_or("", |(module, _)| module);
            if !["weight", "bias"].iter().any(|end| tensor.name.ends_with(end)) {
                return Err(refuse(format!("`{}` belongs to no module that PEFT could save", tensor.name)));
            }
            whole.push(module.to_owned());
            tensors.push((format!("base_model.model.{}", tensor.name), value));
            continue;
        };
        if is_part(module) {
            return Err(refuse(format!("PEFT adapts whole modules, not `{module}`")));
        }
        let name = match (module.ends_with("embeddings"), factor) {
            (_, "magnitude") => "lora_magnitude_vector".to_owned(),
            // E + s (B A)ᵀ there, E + s B A here.
            (true, "A") => "lora_embedding_B".to_owned(),
            (true, _) => "lora_embedding_A".to_owned(),
            (false, factor) => format!("lora_{factor}.weight"),
        };
        let value = if name.starts_with("lora_embedding") { crate::foreign::transposed(&value)? } else { value };
        tensors.push((format!("base_model.model.{module}.{name}"), value));
    }
    whole.dedup();
    // PEFT takes the first pattern that matches, we the longest: written longest first they agree.
    let alphas = longest_first(options.alpha_pattern.iter().map(|(pattern, alpha)| (pattern, json!(alpha))));
    let ranks = longest_first(options.rank_pattern.iter().map(|(pattern, rank)| (pattern, json!(rank))));
    let config = json!({
        "alpha_pattern": alphas,
        "base_model_name_or_path": base_model,
        "bias": "none",
        "ensure_weight_tying": false,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        "peft_type": "LORA",
        "r": options.rank,
        "rank_pattern": ranks,
        "target_modules": options.targets,
        "task_type": "CAUSAL_LM",
        "use_dora": dora,
        "use_rslora": options.rslora,
    });
    Ok((config, tensors))
}

fn longest_first<'a>(patterns: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let mut patterns: Vec<_> = patterns.map(|(pattern, value)| (pattern.clone(), value)).collect();
    patterns.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    Value::Object(patterns.into_iter().collect())
}
