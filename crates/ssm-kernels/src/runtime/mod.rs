//! What kernels run on: the SIMD level, the thread pool of a CPU device and its counters, disjoint writes, mapped files,
//! freed memory.

pub mod counts;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod disjoint;
pub mod level;
pub mod mapped_file;
pub mod memory;
pub mod openblas;
pub mod products;

pub use counts::Counts;
pub use cpu::Cpu;
#[cfg(feature = "cuda")]
pub use cuda::Cuda;
pub use disjoint::DisjointSlice;
pub use level::Level;
pub use mapped_file::MappedFile;
pub use memory::keep_freed_memory;
pub use openblas::openblas_on_one_thread;
pub use products::Products;

/// What can go wrong when a device is set up.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The processor lacks the instructions of the level that was asked for.
    #[error("SIMD level `{wanted}` is not available on this processor (available: {available})")]
    LevelUnavailable {
        /// The level asked for.
        wanted: Level,
        /// The levels this processor has, separated by commas.
        available: String,
    },
    /// No level has this name.
    #[error("unknown SIMD level `{found}` (expected reference, portable, avx2 or avx512)")]
    UnknownLevel {
        /// The name given.
        found: String,
    },
    /// No precision of products has this name.
    #[error("unknown precision of products `{found}` (expected f32 or bf16)")]
    UnknownProducts {
        /// The name given.
        found: String,
    },
    /// The processor cannot multiply in bf16, or not at this level.
    #[error(
        "products in {wanted} need AVX-512 with BF16, which this processor does not have at level {level}; use f32"
    )]
    ProductsUnavailable {
        /// The precision asked for.
        wanted: Products,
        /// The level in use.
        level: Level,
    },
    /// The operating system refused to start the worker threads.
    #[error("cannot start {threads} worker threads: {reason}")]
    ThreadPool {
        /// How many threads were asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}
