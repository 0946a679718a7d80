//! Parameter-efficient fine-tuning methods for state space models: configurations in, patches out.
//!
//! - [`Method`], [`METHODS`]: what a method declares, and the one list of all of them.
//! - [`methods`]: the methods, one file each.
//! - [`Adapter`]: methods on a model: their tensors, counted, saved, loaded and merged.
//! - [`AdapterSet`]: adapters by name on one model: switched, stacked, averaged.
//! - [`extract`]: a low-rank adapter from the difference of two models; [`linalg`]: the decompositions it needs.
//! - [`foreign`]: adapters of Hugging Face PEFT and of the authors of State-offset Tuning.
//!
//! A method only declares [patches](statetune_mamba_model::patch); the model applies them. Nothing here trains.
#![forbid(unsafe_code)]

pub mod adapter;
mod adapter_set;
mod error;
pub mod extract;
pub mod foreign;
pub mod linalg;
mod method;
pub mod methods;
mod nearest;

pub use adapter::Adapter;
pub use adapter_set::AdapterSet;
pub use error::PeftError;
pub use method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec, TensorValues, Tokenize};
pub use methods::METHODS;
pub use nearest::nearest;
