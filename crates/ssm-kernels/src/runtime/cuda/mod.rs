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
//! Locks are taken in this order: the working pool, a turn at the stream, then whichever account (memory, programs, plans).

mod arena;
mod array;
mod cache;
mod copies;
mod element;
mod error;
mod gemm;
mod graph;
mod libraries;
mod profile;
mod program;
mod readback;

use std::collections::{HashMap, HashSet};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::ThreadId;

use cudarc::driver::{result, sys};

pub use array::{Array, View};
pub use element::{ElementType, HostElement};
pub use error::{Bytes, CudaError};
pub use gemm::{Matrix, Product};
pub use graph::Graph;
pub use profile::KernelTime;
pub use program::{Arg, Define, Source, compile_for, nvrtc_version};
pub use readback::Readback;

use arena::Arena;
use error::{LASTING, WORKING};

/// The smallest segment that is asked of the driver at once.
const SEGMENT: u64 = 8 << 20;

/// Which pool an array comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    Lasting,
    Working,
}

/// A CUDA device, or the plan of one. Clones share everything.
#[derive(Clone)]
pub struct Cuda(Arc<Inner>);

struct Inner {
    driver: Option<Driver>,
    memory: Mutex<Memory>,
    idle: Condvar, // nobody works with the working pool any more
    gemm: Mutex<gemm::Plans>,
    launches: AtomicUsize,
    graphs: AtomicUsize, // captured ones that live: they use places of the working pool that the arena counts as free
    profile: Mutex<Option<HashMap<String, KernelTime>>>,
    weight_gradients: crate::runtime::counts::Counters,
}

