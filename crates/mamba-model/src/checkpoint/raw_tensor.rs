//! One tensor of a checkpoint as it is stored: dtype, shape, and little-endian bytes in a mapped file.
//!
//! Conversions copy into a vector of the wanted type; nothing else here touches the values.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::{bf16, f16};
use statetune_ssm_kernels::runtime::MappedFile;
use statetune_tensor::DType;

use crate::error::ModelError;

/// Where the bytes of a tensor lie.
#[derive(Debug, Clone)]
enum Bytes {
    Mapped { file: Arc<MappedFile>, range: Range<usize> },
    Owned(Arc<[u8]>),
}

/// A tensor as it is stored. Cheap to clone: clones share the bytes.
#[derive(Debug, Clone)]
pub struct RawTensor {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    path: Arc<PathBuf>,
    bytes: Bytes,
}

impl RawTensor {
    /// A tensor over `range` of a mapped file, `None` when the range is not in the file or does not fit the shape.
    pub(super) fn mapped(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        path: &Arc<PathBuf>,
        file: &Arc<MappedFile>,
        range: Range<usize>,
    ) -> Option<RawTensor> {
        let fits = file.get(range.clone())?.len() == byte_len(dtype, &shape)?;
        let bytes = Bytes::Mapped { file: file.clone(), range };
        fits.then(|| RawTensor { name, dtype, shape, path: path.clone(), bytes })
    }

    /// A tensor whose bytes were gathered from a strided view, `None` when they do not fit the shape.
    pub(super) fn owned(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        path: &Arc<PathBuf>,
        bytes: Vec<u8>,
    ) -> Option<RawTensor> {
        let fits = bytes.len() == byte_len(dtype, &shape)?;
        fits.then(|| RawTensor { name, dtype, shape, path: path.clone(), bytes: Bytes::Owned(bytes.into()) })
    }

    pub(super) fn renamed(self, name: String) -> RawTensor {
        RawTensor { name, ..self }
    }

    /// The name in the Hugging Face scheme, whatever the file's own.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stored element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape; row-major.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.bytes().len() / self.dtype.bytes()
    }

    /// The stored bytes, little-endian, row-major; in the page cache, not on the heap. Not aligned.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            // `mapped` has checked the range; a mapping never changes its length.
            Bytes::Mapped { file, range } => &file[range.clone()],
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Whether two tensors are one and the same storage, as tied weights in a torch file are.
    pub fn shares_storage(&self, other: &RawTensor) -> bool {
        self.bytes().as_ptr() == other.bytes().as_ptr() && self.bytes().len() == other.bytes().len()
    }

    /// One element, widened.
    ///
    /// # Panics
    /// When `index` is not below [`elements`](RawTensor::elements).
    pub fn value(&self, index: usize) -> f64 {
        let bytes = self.bytes();
        match self.dtype {
            DType::F32 => f64::from(f32::from_le_bytes(element(bytes, index))),
            DType::F64 => f64::from_le_bytes(element(bytes, index)),
            DType::Bf16 => bf16::from_le_bytes(element(bytes, index)).to_f64(),
            DType::F16 => f16::from_le_bytes(element(bytes, index)).to_f64(),
        }
    }

    /// All elements as `f32`.
    ///
    /// # Errors
    /// [`ModelError::WeightOverflow`] when a finite `f64` is too large.
    pub fn to_f32(&self) -> Result<Vec<f32>, ModelError> {
        let bytes = self.bytes();
        match self.dtype {
            DType::F32 => Ok(decoded(bytes, f32::from_le_bytes)),
            DType::Bf16 => Ok(decoded(bytes, |b| bf16::from_le_bytes(b).to_f32())),
            DType::F16 => Ok(decoded(bytes, |b| f16::from_le_bytes(b).to_f32())),
            DType::F64 => self.narrowed(decoded(bytes, |b| f64::from_le_bytes(b) as f32), |x| x.is_infinite(), "f32"),
        }
    }

    /// All elements as `f64`; exact.
    pub fn to_f64(&self) -> Vec<f64> {
        let bytes = self.bytes();
        match self.dtype {
            DType::F32 => decoded(bytes, |b| f64::from(f32::from_le_bytes(b))),
            DType::F64 => decoded(bytes, f64::from_le_bytes),
            DType::Bf16 => decoded(bytes, |b| bf16::from_le_bytes(b).to_f64()),
            DType::F16 => decoded(bytes, |b| f16::from_le_bytes(b).to_f64()),
        }
    }

    /// All elements as `bf16`, rounded to nearest even.
    ///
    /// # Errors
    /// [`ModelError::WeightOverflow`] when a finite value is too large.
    pub fn to_bf16(&self) -> Result<Vec<bf16>, ModelError> {
        let bytes = self.bytes();
        let values = match self.dtype {
            DType::Bf16 => return Ok(decoded(bytes, bf16::from_le_bytes)),
            DType::F32 => decoded(bytes, |b| bf16::from_f32(f32::from_le_bytes(b))),
            DType::F64 => decoded(bytes, |b| bf16::from_f64(f64::from_le_bytes(b))),
            DType::F16 => decoded(bytes, |b| bf16::from_f32(f16::from_le_bytes(b).to_f32())),
        };
        self.narrowed(values, |x| x.is_infinite(), "bf16")
    }

    /// All elements as `f16`, rounded to nearest even.
    ///
    /// # Errors
    /// [`ModelError::WeightOverflow`] when a finite value is too large, which for `f16` means above 65504.
    pub fn to_f16(&self) -> Result<Vec<f16>, ModelError> {
        let bytes = self.bytes();
        let values = match self.dtype {
            DType::F16 => return Ok(decoded(bytes, f16::from_le_bytes)),
            DType::F32 => decoded(bytes, |b| f16::from_f32(f32::from_le_bytes(b))),
            DType::F64 => decoded(bytes, |b| f16::from_f64(f64::from_le_bytes(b))),
            DType::Bf16 => decoded(bytes, |b| f16::from_f32(bf16::from_le_bytes(b).to_f32())),
        };
        self.narrowed(values, |x| x.is_infinite(), "f16")
    }

    /// Refuses NaN and infinity.
    ///
    /// # Errors
    /// [`ModelError::NonFiniteWeight`] with the first such element.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        let bytes = self.bytes();
        let index = match self.dtype {
            DType::F32 => first(bytes, |b| u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000),
            DType::F64 => first(bytes, |b| u64::from_le_bytes(b) & 0x7ff0_0000_0000_0000 == 0x7ff0_0000_0000_0000),
            DType::Bf16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7f80 == 0x7f80),
            DType::F16 => first(bytes, |b| u16::from_le_bytes(b) & 0x7c00 == 0x7c00),
        };
        let Some(index) = index else { return Ok(()) };
        let value = self.value(index);
        Err(ModelError::NonFiniteWeight { path: self.path.to_path_buf(), tensor: self.name.clone(), index, value })
    }

    /// Passes on what was rounded unless a finite value became infinite.
    fn narrowed<T>(
        &self,
        values: Vec<T>,
        infinite: impl Fn(&T) -> bool,
        dtype: &'static str,
    ) -> Result<Vec<T>, ModelError> {
        let overflow = values.iter().enumerate().find(|(i, x)| infinite(x) && self.value(*i).is_finite());
        let Some((index, _)) = overflow else { return Ok(values) };
        let (path, tensor, value) = (self.path.to_path_buf(), self.name.clone(), self.value(index));
        Err(ModelError::WeightOverflow { path, tensor, index, value, dtype })
    }
}

