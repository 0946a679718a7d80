//! The one error type of this crate.

use std::io;
use std::path::PathBuf;

use statetune_mamba_model::ModelError;

/// Anything that can go wrong between a method's configuration and an adapter on a model.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// There is no method of this name.
    #[error("unknown method `{found}`{}; known are: {known}", did_you_mean(nearest))]
    UnknownMethod {
        /// The name given.
        found: String,
        /// The known name it resembles.
        nearest: Option<String>,
        /// All names.
        known: String,
    },
    /// A method's configuration has a key that the method does not know.
    #[error("method `{method}` has no option `{found}`{}; its options are: {known}", did_you_mean(nearest))]
    UnknownOption {
        /// The method.
        method: &'static str,
        /// The key given.
        found: String,
        /// The known key it resembles.
        nearest: Option<String>,
        /// All keys.
        known: String,
    },
    /// A method's configuration has a value that cannot be.
    #[error("method `{method}`: {reason}")]
    Option {
        /// The method.
        method: &'static str,
        /// Which option, what was expected, what was found.
        reason: String,
    },
    /// A target names no site of the model.
    #[error(
        "method `{method}`: the target `{pattern}` matches nothing in this model{}; there are: {known}",
        did_you_mean(nearest)
    )]
    NoMatch {
        /// The method.
        method: &'static str,
        /// The target given.
        pattern: String,
        /// The site's short name it resembles.
        nearest: Option<String>,
        /// The short names of all sites.
        known: String,
    },
    /// A merge was asked for what has no place in a checkpoint.
    #[error("{site} cannot be merged: a checkpoint has no tensor for it. Keep the adapter beside the base model")]
    NotMergeable {
        /// The patched site.
        site: String,
    },
    /// An adapter cannot be had under this name.
    #[error("adapter `{name}`: {reason}")]
    AdapterName {
        /// The name.
        name: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// There is no adapter of this name.
    #[error("there is no adapter `{found}`{}; there are: {known}", did_you_mean(nearest))]
    UnknownAdapter {
        /// The name given.
        found: String,
        /// The known name it resembles.
        nearest: Option<String>,
        /// All names.
        known: String,
    },
    /// Two adapters exclude each other.
    #[error("the adapters `{first}` and `{second}` cannot be stacked: {reason}. Use one of them, or their average")]
    CannotStack {
        /// One adapter.
        first: String,
        /// The other.
        second: String,
        /// What both do.
        reason: String,
    },
    /// Adapters cannot be averaged.
    #[error("cannot average: {reason}")]
    CannotAverage {
        /// Which adapters, what was expected, what was found.
        reason: String,
    },
    /// This build cannot do what was asked for.
    #[error(
        "{what} needs the feature `{feature}`, which this build leaves out. It links the system's OpenBLAS (Debian: \
         `apt-get install libopenblas-dev`); then build with `cargo build --release --features {feature}`"
    )]
    MissingFeature {
        /// The feature.
        feature: &'static str,
        /// What needs it.
        what: String,
    },
    /// A decomposition of a matrix cannot be made.
    #[error("{reason}")]
    LinearAlgebra {
        /// Which one, and why not.
        reason: String,
    },
    /// Two checkpoints have no difference that an adapter could hold.
    #[error("cannot extract an adapter: {reason}")]
    Extract {
        /// What was expected, what was found.
        reason: String,
    },
    /// An adapter has no form in Hugging Face PEFT.
    #[error("this adapter cannot be written as a folder of Hugging Face PEFT: {reason}")]
    NotExportable {
        /// Why, and what to do.
        reason: String,
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
    /// A file is damaged or not what it should be.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An adapter's tensors are not those its configuration calls for.
    #[error("{}: {reason}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// Which tensor, what was expected, what was found.
        reason: String,
    },
    /// A foreign adapter uses something that is not supported here.
    #[error("{}: {feature} is not supported yet", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key and its value.
        feature: String,
    },
    /// The model refused.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// An operation refused.
    #[error(transparent)]
    Tensor(#[from] statetune_tensor::TensorError),
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or_else(String::new, |nearest| format!(" (did you mean `{nearest}`?)"))
}
