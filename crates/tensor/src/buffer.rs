//! What changes between steps: parameters, optimiser state, decoding state.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::{DType, Element, Result, Tensor, TensorError};

/// A mutable tensor outside the tape. Clones are handles to the same values.
///
/// A step reads it with [`Buffer::tensor`], which shares the memory; once the step's tape is gone the optimiser
/// updates in place. On the CPU the address is therefore stable between updates that follow that order. On a device it never
/// changes: updates and [`Buffer::set`] write in place, under the eyes of who shares the memory.
#[derive(Debug, Clone)]
pub struct Buffer(Arc<Mutex<Tensor>>);

impl Buffer {
    /// A buffer that starts as `value`.
    pub fn new(value: Tensor) -> Buffer {
        Buffer(Arc::new(Mutex::new(value)))
    }

    fn lock(&self) -> MutexGuard<'_, Tensor> {
        // A poisoned lock means an update panicked half way: the values can no longer be trusted.
        self.0.lock().expect("an update of this buffer panicked")
    }

    /// The present values, shared.
    pub fn tensor(&self) -> Tensor {
        self.lock().clone()
    }

    /// The shape.
    pub fn shape(&self) -> Vec<usize> {
        self.lock().shape().to_vec()
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.lock().dtype()
    }

    /// Replaces the values.
    ///
    /// # Errors
    /// When the shape or the element type differs.
    pub fn set(&self, value: Tensor) -> Result<()> {
        let mut held = self.lock();
        if held.shape() != value.shape() {
            return Err(TensorError::shape("buffer", "new value", format!("{:?}", held.shape()), value.shape()));
        }
        if held.dtype() != value.dtype() {
            return Err(TensorError::DType { what: "new value".into(), expected: held.dtype(), found: value.dtype() });
        }
        held.overwrite(&value)
    }

    /// Changes the values in place (copying first if a tensor still shares them).
    ///
    /// # Errors
    /// When the element type is another.
    pub fn update<E: Element, R>(&self, change: impl FnOnce(&mut [E]) -> R) -> Result<R> {
        Ok(change(self.lock().make_mut::<E>()?))
    }
}
