//! What a method is: a configuration that, given a model's shape, declares patches and the tensors they need.

use std::fmt::Debug;

use serde_json::Value;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::Patch;

use crate::PeftError;

/// A configured method.
pub trait Method: Debug + Send + Sync {
    /// The name of its entry in [`METHODS`](crate::METHODS).
    fn tag(&self) -> &'static str;

    /// The configuration, with every option present.
    fn config(&self) -> Value;

    /// The patches and tensors for a model of this shape.
    ///
    /// # Errors
    /// When an option does not fit the model, such as a target that matches nothing.
    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError>;

    /// The number of trained numbers by the method's formula, written independently of [`plan`](Method::plan).
    ///
    /// # Errors
    /// As [`plan`](Method::plan).
    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError>;
}

/// What a method adds to a model.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The changes.
    pub patches: Vec<Patch>,
    /// The tensors that the changes name.
    pub tensors: Vec<TensorSpec>,
}

/// A tensor to be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Its name, which is also its name in adapter files.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values before training.
    pub init: Init,
    /// Whether weight decay applies: to matrices, not to states, biases, norms, `A_log` and D.
    pub decay: bool,
}

/// How a tensor starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// Uniform in ±1/√(columns): PyTorch's `kaiming_uniform_(a = √5)`.
    KaimingUniform,
    /// As the stored tensor of this name.
    Parameter(String),
}

/// An entry of [`METHODS`](crate::METHODS): all that help texts, the methods table and the contract tests need.
pub struct MethodInfo {
    /// The name in configurations: `method = "state-offset-h"`.
    pub tag: &'static str,
    /// One line on what is trained.
    pub summary: &'static str,
    /// Where it is described.
    pub reference: &'static str,
    /// The options, with defaults.
    pub options: &'static [OptionInfo],
    /// Whether it can be merged into the base model's tensors.
    pub mergeable: bool,
    /// Reads a configuration (without the `method` key).
    pub parse: fn(Value) -> Result<Box<dyn Method>, PeftError>,
    /// Configurations that the contract tests try.
    pub examples: fn() -> Vec<Value>,
}

/// One option of a method.
pub struct OptionInfo {
    /// The key.
    pub name: &'static str,
    /// The default, as it would be written.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

impl MethodInfo {
    /// Parses a configuration for this entry into `C`, naming unknown keys with the nearest known one.
    pub(crate) fn read<C: serde::de::DeserializeOwned>(
        tag: &'static str,
        options: &[OptionInfo],
        value: Value,
    ) -> Result<C, PeftError> {
        let Value::Object(map) = &value else {
            return Err(PeftError::Option {
                method: tag,
                reason: format!("expected a table of options, found {value}"),
            });
        };
        let names = || options.iter().map(|option| option.name);
        if let Some(found) = map.keys().find(|key| !names().any(|name| name == key.as_str())) {
            return Err(PeftError::UnknownOption {
                method: tag,
                nearest: crate::nearest(found, names()).map(str::to_owned),
                found: found.clone(),
                known: names().collect::<Vec<_>>().join(", "),
            });
        }
        serde_json::from_value(value).map_err(|error| PeftError::Option { method: tag, reason: error.to_string() })
    }
}
