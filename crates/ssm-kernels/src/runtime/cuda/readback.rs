//! Small results that the host reads while later work already runs.

use std::ffi::c_void;

use cudarc::driver::{result, sys};

use super::{Cuda, CudaError, HostElement, View};

/// Page-locked memory that a copy from the device runs into, and the event that tells when it has arrived.
pub struct Readback<T: HostElement> {
    cuda: Cuda,
    memory: *mut c_void,
    len: usize,
    event: sys::CUevent,
    pending: bool,
    of: std::marker::PhantomData<T>,
}

// SAFETY: memory and event are used by whoever holds it, after making the context current.
unsafe impl<T: HostElement> Send for Readback<T> {}

impl<T: HostElement> Readback<T> {
    /// Room for `len` numbers.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn new(cuda: &Cuda, len: usize) -> Result<Readback<T>, CudaError> {
        let (mut memory, mut event) = (std::ptr::null_mut(), std::ptr::null_mut());
        if let Some(driver) = cuda.driver() {
            let _turn = driver.bind()?;
            let bytes = (len * std::mem::size_of::<T>()).max(1);
            // SAFETY: freed when self is dropped.
            memory = unsafe { result::malloc_host(bytes, 0) }.map_err(|error| driver.error("cuMemHostAlloc", error))?;
            event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                .map_err(|error| driver.error("cuEventCreate", error))?;
        }
        let cuda = cuda.clone();
        Ok(Readback { cuda, memory, len, event, pending: false, of: std::marker::PhantomData })
    }

    /// Starts to copy, after all work so far.
    ///
    /// # Errors
    /// When the driver refuses.
    ///
    /// # Panics
    /// When type or length differ.
    #[track_caller]
    pub fn start(&mut self, from: View) -> Result<(), CudaError> {
        from.check("what is read back", T::ELEMENT, self.len);
        self.pending = true;
        let Some(driver) = self.cuda.driver() else { return Ok(()) };
        let _turn = driver.bind()?;
        // SAFETY: the memory has room for so many numbers, and nobody looks at it before `take` has waited.
        let copied = unsafe {
            let to = std::slice::from_raw_parts_mut(self.memory.cast::<T>(), self.len);
            result::memcpy_dtoh_async(to, from.pointer(), driver.stream)
        };
        copied.map_err(|error| driver.error("cuMemcpyDtoHAsync", error))?;
        // SAFETY: event and stream are alive.
        unsafe { result::event::record(self.event, driver.stream) }
            .map_err(|error| driver.error("cuEventRecord", error))
    }

    /// Waits for the copy, not for what was launched after it; `None` if none was started since. A plan gives zeros.
    ///
    /// # Errors
    /// When work before the copy failed.
    pub fn take(&mut self) -> Result<Option<Vec<T>>, CudaError> {
        if !std::mem::take(&mut self.pending) {
            return Ok(None);
        }
        let Some(driver) = self.cuda.driver() else { return Ok(Some(vec![T::default(); self.len])) };
        let _turn = driver.bind()?;
        // SAFETY: the event was recorded.
        unsafe { result::event::synchronize(self.event) }.map_err(|error| driver.error("cuEventSynchronize", error))?;
        // SAFETY: the copy is through, and its source was of this type and length.
        Ok(Some(unsafe { std::slice::from_raw_parts(self.memory.cast::<T>(), self.len) }.to_vec()))
    }
}

impl<T: HostElement> Drop for Readback<T> {
    fn drop(&mut self) {
        let Some(driver) = self.cuda.driver() else { return };
        if let Ok(_turn) = driver.bind() {
            // SAFETY: a copy under way is waited for; nothing uses memory or event any more.
            unsafe {
                let _ = result::stream::synchronize(driver.stream);
                let _ = result::event::destroy(self.event);
                let _ = result::free_host(self.memory);
            }
        }
    }
}