#[derive(Default)]
struct Memory {
    pools: [Arena; 2],
    worker: Option<(ThreadId, usize)>, // who works with the working pool, and how many guards it holds
    planned_end: [u64; 2],
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
    total: usize,
    chains: bool,      // kernels may begin before the one in front of them has ended
    synchronous: bool, // STATETUNE_CUDA_SYNC: errors are reported at the launch that made them
    separate: bool,    // STATETUNE_CUDA_SEPARATE: every array is an allocation of its own, whose bounds tools can check
    programs: Mutex<HashMap<program::ProgramKey, program::Program>>,
    written: Mutex<Option<Vec<graph::Pinned>>>, // while a graph is captured
    turns: std::sync::RwLock<()>,               // one thread captures, or all launch
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

/// The right to use a device's stream for one call.
#[must_use]
struct Turn<'a> {
    _held: Option<std::sync::RwLockReadGuard<'a, ()>>,
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

/// How much memory a device's arena holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes taken from the device.
    pub reserved: Bytes,
    /// The most that was in use at once, by pool: what lasts, and what a step works with.
    pub peak: [Bytes; 2],
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
            total,
            chains,
            synchronous,
            separate,
            programs,
            written,
            turns: std::sync::RwLock::new(()),
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
        Cuda(Arc::new(Inner {
            driver,
            memory: Mutex::default(),
            idle: Condvar::new(),
            gemm: Mutex::default(),
            launches: AtomicUsize::new(0),
            graphs: AtomicUsize::new(0),
            profile: Mutex::default(),
            weight_gradients: Default::default(),
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

    fn has_graphs(&self) -> bool {
        self.0.graphs.load(Ordering::Relaxed) > 0
    }

    fn count_launch(&self) {
        self.0.launches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn driver(&self) -> Option<&Driver> {
        self.0.driver.as_ref()
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        // An account that panicked half way cannot be trusted.
        self.0.memory.lock().expect("an allocation panicked")
    }

    /// While the guard lives, arrays that this thread makes come from the pool of what a step works with. Another thread that
    /// asks waits: a captured graph writes to places there that the arena counts as free.
    pub fn working(&self) -> Working {
        let me = std::thread::current().id();
        let mut memory = self.memory();
        while memory.worker.is_some_and(|(thread, _)| thread != me) {
            memory = self.0.idle.wait(memory).expect("an allocation panicked");
        }
        let held = memory.worker.map_or(0, |(_, guards)| guards);
        memory.worker = Some((me, held + 1));
        Working { cuda: self.clone(), of_this_thread: PhantomData }
    }

    /// How much memory is held.
    pub fn memory_use(&self) -> MemoryUse {
        let memory = self.memory();
        let planned: u64 = memory.planned_end.iter().sum();
        let reserved = if self.is_planning() { planned } else { memory.pools.iter().map(Arena::reserved).sum() };
        MemoryUse {
            reserved: Bytes(reserved as usize),
            peak: [0, 1].map(|i| {
                let peak = if self.is_planning() { memory.planned_end[i] } else { memory.pools[i].peak() };
                Bytes(peak as usize)
            }),
        }
    }

    /// Counts the peaks of [`Cuda::memory_use`] anew from what is in use now.
    pub fn start_peak(&self) {
        self.memory().pools.iter_mut().for_each(Arena::start_peak);
    }

    /// Takes so many bytes for the working pool in one piece: what a plan found a step to need.
    ///
    /// # Errors
    /// When the device has not that much left.
    pub fn reserve_working(&self, bytes: Bytes) -> Result<(), CudaError> {
        let Some(driver) = self.driver() else { return Ok(()) };
        let turn = driver.bind()?;
        let mut memory = self.memory();
        if memory.pools[1].reserved() >= bytes.0 as u64 || driver.separate {
            return Ok(());
        }
        driver.segment(&turn, &mut memory, Pool::Working, Arena::rounded(bytes.0))
    }

    /// Gives the working pool's segments back and takes one for all that was in use at once: a first step, which takes them
    /// as it goes, leaves gaps. Does nothing while something lies there or a captured graph may write there.
    ///
    /// # Errors
    /// When the device has not that much left.
    pub fn consolidate_working(&self) -> Result<(), CudaError> {
        let Some(driver) = self.driver() else { return Ok(()) };
        let _alone = self.working();
        let turn = driver.bind()?;
        let mut memory = self.memory();
        if memory.pools[1].live() > 0 || self.has_graphs() || driver.separate {
            return Ok(());
        }
        driver.release_unused(&turn, &mut memory, Pool::Working)?;
        let peak = memory.pools[1].peak();
        // Best fit leaves some gaps even in one piece.
        let size = Arena::rounded((peak + peak / 64) as usize);
        driver.segment(&turn, &mut memory, Pool::Working, size)
    }

    fn allocate(&self, element: ElementType, len: usize) -> Result<Array, CudaError> {
        let me = std::thread::current().id();
        let working = self.memory().worker.is_some_and(|(thread, _)| thread == me);
        self.allocate_in(if working { Pool::Working } else { Pool::Lasting }, element, len)
    }

    fn allocate_in(&self, pool: Pool, element: ElementType, len: usize) -> Result<Array, CudaError> {
        let size = Arena::rounded((len * element.bytes()).max(1));
        let mut memory = self.memory();
        let mut found = memory.pools[pool as usize].take(size);
        if found.is_none() {
            drop(memory); // who captures has the turn and asks for memory
            let driver = self.driver().expect("a plan's segments are endless");
            let turn = driver.bind()?;
            memory = self.memory();
            found = memory.pools[pool as usize].take(size);
            if found.is_none() {
                // Rounded in both: a place that a graph keeps may serve another array of the same rounded size.
                let wanted = if driver.separate { size } else { size.max(SEGMENT) };
                if driver.segment(&turn, &mut memory, pool, wanted).is_err() {
                    // Segments that nobody uses may make room for one that is large enough.
                    if pool == Pool::Lasting || !self.has_graphs() {
                        driver.release_unused(&turn, &mut memory, pool)?;
                    }
                    driver.segment(&turn, &mut memory, pool, size)?;
                }
                found = memory.pools[pool as usize].take(size);
            }
        }
        let pointer = found.expect("a segment of that size was just added");
        if self.is_planning() {
            let end = pointer + size - ((pool as u64 + 1) << 60);
            memory.planned_end[pool as usize] = memory.planned_end[pool as usize].max(end);
        }
        drop(memory);
        Ok(Array::new(self.clone(), pointer, size, pool, len, element))
    }

    fn free(&self, pool: Pool, pointer: u64, size: u64) {
        self.memory().pools[pool as usize].give_back(pointer, size);
        // What a graph may write to stays.
        let separate = self.driver().filter(|driver| driver.separate);
        if let Some(driver) = separate.filter(|_| !CAPTURES.with(std::cell::Cell::get) && !self.has_graphs())
            && let Ok(turn) = driver.bind()
        {
            // On a lost device there is nothing to give back.
            let _ = driver.release_unused(&turn, &mut self.memory(), pool);
        }
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

/// See [`Cuda::working`].
pub struct Working {
    cuda: Cuda,
    of_this_thread: PhantomData<*const ()>, // it may not go to another
}

impl Drop for Working {
    fn drop(&mut self) {
        let mut memory = self.cuda.memory();
        let (thread, guards) = memory.worker.expect("a guard is held");
        memory.worker = (guards > 1).then_some((thread, guards - 1));
        if memory.worker.is_none() {
            self.cuda.0.idle.notify_all();
        }
    }
}

impl Driver {
    /// Makes the context current for this thread, and waits while another thread captures: what was launched meanwhile
    /// would become part of its graph.
    fn bind(&self) -> Result<Turn<'_>, CudaError> {
        let captures = CAPTURES.with(std::cell::Cell::get);
        let turn = (!captures).then(|| self.turns.read().unwrap_or_else(|poisoned| poisoned.into_inner()));
        // SAFETY: the context lives as long as the device.
        unsafe { result::ctx::set_current(self.context) }.map_err(|error| self.error("cuCtxSetCurrent", error))?;
        Ok(Turn { _held: turn })
    }

    /// Waits for all work.
    fn drain(&self, _: &Turn<'_>) -> Result<(), CudaError> {
        // SAFETY: the stream lives as long as the device.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|error| self.error("cuStreamSynchronize", error))
    }

    /// Takes memory from the driver.
    fn segment(&self, _: &Turn<'_>, memory: &mut Memory, pool: Pool, size: u64) -> Result<(), CudaError> {
        // SAFETY: the address is kept by the arena and freed with it.
        match unsafe { result::malloc_sync(size as usize) } {
            Ok(address) => {
                memory.pools[pool as usize].add_segment(address, Arena::rounded(size as usize));
                Ok(())
            }
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = result::mem_get_info().unwrap_or((0, self.total));
                let held = memory.pools.iter().map(Arena::reserved).sum::<u64>() as usize;
                let purpose = if pool == Pool::Working { WORKING } else { LASTING };
                Err(CudaError::OutOfMemory {
                    wanted: Bytes(size as usize),
                    what: purpose.what,
                    advice: purpose.advice,
                    held: Bytes(held),
                    free: Bytes(free),
                    total: Bytes(total),
                })
            }
            Err(error) => Err(self.error("cuMemAlloc", error)),
        }
    }

    /// Gives segments back that nothing lies in. Those of the working pool may be written to by captured graphs: only where
    /// there are none.
    fn release_unused(&self, turn: &Turn<'_>, memory: &mut Memory, pool: Pool) -> Result<(), CudaError> {
        self.drain(turn)?;
        for address in memory.pools[pool as usize].take_unused_segments() {
            // SAFETY: nothing lies there any more and all work is done.
            let _ = unsafe { result::free_sync(address) };
        }
        Ok(())
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
