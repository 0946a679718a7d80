//! Kernel sources, compiled for the device at their first use and kept on disk, and their launches.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

use cudarc::driver::{result, sys};
use cudarc::nvrtc;

use super::cache::Kept;
use super::{Cuda, CudaError, View};

/// A file of kernels.
#[derive(Debug)]
pub struct Source {
    /// Its name, for errors.
    pub name: &'static str,
    /// Its text, without the prelude.
    pub text: &'static str,
    pub(crate) chained: bool,
}

impl Source {
    /// Kernels that begin when those in front of them have ended.
    pub const fn new(name: &'static str, text: &'static str) -> Source {
        Source { name, text, chained: false }
    }

    /// Kernels that may begin while the one in front of them still runs, where the device can do that: each of them waits for
    /// that one itself before it touches what others write.
    pub const fn chained(self) -> Source {
        Source { chained: true, ..self }
    }
}

/// What every source begins with.
const PRELUDE: &str = include_str!("prelude.cuh");

/// A macro set for one build of a source.
pub type Define = (&'static str, i64);

/// One build of one source.
#[derive(PartialEq, Eq, Hash, Clone)]
pub(super) struct ProgramKey {
    source: &'static str,
    defines: Vec<Define>,
}

/// A loaded module and the functions found in it so far.
pub(super) struct Program {
    module: sys::CUmodule,
    functions: HashMap<String, (sys::CUfunction, u32)>,
}

/// An argument of a kernel.
#[derive(Debug, Clone, Copy)]
pub enum Arg<'a> {
    /// A pointer.
    Array(View<'a>),
    /// A null pointer: an operand that is not there.
    Absent,
    /// An `int`.
    I32(i32),
    /// An `unsigned`.
    U32(u32),
    /// A `long long`.
    I64(i64),
    /// An `unsigned long long`.
    U64(u64),
    /// A `float`.
    F32(f32),
    /// A `double`.
    F64(f64),
    /// A structure, by value: as many bytes as it has.
    Words(&'a [u64]),
}

impl Arg<'_> {
    /// The bytes that the kernel reads, in the first bytes of a word (little-endian).
    fn word(self) -> u64 {
        match self {
            Arg::Array(view) => view.pointer(),
            Arg::Absent => 0,
            Arg::I32(x) => u64::from(x as u32),
            Arg::U32(x) => u64::from(x),
            Arg::I64(x) => x as u64,
            Arg::U64(x) => x,
            Arg::F32(x) => u64::from(x.to_bits()),
            Arg::F64(x) => x.to_bits(),
            Arg::Words(words) => words[0],
        }
    }
}

/// Two `int`s of a structure that a kernel takes by value: a word of [`Arg::Words`].
pub fn two_ints(first: u32, second: u32) -> u64 {
    u64::from(first) | u64::from(second) << 32
}

impl<'a> From<&'a [u64]> for Arg<'a> {
    fn from(words: &'a [u64]) -> Arg<'a> {
        Arg::Words(words)
    }
}

impl<'a> From<View<'a>> for Arg<'a> {
    fn from(view: View<'a>) -> Arg<'a> {
        Arg::Array(view)
    }
}

impl<'a> From<Option<View<'a>>> for Arg<'a> {
    fn from(view: Option<View<'a>>) -> Arg<'a> {
        view.map_or(Arg::Absent, Arg::Array)
    }
}

macro_rules! arg_from {
    ($($t:ty => $variant:ident),*) => {
        $(impl From<$t> for Arg<'_> {
            fn from(x: $t) -> Self {
                Arg::$variant(x)
            }
        })*
    };
}
arg_from!(i32 => I32, u32 => U32, i64 => I64, u64 => U64, f32 => F32, f64 => F64);

/// The arguments of a launch: `args![view, option_of_view, n as i32, 1.0f32]`.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { [$($crate::runtime::cuda::Arg::from($arg)),*] };
}

