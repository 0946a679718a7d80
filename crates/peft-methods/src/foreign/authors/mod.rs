//! The configurations and names of two published codes: State-offset Tuning (Kang et al. 2025) and SSM-PEFT (Galim et
//! al. 2024). Their adapters are PEFT's in form, with kinds and module names of their own.
//!
//! `peft_json`: kinds to methods; `names`: tensors and targets; `sparse`: the tensors of `SD_LORA`; `keys`: reading with
//! messages.

mod keys;
mod names;
mod peft_json;
mod sparse;

pub(super) use names::{target, tensor_name};
pub(super) use peft_json::{KINDS, configs, lora_configs};
pub(super) use sparse::import as import_sparse;
