//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

use statetune_datasets_eval::DataError;
use statetune_mamba_model::ModelError;
use statetune_peft_methods::PeftError;

/// Anything that can stop a run.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration file is not valid.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Which key, what was expected, what was found.
        reason: String,
    },
    /// The CUDA device failed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] statetune_ssm_kernels::runtime::cuda::CudaError),
    /// Nothing would be trained, or nothing can be learned from.
    #[error("{reason}")]
    NothingToDo {
        /// Why, and what to do.
        reason: String,
    },
    /// A patch has no effect.
    #[error("`{name}` {reason}: it has no effect on the loss. Is the site used by this model and data?")]
    NoEffect {
        /// The site or tensor.
        name: String,
        /// What was observed.
        reason: String,
    },
    /// Too many steps in a row had a loss or gradient that is not a finite number.
    #[error(
        "step {step}: {what}; that was the {count}th step in a row without a finite gradient. Lower the learning rate or look at the data of these steps"
    )]
    NonFinite {
        /// The step.
        step: u64,
        /// The loss or the tensor.
        what: String,
        /// Steps in a row.
        count: u32,
    },
    /// A run folder is not what was expected.
    #[error("{}: {reason}", folder.display())]
    RunFolder {
        /// The folder.
        folder: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The newest checkpoint of a run cannot be used.
    #[error("cannot go on from {}; remove that folder to resume from the checkpoint before it", path.display())]
    Resume {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<TrainError>,
    },
    /// A checkpoint is damaged or of another run.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A run of a sweep failed.
    #[error("{entry} on {task}: {source}")]
    Sweep {
        /// The entry that was run.
        entry: String,
        /// On what.
        task: String,
        /// What happened.
        source: Box<TrainError>,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// "read", "write", ...
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A method or an adapter folder refused.
    #[error(transparent)]
    Peft(#[from] PeftError),
    /// The data refused.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An operation refused.
    #[error(transparent)]
    Tensor(#[from] statetune_tensor::TensorError),
}

pub(crate) fn io_error(path: &std::path::Path, action: &'static str, source: io::Error) -> TrainError {
    TrainError::Io { path: path.to_path_buf(), action, source }
}
