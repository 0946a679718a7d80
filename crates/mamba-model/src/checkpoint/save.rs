//! Writing a model as a Hugging Face folder, so that a failure at any moment leaves the destination as it was.
//!
//! Everything is written and flushed to disk in a folder beside the destination first. A destination that is new (or
//! empty) then appears by one rename. In one that exists already the files are replaced one by one by renames, weights
//! before configuration; files that are not part of the checkpoint stay.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensorError};
use serde_json::json;
use statetune_tensor::DType;

use super::files::{SAFETENSORS, SAFETENSORS_INDEX, weight_map};
use super::raw_tensor::byte_len;
use super::{RawTensor, expected_tensors};
use crate::config::MambaConfig;
use crate::error::ModelError;

/// Bytes of tensors per file unless told otherwise: 5 GB, long the default of transformers.
pub const DEFAULT_MAX_SHARD_BYTES: usize = 5_000_000_000;

/// A tensor on its way into a file.
#[derive(Debug, Clone)]
pub struct TensorToSave<'a> {
    /// Name in the Hugging Face scheme.
    pub name: String,
    /// Element type of `bytes`.
    pub dtype: DType,
    /// Shape; row-major.
    pub shape: Vec<usize>,
    /// The elements, little-endian.
    pub bytes: Cow<'a, [u8]>,
}

impl<'a> From<&'a RawTensor> for TensorToSave<'a> {
    fn from(tensor: &'a RawTensor) -> TensorToSave<'a> {
        TensorToSave {
            name: tensor.name().to_string(),
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            bytes: Cow::Borrowed(tensor.bytes()),
        }
    }
}

impl safetensors::View for &TensorToSave<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            DType::F32 => Dtype::F32,
            DType::F64 => Dtype::F64,
            DType::Bf16 => Dtype::BF16,
            DType::F16 => Dtype::F16,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// How to write a folder.
#[derive(Debug, Clone)]
pub struct SaveOptions {
    /// Tensors are split over files of at most this many bytes; a larger tensor gets a file of its own.
    pub max_shard_bytes: usize,
    /// Files copied into the folder under their own names: `tokenizer.json`, ...
    pub companions: Vec<PathBuf>,
}

impl Default for SaveOptions {
    fn default() -> SaveOptions {
        SaveOptions { max_shard_bytes: DEFAULT_MAX_SHARD_BYTES, companions: Vec::new() }
    }
}

/// Writes `config.json`, the weights and the companions into `folder`, which is created where it is missing.
///
/// The tensors may come in any order, but must be exactly those of [`expected_tensors`]. They are taken from the
/// iterator as they are needed, so that at most one file's worth is in memory; an error from the iterator ends the
/// saving. `dtype` of the configuration is set to the one most elements have.
///
/// # Errors
/// The configuration is out of range; tensors are missing, twice, unknown, or of the wrong shape or length
/// ([`ModelError::InvalidSave`]); the disk is full ([`ModelError::NoSpace`]) or refuses ([`ModelError::Io`]). Nothing
/// at the destination has changed then, unless the error came between the renames into an existing folder.
pub fn save_hugging_face<'a>(
    folder: &Path,
    config: &MambaConfig,
    tensors: impl IntoIterator<Item = Result<TensorToSave<'a>, ModelError>>,
    options: &SaveOptions,
) -> Result<(), ModelError> {
    config.validate()?;
    // A link or `.` is followed, so that the staging folder is beside what is really written to.
    let folder = &fs::canonicalize(folder).unwrap_or_else(|_| folder.to_path_buf());
    let staging = Staging::new(folder)?;
    let mut files = Vec::new();
    let dtype = write_weights(&staging, config, tensors, options.max_shard_bytes, &mut files)?;
    for companion in &options.companions {
        let name = companion.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| staging.invalid(format!("{} is no file", companion.display())))?;
        let bytes = fs::read(companion).map_err(|source| io_error(companion, "read", source))?;
        staging.write(name, &bytes)?;
        files.push(name.to_string());
    }
    let config = MambaConfig { dtype: Some(transformers_name(dtype).to_string()), ..config.clone() };
    staging.write("config.json", config.to_hugging_face_json().as_bytes())?;
    files.push("config.json".to_string());
    staging.publish(&files)
}

