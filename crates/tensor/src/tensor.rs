//! The tensor: contiguous, row-major, immutable, cheap to clone.

use half::{bf16, f16};
use ndarray::{ArcArray, Array, Axis, IxDyn};

use crate::{DType, Device, Element, Result, TensorError};

/// A contiguous row-major array. Clones share the values; nobody sees them change.
#[derive(Debug, Clone)]
pub struct Tensor(pub(crate) Storage);

/// The values, by element type.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    F32(ArcArray<f32, IxDyn>),
    F64(ArcArray<f64, IxDyn>),
    Bf16(ArcArray<bf16, IxDyn>),
    F16(ArcArray<f16, IxDyn>),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::DeviceTensor),
}

/// What to do with host values, and what with a tensor of a device.
macro_rules! each {
    ($tensor:expr, $values:ident => $body:expr, $device:ident => $on_device:expr) => {
        match &$tensor.0 {
            Storage::F32($values) => $body,
            Storage::F64($values) => $body,
            Storage::Bf16($values) => $body,
            Storage::F16($values) => $body,
            #[cfg(feature = "cuda")]
            Storage::Cuda($device) => $on_device,
        }
    };
}

impl Tensor {
    /// A tensor over `values`.
    ///
    /// # Errors
    /// When the shape does not hold as many elements.
    pub fn from_vec<E: Element>(values: Vec<E>, shape: &[usize]) -> Result<Tensor> {
        let found = values.len();
        let array = Array::from_shape_vec(IxDyn(shape), values)
            .map_err(|_| TensorError::shape("tensor", "value list", format!("{shape:?}"), &[found]))?;
        Ok(E::wrap(array.into_shared()))
    }

    /// Zeros.
    pub fn zeros(dtype: DType, shape: &[usize]) -> Tensor {
        match dtype {
            DType::F32 => f32::wrap(ArcArray::zeros(IxDyn(shape))),
            DType::F64 => f64::wrap(ArcArray::zeros(IxDyn(shape))),
            DType::Bf16 => bf16::wrap(ArcArray::from_elem(IxDyn(shape), bf16::ZERO)),
            DType::F16 => f16::wrap(ArcArray::from_elem(IxDyn(shape), f16::ZERO)),
        }
    }

    /// One number, shape `[]`.
    pub fn scalar<E: Element>(value: E) -> Tensor {
        E::wrap(ArcArray::from_elem(IxDyn(&[]), value))
    }

    /// The size along each axis.
    pub fn shape(&self) -> &[usize] {
        each!(self, values => values.shape(), device => device.shape())
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        each!(self, values => values.len(), device => device.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        match self.0 {
            Storage::F32(_) => DType::F32,
            Storage::F64(_) => DType::F64,
            Storage::Bf16(_) => DType::Bf16,
            Storage::F16(_) => DType::F16,
            #[cfg(feature = "cuda")]
            Storage::Cuda(ref tensor) => tensor.dtype(),
        }
    }

    /// The values in row-major order.
    ///
    /// # Errors
    /// When the element type is another, or the values are on a device.
    pub fn as_slice<E: Element>(&self) -> Result<&[E]> {
        let values = E::unwrap(self).ok_or_else(|| self.wrong_dtype(E::DTYPE))?;
        Ok(values.as_slice().expect("tensors are contiguous"))
    }

    /// The values, to be changed in place: copied first if a clone shares them.
    ///
    /// # Errors
    /// When the element type is another.
    pub fn make_mut<E: Element>(&mut self) -> Result<&mut [E]> {
        let error = self.wrong_dtype(E::DTYPE);
        let values = E::unwrap_mut(self).ok_or(error)?;
        Ok(values.as_slice_mut().expect("tensors are contiguous"))
    }

    fn wrong_dtype(&self, expected: DType) -> TensorError {
        if !self.is_on_host() {
            let what = format!("tensor {:?}", self.shape());
            return TensorError::Device { what, found: self.place(), expected: "the host".into() };
        }
        TensorError::DType { what: format!("tensor {:?}", self.shape()), expected, found: self.dtype() }
    }

    /// Whether the values are in the memory of the host.
    pub fn is_on_host(&self) -> bool {
        each!(self, _values => true, _device => false)
    }

    /// Where the values are, for errors.
    pub(crate) fn place(&self) -> String {
        each!(self, _values => "the host".to_owned(), device => format!("{:?}", device.cuda()))
    }

    /// The same values in the memory of the host: itself where they are there.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_host(&self) -> Result<Tensor> {
        each!(self, _values => Ok(self.clone()), device => device.to_host())
    }

