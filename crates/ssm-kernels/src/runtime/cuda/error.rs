//! What can go wrong on a CUDA device, in words that say what to do.

use cudarc::driver::sys;

/// An error of the CUDA backend.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CudaError {
    /// A shared library is not on this machine.
    #[error("{library} was not found: {hint}")]
    MissingLibrary {
        /// The library, as the loader knows it.
        library: &'static str,
        /// Where it comes from, or what to type where it is under another name.
        hint: String,
    },
    /// The driver knows no such device.
    #[error("there is no CUDA device {ordinal}: the driver reports {count}")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is older than what the kernels are written for.
    #[error("`{name}` has compute capability {major}.{minor}; at least 8.0 is needed: use `--device cpu`")]
    Unsupported {
        /// The device's name.
        name: String,
        /// Compute capability.
        major: i32,
        /// Compute capability.
        minor: i32,
    },
    /// The device's memory does not suffice.
    #[error(
        "out of device memory: {wanted} more were needed for {what} beside {held} already held, and {free} of {total} are \
         free (other programs hold memory too); {advice}"
    )]
    OutOfMemory {
        /// What was asked for.
        wanted: Bytes,
        /// What it was for.
        what: &'static str,
        /// What to change.
        advice: &'static str,
        /// What this process holds.
        held: Bytes,
        /// What the device has left.
        free: Bytes,
        /// What the device has.
        total: Bytes,
    },
    /// A kernel does not compile: a fault of ours, or a version of NVRTC that cannot build for this device.
    #[error(
        "kernel source `{source_name}` does not compile for {arch} with NVRTC {version}; if it is too old for the device, \
         take that of a newer CUDA toolkit, else use `--device cpu` and report this: {log}"
    )]
    Compilation {
        /// The source file.
        source_name: &'static str,
        /// The architecture.
        arch: String,
        /// NVRTC's version.
        version: String,
        /// The compiler's words.
        log: String,
    },
    /// The device does not work any more, in this process at least.
    #[error(
        "the device is lost: {call}: {name} ({description}). What was saved is whole: once `nvidia-smi` shows the device in \
         order, go on from the last checkpoint with `--resume`; if it fails again at the same place, \
         `STATETUNE_CUDA_SYNC=1` names the kernel"
    )]
    Lost {
        /// What was called.
        call: String,
        /// The driver's name for the error.
        name: String,
        /// The driver's words.
        description: String,
    },
    /// A call of the driver failed.
    #[error("{call}: {name} ({description})")]
    Driver {
        /// What was called.
        call: String,
        /// The driver's name for the error.
        name: String,
        /// The driver's words.
        description: String,
    },
    /// A dense product was refused.
    #[error("cuBLASLt: {status} for a product of [{m}, {k}] and [{k}, {n}]")]
    Product {
        /// The status.
        status: String,
        /// Rows.
        m: usize,
        /// Columns.
        n: usize,
        /// Inner size.
        k: usize,
    },
    /// Nothing is computed in this type on CUDA devices.
    #[error("{found} is not computed on CUDA devices; compute in f32 or bf16")]
    NotComputed {
        /// The type.
        found: String,
    },
}

/// What memory is for, and what to change where it does not suffice.
pub(super) struct Purpose {
    pub(super) what: &'static str,
    pub(super) advice: &'static str,
}

pub(super) const LASTING: Purpose = Purpose {
    what: "what outlives a step (weights, trained tensors, moments, batches)",
    advice: "compute in bf16 (`device.compute`), train less or take a smaller model, or a larger device",
};
pub(super) const WORKING: Purpose = Purpose {
    what: "what a step works with",
    advice: "take fewer tokens at once (`train.micro_batch_tokens`, `train.chunk_tokens`) or shorter rows (`data.max_tokens`), or a larger device",
};

/// Whether nothing works in this process any more after such an error.
pub(super) fn is_lost(error: sys::CUresult) -> bool {
    use sys::CUresult as Error;
    [
        Error::CUDA_ERROR_DEVICE_UNAVAILABLE,
        Error::CUDA_ERROR_ECC_UNCORRECTABLE,
        Error::CUDA_ERROR_NVLINK_UNCORRECTABLE,
        Error::CUDA_ERROR_ILLEGAL_ADDRESS,
        Error::CUDA_ERROR_LAUNCH_TIMEOUT,
        Error::CUDA_ERROR_CONTEXT_IS_DESTROYED,
        Error::CUDA_ERROR_ASSERT,
        Error::CUDA_ERROR_HARDWARE_STACK_ERROR,
        Error::CUDA_ERROR_ILLEGAL_INSTRUCTION,
        Error::CUDA_ERROR_MISALIGNED_ADDRESS,
        Error::CUDA_ERROR_INVALID_ADDRESS_SPACE,
        Error::CUDA_ERROR_INVALID_PC,
        Error::CUDA_ERROR_LAUNCH_FAILED,
        Error::CUDA_ERROR_EXTERNAL_DEVICE,
        Error::CUDA_ERROR_UNKNOWN,
    ]
    .contains(&error)
}

/// A number of bytes, written for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub usize);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 as f64 {
            bytes if bytes < 1024.0 => write!(f, "{bytes} bytes"),
            bytes if bytes < f64::from(1 << 20) => write!(f, "{:.1} KiB", bytes / 1024.0),
            bytes if bytes < f64::from(1 << 30) => write!(f, "{:.1} MiB", bytes / f64::from(1 << 20)),
            bytes => write!(f, "{:.2} GiB", bytes / f64::from(1 << 30)),
        }
    }
}
