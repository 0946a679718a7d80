//! What can go wrong on a CUDA device, in words that say what to do.

/// An error of the CUDA backend.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CudaError {
    /// A shared library is not on this machine.
    #[error("{library} was not found: {hint}")]
    MissingLibrary {
        /// The library, as the loader knows it.
        library: &'static str,
        /// Where it comes from.
        hint: &'static str,
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
         free; take fewer tokens at once (`train.micro_batch_tokens`, `train.chunk_tokens`), or a larger device"
    )]
    OutOfMemory {
        /// What was asked for.
        wanted: Bytes,
        /// What it was for.
        what: &'static str,
        /// What this process holds.
        held: Bytes,
        /// What the device has left.
        free: Bytes,
        /// What the device has.
        total: Bytes,
    },
    /// A kernel does not compile: a fault of ours, or a version of NVRTC that cannot build for this device.
    #[error("kernel source `{source_name}` does not compile for {arch} with NVRTC {version}: {log}")]
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
    /// A call of the driver failed. After some failures (an illegal address, a lost device) nothing works on the device any
    /// more.
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

/// A number of bytes, written for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub usize);

impl std::fmt::Display for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        if mib < 1024.0 { write!(f, "{mib:.1} MiB") } else { write!(f, "{:.2} GiB", mib / 1024.0) }
    }
}