    /// The same values where `device` computes: itself where they are there.
    ///
    /// # Errors
    /// When a device fails, or its memory does not suffice.
    pub fn to(&self, device: &Device) -> Result<Tensor> {
        match device {
            Device::Cpu(_) => self.to_host(),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => self.to_cuda(cuda),
        }
    }

    /// A tensor that shares memory with no other: on the host a clone, which is copied before it changes; on a device a copy.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn copied(&self) -> Result<Tensor> {
        each!(self, _values => Ok(self.clone()), device => Ok(device.copied()?.into()))
    }

    /// Takes another tensor's values: by sharing them on the host, in place on a device.
    pub(crate) fn overwrite(&mut self, value: &Tensor) -> Result<()> {
        let values = each!(self, _values => value.to_host()?, device => return device.overwrite(value));
        *self = values;
        Ok(())
    }

    /// Rows along the first axis, in this order; one may be taken more than once.
    ///
    /// # Errors
    /// When a device's memory does not suffice.
    ///
    /// # Panics
    /// When there is no such row.
    #[track_caller]
    pub fn take_rows(&self, rows: &[usize]) -> Result<Tensor> {
        each!(self,
            values => Ok(Element::wrap(values.select(Axis(0), rows).into_shared())),
            device => Ok(device.take_rows(rows)?.into())
        )
    }

    /// Tensors one after the other along the first axis.
    ///
    /// # Errors
    /// When they differ in type, in another axis or in where they are, or a device's memory does not suffice.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn stacked(parts: &[Tensor]) -> Result<Tensor> {
        fn join<E: Element>(_like: &ArcArray<E, IxDyn>, parts: &[Tensor], shape: &[usize]) -> Result<Tensor> {
            let mut values = Vec::with_capacity(shape.iter().product());
            for part in parts {
                values.extend_from_slice(part.as_slice::<E>()?);
            }
            Tensor::from_vec(values, shape)
        }
        let mut shape = parts[0].shape().to_vec();
        if let Some(other) = parts.iter().find(|part| part.shape()[1..] != shape[1..]) {
            return Err(TensorError::shape("stacked", "a part", format!("[.., {:?}]", &shape[1..]), other.shape()));
        }
        shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
        each!(parts[0], values => join(values, parts, &shape), device => {
            let parts = parts.iter().map(|part| part.on_cuda(device.cuda())).collect::<Result<Vec<_>>>()?;
            Ok(crate::cuda::DeviceTensor::stacked(&parts)?.into())
        })
    }

    /// The values as `f64`, whatever the element type.
    ///
    /// # Panics
    /// When they are on a device that fails.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        let host = self.to_host().unwrap_or_else(|error| panic!("{error}"));
        each!(host, values => values.iter().map(|&x| Element::to_f64(x)).collect(), _device => unreachable!("on the host"))
    }

    /// The place of the largest value of each row of a matrix; the first of equals.
    ///
    /// # Errors
    /// When it is no matrix, or on a device that fails.
    pub fn argmax_rows(&self) -> Result<Vec<u32>> {
        let (_, columns) = self.matrix_shape("argmax", "input")?;
        let first = |row: &[f64]| (1..columns).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32;
        let on_host = |tensor: &Tensor| tensor.to_f64_vec().chunks(columns.max(1)).map(first).collect();
        each!(self, _values => Ok(on_host(self)), device => device.argmax_rows())
    }

    /// The values as bytes, little-endian, in row-major order: what files hold.
    ///
    /// # Panics
    /// When they are on a device that fails.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        let host = self.to_host().unwrap_or_else(|error| panic!("{error}"));
        each!(
            host,
            values => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            _device => unreachable!("on the host")
        )
    }

    /// The only element.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn item(&self) -> Result<f64> {
        if self.len() != 1 {
            return Err(TensorError::shape("item", "tensor", "one element", self.shape()));
        }
        Ok(self.to_host()?.to_f64_vec()[0])
    }

    /// The values in another element type (the tensor itself when it has it already).
    ///
    /// # Panics
    /// When they are on a device whose memory does not suffice.
    pub fn cast(&self, dtype: DType) -> Tensor {
        fn convert<E: Element>(tensor: &Tensor) -> Tensor {
            each!(
                tensor,
                values => E::wrap(values.mapv(|x| E::from_f64(Element::to_f64(x))).into_shared()),
                device => device.cast(E::DTYPE).unwrap_or_else(|error| panic!("{error}")).into()
            )
        }
        if dtype == self.dtype() {
            return self.clone();
        }
        match dtype {
            DType::F32 => convert::<f32>(self),
            DType::F64 => convert::<f64>(self),
            DType::Bf16 => convert::<bf16>(self),
            DType::F16 => convert::<f16>(self),
        }
    }

    /// The same values under another shape, shared.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        fn apply<E: Element>(values: &ArcArray<E, IxDyn>, shape: &[usize]) -> Option<Tensor> {
            values.clone().into_shape_with_order(IxDyn(shape)).ok().map(E::wrap)
        }
        each!(self, values => apply(values, shape), device => return Ok(device.reshape(shape)?.into()))
            .ok_or_else(|| TensorError::shape("reshape", "tensor", format!("{shape:?}"), self.shape()))
    }

    /// The two sizes of a matrix.
    ///
    /// # Errors
    /// When the tensor has another number of axes.
    pub fn matrix_shape(&self, op: &'static str, what: &'static str) -> Result<(usize, usize)> {
        match *self.shape() {
            [rows, columns] => Ok((rows, columns)),
            _ => Err(TensorError::shape(op, what, "a matrix", self.shape())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_checked() {
        assert!(Tensor::from_vec(vec![1f32; 6], &[2, 3]).is_ok());
        assert!(Tensor::from_vec(vec![1f32; 6], &[2, 2]).is_err());
        let t = Tensor::from_vec(vec![1f32, 2., 3., 4.], &[4]).unwrap();
        assert_eq!(t.reshape(&[2, 2]).unwrap().shape(), [2, 2]);
        assert!(t.reshape(&[3]).is_err());
        assert!(t.as_slice::<f64>().is_err());
    }

    #[test]
    fn make_mut_copies_only_when_shared() {
        let mut t = Tensor::from_vec(vec![1f32, 2.], &[2]).unwrap();
        let before = t.as_slice::<f32>().unwrap().as_ptr();
        t.make_mut::<f32>().unwrap()[0] = 5.0;
        assert_eq!(t.as_slice::<f32>().unwrap().as_ptr(), before);
        let other = t.clone();
        t.make_mut::<f32>().unwrap()[0] = 7.0;
        assert_eq!(other.as_slice::<f32>().unwrap(), [5.0, 2.0]);
    }

    #[test]
    fn casts_round() {
        let t = Tensor::from_vec(vec![1.0f32, 1.0 + 1.0 / 512.0], &[2]).unwrap();
        assert_eq!(t.cast(DType::Bf16).to_f64_vec(), [1.0, 1.0]);
        assert_eq!(t.cast(DType::F64).to_f64_vec(), [1.0, 1.0 + 1.0 / 512.0]);
    }
}
