//! What kernels run on: the SIMD level, the thread pool of a CPU device, disjoint writes, mapped files, freed memory.

pub mod cpu;
pub mod disjoint;
pub mod level;
pub mod mapped_file;
pub mod memory;

pub use cpu::Cpu;
pub use disjoint::DisjointSlice;
pub use level::Level;
pub use mapped_file::MappedFile;
pub use memory::keep_freed_memory;

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
    /// The operating system refused to start the worker threads.
    #[error("cannot start {threads} worker threads: {reason}")]
    ThreadPool {
        /// How many threads were asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}
