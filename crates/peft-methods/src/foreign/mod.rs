//! Adapters that others wrote: Hugging Face PEFT, and the authors of State-offset Tuning and SSM-PEFT (whose files have
//! PEFT's form with kinds and module names of their own).
//!
//! A foreign configuration becomes configurations of methods here, and sentences about what in it has no effect.

pub mod authors;
pub mod hugging_face;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::config::MambaConfig;
use statetune_tensor::Tensor;

use crate::adapter::{ADAPTER_CONFIG, bad};
use crate::methods::{self, sdt, state_offset_y};
use crate::{Method, PeftError};

/// Methods, tensors by our names, and the sentences.
pub(crate) type Imported = (Vec<Box<dyn Method>>, Vec<(String, Tensor)>, Vec<String>);

/// Methods, and sentences about what in a foreign configuration has no effect, or another one.
pub type Methods = (Vec<Box<dyn Method>>, Vec<String>);

/// Configurations of methods, and sentences about what in the foreign configuration has no effect, or another one.
pub type Configs = (Vec<Map<String, Value>>, Vec<String>);

/// Reads a foreign configuration and renames the tensors.
pub(crate) fn import(
    path: &Path,
    config: &Map<String, Value>,
    tensors: BTreeMap<String, Tensor>,
    model: &MambaConfig,
) -> Result<Imported, PeftError> {
    let (methods, notes) = methods(path, config, model)?;
    let is = |tag: &str| methods.iter().any(|method| method.tag() == tag);
    let offset = if is(state_offset_y::INFO.tag) { "state_offset_y" } else { "state_offset_h" };
    let stored = expected_tensors(model);
    let rename = |(foreign, tensor): (String, Tensor)| -> Result<(String, Tensor), PeftError> {
        let mut name = tensor_name(&foreign, offset);
        // A bias that the model does not have was added.
        if foreign.contains(".bitfit_bias") && !stored.iter().any(|(stored, _)| *stored == name) {
            name.push_str("_added");
        }
        Ok((name, if is_embedding(&foreign) { transposed(&tensor)? } else { tensor }))
    };
    let tensors = tensors.into_iter().map(rename).collect::<Result<_, _>>()?;
    let (methods, tensors) = match is(sdt::INFO.tag) {
        true => authors::import_sparse((methods, tensors), model)?,
        false => (methods, tensors),
    };
    Ok((methods, tensors, notes))
}

/// The configurations of methods that a foreign configuration comes to, and sentences about what in it has no effect.
///
/// # Errors
/// [`PeftError::BadFile`] or [`PeftError::Unsupported`] naming file, key, what was expected and what was found; a target
/// that matches nothing.
pub fn configs(path: &Path, config: &Map<String, Value>, model: &MambaConfig) -> Result<Configs, PeftError> {
    let path = if path.as_os_str().is_empty() { Path::new(ADAPTER_CONFIG) } else { path };
    let plain = |kind: &str, (found, unused): Methods| {
        let table = |method: Box<dyn Method>| match methods::to_config(method.as_ref()) {
            // What is absent is left out: TOML has no null.
            Value::Object(table) => table.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            other => unreachable!("a table of options, not {other}"),
        };
        let note = |key: String| format!("{key} of {kind} is not known here and has no effect");
        (found.into_iter().map(table).collect(), unused.into_iter().map(note).collect())
    };
    match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => authors::lora_configs(path, config, model, |config| {
            Ok(plain("LORA", hugging_face::lora(path, config, model)?))
        }),
        Some("PROMPT_TUNING") => Ok(plain("PROMPT_TUNING", hugging_face::prompt_tuning(path, config)?)),
        Some(kind) if authors::KINDS.contains(&kind) => authors::configs(path, kind, config, model),
        _ => {
            let found = config.get("peft_type").map_or("nothing".to_owned(), Value::to_string);
            let known = ["LORA", "PROMPT_TUNING"].iter().chain(&authors::KINDS).copied().collect::<Vec<_>>().join(", ");
            Err(bad(path, format!("`peft_type` should be one of {known}; found {found}")))
        }
    }
}

/// The methods that a foreign configuration describes, and sentences about what in it has no effect.
///
/// # Errors
/// Those of [`configs`]; what a method says to its options.
pub fn methods(path: &Path, config: &Map<String, Value>, model: &MambaConfig) -> Result<Methods, PeftError> {
    let (configs, notes) = configs(path, config, model)?;
    Ok((configs.into_iter().map(methods::parse).collect::<Result<_, _>>()?, notes))
}

/// Our name of a tensor in a foreign file. `offset` is what the authors' `suffixtuning_bias` is: `state_offset_h` or
/// `state_offset_y`.
pub fn tensor_name(foreign: &str, offset: &str) -> String {
    let name = foreign.strip_prefix("base_model.model.").unwrap_or(foreign);
    // PEFT leaves the adapter's name out of its files, the authors' training code leaves it in.
    let name = name.replace(".default", "");
    if name == "prompt_embeddings" {
        return "prompt_tokens".into();
    }
    // A tensor that was trained whole keeps its name.
    let name = if name.contains("lora_") { name.strip_suffix(".weight").unwrap_or(&name) } else { &name };
    let name = authors::tensor_name(name, offset);
    if let Some(front) = name.strip_suffix("lora_magnitude_vector") {
        return format!("{front}lora_magnitude");
    }
    if let Some(front) = name.strip_suffix("lora_embedding_A") {
        return format!("{front}lora_B");
    }
    if let Some(front) = name.strip_suffix("lora_embedding_B") {
        return format!("{front}lora_A");
    }
    name
}

/// Whether a foreign tensor is one of an embedding, where A and B change places: E + s (B A)ᵀ = E + s Aᵀ Bᵀ.
pub fn is_embedding(foreign: &str) -> bool {
    foreign.contains("lora_embedding_")
}

/// A matrix transposed.
///
/// # Errors
/// When the tensor is not a matrix.
pub fn transposed(tensor: &Tensor) -> Result<Tensor, PeftError> {
    let (rows, columns) = tensor.matrix_shape("transpose", "embedding adapter")?;
    let values = tensor.to_f64_vec();
    let turned = (0..columns).flat_map(|j| (0..rows).map(move |i| (i, j))).map(|(i, j)| values[i * columns + j]);
    Ok(Tensor::from_vec(turned.collect::<Vec<f64>>(), &[columns, rows])?.cast(tensor.dtype()))
}

#[cfg(test)]
mod tests;
