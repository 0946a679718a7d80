//! Copies between host and device, and within it.

use cudarc::driver::result;

use super::{Cuda, CudaError, HostElement, View, graph};

impl Cuda {
    /// Fills an array with zero bytes.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn clear(&self, view: View) -> Result<(), CudaError> {
        let Some(driver) = self.driver().filter(|_| !view.is_empty()) else { return Ok(()) };
        let _turn = driver.bind()?;
        let bytes = view.len() * view.element().bytes();
        // SAFETY: the view lies in an array that is alive.
        unsafe { result::memset_d8_async(view.pointer(), 0, bytes, driver.stream) }
            .map_err(|error| driver.error("cuMemsetD8Async", error))
    }

    /// Copies numbers to the device.
    ///
    /// # Errors
    /// When the driver refuses.
    ///
    /// # Panics
    /// When type or length differ.
    #[track_caller]
    pub fn write<T: HostElement>(&self, to: View, values: &[T]) -> Result<(), CudaError> {
        to.check("array on the device", T::ELEMENT, values.len());
        let Some(driver) = self.driver().filter(|_| !values.is_empty()) else { return Ok(()) };
        let _turn = driver.bind()?;
        if let Some(written) = driver.written.lock().expect("a capture panicked").as_mut() {
            // A captured copy is made at each replay, from memory that the graph keeps.
            let bytes = std::mem::size_of_val(values);
            // SAFETY: the values are readable; the copy has so many bytes and lives as long as the graph.
            return unsafe {
                let pinned = graph::Pinned::copy_of(values.as_ptr().cast(), bytes)
                    .map_err(|error| driver.error("cuMemHostAlloc", error))?;
                let from = std::slice::from_raw_parts(pinned.address(), bytes);
                let copied = result::memcpy_htod_async(to.pointer(), from, driver.stream);
                written.push(pinned);
                copied.map_err(|error| driver.error("cuMemcpyHtoDAsync", error))
            };
        }
        // SAFETY: lengths agree; from pageable memory the driver has read the values when the call returns.
        unsafe { result::memcpy_htod_async(to.pointer(), values, driver.stream) }
            .map_err(|error| driver.error("cuMemcpyHtoDAsync", error))
    }

    /// Copies one array over another of the same type and length.
    ///
    /// # Errors
    /// When the driver refuses.
    ///
    /// # Panics
    /// When type or length differ.
    #[track_caller]
    pub fn copy(&self, to: View, from: View) -> Result<(), CudaError> {
        to.check("copy", from.element(), from.len());
        let Some(driver) = self.driver().filter(|_| !from.is_empty()) else { return Ok(()) };
        let _turn = driver.bind()?;
        let bytes = from.len() * from.element().bytes();
        // SAFETY: both views are alive and of that many bytes.
        unsafe { result::memcpy_dtod_async(to.pointer(), from.pointer(), bytes, driver.stream) }
            .map_err(|error| driver.error("cuMemcpyDtoDAsync", error))
    }

    /// Copies numbers to the host, after all work before it; a plan gives zeros.
    ///
    /// # Errors
    /// When the driver refuses, or work before it failed.
    ///
    /// # Panics
    /// When the type differs.
    #[track_caller]
    pub fn download<T: HostElement>(&self, from: View) -> Result<Vec<T>, CudaError> {
        from.check("array on the device", T::ELEMENT, from.len());
        let mut values = vec![T::default(); from.len()];
        let Some(driver) = self.driver().filter(|_| !from.is_empty()) else { return Ok(values) };
        let turn = driver.bind()?;
        // SAFETY: lengths agree; the values are not looked at before the stream is through.
        unsafe { result::memcpy_dtoh_async(&mut values, from.pointer(), driver.stream) }
            .map_err(|error| driver.error("cuMemcpyDtoHAsync", error))?;
        drop(turn);
        self.synchronize()?;
        Ok(values)
    }
}
