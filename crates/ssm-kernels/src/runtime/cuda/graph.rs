//! Captured graphs: the launches of a piece of work, kept and replayed with one call.

use std::ffi::c_void;
use std::sync::atomic::Ordering;

use cudarc::driver::{result, sys};

use super::trial::Trying;
use super::{CAPTURES, Cuda, CudaError};

/// Work that can be replayed. It reads and writes the places that it was captured with.
pub struct Graph {
    cuda: Cuda,
    executable: sys::CUgraphExec,
    written: Vec<Pinned>, // what it copies to the device at each replay
}

/// Page-locked memory of the host.
pub(super) struct Pinned(*mut c_void);

// SAFETY: read by the device only, and freed by whoever owns it.
unsafe impl Send for Pinned {}

impl Pinned {
    /// A copy of `bytes` bytes.
    ///
    /// # Safety
    /// `from` must be readable for so many bytes, and the context current.
    pub(super) unsafe fn copy_of(from: *const u8, bytes: usize) -> Result<Pinned, result::DriverError> {
        // SAFETY: freed with self; filled at once.
        unsafe {
            let memory = result::malloc_host(bytes, 0)?;
            std::ptr::copy_nonoverlapping(from, memory.cast::<u8>(), bytes);
            Ok(Pinned(memory))
        }
    }

    pub(super) fn address(&self) -> *const u8 {
        self.0.cast()
    }
}

// SAFETY: launched from whichever thread holds it, after making the context current.
unsafe impl Send for Graph {}

/// Marks this thread as the one that captures.
struct Captures;

impl Captures {
    fn begin() -> Captures {
        CAPTURES.with(|captures| captures.set(true));
        Captures
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        CAPTURES.with(|captures| captures.set(false));
    }
}

impl Cuda {
    /// [`Cuda::capture`] of work that will be replayed often and writes to no array that was there before: large products are
    /// tried with several algorithms, of which the fastest that gives the same bits is taken, in their own places.
    ///
    /// # Errors
    /// As [`Cuda::capture`].
    pub fn capture_tuned<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Option<Graph>, E> {
        let Some(driver) = self.driver() else { return work().map(|()| None) };
        // The capture launches nothing, and nobody else does: what is under way now is all that trials could disturb.
        let _alone = self.alone();
        driver.drain(&driver.bind()?)?;
        let _trying = Trying::begin();
        self.capture(work)
    }

    /// Captures the launches of `work`, which are not run. The host may not wait for the device inside. `None` when planning:
    /// there is nothing to replay.
    ///
    /// # Errors
    /// The work's own, or when the driver refuses.
    pub fn capture<E: From<CudaError>>(&self, work: impl FnOnce() -> Result<(), E>) -> Result<Option<Graph>, E> {
        let Some(driver) = self.driver() else { return work().map(|()| None) };
        drop(driver.bind()?);
        // No other thread launches until the capture ends.
        let _alone = self.alone();
        let _captures = Captures::begin();
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is ours alone.
        unsafe { result::stream::begin_capture(driver.stream, mode) }
            .map_err(|error| driver.error("cuStreamBeginCapture", error))?;
        *driver.written.lock().expect("a capture panicked") = Some(Vec::new());
        let outcome = work();
        let written = driver.written.lock().expect("a capture panicked").take().unwrap_or_default();
        // SAFETY: a capture was begun; it has to be ended whatever came of the work.
        let graph = unsafe { result::stream::end_capture(driver.stream) };
        outcome?;
        let graph = graph.map_err(|error| driver.error("cuStreamEndCapture", error))?;
        // SAFETY: the graph was just captured and is not needed once it is instantiated.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(|error| driver.error("cuGraphInstantiate", error))?;
        self.0.graphs.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Graph { cuda: self.clone(), executable, written }))
    }
}

impl Graph {
    /// Runs it, after all work before.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn launch(&self) -> Result<(), CudaError> {
        let driver = self.cuda.driver().expect("captured on a device");
        let _turn = driver.bind()?;
        // SAFETY: the executable graph lives as long as self; the arrays it uses are the capturer's to keep.
        unsafe { result::graph::launch(self.executable, driver.stream) }
            .map_err(|error| driver.error("cuGraphLaunch", error))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let Some(driver) = self.cuda.driver() else { return };
        if let Ok(_turn) = driver.bind() {
            // SAFETY: nothing launches it any more; work under way is waited for.
            unsafe {
                let _ = result::stream::synchronize(driver.stream);
                let _ = result::graph::exec_destroy(self.executable);
                for pinned in &self.written {
                    let _ = result::free_host(pinned.0);
                }
            }
        }
        self.cuda.0.graphs.fetch_sub(1, Ordering::Relaxed);
    }
}
