//! A borrowed weight matrix in its storage type, row-major `[O, I]` as checkpoints have it.

use std::ops::Range;

use half::{bf16, f16};

use crate::Real;

/// Weights as they lie in memory. Kernels widen them on the fly; the model keeps one copy in the storage type.
#[derive(Debug, Clone, Copy)]
pub enum WeightSlice<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Double precision, for the reference path.
    F64(&'a [f64]),
    /// Brain float: the upper half of an `f32`.
    Bf16(&'a [bf16]),
    /// IEEE half precision.
    F16(&'a [f16]),
}

impl<'a> WeightSlice<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            WeightSlice::F32(w) => w.len(),
            WeightSlice::F64(w) => w.len(),
            WeightSlice::Bf16(w) => w.len(),
            WeightSlice::F16(w) => w.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes per element.
    pub fn element_bytes(&self) -> usize {
        match self {
            WeightSlice::F64(_) => 8,
            WeightSlice::F32(_) => 4,
            WeightSlice::Bf16(_) | WeightSlice::F16(_) => 2,
        }
    }

    /// Element `i`, widened or rounded to `T`.
    pub fn get<T: Real>(&self, i: usize) -> T {
        match self {
            WeightSlice::F32(w) => T::from_f32(w[i]),
            WeightSlice::F64(w) => T::from_f64(w[i]),
            WeightSlice::Bf16(w) => T::from_f32(w[i].to_f32()),
            WeightSlice::F16(w) => T::from_f32(w[i].to_f32()),
        }
    }

    /// The address of element `i`, which need not exist: for hints only.
    pub(crate) fn address(&self, i: usize) -> *const u8 {
        let start: *const u8 = match self {
            WeightSlice::F32(w) => w.as_ptr().cast(),
            WeightSlice::F64(w) => w.as_ptr().cast(),
            WeightSlice::Bf16(w) => w.as_ptr().cast(),
            WeightSlice::F16(w) => w.as_ptr().cast(),
        };
        start.wrapping_add(i * self.element_bytes())
    }

    /// The rows `range` of a matrix with `columns` columns.
    ///
    /// # Panics
    /// When they leave the matrix.
    #[track_caller]
    pub fn rows(&self, range: Range<usize>, columns: usize) -> WeightSlice<'a> {
        let elements = range.start * columns..range.end * columns;
        match self {
            WeightSlice::F32(w) => WeightSlice::F32(&w[elements]),
            WeightSlice::F64(w) => WeightSlice::F64(&w[elements]),
            WeightSlice::Bf16(w) => WeightSlice::Bf16(&w[elements]),
            WeightSlice::F16(w) => WeightSlice::F16(&w[elements]),
        }
    }

    /// A weight over a slice of a real type.
    pub fn of<T: Real>(slice: &'a [T]) -> WeightSlice<'a> {
        match crate::real::as_f32(slice) {
            Some(w) => WeightSlice::F32(w),
            // SAFETY: Real is implemented for f32 and f64 only, and this is not f32.
            None => WeightSlice::F64(unsafe { std::slice::from_raw_parts(slice.as_ptr().cast(), slice.len()) }),
        }
    }
}
