//! A CUDA device: its context and stream, memory from an arena, kernels compiled at first use, dense products through
//! cuBLASLt, captured graphs.
//!
//! All work goes to one stream, in the order of the calls. Libraries are loaded at run time: building needs no toolkit, and
//! a machine without a driver gets an error that says so. A *planning* device runs nothing: the same calls only keep account
//! of memory and launches, so a step's peak is known before a device is touched.
//!
//! There are two pools of memory. What outlives a step (weights, trained tensors, moments) comes from the first; inside
//! [`Cuda::working`] arrays come from the second, whose places a captured graph keeps using, so nothing that outlives a step
//! may lie there. One thread at a time works with it.
//!
//! Locks are taken in this order: what `turns.rs` gives, then whichever account (memory, programs, plans).

mod arena;
mod array;
mod cache;
mod copies;
mod element;
mod error;
mod gemm;
mod graph;
mod libraries;
mod memory;
mod one_piece;
mod profile;
mod program;
mod readback;
mod trial;
mod turns;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cudarc::driver::{result, sys};

pub use array::{Array, View};
pub use element::{ElementType, HostElement};
pub use error::{Bytes, CudaError};
pub use gemm::{Matrix, Product};
pub use graph::Graph;
pub use memory::MemoryUse;
pub use profile::KernelTime;
pub use program::{Arg, Define, Source, compile_for, nvrtc_version, two_ints};
pub use readback::Readback;
pub use turns::{Alone, Working};

use memory::Memory;
pub(crate) use memory::Pool;
use turns::{Turn, Turns};

/// A CUDA device, or the plan of one. Clones share everything.
#[derive(Clone)]
pub struct Cuda(Arc<Inner>);

struct Inner {
    driver: Option<Driver>,
    memory: Mutex<Memory>,
    turns: Arc<Turns>,
    gemm: Mutex<gemm::Plans>,
    launches: AtomicUsize,
    graphs: AtomicUsize, // captured ones that live: they use places of the working pool that the arena counts as free
    profile: Mutex<Option<HashMap<String, KernelTime>>>,
    weight_gradients: crate::runtime::counts::Counters,
    recompute: AtomicBool,
}

/// What the driver gave.
pub(crate) struct Driver {
    ordinal: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    name: String,
    arch: String,
    multiprocessors: u32,
    shared: usize, // bytes of shared memory that a block may ask for
    total: usize,
    chains: bool,      // kernels may begin before the one in front of them has ended
    synchronous: bool, // STATETUNE_CUDA_SYNC: errors are reported at the launch that made them
    separate: bool,    // STATETUNE_CUDA_SEPARATE: every array is an allocation of its own, whose bounds tools can check
    programs: Mutex<HashMap<program::ProgramKey, program::Program>>,
    written: Mutex<Option<Vec<graph::Pinned>>>, // while a graph is captured
    turns: Arc<Turns>,
}

// SAFETY: the handles may be used from any thread that has made the context current, which `bind` does; what changes is
// behind mutexes.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