/// Writes the shards and their index into the staging folder; returns the dtype of most elements.
fn write_weights<'a>(
    staging: &Staging,
    config: &MambaConfig,
    tensors: impl IntoIterator<Item = Result<TensorToSave<'a>, ModelError>>,
    max_shard_bytes: usize,
    files: &mut Vec<String>,
) -> Result<DType, ModelError> {
    let mut expected: BTreeMap<String, Vec<usize>> = expected_tensors(config).into_iter().collect();
    let mut elements_of = [(DType::F32, 0), (DType::Bf16, 0), (DType::F16, 0), (DType::F64, 0)];
    let mut shards: Vec<Vec<String>> = Vec::new();
    let (mut pending, mut pending_bytes, mut total_bytes) = (Vec::new(), 0, 0);
    for tensor in tensors {
        let tensor = tensor?;
        check(staging, &tensor, expected.remove(&tensor.name))?;
        let bytes = tensor.bytes.len();
        if !pending.is_empty() && pending_bytes + bytes > max_shard_bytes {
            shards.push(write_shard(staging, shards.len(), &pending)?);
            pending.clear();
            pending_bytes = 0;
        }
        if let Some((_, count)) = elements_of.iter_mut().find(|(dtype, _)| *dtype == tensor.dtype) {
            *count += bytes / tensor.dtype.bytes();
        }
        pending_bytes += bytes;
        total_bytes += bytes;
        pending.push(tensor);
    }
    if let Some((name, _)) = expected.first_key_value() {
        return Err(staging.invalid(format!("{} tensors are missing, among them `{name}`", expected.len())));
    }
    shards.push(write_shard(staging, shards.len(), &pending)?);

    let count = shards.len();
    let mut weight_map = BTreeMap::new();
    for (shard, names) in shards.into_iter().enumerate() {
        let file = match count {
            1 => SAFETENSORS.to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", shard + 1),
        };
        staging.rename(&shard_name(shard), &file)?;
        weight_map.extend(names.into_iter().map(|name| (name, file.clone())));
        files.push(file);
    }
    if count > 1 {
        let index = json!({ "metadata": { "total_size": total_bytes }, "weight_map": weight_map });
        staging.write(SAFETENSORS_INDEX, format!("{index:#}\n").as_bytes())?;
        files.push(SAFETENSORS_INDEX.to_string());
    }
    let (most, _) = elements_of.into_iter().rev().max_by_key(|(_, count)| *count).unwrap_or(elements_of[0]);
    Ok(most)
}

/// `expected` is the shape the configuration gives the tensor, unless it gives none or it has been taken already.
fn check(staging: &Staging, tensor: &TensorToSave, expected: Option<Vec<usize>>) -> Result<(), ModelError> {
    let name = &tensor.name;
    let Some(expected) = expected else {
        return Err(staging.invalid(format!("tensor `{name}` comes twice, or the configuration has no place for it")));
    };
    if tensor.shape != expected {
        let found = &tensor.shape;
        return Err(staging.invalid(format!("tensor `{name}` has shape {found:?}, expected {expected:?}")));
    }
    if byte_len(tensor.dtype, &expected) != Some(tensor.bytes.len()) {
        let (found, dtype) = (tensor.bytes.len(), tensor.dtype);
        return Err(staging.invalid(format!("tensor `{name}` has {found} bytes, which is not {expected:?} of {dtype}")));
    }
    Ok(())
}

/// Writes one shard under its provisional name and returns the names of its tensors.
fn write_shard(staging: &Staging, shard: usize, tensors: &[TensorToSave]) -> Result<Vec<String>, ModelError> {
    let path = staging.folder.join(shard_name(shard));
    // `format` is what transformers asks for before it trusts a file.
    let metadata = Some([("format".to_string(), "pt".to_string())].into());
    let views = tensors.iter().map(|tensor| (&tensor.name, tensor));
    safetensors::serialize_to_file(views, metadata, &path).map_err(|error| match error {
        SafeTensorError::IoError(source) => io_error(&path, "write", source),
        other => staging.invalid(other.to_string()),
    })?;
    sync(&path)?;
    Ok(tensors.iter().map(|tensor| tensor.name.clone()).collect())
}

