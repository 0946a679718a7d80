//! Model folders in and out.
//!
//! Read are the Hugging Face layout (`config.json` with `model.safetensors`, one file or shards) and the original
//! layout (`config.json` with `d_model`, `n_layer`; `pytorch_model.bin`), in any combination of configuration and
//! weights. Written is the Hugging Face layout. Weights files are mapped, not loaded: a [`Checkpoint`] costs no memory
//! beyond its list of names, and conversion copies one tensor at a time.
//!
//! Here tensors are bytes with a name. What they do in a model is the blocks' business.

mod expected;
mod files;
mod raw_tensor;
mod safetensors_file;
mod save;
mod torch_file;

pub use expected::expected_tensors;
pub use raw_tensor::RawTensor;
pub use save::{DEFAULT_MAX_SHARD_BYTES, SaveOptions, TensorToSave, save_hugging_face};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::{ConfigFile, ModelConfig};
use crate::error::ModelError;

/// Name of the embedding matrix, `[vocab_size, d_model]`.
pub const EMBEDDING: &str = "backbone.embeddings.weight";
/// Name of the LM head, `[vocab_size, d_model]`; absent from tied models.
pub const LM_HEAD: &str = "lm_head.weight";

/// A model folder, opened: its configuration, and its tensors by Hugging Face name.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: PathBuf,
    config: ConfigFile,
    tensors: BTreeMap<String, RawTensor>,
}

impl Checkpoint {
    /// Reads `config.json` and the table of contents of the weights.
    ///
    /// Whether the two fit is not asked here but by [`validate`](Checkpoint::validate), so that a folder of a family
    /// without blocks can be listed.
    ///
    /// # Errors
    /// A file is missing, damaged, of a refused form (compressed, quantised, pickled code, other dtypes), or holds one
    /// tensor twice; see [`ModelError`].
    pub fn open(folder: &Path) -> Result<Checkpoint, ModelError> {
        let config = ConfigFile::read(&folder.join("config.json"))?;
        let tensors = files::tensors(folder)?;
        Ok(Checkpoint { folder: folder.to_path_buf(), config, tensors })
    }

    /// The folder it was opened from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model that the folder's `config.json` describes.
    pub fn config(&self) -> &ModelConfig {
        &self.config.model
    }

    /// The configuration file as read, with the keys that had no effect.
    pub fn config_file(&self) -> &ConfigFile {
        &self.config
    }

    /// The tensors' names in the Hugging Face scheme, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensors, in alphabetical order of their names.
    pub fn tensors(&self) -> impl Iterator<Item = &RawTensor> {
        self.tensors.values()
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// One tensor.
    ///
    /// # Errors
    /// [`ModelError::NoSuchTensor`].
    pub fn tensor(&self, name: &str) -> Result<&RawTensor, ModelError> {
        let missing = || ModelError::NoSuchTensor { folder: self.folder.clone(), tensor: name.to_string() };
        self.tensors.get(name).ok_or_else(missing)
    }
}
