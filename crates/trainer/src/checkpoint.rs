//! Checkpoints: all that a run needs to go on as if it had not stopped.
//!
//! A checkpoint is a folder `step-<n>` with the adapter's two files and `trainer_state.bin`: magic, version, checksum,
//! then bincode. It is written beside under another name, flushed, and renamed, and renamed again before it is removed:
//! a folder of that name is whole.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use statetune_datasets_eval::Dataset;
use statetune_mamba_model::Mamba;
use statetune_peft_methods::Adapter;
use statetune_peft_methods::adapter::ADAPTER_WEIGHTS;
use statetune_tensor::{DType, Tensor};

use crate::error::io_error;
use crate::{AdamW, TrainError};

const STATE_FILE: &str = "trainer_state.bin";
const MAGIC: &[u8; 8] = b"STTUNECK";
const VERSION: u32 = 2;
const PREFIX: &str = "step-";
const WRITING: &str = ".writing-";
const REMOVING: &str = ".removing-";

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Default, bincode::Encode, bincode::Decode)]
pub struct Progress {
    /// Steps done, skipped ones included.
    pub step: u64,
    /// Steps in a row that were skipped because of a number that is not finite.
    pub non_finite_in_a_row: u32,
    /// All steps that were skipped.
    pub skipped_steps: u64,
    /// The best value of the metric so far, and its step.
    pub best: Option<(f64, u64)>,
    /// Evaluations since then.
    pub evaluations_without_gain: u32,
    /// Sum of the losses since the last logged line, and how many they are.
    pub loss_since_log: (f64, u64),
    /// Seconds of training before this checkpoint.
    pub seconds: f64,
    /// Tokens computed before this checkpoint.
    pub tokens: u64,
    /// The [`fingerprint`] of what the run trains on.
    pub inputs: u64,
}

#[derive(bincode::Encode, bincode::Decode)]
struct Snapshot {
    progress: Progress,
    updates: u64,
    double: bool,
    moments: Vec<Moments>,
    /// Checksum of the trained tensors, which are in a file of their own.
    adapter: u64,
}

#[derive(bincode::Encode, bincode::Decode)]
struct Moments {
    name: String,
    shape: Vec<usize>,
    first: Vec<u8>,
    second: Vec<u8>,
}

/// Writes `folder/step-<n>` and removes all but the newest `keep` checkpoints.
///
/// # Errors
/// The system refuses (a full disk): older checkpoints are then untouched.
pub fn save(
    folder: &Path,
    adapter: &Adapter,
    base_model: &str,
    optimizer: &AdamW,
    progress: &Progress,
    keep: usize,
) -> Result<PathBuf, TrainError> {
    fs::create_dir_all(folder).map_err(|source| io_error(folder, "create", source))?;
    let target = folder.join(format!("{PREFIX}{:08}", progress.step));
    let staging = folder.join(format!("{WRITING}{:08}", progress.step));
    sweep(folder)?;
    let written = write_folder(&staging, adapter, base_model, optimizer, progress).and_then(|()| {
        if target.exists() {
            remove(&target)?;
        }
        fs::rename(&staging, &target).map_err(|source| io_error(&target, "rename into place", source))
    });
    if let Err(error) = written {
        // The half-written folder is of no use to anyone; the error that matters is the first.
        let _ = fs::remove_dir_all(&staging);
        return Err(error);
    }
    let all = list(folder)?;
    for (_, old) in &all[..all.len().saturating_sub(keep.max(1))] {
        remove(old)?;
    }
    Ok(target)
}

/// Removes a checkpoint, under another name so that no part of it is ever taken for a whole one.
fn remove(checkpoint: &Path) -> Result<(), TrainError> {
    let name = checkpoint.file_name().unwrap_or_default().to_string_lossy();
    let doomed = checkpoint.with_file_name(format!("{REMOVING}{name}"));
    fs::rename(checkpoint, &doomed)
        .and_then(|()| fs::remove_dir_all(&doomed))
        .map_err(|source| io_error(checkpoint, "remove", source))
}

/// Removes what a run that was killed in the middle of [`save`] has left.
fn sweep(folder: &Path) -> Result<(), TrainError> {
    let entries = fs::read_dir(folder).map_err(|source| io_error(folder, "read", source))?;
    for entry in entries {
        let path = entry.map_err(|source| io_error(folder, "read", source))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(WRITING) || name.starts_with(REMOVING) {
            fs::remove_dir_all(&path).map_err(|source| io_error(&path, "remove", source))?;
        }
    }
    Ok(())
}

