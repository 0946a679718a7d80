//! Parameter-efficient fine-tuning of state space language models: the crates under one roof, and the command line.
//!
//! [`mamba_model`] holds the models, [`peft_methods`] the methods, [`datasets_eval`] the data, [`trainer`] the training;
//! [`tensor`] and [`ssm_kernels`] are underneath. [`cli`] is glue: no maths; [`hub`] makes names on the Hugging Face hub local files.
#![forbid(unsafe_code)]

pub mod cli;
pub mod hub;
mod model_folder;

pub use statetune_datasets_eval as datasets_eval;
pub use statetune_mamba_model as mamba_model;
pub use statetune_peft_methods as peft_methods;
pub use statetune_ssm_kernels as ssm_kernels;
pub use statetune_tensor as tensor;
pub use statetune_trainer as trainer;
