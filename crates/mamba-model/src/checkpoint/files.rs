//! Which files of a model folder hold its weights, and the tensors in them: one file, or shards with an index.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use statetune_ssm_kernels::runtime::MappedFile;

use super::raw_tensor::RawTensor;
use super::{safetensors_file, torch_file};
use crate::error::ModelError;

/// The weights file of an unsharded Hugging Face folder.
pub(super) const SAFETENSORS: &str = "model.safetensors";
/// The index of a sharded one.
pub(super) const SAFETENSORS_INDEX: &str = "model.safetensors.index.json";
const TORCH: &str = "pytorch_model.bin";
const TORCH_INDEX: &str = "pytorch_model.bin.index.json";

type Reader = fn(&Arc<PathBuf>, &Arc<MappedFile>) -> Result<Vec<RawTensor>, ModelError>;

/// All tensors of the folder by name. Of several kinds of weights the first of safetensors, sharded safetensors, torch,
/// sharded torch is read, as transformers does.
pub(super) fn tensors(folder: &Path) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    let kinds: [(&str, &str, Reader); 2] =
        [(SAFETENSORS, SAFETENSORS_INDEX, safetensors_file::read), (TORCH, TORCH_INDEX, torch_file::read)];
    for (single, index, reader) in kinds {
        if folder.join(single).exists() {
            let mut tensors = BTreeMap::new();
            read_into(&mut tensors, folder.join(single), reader)?;
            return Ok(tensors);
        }
        if folder.join(index).exists() {
            return sharded(folder, &folder.join(index), reader);
        }
    }
    Err(ModelError::NoWeights { folder: folder.to_path_buf() })
}

fn read_into(tensors: &mut BTreeMap<String, RawTensor>, path: PathBuf, reader: Reader) -> Result<(), ModelError> {
    let file =
        MappedFile::open(&path).map_err(|source| ModelError::Io { path: path.clone(), action: "read", source })?;
    if file.starts_with(b"version https://git-lfs") {
        let reason = "it is a Git LFS pointer, not the weights; run `git lfs pull` in the folder".to_string();
        return Err(ModelError::UnsupportedFile { path, reason });
    }
    for tensor in reader(&Arc::new(path), &Arc::new(file))? {
        let name = hugging_face_name(tensor.name());
        let tensor = tensor.renamed(name.clone());
        if let Some(first) = tensors.insert(name.clone(), tensor) {
            let (first, second) = (first.path().to_path_buf(), tensors[&name].path().to_path_buf());
            return Err(ModelError::DuplicateTensor { tensor: name, first, second });
        }
    }
    Ok(())
}

fn sharded(folder: &Path, index: &Path, reader: Reader) -> Result<BTreeMap<String, RawTensor>, ModelError> {
    let shard_of = weight_map(index)?;
    let mut shards: Vec<&String> = shard_of.values().collect();
    shards.sort();
    shards.dedup();
    let mut tensors = BTreeMap::new();
    for shard in shards {
        if !folder.join(shard).exists() {
            return Err(ModelError::MissingShard { index: index.to_path_buf(), shard: shard.clone() });
        }
        read_into(&mut tensors, folder.join(shard), reader)?;
    }
    for (name, shard) in &shard_of {
        if tensors.get(&hugging_face_name(name)).is_none_or(|tensor| tensor.path() != folder.join(shard)) {
            let (index, tensor, shard) = (index.to_path_buf(), name.clone(), shard.clone());
            return Err(ModelError::MissingFromShard { index, tensor, shard });
        }
    }
    Ok(tensors)
}

/// Tensor name to file name. File names may not lead out of the folder.
pub(super) fn weight_map(index: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    let bytes = std::fs::read(index).map_err(|source| ModelError::Io { path: index.into(), action: "read", source })?;
    let fail = |reason: String| ModelError::Json { origin: index.display().to_string(), reason };
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
    let Some(Value::Object(map)) = value.get("weight_map") else {
        return Err(fail("it has no object `weight_map`".to_string()));
    };
    map.iter()
        .map(|(name, shard)| match shard.as_str() {
            Some(shard) if Path::new(shard).file_name() == Some(shard.as_ref()) => {
                Ok((name.clone(), shard.to_string()))
            }
            _ => Err(fail(format!("`{name}` is mapped to {shard}, which is no name of a file in the folder"))),
        })
        .collect()
}

/// The name that transformers gives to a tensor of the original layout; other names stay.
fn hugging_face_name(name: &str) -> String {
    match name {
        "backbone.embedding.weight" => super::EMBEDDING.to_string(),
        other => other.to_string(),
    }
}
