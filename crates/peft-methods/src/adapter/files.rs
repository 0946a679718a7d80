//! Adapter folders: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A single LoRA or DoRA on whole modules, and a prompt, are written as Hugging Face PEFT writes them. Everything else has
//! our own form: the
//! methods' configurations under `methods`, the tensors under their own names. Both are read, and the authors' too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::{Map, Value, json};
use statetune_mamba_model::Mamba;
use statetune_tensor::{DType, Tensor};

use super::Adapter;
use crate::{PeftError, foreign, methods};

/// The configuration's file name.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";
/// The weights' file name.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// `peft_type` of our own form, so that other readers refuse it by name.
const PEFT_TYPE: &str = "STATETUNE";
/// The version of our own form.
const VERSION: u64 = 1;

/// An adapter from files.
#[derive(Debug)]
pub struct Loaded {
    /// The adapter.
    pub adapter: Adapter,
    /// What a foreign configuration said that had no effect, to be reported.
    pub unused: Vec<String>,
}

impl Adapter {
    /// Writes the folder, creating it where it is missing. Each file is complete or absent: it is written under
    /// another name and renamed. The weights come first, so that a configuration never lacks them.
    ///
    /// # Errors
    /// When the system refuses, by file.
    pub fn save(&self, folder: &Path, base_model: &str) -> Result<(), PeftError> {
        fs::create_dir_all(folder).map_err(|source| io_error(folder, "create", source))?;
        let (config, tensors) = match self.in_peft_form(base_model) {
            Some(exported) => exported,
            None => {
                let config = json!({
                    "peft_type": PEFT_TYPE,
                    "version": VERSION,
                    "base_model_name_or_path": base_model,
                    "methods": self.config(),
                });
                let tensors = self.patches().tensors().iter().zip(self.specs()).filter(|(_, spec)| spec.saved);
                (config, tensors.map(|(tensor, _)| (tensor.name.clone(), tensor.buffer.tensor())).collect())
            }
        };
        write_folder(folder, &config, &tensors)
    }

    /// Writes a folder with which Hugging Face PEFT computes the same.
    ///
    /// # Errors
    /// [`PeftError::NotExportable`] if PEFT has no form for the adapter, or computes otherwise with it; the system refuses,
    /// by file.
    pub fn save_peft(&self, folder: &Path, base_model: &str) -> Result<(), PeftError> {
        let (config, tensors) = foreign::hugging_face::export(self, base_model)?;
        foreign::hugging_face::computed_alike(self)?;
        fs::create_dir_all(folder).map_err(|source| io_error(folder, "create", source))?;
        write_folder(folder, &config, &tensors)
    }

    /// In PEFT's form if that says all: whoever goes on with the adapter must find the method it was.
    fn in_peft_form(&self, base_model: &str) -> Option<foreign::hugging_face::Folder> {
        let says_all = [methods::lora::INFO.tag, methods::dora::INFO.tag, methods::prompt_tuning::INFO.tag];
        let [method] = self.methods() else { return None };
        says_all.contains(&method.tag()).then(|| foreign::hugging_face::export(self, base_model).ok()).flatten()
    }

    /// Reads a folder of ours, of Hugging Face PEFT, or of the authors of State-offset Tuning.
    ///
    /// # Errors
    /// A file is missing or damaged; the methods are unknown or do not fit the model; tensors are missing, unknown, of
    /// another shape or not finite; a foreign configuration asks for what is not supported.
    pub fn load(folder: &Path, model: &Mamba) -> Result<Loaded, PeftError> {
        let path = folder.join(ADAPTER_CONFIG);
        let text = fs::read_to_string(&path).map_err(|source| io_error(&path, "read", source))?;
        let config: Map<String, Value> =
            serde_json::from_str(&text).map_err(|error| bad(&path, format!("not a JSON object: {error}")))?;
        let weights = folder.join(ADAPTER_WEIGHTS);
        let tensors = read_safetensors(&weights)?;
        let own = config.get("peft_type").and_then(Value::as_str) == Some(PEFT_TYPE);
        let (methods, tensors, unused) = if own {
            (own_methods(&path, &config)?, tensors.into_iter().collect(), Vec::new())
        } else {
            foreign::import(&path, &config, tensors, model.config())?
        };
        let in_file = |error: PeftError| match error {
            PeftError::Model(statetune_mamba_model::ModelError::Patch { name, reason }) => {
                PeftError::Tensors { path: weights.clone(), reason: format!("`{name}`: {reason}") }
            }
            other => other,
        };
        let adapter = Adapter::with_tensors(model, methods, tensors).map_err(in_file)?;
        Ok(Loaded { adapter, unused })
    }
}

