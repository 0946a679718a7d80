//! A frozen matrix: owns its storage format, offers products, has no gradient.

use std::ops::Range;

use statetune_ssm_kernels::{Cpu, WeightSlice, matmul};

use crate::{DType, Float, Result, Tensor, TensorError};

/// A frozen weight `[O, I]` in the checkpoint's element type. Products widen it on the fly, so there is one copy only.
///
/// Quantised formats and packed copies fit behind this type; callers see products and row ranges.
#[derive(Debug, Clone)]
pub struct Weight {
    values: Tensor, // [O, I]
}

impl Weight {
    /// Wraps a matrix of any element type.
    ///
    /// # Errors
    /// When the tensor is not a matrix.
    pub fn new(values: Tensor) -> Result<Weight> {
        values.matrix_shape("weight", "matrix")?;
        Ok(Weight { values })
    }

    /// O.
    pub fn out_features(&self) -> usize {
        self.values.shape()[0]
    }

    /// I.
    pub fn in_features(&self) -> usize {
        self.values.shape()[1]
    }

    /// The element type in memory.
    pub fn dtype(&self) -> DType {
        self.values.dtype()
    }

    /// The values.
    pub fn values(&self) -> &Tensor {
        &self.values
    }

    /// The rows `rows` as the kernels take them.
    pub fn slice(&self, rows: Range<usize>) -> WeightSlice<'_> {
        weight_slice(&self.values).rows(rows, self.in_features())
    }

    /// y `[T, rows]` = x `[T, I]` · W\[rows\]ᵀ (+ bias).
    pub fn forward<T: Float>(&self, cpu: &Cpu, y: &mut [T], x: &[T], bias: Option<&[T]>, rows: Range<usize>) {
        let (n, k) = (rows.len(), self.in_features());
        matmul::matmul_nt(cpu, y, x, self.slice(rows), bias, T::ONE, x.len() / k, n, k, false);
    }

    /// dx `[T, I]` (+)= dy `[T, rows]` · W\[rows\].
    pub fn backward<T: Float>(&self, cpu: &Cpu, dx: &mut [T], dy: &[T], rows: Range<usize>, accumulate: bool) {
        let (k, n) = (rows.len(), self.in_features());
        matmul::matmul_nn(cpu, dx, dy, self.slice(rows), T::ONE, dy.len() / k, n, k, accumulate);
    }
}

/// Any tensor's values as the kernels take weights.
pub(crate) fn weight_slice(tensor: &Tensor) -> WeightSlice<'_> {
    use crate::tensor::Storage;
    let contiguous = "tensors are contiguous";
    match &tensor.0 {
        Storage::F32(w) => WeightSlice::F32(w.as_slice().expect(contiguous)),
        Storage::F64(w) => WeightSlice::F64(w.as_slice().expect(contiguous)),
        Storage::Bf16(w) => WeightSlice::Bf16(w.as_slice().expect(contiguous)),
        Storage::F16(w) => WeightSlice::F16(w.as_slice().expect(contiguous)),
        #[cfg(feature = "cuda")]
        Storage::Cuda(_) => panic!("a weight on a device was taken for one of the host"),
    }
}

impl TryFrom<Tensor> for Weight {
    type Error = TensorError;

    fn try_from(values: Tensor) -> Result<Weight> {
        Weight::new(values)
    }
}
