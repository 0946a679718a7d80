//! One safetensors file: its header is checked by the `safetensors` crate, its data stays in the mapping.

use std::path::PathBuf;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensorError, SafeTensors};
use statetune_ssm_kernels::runtime::MappedFile;
use statetune_tensor::DType;

use super::raw_tensor::RawTensor;
use crate::error::ModelError;

/// The tensors of `file`, with the file's own names, in the order of their bytes.
pub(super) fn read(path: &Arc<PathBuf>, file: &Arc<MappedFile>) -> Result<Vec<RawTensor>, ModelError> {
    let damaged = |reason: String| ModelError::DamagedFile { path: path.to_path_buf(), reason };
    let (header_len, header) = SafeTensors::read_metadata(file).map_err(|error| damaged(explain(error, file.len())))?;
    let data_at = header_len + size_of::<u64>();
    header
        .offset_keys()
        .into_iter()
        .map(|name| {
            let info = header.info(&name).ok_or_else(|| damaged(format!("its header lost tensor `{name}`")))?;
            let dtype = match info.dtype {
                Dtype::F32 => DType::F32,
                Dtype::F64 => DType::F64,
                Dtype::BF16 => DType::Bf16,
                Dtype::F16 => DType::F16,
                other => {
                    let (path, found) = (path.to_path_buf(), format!("{other:?}"));
                    return Err(ModelError::UnsupportedDtype { path, tensor: name, found });
                }
            };
            let (start, end) = info.data_offsets;
            let range = data_at.saturating_add(start)..data_at.saturating_add(end);
            RawTensor::mapped(name.clone(), dtype, info.shape.clone(), path, file, range)
                .ok_or_else(|| damaged(format!("the bytes of tensor `{name}` are not all in the file")))
        })
        .collect()
}

/// The crate's errors in words that say what happened to the file.
fn explain(error: SafeTensorError, len: usize) -> String {
    match error {
        SafeTensorError::HeaderTooSmall => format!("it has only {len} bytes"),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            format!("its {len} bytes do not hold the header they announce (truncated, or not a safetensors file)")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!("its header describes another amount of data than its {len} bytes hold (truncated?)")
        }
        other => other.to_string(),
    }
}