thread_local! {
    /// Whether this thread is capturing a graph.
    static CAPTURES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// What is known of a device.
#[derive(Debug, Clone)]
pub struct CudaInfo {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// `sm_90` and the like.
    pub arch: String,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: Bytes,
    /// The CUDA version that the driver speaks, such as 13000.
    pub driver_version: i32,
    /// NVRTC's version, if it is there.
    pub nvrtc: Option<(i32, i32)>,
    /// Whether cuBLASLt is there.
    pub cublaslt: bool,
}

impl Cuda {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// The driver is missing, knows no such device, or the device is too old.
    pub fn new(ordinal: usize) -> Result<Cuda, CudaError> {
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            let hint = "there is no NVIDIA driver here: use `--device cpu`, or install the driver";
            return Err(libraries::missing("libcuda", hint));
        }
        let fail = |call: &str| {
            let call = call.to_owned();
            move |error: result::DriverError| described(call, error)
        };
        result::init().map_err(fail("cuInit"))?;
        let count = result::device::get_count().map_err(fail("cuDeviceGetCount"))? as usize;
        if ordinal >= count {
            return Err(CudaError::NoDevice { ordinal, count });
        }
        let device = result::device::get(ordinal as i32).map_err(fail("cuDeviceGet"))?;
        let name = result::device::get_name(device).map_err(fail("cuDeviceGetName"))?;
        let attribute = |attribute| {
            // SAFETY: the device was just given by the driver.
            unsafe { result::device::get_attribute(device, attribute) }.map_err(fail("cuDeviceGetAttribute"))
        };
        use sys::CUdevice_attribute as Attribute;
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        if major < 8 {
            return Err(CudaError::Unsupported { name, major, minor });
        }
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        let shared = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as usize;
        // SAFETY: the device exists; the context is released when the last handle goes.
        let total = unsafe { result::device::total_mem(device) }.map_err(fail("cuDeviceTotalMem"))?;
        // SAFETY: as above.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(fail("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(fail("cuCtxSetCurrent"))?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(fail("cuStreamCreate"))?;
        // Hopper and later; drivers before 12.3 do not keep it in captured graphs.
        let mut speaks = 0;
        // SAFETY: a valid place.
        unsafe { sys::cuDriverGetVersion(&mut speaks) };
        let chains = major >= 9 && speaks >= 12030;
        let [synchronous, separate] =
            ["STATETUNE_CUDA_SYNC", "STATETUNE_CUDA_SEPARATE"].map(|name| std::env::var_os(name).is_some());
        let arch = format!("sm_{major}{minor}");
        let (programs, written) = (Mutex::default(), Mutex::default());
        let driver = Driver {
            ordinal,
            device,
            context,
            stream,
            name,
            arch,
            multiprocessors,
            shared,
            total,
            chains,
            synchronous,
            separate,
            programs,
            written,
            turns: Arc::default(),
        };
        Ok(Cuda::over(Some(driver)))
    }

    /// A device that runs nothing and keeps account of memory and launches only.
    pub fn planning() -> Cuda {
        let cuda = Cuda::over(None);
        let mut memory = cuda.memory();
        for (i, pool) in memory.pools.iter_mut().enumerate() {
            pool.add_segment((i as u64 + 1) << 60, 1 << 59);
        }
        drop(memory);
        cuda
    }

    fn over(driver: Option<Driver>) -> Cuda {
        let turns = driver.as_ref().map_or_else(Arc::default, |driver| driver.turns.clone());
        Cuda(Arc::new(Inner {
            driver,
            memory: Mutex::default(),
            turns,
            gemm: Mutex::default(),
            launches: AtomicUsize::new(0),
            graphs: AtomicUsize::new(0),
            profile: Mutex::default(),
            weight_gradients: Default::default(),
            recompute: AtomicBool::new(true),
        }))
    }

    /// Whether nothing is run.
    pub fn is_planning(&self) -> bool {
        self.0.driver.is_none()
    }

    /// Whether two handles are of one device.
    pub fn same(&self, other: &Cuda) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What is known of the device; `None` when planning.
    pub fn info(&self) -> Option<CudaInfo> {
        let driver = self.driver()?;
        let mut driver_version = 0;
        // SAFETY: a valid place.
        unsafe { sys::cuDriverGetVersion(&mut driver_version) };
        Some(CudaInfo {
            ordinal: driver.ordinal,
            name: driver.name.clone(),
            arch: driver.arch.clone(),
            multiprocessors: driver.multiprocessors,
            memory: Bytes(driver.total),
            driver_version,
            nvrtc: nvrtc_version().ok(),
            // SAFETY: only looks for the library.
            cublaslt: unsafe { cudarc::cublaslt::sys::is_culib_present() },
        })
    }

    /// Streaming multiprocessors; a plan counts those of a large device.
    pub fn multiprocessors(&self) -> u32 {
        self.driver().map_or(132, |driver| driver.multiprocessors)
    }

    /// Bytes of shared memory that a block can have; as many as one wants for a plan without a device.
    pub fn shared_memory(&self) -> usize {
        self.driver().map_or(usize::MAX, |driver| driver.shared)
    }

    /// Whether a block has 99 KiB of shared memory, as on some devices of compute capability 8 and 12, and not 163 or more.
    pub fn has_little_shared_memory(&self) -> bool {
        self.shared_memory() < 120 << 10
    }

    /// Whether the device multiplies by warpgroups as Hopper's do: compute capability 9.0, and none besides. A plan is made for
    /// one that does.
    pub fn has_warpgroups(&self) -> bool {
        self.driver().is_none_or(|driver| driver.arch == "sm_90")
    }

    /// Launches of kernels and products so far, captured ones included.
    pub fn launches(&self) -> usize {
        self.0.launches.load(Ordering::Relaxed)
    }

    /// What it has computed so far: see [`crate::Cpu::counts`].
    pub fn counts(&self) -> crate::Counts {
        self.0.weight_gradients.read()
    }

    /// Counts a weight-gradient product.
    pub fn count_weight_gradient(&self, multiply_adds: usize) {
        self.0.weight_gradients.add_weight_gradient(multiply_adds);
    }

    /// Whether a backward pass computes again what is large and cheap to make, as it does unless told otherwise, or the forward
    /// pass keeps it. The results have the same bits.
    pub fn set_recompute(&self, recompute: bool) {
        self.0.recompute.store(recompute, Ordering::Relaxed);
    }

    /// See [`Cuda::set_recompute`].
    pub fn recomputes(&self) -> bool {
        self.0.recompute.load(Ordering::Relaxed)
    }

    fn has_graphs(&self) -> bool {
        self.0.graphs.load(Ordering::Relaxed) > 0
    }

    fn count_launch(&self) {
        self.0.launches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn driver(&self) -> Option<&Driver> {
        self.0.driver.as_ref()
    }

    /// Waits for all work.
    ///
    /// # Errors
    /// When some of it failed.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        let Some(driver) = self.driver() else { return Ok(()) };
        driver.drain(&driver.bind()?)
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.driver() {
            Some(driver) => write!(f, "cuda:{} ({}, {})", driver.ordinal, driver.name, driver.arch),
            None => f.write_str("cuda (planning)"),
        }
    }
}

