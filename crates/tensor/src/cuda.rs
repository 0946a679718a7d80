//! Tensors in the memory of a CUDA device.
//!
//! Unlike those of the host, a matrix here may be a range of columns of a wider one: what `linear` cuts into parts, so that
//! one product serves all of them. Operations that cannot read such a matrix ask for [`DeviceTensor::dense`].

mod gradient;
mod packed;

use std::sync::{Arc, Weak};

use statetune_ssm_kernels::columns::cuda as kernel;
use statetune_ssm_kernels::runtime::cuda::{Array, Cuda, ElementType, HostElement, Matrix, View};

pub use gradient::GradientPlace;
pub(crate) use packed::packed_factors;

use crate::tensor::Storage;
use crate::{DType, Device, Element, Result, Tensor, TensorError};

/// Numbers on a device, with a shape.
#[derive(Debug, Clone)]
pub struct DeviceTensor {
    array: Arc<Array>,
    start: usize,
    stride: usize, // elements from one row to the next, of a matrix
    shape: Vec<usize>,
    dtype: DType,
    recipe: Option<Recipe>,
    siblings: Option<Arc<gradient::Siblings>>, // of columns: see `gradient`
    packed: Option<Arc<packed::PackedFactor>>, // of a low-rank factor: see `packed`
}

/// How to make a tensor again from what is kept anyway, so that whoever needs it later need not keep it.
#[derive(Clone)]
pub struct Recipe {
    // The tensor itself, as long as somebody else keeps its array.
    array: Weak<Array>,
    start: usize,
    stride: usize,
    shape: Vec<usize>,
    dtype: DType,
    again: Arc<dyn Fn() -> Result<DeviceTensor> + Send + Sync>,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("recipe")
    }
}

impl Recipe {
    /// The tensor: as somebody else has kept it, or made again with the same bits.
    ///
    /// # Errors
    /// When the device fails.
    pub fn make(&self) -> Result<DeviceTensor> {
        let Some(array) = self.array.upgrade() else { return (self.again)() };
        let (start, stride, shape, dtype) = (self.start, self.stride, self.shape.clone(), self.dtype);
        Ok(DeviceTensor { array, start, stride, shape, dtype, recipe: None, siblings: None, packed: None })
    }
}

/// The device's name of an element type.
pub fn element_of(dtype: DType) -> ElementType {
    match dtype {
        DType::F32 => ElementType::F32,
        DType::F64 => ElementType::F64,
        DType::Bf16 => ElementType::Bf16,
        DType::F16 => ElementType::F16,
    }
}

impl DeviceTensor {
    /// All of an array, of this shape.
    ///
    /// # Panics
    /// When the array has another number of elements, or holds no numbers.
    #[track_caller]
    pub fn new(array: Array, shape: &[usize]) -> DeviceTensor {
        assert_eq!(array.len(), shape.iter().product::<usize>(), "an array of another size than {shape:?}");
        let dtype = match array.element() {
            ElementType::F32 => DType::F32,
            ElementType::F64 => DType::F64,
            ElementType::Bf16 => DType::Bf16,
            ElementType::F16 => DType::F16,
            other => panic!("{other:?} is no tensor's element type"),
        };
        let stride = shape.last().copied().unwrap_or(1);
        DeviceTensor {
            array: Arc::new(array),
            start: 0,
            stride,
            shape: shape.to_vec(),
            dtype,
            recipe: None,
            siblings: None,
            packed: None,
        }
    }

