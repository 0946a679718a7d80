//! Where the gradient of a tensor is written: that of some columns of a wider matrix to the same columns of a wider gradient, so
//! that those of neighbours lie side by side when the operation that made the columns comes to its turn, and one product serves
//! all of them as one did forward.

use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use statetune_ssm_kernels::runtime::cuda::{Array, Cuda};

use super::{DeviceTensor, element_of};
use crate::{DType, Result};

/// What the columns of one matrix share: its gradient, as long as one of them holds a part of it.
#[derive(Debug, Default)]
pub(super) struct Siblings(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    array: Weak<Array>,
    columns: Vec<Range<usize>>,
}

/// The place of a tensor's gradient; holds no memory of the device.
#[derive(Debug, Clone)]
pub struct GradientPlace {
    cuda: Cuda,
    dtype: DType,
    shape: Vec<usize>,
    wide: Option<(Arc<Siblings>, Range<usize>, usize)>, // the columns, of a matrix so wide
}

impl DeviceTensor {
    /// Lets the columns of this matrix have their gradients side by side.
    pub(crate) fn with_siblings(self) -> DeviceTensor {
        DeviceTensor { siblings: Some(Arc::default()), ..self }
    }

    /// Where its gradient is written.
    pub fn gradient_place(&self) -> GradientPlace {
        let wide = self.siblings.clone().map(|siblings| {
            let first = self.start % self.stride.max(1);
            (siblings, first..first + self.shape[1], self.stride)
        });
        GradientPlace { cuda: self.cuda().clone(), dtype: self.dtype, shape: self.shape.clone(), wide }
    }

    /// This matrix and the one to the right of it in the same memory, as one.
    pub(crate) fn with_right(&self, right: &DeviceTensor) -> Option<DeviceTensor> {
        let ([rows, left_columns], [right_rows, columns]) = (&self.shape[..], &right.shape[..]) else { return None };
        let beside = Arc::ptr_eq(&self.array, &right.array)
            && (rows, self.stride) == (right_rows, right.stride)
            && self.start + left_columns == right.start;
        beside.then(|| DeviceTensor {
            shape: vec![*rows, left_columns + columns],
            recipe: None,
            packed: None,
            ..self.clone()
        })
    }
}

impl GradientPlace {
    /// A gradient whose values are not set yet; of memory of its own where another gradient of the same columns is there already.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn unset(&self) -> Result<DeviceTensor> {
        let Some((siblings, columns, width)) = &self.wide else {
            return DeviceTensor::unset(&self.cuda, self.dtype, &self.shape);
        };
        let mut given = siblings.0.lock().expect("another gradient panicked");
        let meets = |other: &Range<usize>| other.start < columns.end && columns.start < other.end;
        let array = match given.array.upgrade() {
            Some(_) if given.columns.iter().any(meets) => {
                return DeviceTensor::unset(&self.cuda, self.dtype, &self.shape);
            }
            Some(array) => array,
            None => {
                let array = Arc::new(self.cuda.array(element_of(self.dtype), self.shape[0] * width)?);
                *given = Given { array: Arc::downgrade(&array), columns: Vec::new() };
                array
            }
        };
        given.columns.push(columns.clone());
        let (start, stride, shape, dtype) = (columns.start, *width, self.shape.clone(), self.dtype);
        Ok(DeviceTensor { array, start, stride, shape, dtype, recipe: None, siblings: None, packed: None })
    }
}