impl Driver {
    /// Makes the context current for this thread, and waits while another thread is alone with the device: what was launched
    /// while it captures would become part of its graph.
    fn bind(&self) -> Result<Turn<'_>, CudaError> {
        let turn = self.turns.call();
        // SAFETY: the context lives as long as the device.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| self.error("cuCtxSetCurrent", error))?;
        Ok(turn)
    }

    /// Waits for all work.
    fn drain(&self, _: &Turn<'_>) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|error| self.error("cuStreamSynchronize", error))
    }

    fn error(&self, call: &str, error: result::DriverError) -> CudaError {
        described(call.to_owned(), error)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(driver) = &self.driver else { return };
        let Ok(_turn) = driver.bind() else { return };
        // SAFETY: the last handle is going, so nothing uses any of it any more; the stream is drained first. On a lost device
        // all of these fail, and there is nothing left to give back.
        unsafe {
            let _ = result::stream::synchronize(driver.stream);
            for pool in &mut self.memory.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner()).pools {
                for address in pool.take_unused_segments() {
                    let _ = result::free_sync(address);
                }
            }
            let _ = result::stream::destroy(driver.stream);
            let _ = result::primary_ctx::release(driver.device);
        }
    }
}

fn described(call: String, error: result::DriverError) -> CudaError {
    let text = |text: Result<&std::ffi::CStr, result::DriverError>| {
        text.map_or_else(|_| format!("{:?}", error.0), |text| text.to_string_lossy().into_owned())
    };
    let (name, description) = (text(error.error_name()), text(error.error_string()));
    match error::is_lost(error.0) {
        true => CudaError::Lost { call, name, description },
        false => CudaError::Driver { call, name, description },
    }
}

impl CudaError {
    /// The error, with the kernel in whose launch it was noticed.
    fn during(self, kernel: &str) -> CudaError {
        match self {
            CudaError::Driver { call, name, description } => {
                CudaError::Driver { call: format!("`{kernel}` ({call})"), name, description }
            }
            CudaError::Lost { call, name, description } => {
                CudaError::Lost { call: format!("`{kernel}` ({call})"), name, description }
            }
            other => other,
        }
    }
}

/// Says something on standard error, once per text.
fn warn_once(text: &str) {
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if said.get_or_insert_default().insert(text.to_owned()) {
        eprintln!("warning: {text}");
    }
}