fn write_folder(folder: &Path, config: &Value, tensors: &[(String, Tensor)]) -> Result<(), PeftError> {
    let path = folder.join(ADAPTER_WEIGHTS);
    let bytes = to_safetensors(tensors).map_err(|error| bad(&path, error.to_string()))?;
    write_whole(&path, &bytes)?;
    write_whole(&folder.join(ADAPTER_CONFIG), format!("{config:#}\n").as_bytes())
}

fn own_methods(path: &Path, config: &Map<String, Value>) -> Result<Vec<Box<dyn crate::Method>>, PeftError> {
    match config.get("version").and_then(Value::as_u64) {
        Some(VERSION) => {}
        found => {
            let found = found.map_or("none".into(), |v| v.to_string());
            return Err(bad(path, format!("adapter version {found}; this program reads version {VERSION}")));
        }
    }
    let list =
        config.get("methods").and_then(Value::as_array).ok_or_else(|| bad(path, "`methods` is not a list".into()))?;
    let parse = |value: &Value| match value {
        Value::Object(object) => methods::parse(object.clone()).map_err(|error| bad(path, error.to_string())),
        other => Err(bad(path, format!("a method is a table of options, found {other}"))),
    };
    list.iter().map(parse).collect()
}

/// The bytes of a safetensors file.
fn to_safetensors(tensors: &[(String, Tensor)]) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, tensor)| tensor.to_le_bytes()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, tensor), bytes)| {
        let dtype = match tensor.dtype() {
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
        };
        Ok((name.as_str(), TensorView::new(dtype, tensor.shape().to_vec(), bytes)?))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    serialize(views, Some(std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())])))
}

/// The tensors of a safetensors file; all must be finite.
pub(crate) fn read_safetensors(path: &Path) -> Result<BTreeMap<String, Tensor>, PeftError> {
    let bytes = fs::read(path).map_err(|source| io_error(path, "read", source))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|error| bad(path, format!("damaged or incomplete ({error}); copy or download it again")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.tensors() {
        let (data, shape) = (view.data(), view.shape());
        let tensor = match view.dtype() {
            Dtype::F32 => Tensor::from_vec(words(data, f32::from_le_bytes), shape)?,
            Dtype::F64 => Tensor::from_vec(words(data, f64::from_le_bytes), shape)?,
            Dtype::BF16 => Tensor::from_vec(words(data, half::bf16::from_le_bytes), shape)?,
            Dtype::F16 => Tensor::from_vec(words(data, half::f16::from_le_bytes), shape)?,
            other => return Err(bad(path, format!("tensor `{name}` has dtype {other:?}; expected a floating type"))),
        };
        if let Some((i, x)) = tensor.to_f64_vec().into_iter().enumerate().find(|(_, x)| !x.is_finite()) {
            return Err(bad(path, format!("tensor `{name}` holds {x} at element {i}; the adapter is unusable")));
        }
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn words<const N: usize, T>(bytes: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| convert(chunk.try_into().expect("chunks of N bytes"))).collect()
}

/// Writes a file whole or not at all: under a temporary name, flushed to disk, then renamed. What a killed process has
/// left under that name the next one replaces.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), PeftError> {
    let temporary = path.with_extension("tmp");
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // What was written so far is of no use; the error that matters is the first.
        let _ = fs::remove_file(&temporary);
        io_error(path, "write", source)
    })
}

pub(crate) fn io_error(path: &Path, action: &'static str, source: io::Error) -> PeftError {
    PeftError::Io { path: path.to_path_buf(), action, source }
}

pub(crate) fn bad(path: &Path, reason: String) -> PeftError {
    PeftError::BadFile { path: path.to_path_buf(), reason }
}
