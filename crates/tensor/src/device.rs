//! Where tensors live and kernels run.

use statetune_ssm_kernels::{Cpu, Level};

use crate::{DType, Result};

/// A device. Cloning shares its pool (and, on a GPU, its context).
#[derive(Debug, Clone)]
pub enum Device {
    /// The processor: a SIMD level and a thread pool of its own.
    Cpu(Cpu),
    /// A CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(statetune_ssm_kernels::runtime::Cuda),
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

    /// The type that trained tensors and their gradients have where activations are computed in `compute`: on a device
    /// with bf16 activations they stay in single precision.
    pub fn trained_type(compute: DType) -> DType {
        if compute == DType::Bf16 { DType::F32 } else { compute }
    }

    /// Whether activations can be of this type here: f32 and f64 on the processor, f32 and bf16 on a CUDA device.
    pub fn computes(&self, compute: DType) -> bool {
        match self {
            Device::Cpu(_) => matches!(compute, DType::F32 | DType::F64),
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => matches!(compute, DType::F32 | DType::Bf16),
        }
    }

    /// While the guard lives, what is made on a CUDA device comes from the memory that a step works with; nothing of it may
    /// outlive a step. On the processor there is no such difference.
    pub fn working(&self) -> impl Sized + use<> {
        match self {
            #[cfg(not(feature = "cuda"))]
            Device::Cpu(_) => (),
            #[cfg(feature = "cuda")]
            Device::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Some(cuda.working()),
        }
    }

    /// What it has computed so far.
    pub fn counts(&self) -> statetune_ssm_kernels::Counts {
        match self {
            Device::Cpu(cpu) => cpu.counts(),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => cuda.counts(),
        }
    }
}

/// The processor behind a device; on a CUDA device returns what is computed there instead.
#[macro_export]
macro_rules! cpu_or {
    ($device:expr, $cuda:ident => $on_cuda:expr) => {
        match $device {
            $crate::Device::Cpu(cpu) => cpu,
            #[cfg(feature = "cuda")]
            $crate::Device::Cuda($cuda) => return $on_cuda,
        }
    };
}