    /// A tensor whose values are not set yet.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn unset(cuda: &Cuda, dtype: DType, shape: &[usize]) -> Result<DeviceTensor> {
        Ok(DeviceTensor::new(cuda.array(element_of(dtype), shape.iter().product())?, shape))
    }

    /// Zeros.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn zeros(cuda: &Cuda, dtype: DType, shape: &[usize]) -> Result<DeviceTensor> {
        Ok(DeviceTensor::new(cuda.zeros(element_of(dtype), shape.iter().product())?, shape))
    }

    /// The same with how to make it again.
    pub fn with_recipe(self, again: impl Fn() -> Result<DeviceTensor> + Send + Sync + 'static) -> DeviceTensor {
        let recipe = Recipe {
            array: Arc::downgrade(&self.array),
            start: self.start,
            stride: self.stride,
            shape: self.shape.clone(),
            dtype: self.dtype,
            again: Arc::new(again),
        };
        DeviceTensor { recipe: Some(recipe), ..self }
    }

    /// How to make it again, if that is known.
    pub fn recipe(&self) -> Option<&Recipe> {
        self.recipe.as_ref()
    }

    /// The columns `columns` of this matrix, sharing its memory.
    ///
    /// # Panics
    /// When it is no matrix, or has not that many columns.
    #[track_caller]
    pub fn columns(&self, columns: std::ops::Range<usize>) -> DeviceTensor {
        let [rows, width] = self.shape[..] else { panic!("columns of {:?}", self.shape) };
        assert!(columns.start <= columns.end && columns.end <= width, "columns {columns:?} of {width}");
        DeviceTensor {
            start: self.start + columns.start,
            shape: vec![rows, columns.len()],
            recipe: None,
            packed: None,
            ..self.clone()
        }
    }

    /// Whether no other tensor shares its memory, so that it may be written to.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.array) == 1
    }

    /// Whether the values lie end to end.
    pub fn is_dense(&self) -> bool {
        self.shape.len() != 2 || self.shape[0] <= 1 || self.stride == self.shape[1]
    }

    /// The same values end to end: itself where they are.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn dense(&self) -> Result<DeviceTensor> {
        if self.is_dense() {
            return Ok(self.clone());
        }
        let cuda = self.array.cuda();
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let copy = DeviceTensor::unset(cuda, self.dtype, &self.shape)?;
        kernel::take_columns(cuda, copy.view(), self.spread(), rows, self.stride, 0, columns)?;
        Ok(copy)
    }

    /// The values, which lie end to end.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn view(&self) -> View<'_> {
        assert!(self.is_dense(), "a range of columns was taken for a whole matrix");
        self.array.view().range(self.start..self.start + self.len())
    }

    /// From the first value to the last, with what lies between the rows.
    pub fn spread(&self) -> View<'_> {
        let len = match self.shape[..] {
            [rows, columns] if rows > 0 && columns > 0 => (rows - 1) * self.stride + columns,
            _ => self.len(),
        };
        self.array.view().range(self.start..self.start + len)
    }

    /// Elements from one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// As products take it.
    ///
    /// # Panics
    /// When it is no matrix.
    #[track_caller]
    pub fn matrix(&self) -> Matrix<'_> {
        assert_eq!(self.shape.len(), 2, "a matrix, not {:?}", self.shape);
        Matrix::strided(self.spread(), self.stride)
    }

    /// Some rows of a matrix, sharing its memory.
    ///
    /// # Panics
    /// When it is no matrix, or has not that many rows.
    #[track_caller]
    pub fn rows(&self, rows: std::ops::Range<usize>) -> DeviceTensor {
        let [count, width] = self.shape[..] else { panic!("rows of {:?}", self.shape) };
        assert!(rows.start <= rows.end && rows.end <= count, "rows {rows:?} of {count}");
        DeviceTensor {
            start: self.start + rows.start * self.stride,
            shape: vec![rows.len(), width],
            recipe: None,
            siblings: None,
            packed: None,
            ..self.clone()
        }
    }

    /// The same values in another shape, sharing memory where they lie end to end.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<DeviceTensor> {
        if shape.iter().product::<usize>() != self.len() {
            return Err(TensorError::shape("reshape", "tensor", format!("{shape:?}"), &self.shape));
        }
        let dense = self.dense()?;
        let stride = shape.last().copied().unwrap_or(1);
        Ok(DeviceTensor { shape: shape.to_vec(), stride, recipe: None, siblings: None, packed: None, ..dense })
    }

    /// The size along each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device it is on.
    pub fn cuda(&self) -> &Cuda {
        self.array.cuda()
    }

    /// A copy of its own.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn copied(&self) -> Result<DeviceTensor> {
        let copy = DeviceTensor::unset(self.cuda(), self.dtype, &self.shape)?;
        self.cuda().copy(copy.view(), self.dense()?.view())?;
        Ok(copy)
    }

    /// Writes the values of a tensor of the same shape and type over its own.
    pub(crate) fn overwrite(&self, value: &Tensor) -> Result<()> {
        let value = value.to_cuda(self.cuda())?;
        Ok(self.cuda().copy(self.view(), value.on_cuda(self.cuda())?.dense()?.view())?)
    }

    /// The same values in another type; itself where it is of that type.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn cast(&self, dtype: DType) -> Result<DeviceTensor> {
        if dtype == self.dtype {
            return Ok(self.clone());
        }
        let (cuda, dense) = (self.cuda(), self.dense()?);
        let to = DeviceTensor::unset(cuda, dtype, &self.shape)?;
        statetune_ssm_kernels::elementwise::cuda::cast(cuda, to.view(), dense.view())?;
        Ok(to)
    }

    /// Rows along the first axis, in this order; one may be taken more than once.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    ///
    /// # Panics
    /// When there is no such row.
    #[track_caller]
    pub fn take_rows(&self, rows: &[usize]) -> Result<DeviceTensor> {
        let count = self.shape[0];
        assert!(rows.iter().all(|&row| row < count), "a row of {rows:?} is not below {count}");
        let (cuda, width) = (self.cuda(), self.len() / count.max(1));
        let mut shape = self.shape.clone();
        shape[0] = rows.len();
        let picked = DeviceTensor::unset(cuda, self.dtype, &shape)?;
        let ids = cuda.upload(&rows.iter().map(|&row| row as u32).collect::<Vec<_>>())?;
        let dense = self.dense()?;
        statetune_ssm_kernels::embedding::cuda::gather_rows(
            cuda,
            picked.view(),
            dense.view(),
            ids.view(),
            count,
            width,
        )?;
        Ok(picked)
    }

    /// Several tensors one after the other along the first axis.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    ///
    /// # Panics
    /// When there is none, or they differ in type or in another axis.
    #[track_caller]
    pub fn stacked(parts: &[&DeviceTensor]) -> Result<DeviceTensor> {
        let mut shape = parts[0].shape.clone();
        shape[0] = parts.iter().map(|part| part.shape[0]).sum();
        let whole = DeviceTensor::unset(parts[0].cuda(), parts[0].dtype, &shape)?;
        let mut at = 0;
        for part in parts {
            assert_eq!(part.shape[1..], shape[1..], "parts of one shape");
            let len = part.len();
            whole.cuda().copy(whole.view().range(at..at + len), part.dense()?.view())?;
            at += len;
        }
        Ok(whole)
    }

    /// The place of the largest value of each row of this matrix; the first of equals.
    pub(crate) fn argmax_rows(&self) -> Result<Vec<u32>> {
        let (cuda, dense) = (self.cuda(), self.dense()?);
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let best = cuda.array(ElementType::U32, rows)?;
        statetune_ssm_kernels::decode::cuda::argmax(cuda, best.view(), dense.view(), rows, columns)?;
        Ok(cuda.download(best.view())?)
    }

    /// The values on the host, after all work before.
    ///
    /// # Errors
    /// When the device fails.
    pub fn to_host(&self) -> Result<Tensor> {
        fn read<E: Element + HostElement>(tensor: &DeviceTensor) -> Result<Tensor> {
            Tensor::from_vec(tensor.cuda().download::<E>(tensor.view())?, &tensor.shape)
        }
        let dense = self.dense()?;
        match self.dtype {
            DType::F32 => read::<f32>(&dense),
            DType::F64 => read::<f64>(&dense),
            DType::Bf16 => read::<half::bf16>(&dense),
            DType::F16 => read::<half::f16>(&dense),
        }
    }
}

