//! The one error type of this crate. Messages name the file, the tensor or key, what was expected, what was found, and
//! what the reader can do about it.

use std::io;
use std::path::PathBuf;

/// Anything that can go wrong between a model folder and a running model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The operating system refused to read, write, rename or remove a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: "read", "write", ...
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk (or the quota) is full.
    #[error(
        "no space left while writing {}: {source}. Nothing at the destination was changed; free some space or save \
         to another folder",
        path.display()
    )]
    NoSpace {
        /// The file being written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A JSON file that is no JSON, or not an object.
    #[error("{origin} is not a valid JSON object: {reason}")]
    Json {
        /// The file.
        origin: String,
        /// The parser's reason, with line and column where it has them.
        reason: String,
    },
    /// A configuration value of the wrong type or out of range.
    #[error("{origin}: `{field}` must be {expected}, found {found}")]
    ConfigField {
        /// The file, or "model configuration" for one made in code.
        origin: String,
        /// The key as it stands in the file.
        field: String,
        /// What would be valid.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A configuration of a model family this crate does not know.
    #[error(
        "{origin}: unknown architecture {found} (known: mamba, mamba2, and the original layout with d_model and n_layer)"
    )]
    UnknownArchitecture {
        /// The configuration file.
        origin: String,
        /// `model_type`, `architectures`, or what was missing.
        found: String,
    },
    /// A known family with an option this crate does not compute. Ignoring it would give a different model.
    #[error("{origin}: {feature} is not supported ({supported})")]
    UnsupportedFeature {
        /// The configuration file.
        origin: String,
        /// The option and its value.
        feature: String,
        /// What is supported instead.
        supported: String,
    },
    /// A family whose configuration and weights can be read but whose blocks do not exist yet.
    #[error("{architecture} is recognised but cannot be built yet; only Mamba-1 models run at present")]
    NotSupportedYet {
        /// The family.
        architecture: &'static str,
    },
    /// A model folder without any weights file.
    #[error(
        "{} holds no weights: expected model.safetensors, model.safetensors.index.json, pytorch_model.bin or \
         pytorch_model.bin.index.json",
        folder.display()
    )]
    NoWeights {
        /// The folder.
        folder: PathBuf,
    },
    /// A weights file that is truncated or malformed.
    #[error("{} is damaged or incomplete: {reason}. Copy or download it again", path.display())]
    DamagedFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// A readable file in a form that this crate refuses.
    #[error("{}: {reason}", path.display())]
    UnsupportedFile {
        /// The file.
        path: PathBuf,
        /// What is refused, and what to do.
        reason: String,
    },
    /// A pickle that asks for code that a state dict has no need of. Nothing was executed.
    #[error(
        "{} asks to import `{global}`, which a file of weights has no need of; nothing was executed. Do not load it \
         elsewhere unless you trust its source; with trust, convert it to safetensors",
        path.display()
    )]
    ForbiddenGlobal {
        /// The file.
        path: PathBuf,
        /// Module and name, joined by a dot.
        global: String,
    },
    /// A tensor of integers, booleans, 8-bit floats, ...
    #[error("{}: tensor `{tensor}` has dtype {found}; supported are F32, F64, BF16 and F16", path.display())]
    UnsupportedDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// Its dtype, as the file spells it.
        found: String,
    },
    /// One tensor name twice, over shards or after the names of the original layout were translated.
    #[error("tensor `{tensor}` is there twice: in {} and in {}", first.display(), second.display())]
    DuplicateTensor {
        /// The name.
        tensor: String,
        /// Where it was seen first.
        first: PathBuf,
        /// Where it was seen again.
        second: PathBuf,
    },
    /// A shard named by the index is not in the folder.
    #[error("{} names the shard `{shard}`, which is not in the folder; copy the missing file", index.display())]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard's file name.
        shard: String,
    },
    /// The index promises a tensor in a shard that lacks it.
    #[error("{} says that tensor `{tensor}` is in `{shard}`, but that file lacks it", index.display())]
    MissingFromShard {
        /// The index file.
        index: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shard's file name.
        shard: String,
    },
    /// Tensors that the configuration calls for and the weights lack.
    #[error("{} lacks {} of the tensors its config.json calls for: {}", folder.display(), tensors.len(), abridged(tensors))]
    MissingTensors {
        /// The model folder.
        folder: PathBuf,
        /// Their names.
        tensors: Vec<String>,
    },
    /// Tensors that the configuration gives no place to.
    #[error(
        "{} has {} tensors its config.json gives no place to: {}; leaving them out would give another model",
        folder.display(), tensors.len(), abridged(tensors)
    )]
    UnexpectedTensors {
        /// The model folder.
        folder: PathBuf,
        /// Their names.
        tensors: Vec<String>,
    },
    /// A tensor that was asked for by name and is not there.
    #[error("{} has no tensor `{tensor}`", folder.display())]
    NoSuchTensor {
        /// The model folder.
        folder: PathBuf,
        /// The name.
        tensor: String,
    },
    /// A tensor whose shape is not the one the configuration gives it.
    #[error("{}: tensor `{tensor}` has shape {found:?}, but the configuration calls for {expected:?}", path.display())]
    WrongShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// NaN or infinity among the weights.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}; the checkpoint is unusable", path.display())]
    NonFiniteWeight {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Row-major position of the first such element.
        index: usize,
        /// NaN, inf or -inf.
        value: f64,
    },
    /// A finite weight that would become infinite in a narrower type.
    #[error(
        "{}: tensor `{tensor}` holds {value:e} at element {index}, too large for {dtype}; load it in a wider dtype",
        path.display()
    )]
    WeightOverflow {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Row-major position of the first such element.
        index: usize,
        /// The stored value.
        value: f64,
        /// The type it does not fit in.
        dtype: &'static str,
    },
    /// `tie_word_embeddings` is set, yet the two tensors differ.
    #[error(
        "{}: config.json says tie_word_embeddings = true, but `lm_head.weight` differs from \
         `backbone.embeddings.weight` at element {index}; set tie_word_embeddings to false if the head was trained \
         apart, or remove `lm_head.weight` if it was not",
        folder.display()
    )]
    UntiedHead {
        /// The model folder.
        folder: PathBuf,
        /// Row-major position of the first difference.
        index: usize,
    },
    /// What was handed over for saving is not what the configuration describes.
    #[error("cannot save to {}: {reason}", folder.display())]
    InvalidSave {
        /// The destination.
        folder: PathBuf,
        /// Which tensor, and what is wrong with it.
        reason: String,
    },
    /// An operation was given something it cannot work with.
    #[error(transparent)]
    Tensor(#[from] statetune_tensor::TensorError),
    /// Sequences cannot be packed.
    #[error("bad batch: {reason}")]
    Batch {
        /// What is wrong.
        reason: String,
    },
    /// A recurrent state does not fit the model or the batch.
    #[error("recurrent state: {reason}")]
    State {
        /// What is wrong.
        reason: String,
    },
    /// A patch does not fit the model.
    #[error("patch `{name}`: {reason}")]
    Patch {
        /// The site or tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A token the embedding has no row for.
    #[error(
        "token id {id} at position {at} is not below the vocabulary's size {vocab_size}; do model and tokenizer belong together?"
    )]
    TokenOutOfRange {
        /// The token.
        id: u32,
        /// Its place in the packed batch.
        at: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// Generation was asked for something impossible.
    #[error("generation: {reason}")]
    Generation {
        /// What is wrong.
        reason: String,
    },
}

/// The first few names, and how many more there are.
fn abridged(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut list = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        list += &format!(" and {} more", names.len() - SHOWN);
    }
    list
}

#[cfg(feature = "cuda")]
impl From<statetune_ssm_kernels::runtime::cuda::CudaError> for ModelError {
    fn from(error: statetune_ssm_kernels::runtime::cuda::CudaError) -> ModelError {
        statetune_tensor::TensorError::from(error).into()
    }
}