impl Cuda {
    /// Launches a kernel of `source`, built with `defines`, on `grid` blocks of `block` threads with `shared` bytes of dynamic
    /// shared memory. Nothing is launched on a planning device or for an empty grid.
    ///
    /// The caller answers for the arguments being those of the kernel: that is what the wrapper beside each source is for.
    ///
    /// # Errors
    /// When the source does not compile, or the driver refuses the launch.
    pub fn launch(
        &self,
        source: &'static Source,
        defines: &[Define],
        kernel: &str,
        grid: [u32; 3],
        block: u32,
        shared: u32,
        args: &[Arg],
    ) -> Result<(), CudaError> {
        self.count_launch();
        #[cfg(test)]
        crate::builds::assert_listed(source, defines);
        let Some(driver) = self.driver() else { return Ok(()) };
        if grid.contains(&0) {
            return Ok(());
        }
        let turn = driver.bind()?;
        let key = ProgramKey { source: source.name, defines: defines.to_vec() };
        let mut programs = driver.programs.lock().expect("a launch panicked");
        if !programs.contains_key(&key) {
            let image = self.image(source, defines)?;
            // SAFETY: the image is a whole cubin or what the cache kept of one; the driver copies it.
            let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
                .map_err(|error| driver.error("cuModuleLoadData", error))?;
            programs.insert(key.clone(), Program { module, functions: HashMap::new() });
        }
        let program = programs.get_mut(&key).expect("just inserted");
        let function = program.function(driver, kernel, shared)?;
        drop(programs);
        drop(turn);
        let words: Vec<u64> = args.iter().map(|arg| arg.word()).collect();
        let pointer = |(arg, word): (&Arg, &u64)| match arg {
            Arg::Words(words) => words.as_ptr().cast_mut().cast(),
            _ => std::ptr::from_ref(word).cast_mut().cast(),
        };
        let mut pointers: Vec<*mut c_void> = args.iter().zip(&words).map(pointer).collect();
        let chained = source.chained && driver.chains;
        let launch = || {
            let _turn = driver.bind()?;
            if chained {
                // SAFETY: as below.
                return unsafe { launch_after_start(function, grid, block, shared, driver.stream, &mut pointers) }
                    .map_err(|error| driver.error(&format!("launch of `{kernel}`"), error));
            }
            let (grid, block) = ((grid[0], grid[1], grid[2]), (block, 1, 1));
            // SAFETY: the function belongs to a module that is never unloaded before the device goes; the words outlive the call,
            // which copies them. That the arguments fit the kernel is the wrapper's duty.
            unsafe { result::launch_kernel(function, grid, block, shared, driver.stream, &mut pointers) }
                .map_err(|error| driver.error(&format!("launch of `{kernel}`"), error))
        };
        self.profiled(|| format!("{}/{kernel}", source.name), launch)?;
        // What is captured has not run.
        if driver.synchronous && !super::CAPTURES.with(std::cell::Cell::get) {
            self.synchronize().map_err(|error| error.during(kernel))?;
        }
        Ok(())
    }

    /// The machine code of a source for this device.
    fn image(&self, source: &'static Source, defines: &[Define]) -> Result<Arc<[u8]>, CudaError> {
        let driver = self.driver().expect("not planning");
        let options = compile_options(&driver.arch, defines);
        let (major, minor) = nvrtc_version()?;
        let version = format!("{major}.{minor}");
        let key = format!("statetune kernel 2\n{version}\n{}\n{PRELUDE}\n{}\n", options.join(" "), source.text);
        let kept = Kept::new(&build_name(source, &driver.arch, defines), key);
        if let Some(image) = kept.as_ref().and_then(Kept::read) {
            return Ok(image.into());
        }
        let image = compile(source, &options, &driver.arch, &version)?;
        // A cache that cannot be written costs time, nothing else.
        if let Some(kept) = kept
            && let Err(error) = kept.write(&image)
        {
            super::warn_once(&format!("the kernel cache {} cannot be written: {error}", kept.path().display()));
        }
        Ok(image.into())
    }
}

/// Launches a kernel that need not wait for the end of the one in front of it, only for its word that the next may begin.
///
/// # Safety
/// Those of a launch: the function is loaded, and the pointers are to arguments that fit it.
unsafe fn launch_after_start(
    function: sys::CUfunction,
    grid: [u32; 3],
    block: u32,
    shared: u32,
    stream: sys::CUstream,
    pointers: &mut [*mut c_void],
) -> Result<(), result::DriverError> {
    let mut attribute = sys::CUlaunchAttribute {
        id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
        pad: [0; 4],
        value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
    };
    let config = sys::CUlaunchConfig {
        gridDimX: grid[0],
        gridDimY: grid[1],
        gridDimZ: grid[2],
        blockDimX: block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared,
        hStream: stream,
        attrs: &mut attribute,
        numAttrs: 1,
    };
    // SAFETY: the caller's duty; configuration and attribute outlive the call.
    unsafe { sys::cuLaunchKernelEx(&config, function, pointers.as_mut_ptr(), std::ptr::null_mut()) }.result()
}

