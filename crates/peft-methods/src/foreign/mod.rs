//! Adapters that others wrote: Hugging Face PEFT, and the authors of State-offset Tuning (whose files have PEFT's form
//! with module names of their own).

pub mod authors;
pub mod hugging_face;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};
use statetune_mamba_model::config::MambaConfig;
use statetune_tensor::Tensor;

use crate::adapter::ADAPTER_CONFIG;
use crate::methods::state_offset_y;
use crate::{Method, PeftError};

/// Methods, tensors by our names, and the keys of the configuration that had no effect.
pub(crate) type Imported = (Vec<Box<dyn Method>>, Vec<(String, Tensor)>, Vec<String>);

/// Reads a foreign configuration and renames the tensors.
pub(crate) fn import(
    path: &Path,
    config: &Map<String, Value>,
    tensors: BTreeMap<String, Tensor>,
    model: &MambaConfig,
) -> Result<Imported, PeftError> {
    let (method, unused) = method(path, config, model)?;
    let offset = if method.tag() == state_offset_y::INFO.tag { "state_offset_y" } else { "state_offset_h" };
    let rename = |(name, tensor): (String, Tensor)| -> Result<(String, Tensor), PeftError> {
        Ok((tensor_name(&name, offset), if is_embedding(&name) { transposed(&tensor)? } else { tensor }))
    };
    Ok((vec![method], tensors.into_iter().map(rename).collect::<Result<_, _>>()?, unused))
}

/// The method that a foreign configuration describes, and the keys that had no effect.
///
/// # Errors
/// [`PeftError::Unsupported`] naming the key; a target that matches nothing.
pub fn method(
    path: &Path,
    config: &Map<String, Value>,
    model: &MambaConfig,
) -> Result<(Box<dyn Method>, Vec<String>), PeftError> {
    match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => hugging_face::method(path, config, model),
        Some("SUFFIX_TUNING") => authors::method(path, config),
        found => {
            let name = if path.as_os_str().is_empty() { Path::new(ADAPTER_CONFIG) } else { path };
            let feature = format!("`peft_type` {}", found.unwrap_or("absent"));
            Err(PeftError::Unsupported { path: name.to_path_buf(), feature })
        }
    }
}

/// Our name of a tensor in a foreign file. `offset` is what the authors' `suffixtuning_bias` is: `state_offset_h` or
/// `state_offset_y`.
pub fn tensor_name(foreign: &str, offset: &str) -> String {
    let name = foreign.strip_prefix("base_model.model.").unwrap_or(foreign);
    // PEFT leaves the adapter's name out of its files, the authors' training code leaves it in.
    let name = name.strip_suffix(".weight").unwrap_or(name).replace(".default", "");
    if let Some(front) = name.strip_suffix("lora_embedding_A") {
        return format!("{front}lora_B");
    }
    if let Some(front) = name.strip_suffix("lora_embedding_B") {
        return format!("{front}lora_A");
    }
    authors::tensor_name(&name, offset)
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