/// Bytes of a tensor of this shape, `None` on overflow.
pub(super) fn byte_len(dtype: DType, shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(dtype.bytes(), |product, &size| product.checked_mul(size))
}

fn element<const N: usize>(bytes: &[u8], index: usize) -> [u8; N] {
    bytes.as_chunks().0[index]
}

fn decoded<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks().0.iter().map(|&chunk| decode(chunk)).collect()
}

/// The first element with the property. Blocks are tested without leaving early, so that the test vectorises.
fn first<const N: usize>(bytes: &[u8], property: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 4096;
    let elements = bytes.as_chunks().0;
    let block = elements.chunks(BLOCK).position(|block| block.iter().fold(false, |any, &x| any | property(x)))?;
    elements[block * BLOCK..].iter().position(|&x| property(x)).map(|offset| block * BLOCK + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(dtype: DType, bytes: Vec<u8>) -> RawTensor {
        let shape = vec![bytes.len() / dtype.bytes()];
        RawTensor::owned("w".into(), dtype, shape, &Arc::new(PathBuf::from("model.safetensors")), bytes).unwrap()
    }

    #[test]
    fn conversions_agree_over_all_dtypes() {
        let values = [0.0f32, -1.5, 0.015625, 200.0];
        let of = [
            tensor(DType::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            tensor(DType::F64, values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect()),
            tensor(DType::Bf16, values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
            tensor(DType::F16, values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()),
        ];
        for tensor in of {
            assert_eq!(tensor.elements(), 4);
            assert_eq!(tensor.to_f32().unwrap(), values);
            assert_eq!(tensor.to_f64(), values.map(f64::from));
            assert_eq!(tensor.to_bf16().unwrap(), values.map(bf16::from_f32));
            assert_eq!(tensor.to_f16().unwrap(), values.map(f16::from_f32));
            assert_eq!(tensor.value(3), 200.0);
            tensor.check_finite().unwrap();
        }
    }

    #[test]
    fn overflow_in_a_narrower_type_is_an_error() {
        let wide = tensor(DType::F64, [1.0, 1e300f64].iter().flat_map(|x| x.to_le_bytes()).collect());
        let message = wide.to_f32().unwrap_err().to_string();
        assert!(message.contains("`w`") && message.contains("1e300") && message.contains("element 1"), "{message}");
        let large = tensor(DType::F32, 1e5f32.to_le_bytes().to_vec());
        assert!(large.to_f16().is_err());
        assert!(large.to_bf16().is_ok());
        let infinite = tensor(DType::F32, f32::INFINITY.to_le_bytes().to_vec());
        assert_eq!(infinite.to_f16().unwrap(), [f16::INFINITY]);
    }

    #[test]
    fn the_first_non_finite_element_is_named() {
        for (at, bad) in [(0, f32::NAN), (4095, f32::INFINITY), (4096, f32::NEG_INFINITY), (9998, f32::NAN)] {
            let mut values = vec![f32::MAX; 10_000];
            values[at] = bad;
            values[9999] = f32::NAN;
            let of_f32 = tensor(DType::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect());
            let of_f64 = tensor(DType::F64, values.iter().flat_map(|x| f64::from(*x).to_le_bytes()).collect());
            for error in [of_f32.check_finite().unwrap_err(), of_f64.check_finite().unwrap_err()] {
                assert!(matches!(error, ModelError::NonFiniteWeight { index, .. } if index == at), "{error}");
            }
        }
        let half = tensor(DType::F16, [f16::MAX, f16::NAN].iter().flat_map(|x| x.to_le_bytes()).collect());
        assert!(half.check_finite().is_err());
        let brain = tensor(DType::Bf16, [bf16::MAX, bf16::INFINITY].iter().flat_map(|x| x.to_le_bytes()).collect());
        assert!(brain.check_finite().is_err());
    }
}