impl Program {
    fn function(&mut self, driver: &super::Driver, name: &str, shared: u32) -> Result<sys::CUfunction, CudaError> {
        if !self.functions.contains_key(name) {
            let c_name = CString::new(name).expect("kernel names have no zero byte");
            // SAFETY: the module is loaded.
            let function = unsafe { result::module::get_function(self.module, c_name) }
                .map_err(|error| driver.error(&format!("kernel `{name}`"), error))?;
            // A kernel may have fixed shared memory besides, so what is allowed without asking is not known.
            self.functions.insert(name.to_owned(), (function, 0));
        }
        let (function, allowed) = self.functions.get_mut(name).expect("just inserted");
        if shared > *allowed {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is loaded.
            unsafe { result::function::set_function_attribute(*function, attribute, shared as i32) }
                .map_err(|error| driver.error(&format!("{shared} bytes of shared memory for `{name}`"), error))?;
            *allowed = shared;
        }
        Ok(*function)
    }
}

fn compile_options(arch: &str, defines: &[Define]) -> Vec<String> {
    // With what no other generation has.
    let own = if arch == "sm_90" { "a" } else { "" };
    let mut options = vec![
        format!("--gpu-architecture={arch}{own}"),
        "--std=c++17".to_owned(),
        "--diag-suppress=177".to_owned(), // of the prelude, each source uses what it needs
    ];
    options.extend(defines.iter().map(|(name, value)| format!("-D{name}={value}")));
    options
}

fn build_name(source: &Source, arch: &str, defines: &[Define]) -> String {
    let defines: String = defines.iter().map(|(name, value)| format!("-{name}{value}")).collect();
    format!("{}-{arch}{defines}", source.name)
}

/// NVRTC's version.
///
/// # Errors
/// When the library is not there.
pub fn nvrtc_version() -> Result<(i32, i32), CudaError> {
    // SAFETY: only looks for the library.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        let hint = "kernels are compiled with it at first use; it comes with the CUDA toolkit, or with \
                    `pip install nvidia-cuda-nvrtc` (its folder then belongs in LD_LIBRARY_PATH)";
        return Err(super::libraries::missing("libnvrtc", hint));
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are valid places.
    unsafe { nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    Ok((major, minor))
}

/// Compiles a source to machine code for `arch` (`sm_90`). Needs NVRTC, but no device.
///
/// # Errors
/// When it does not compile.
pub fn compile_for(source: &'static Source, arch: &str, defines: &[Define]) -> Result<Vec<u8>, CudaError> {
    let (major, minor) = nvrtc_version()?;
    compile(source, &compile_options(arch, defines), arch, &format!("{major}.{minor}"))
}

fn compile(source: &'static Source, options: &[String], arch: &str, version: &str) -> Result<Vec<u8>, CudaError> {
    let fail = |log: String| CudaError::Compilation {
        source_name: source.name,
        arch: arch.to_owned(),
        version: version.to_owned(),
        log,
    };
    let text = CString::new(format!("{PRELUDE}\n{}", source.text)).expect("sources have no zero byte");
    let name = CString::new(format!("{}.cu", source.name)).expect("names have no zero byte");
    let program = nvrtc::result::create_program(&text, Some(&name)).map_err(|error| fail(format!("{error:?}")))?;
    // SAFETY: the program was just created and is destroyed below.
    let outcome = unsafe { nvrtc::result::compile_program(program, options) };
    let image = match outcome {
        Ok(()) => {
            let mut size = 0;
            // SAFETY: `size` is a valid place.
            unsafe { nvrtc::sys::nvrtcGetCUBINSize(program, &mut size) };
            let mut image = vec![0u8; size];
            // SAFETY: the buffer has the size that NVRTC asked for.
            unsafe { nvrtc::sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()) };
            Ok(image)
        }
        Err(error) => {
            // SAFETY: the program exists.
            let log = unsafe { nvrtc::result::get_program_log(program) }.unwrap_or_default();
            let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
            let log = CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned());
            Err(fail(format!("{error:?}\n{}", log.unwrap_or_default())))
        }
    };
    // SAFETY: created above, not used again.
    let _ = unsafe { nvrtc::result::destroy_program(program) };
    image
}