impl From<DeviceTensor> for Tensor {
    fn from(tensor: DeviceTensor) -> Tensor {
        Tensor(Storage::Cuda(tensor))
    }
}

impl Tensor {
    /// The tensor as one of this device.
    ///
    /// # Errors
    /// When it is on another.
    pub fn on_cuda(&self, cuda: &Cuda) -> Result<&DeviceTensor> {
        match &self.0 {
            Storage::Cuda(tensor) if tensor.cuda().same(cuda) => Ok(tensor),
            _ => Err(TensorError::Device {
                what: format!("a tensor {:?}", self.shape()),
                found: self.place(),
                expected: format!("{cuda:?}"),
            }),
        }
    }

    /// The same values on a device: itself where it is there.
    ///
    /// # Errors
    /// When a device fails or its memory does not suffice.
    pub(crate) fn to_cuda(&self, cuda: &Cuda) -> Result<Tensor> {
        fn upload<E: Element + HostElement>(tensor: &Tensor, cuda: &Cuda) -> Result<Tensor> {
            Ok(DeviceTensor::new(cuda.upload(tensor.as_slice::<E>()?)?, tensor.shape()).into())
        }
        match &self.0 {
            Storage::Cuda(tensor) if tensor.cuda().same(cuda) => Ok(self.clone()),
            Storage::Cuda(tensor) => tensor.to_host()?.to_cuda(cuda),
            Storage::F32(_) => upload::<f32>(self, cuda),
            Storage::F64(_) => upload::<f64>(self, cuda),
            Storage::Bf16(_) => upload::<half::bf16>(self, cuda),
            Storage::F16(_) => upload::<half::f16>(self, cuda),
        }
    }
}

impl Device {
    /// CUDA device `ordinal`.
    ///
    /// # Errors
    /// The driver is missing, knows no such device, or the device is too old.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device::Cuda(Cuda::new(ordinal)?))
    }
}
