//! Files of `torch.save`: a zip archive with a pickle that describes tensors and one entry of raw bytes per storage.
//!
//! The pickle is interpreted by [`pickle`], which runs no code of the file; the bytes stay where they are in the mapped
//! file. Files of the older, non-zip form are refused with the way out.

mod pickle;
mod zip;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use statetune_ssm_kernels::runtime::MappedFile;
use statetune_tensor::DType;

use super::raw_tensor::{RawTensor, byte_len};
use crate::error::ModelError;
use pickle::{StorageType, TensorView};

/// Why a file is not taken; becomes a [`ModelError`] once the path is known.
#[derive(Debug)]
enum Refusal {
    Damaged(String),
    Unsupported(String),
    Global(String),
    Dtype { tensor: String, found: &'static str },
}

impl Refusal {
    fn damaged(reason: impl Into<String>) -> Refusal {
        Refusal::Damaged(reason.into())
    }

    /// Says where in the file the damage is; the other reasons name what they are about.
    fn within(self, place: &str) -> Refusal {
        match self {
            Refusal::Damaged(reason) => Refusal::Damaged(format!("{place}: {reason}")),
            other => other,
        }
    }

    fn into_error(self, path: &Path) -> ModelError {
        let path = path.to_path_buf();
        match self {
            Refusal::Damaged(reason) => ModelError::DamagedFile { path, reason },
            Refusal::Unsupported(reason) => ModelError::UnsupportedFile { path, reason },
            Refusal::Global(global) => ModelError::ForbiddenGlobal { path, global },
            Refusal::Dtype { tensor, found } => ModelError::UnsupportedDtype { path, tensor, found: found.into() },
        }
    }
}

/// The tensors of the state dict in `file`, with the file's own names, in the file's order.
pub(super) fn read(path: &Arc<PathBuf>, file: &Arc<MappedFile>) -> Result<Vec<RawTensor>, ModelError> {
    tensors(path, file).map_err(|refusal| refusal.into_error(path))
}

fn tensors(path: &Arc<PathBuf>, file: &Arc<MappedFile>) -> Result<Vec<RawTensor>, Refusal> {
    if !file.starts_with(b"PK") {
        // Up to 1.5 torch wrote a bare sequence of pickles, which begins with the protocol opcode.
        return Err(if file.first() == Some(&0x80) {
            Refusal::Unsupported(
                "it is in the non-zip form of torch before 1.6; load and save it with a current torch, or convert it \
                 to safetensors"
                    .to_string(),
            )
        } else {
            Refusal::damaged("it does not begin as a zip archive")
        });
    }
    let entries = zip::entries(file)?;
    let mut pickles = entries.iter().filter(|(name, _)| *name == "data.pkl" || name.ends_with("/data.pkl"));
    let (Some((name, range)), None) = (pickles.next(), pickles.next()) else {
        return Err(Refusal::damaged("it is a zip archive, but not one torch.save wrote: no data.pkl, or several"));
    };
    let prefix = &name[..name.len() - "data.pkl".len()];
    if entries.get(&format!("{prefix}byteorder")).is_some_and(|order| &file[order.clone()] != b"little") {
        return Err(Refusal::Unsupported("its numbers are big-endian; save it on a little-endian machine".to_string()));
    }
    // Views that have to be copied may overlap; the copies together must not outgrow the file.
    let mut copy_budget = file.len();
    pickle::state_dict(&file[range.clone()])?
        .into_iter()
        .map(|(tensor, view)| {
            place(path, file, &entries, prefix, &tensor, view, &mut copy_budget)
                .map_err(|refusal| refusal.within(&format!("tensor `{tensor}`")))
        })
        .collect()
}

/// Finds the bytes of a view: a range of the file where it is contiguous, a gathered copy where it is not.
fn place(
    path: &Arc<PathBuf>,
    file: &Arc<MappedFile>,
    entries: &BTreeMap<String, Range<usize>>,
    prefix: &str,
    tensor: &str,
    view: TensorView,
    copy_budget: &mut usize,
) -> Result<RawTensor, Refusal> {
    let dtype = match view.storage.dtype {
        StorageType::Supported(dtype) => dtype,
        StorageType::Other(found) => return Err(Refusal::Dtype { tensor: tensor.to_string(), found }),
    };
    let entry = entries
        .get(&format!("{prefix}data/{}", view.storage.key))
        .ok_or_else(|| Refusal::damaged(format!("its storage `data/{}` is missing", view.storage.key)))?;
    if byte_len(dtype, &[view.storage.len]).is_none_or(|bytes| bytes > entry.len()) {
        let (len, found) = (view.storage.len, entry.len());
        return Err(Refusal::damaged(format!("its storage has {found} bytes, too few for {len} elements")));
    }
    let outside = || {
        let (shape, offset, len) = (&view.shape, view.offset, view.storage.len);
        Refusal::damaged(format!("shape {shape:?} at offset {offset} leaves its storage of {len} elements"))
    };
    let bytes = byte_len(dtype, &view.shape).ok_or_else(outside)?;
    let reach = if bytes == 0 { Some(0) } else { reach(&view) };
    if reach.is_none_or(|reach| reach > view.storage.len) {
        return Err(outside());
    }
    let contiguous = is_contiguous(&view);
    let TensorView { shape, strides, offset, .. } = view;
    let start = if bytes == 0 { entry.start } else { entry.start + offset * dtype.bytes() };
    let placed = if contiguous {
        RawTensor::mapped(tensor.to_string(), dtype, shape, path, file, start..start + bytes)
    } else {
        *copy_budget = copy_budget.checked_sub(bytes).ok_or_else(|| {
            Refusal::Unsupported(format!("tensor `{tensor}` is an expanded view; save contiguous tensors"))
        })?;
        let gathered = gather(&file[start..entry.end], dtype, &shape, &strides, bytes);
        RawTensor::owned(tensor.to_string(), dtype, shape, path, gathered)
    };
    placed.ok_or_else(|| Refusal::damaged("its bytes are not all in the file"))
}

/// One past the last element that a view with elements touches, `None` on overflow.
fn reach(view: &TensorView) -> Option<usize> {
    view.shape
        .iter()
        .zip(&view.strides)
        .try_fold(view.offset, |last, (size, stride)| last.checked_add((size - 1).checked_mul(*stride)?))?
        .checked_add(1)
}

/// Row-major without gaps. The stride of a dimension of size one is never used, and torch leaves it arbitrary.
fn is_contiguous(view: &TensorView) -> bool {
    let mut expected = 1;
    view.shape.contains(&0)
        || view.shape.iter().zip(&view.strides).rev().filter(|(size, _)| **size != 1).all(|(size, stride)| {
            let matches = *stride == expected;
            expected *= size;
            matches
        })
}

/// Copies a strided view row-major. `storage` starts at the view's first element and holds all that it reaches.
fn gather(storage: &[u8], dtype: DType, shape: &[usize], strides: &[usize], bytes: usize) -> Vec<u8> {
    let width = dtype.bytes();
    let mut gathered = Vec::with_capacity(bytes);
    let mut index = vec![0; shape.len()];
    let mut element = 0;
    while gathered.len() < bytes {
        gathered.extend_from_slice(&storage[element * width..][..width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            element += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            element -= shape[axis] * strides[axis];
            index[axis] = 0;
        }
    }
    gathered
}
