//! Arrays in device memory, and views of them.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Cuda, CudaError, ElementType, HostElement, Pool};

/// An array on a device. Dropping it gives its memory back to the pool it came from.
pub struct Array {
    pub(super) cuda: Cuda,
    pub(super) pointer: u64,
    pub(super) size: u64,
    pub(super) pool: Pool,
    len: usize,
    element: ElementType,
}

/// A part of an array: pointer, length and type.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pointer: u64,
    len: usize,
    element: ElementType,
    of: PhantomData<&'a Array>,
}

impl Array {
    pub(super) fn new(cuda: Cuda, pointer: u64, size: u64, pool: Pool, len: usize, element: ElementType) -> Array {
        Array { cuda, pointer, size, pool, len, element }
    }

    /// All of it.
    pub fn view(&self) -> View<'_> {
        View { pointer: self.pointer, len: self.len, element: self.element, of: PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the elements.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// Keeps its memory taken for the life of the device.
    pub(super) fn forget(self) {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the handle is dropped once, here, and not used again; only the memory is not given back.
        drop(unsafe { std::ptr::read(&this.cuda) });
    }

    /// The device it is on.
    pub fn cuda(&self) -> &Cuda {
        &self.cuda
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        self.cuda.free(self.pool, self.pointer, self.size);
    }
}

impl std::fmt::Debug for Array {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Array({:?}, {} elements)", self.element, self.len)
    }
}

impl<'a> View<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The type of the elements.
    pub fn element(&self) -> ElementType {
        self.element
    }

    /// The address on the device.
    pub fn pointer(&self) -> u64 {
        self.pointer
    }

    /// Some of the elements.
    ///
    /// # Panics
    /// When the range passes the end.
    #[track_caller]
    pub fn range(&self, range: Range<usize>) -> View<'a> {
        assert!(range.start <= range.end && range.end <= self.len, "elements {range:?} of {}", self.len);
        View { pointer: self.pointer + (range.start * self.element.bytes()) as u64, len: range.len(), ..*self }
    }

    /// Checks type and length.
    ///
    /// # Panics
    /// When one differs, naming `what`.
    #[track_caller]
    pub fn check(&self, what: &str, element: ElementType, len: usize) {
        assert_eq!(self.element, element, "{what}: element type");
        assert_eq!(self.len, len, "{what}: length");
    }
}

impl Cuda {
    /// An array whose elements are not set yet.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn array(&self, element: ElementType, len: usize) -> Result<Array, CudaError> {
        self.allocate(element, len)
    }

    /// An array of zeros.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn zeros(&self, element: ElementType, len: usize) -> Result<Array, CudaError> {
        let array = self.allocate(element, len)?;
        self.clear(array.view())?;
        Ok(array)
    }

    /// An array with these elements.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn upload<T: HostElement>(&self, values: &[T]) -> Result<Array, CudaError> {
        let array = self.allocate(T::ELEMENT, values.len())?;
        self.write(array.view(), values)?;
        Ok(array)
    }
}