/// Shards are named before their number is known.
fn shard_name(shard: usize) -> String {
    format!("shard-{shard}")
}

/// The dtype as config.json spells it.
fn transformers_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
    }
}

/// A folder beside the destination that is removed again unless it was published.
struct Staging {
    folder: PathBuf,
    destination: PathBuf,
}

impl Staging {
    fn new(destination: &Path) -> Result<Staging, ModelError> {
        let name = destination.file_name().and_then(|name| name.to_str()).ok_or_else(|| ModelError::InvalidSave {
            folder: destination.to_path_buf(),
            reason: "the path does not end in the name of a folder".to_string(),
        })?;
        if destination.exists() && !destination.is_dir() {
            let reason = "it exists and is not a folder".to_string();
            return Err(ModelError::InvalidSave { folder: destination.to_path_buf(), reason });
        }
        let folder = destination.with_file_name(format!(".{name}.saving"));
        // What a killed process left behind.
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|source| io_error(&folder, "remove", source))?;
        }
        fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "create", source))?;
        Ok(Staging { folder, destination: destination.to_path_buf() })
    }

    fn invalid(&self, reason: String) -> ModelError {
        ModelError::InvalidSave { folder: self.destination.clone(), reason }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        let path = self.folder.join(name);
        fs::write(&path, bytes).map_err(|source| io_error(&path, "write", source))?;
        sync(&path)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), ModelError> {
        let to = self.folder.join(to);
        fs::rename(self.folder.join(from), &to).map_err(|source| io_error(&to, "rename", source))
    }

    /// Moves the files, in this order, to the destination.
    fn publish(self, files: &[String]) -> Result<(), ModelError> {
        sync_folder(&self.folder)?;
        // One rename replaces a folder that is missing or empty.
        if fs::rename(&self.folder, &self.destination).is_err() {
            let stale = stale_weights(&self.destination, files);
            for name in files {
                let to = self.destination.join(name);
                fs::rename(self.folder.join(name), &to).map_err(|source| io_error(&to, "rename", source))?;
            }
            for path in stale {
                fs::remove_file(&path).map_err(|source| io_error(&path, "remove", source))?;
            }
            sync_folder(&self.destination)?;
        }
        match self.destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
            _ => Ok(()),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone already if it was published whole. A failure here has nobody to go to, and the next save removes it.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Safetensors files of an earlier save that would be read instead of, or lie dead beside, the new ones.
fn stale_weights(destination: &Path, files: &[String]) -> Vec<PathBuf> {
    let shards = weight_map(&destination.join(SAFETENSORS_INDEX)).unwrap_or_default();
    let mut old: Vec<String> = shards.into_values().collect();
    old.extend([SAFETENSORS.to_string(), SAFETENSORS_INDEX.to_string()]);
    old.sort();
    old.dedup();
    old.retain(|name| !files.contains(name));
    old.into_iter().map(|name| destination.join(name)).filter(|path| path.exists()).collect()
}

fn sync(path: &Path) -> Result<(), ModelError> {
    fs::File::open(path).and_then(|file| file.sync_all()).map_err(|source| io_error(path, "flush", source))
}

/// Makes renames in a folder durable. Only Unix can open a folder to flush it; elsewhere the system's journal has to do.
fn sync_folder(folder: &Path) -> Result<(), ModelError> {
    if cfg!(unix) { sync(folder) } else { Ok(()) }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> ModelError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ModelError::NoSpace { path, source },
        _ => ModelError::Io { path, action, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_named_as_such() {
        let error = io_error(Path::new("m/model.safetensors"), "write", io::ErrorKind::StorageFull.into());
        assert!(matches!(error, ModelError::NoSpace { .. }));
        assert!(error.to_string().contains("m/model.safetensors"));
        let error = io_error(Path::new("m"), "write", io::ErrorKind::PermissionDenied.into());
        assert!(matches!(error, ModelError::Io { action: "write", .. }));
    }
}
