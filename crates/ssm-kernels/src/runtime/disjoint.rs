//! A slice that parallel tasks write in disjoint ranges.

use std::marker::PhantomData;
use std::ops::Range;

/// Shares one mutable slice between tasks, each of which takes ranges no other task touches.
pub struct DisjointSlice<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: the pointer comes from an exclusive borrow that lives for 'a; `range_mut`'s contract keeps tasks apart.
unsafe impl<T: Send> Send for DisjointSlice<'_, T> {}
// SAFETY: as above; sharing the handle shares no element unless the caller breaks `range_mut`'s contract.
unsafe impl<T: Send> Sync for DisjointSlice<'_, T> {}

impl<'a, T> DisjointSlice<'a, T> {
    /// Takes the slice for the lifetime of the handle.
    pub fn new(slice: &'a mut [T]) -> Self {
        DisjointSlice { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No other range taken from this handle that is still in use may overlap `range`.
    ///
    /// # Panics
    /// When the range leaves the slice.
    #[allow(clippy::mut_from_ref)] // the whole point: disjointness is the caller's promise
    #[track_caller]
    pub unsafe fn range_mut(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "range {range:?} leaves a slice of {}", self.len);
        // SAFETY: inside the borrowed slice (checked), and disjoint from other live ranges by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The length of the whole slice.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the slice has no elements.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
