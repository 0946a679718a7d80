//! How long work takes on the device: as a whole, or launch by launch.

use std::collections::HashMap;

use cudarc::driver::{result, sys};

use super::{Cuda, CudaError};

/// What launches of one kernel took.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelTime {
    /// How many.
    pub launches: usize,
    /// Seconds on the device, with what one launch alone costs.
    pub seconds: f64,
}

impl Cuda {
    /// Runs `work` with every launch timed by itself, and waited for; returns the kernels by name, the slowest first.
    ///
    /// # Errors
    /// The work's own.
    pub fn profile<E>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Vec<(String, KernelTime)>, E> {
        *self.0.profile.lock().expect("a profile panicked") = Some(HashMap::new());
        let outcome = work();
        let times = self.0.profile.lock().expect("a profile panicked").take().unwrap_or_default();
        outcome?;
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        Ok(times)
    }

    /// Runs one launch, timed if a profile is made.
    pub(super) fn profiled(
        &self,
        name: impl FnOnce() -> String,
        launch: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        if self.0.profile.lock().expect("a profile panicked").is_none() {
            return launch();
        }
        let seconds = self.time(launch)?;
        if let Some(times) = self.0.profile.lock().expect("a profile panicked").as_mut() {
            let time = times.entry(name()).or_default();
            time.launches += 1;
            time.seconds += seconds;
        }
        Ok(())
    }

    /// Seconds that `work` took on the device.
    ///
    /// # Errors
    /// The work's own, or when the driver refuses.
    pub fn time(&self, work: impl FnOnce() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        let Some(driver) = self.driver() else { return work().map(|()| 0.0) };
        drop(driver.bind()?); // the work takes turns of its own
        let fail = |error| driver.error("cuEvent", error);
        let event = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(fail);
        let (start, end) = (event()?, event()?);
        // SAFETY: the events were just made and are destroyed after their last use.
        unsafe {
            result::event::record(start, driver.stream).map_err(fail)?;
            work()?;
            result::event::record(end, driver.stream).map_err(fail)?;
            result::event::synchronize(end).map_err(fail)?;
            let milliseconds = result::event::elapsed(start, end).map_err(fail)?;
            let _ = (result::event::destroy(start), result::event::destroy(end));
            Ok(f64::from(milliseconds) / 1e3)
        }
    }
}