fn write_folder(
    folder: &Path,
    adapter: &Adapter,
    base_model: &str,
    optimizer: &AdamW,
    progress: &Progress,
) -> Result<(), TrainError> {
    adapter.save(folder, base_model)?;
    let tensors = adapter.patches().tensors().iter().zip(optimizer.moments());
    let snapshot = Snapshot {
        progress: progress.clone(),
        updates: optimizer.updates(),
        double: tensors.clone().any(|(tensor, _)| tensor.buffer.dtype() == DType::F64),
        moments: tensors
            .map(|(tensor, (first, second))| Moments {
                name: tensor.name.clone(),
                shape: first.shape().to_vec(),
                first: first.to_le_bytes(),
                second: second.to_le_bytes(),
            })
            .collect(),
        adapter: checksum_of_tensors(adapter),
    };
    let path = folder.join(STATE_FILE);
    let body = bincode::encode_to_vec(&snapshot, bincode::config::standard())
        .map_err(|error| TrainError::Checkpoint { path: path.clone(), reason: error.to_string() })?;
    let write = || {
        let mut file = fs::File::create(&path)?;
        file.write_all(MAGIC)?;
        file.write_all(&VERSION.to_le_bytes())?;
        file.write_all(&checksum(CHECKSUM_START, &body).to_le_bytes())?;
        file.write_all(&body)?;
        file.sync_all()
    };
    write().map_err(|source| io_error(&path, "write", source))
}

/// The whole checkpoints in a folder, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, TrainError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(|source| io_error(folder, "read", source))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io_error(folder, "read", source))?;
        let name = entry.file_name();
        if let Some(step) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok()) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a checkpoint folder: the adapter, the optimiser's state put into `optimizer`, and where the run was.
///
/// # Errors
/// A file is missing, damaged, of another version, or of another model or method.
pub fn load(
    folder: &Path,
    model: &Mamba,
    new_optimizer: impl Fn(&Adapter) -> AdamW,
) -> Result<(Adapter, AdamW, Progress), TrainError> {
    let adapter = Adapter::load(folder, model)?.adapter;
    let path = folder.join(STATE_FILE);
    let fail = |reason: &str| TrainError::Checkpoint { path: path.clone(), reason: reason.to_owned() };
    let bytes = fs::read(&path).map_err(|source| io_error(&path, "read", source))?;
    let header = MAGIC.len() + 4 + 8;
    if bytes.len() < header || &bytes[..MAGIC.len()] != MAGIC {
        return Err(fail("not a trainer state, or cut off"));
    }
    let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(fail(&format!("version {version}; this program reads version {VERSION}")));
    }
    let sum = u64::from_le_bytes(bytes[12..20].try_into().expect("eight bytes"));
    if sum != checksum(CHECKSUM_START, &bytes[header..]) {
        return Err(fail("damaged or incomplete (the checksum differs)"));
    }
    let (snapshot, _): (Snapshot, usize) = bincode::decode_from_slice(&bytes[header..], bincode::config::standard())
        .map_err(|error| fail(&error.to_string()))?;
    if snapshot.adapter != checksum_of_tensors(&adapter) {
        let reason = "damaged: its tensors are not those that were saved (the checksum differs)".to_owned();
        return Err(TrainError::Checkpoint { path: folder.join(ADAPTER_WEIGHTS), reason });
    }
    let mut optimizer = new_optimizer(&adapter);
    let mut moments = Vec::new();
    for (tensor, saved) in adapter.patches().tensors().iter().zip(&snapshot.moments) {
        if tensor.name != saved.name {
            return Err(fail(&format!("moments of `{}`, expected `{}`", saved.name, tensor.name)));
        }
        let read = |bytes: &[u8]| -> Result<Tensor, TrainError> {
            Ok(if snapshot.double {
                let values = bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().expect("eight"))).collect();
                Tensor::from_vec(values, &saved.shape)?
            } else {
                let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four"))).collect();
                Tensor::from_vec(values, &saved.shape)?
            })
        };
        moments.push((read(&saved.first)?, read(&saved.second)?));
    }
    optimizer.restore(snapshot.updates, moments).map_err(|reason| fail(&reason))?;
    Ok((adapter, optimizer, snapshot.progress))
}

/// Of the base model's weights and the training examples: a run that goes on with others is another run.
pub fn fingerprint(model: &Mamba, train: &Dataset) -> u64 {
    let weights = model.parameters().iter();
    let hash = weights.fold(CHECKSUM_START, |hash, parameter| checksum(hash, &parameter.value.to_le_bytes()));
    train.examples.iter().fold(hash, |hash, example| {
        let numbers = [example.id, example.labelled_from as u64, example.class.map_or(u64::MAX, |class| class as u64)];
        let words = numbers.into_iter().flat_map(u64::to_le_bytes);
        let tokens = example.tokens.iter().flat_map(|token| token.to_le_bytes());
        checksum(hash, &words.chain(tokens).collect::<Vec<u8>>())
    })
}

const CHECKSUM_START: u64 = 0xcbf2_9ce4_8422_2325;

/// 64-bit FNV-1a over words of eight bytes, carried on from `hash`: enough to notice a damaged file.
fn checksum(hash: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(hash, |hash: u64, chunk| {
        let mut word = [0u8; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        (hash ^ u64::from_le_bytes(word) ^ chunk.len() as u64).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn checksum_of_tensors(adapter: &Adapter) -> u64 {
    let tensors = adapter.patches().tensors().iter();
    tensors.fold(CHECKSUM_START, |hash, tensor| checksum(hash, &tensor.buffer.tensor().to_le_bytes()))
}
