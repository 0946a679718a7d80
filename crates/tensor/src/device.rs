//! Where tensors live and kernels run.

use statetune_ssm_kernels::{Cpu, Level};

use crate::Result;

/// A device. Cloning shares its pool (and, on a GPU, its context).
#[derive(Debug, Clone)]
pub enum Device {
    /// The processor: a SIMD level and a thread pool of its own.
    Cpu(Cpu),
}

impl Device {
    /// The processor with the given level and number of threads (0: all cores).
    ///
    /// # Errors
    /// When the processor lacks the level, or threads cannot be started.
    pub fn cpu(level: Level, threads: usize) -> Result<Device> {
        Ok(Device::Cpu(Cpu::new(level, threads)?))
    }

    /// The processor at its best level on all cores.
    ///
    /// # Errors
    /// When threads cannot be started.
    pub fn best_cpu() -> Result<Device> {
        Ok(Device::Cpu(Cpu::best()?))
    }
}
