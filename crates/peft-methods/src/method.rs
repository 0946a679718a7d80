//! What a method is: a configuration that, given a model's shape, declares patches and the tensors they need.

use statetune_tensor::Staged;
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

    /// Whether the model is unchanged before training. An entry's examples follow its entry; an option may make it otherwise.
    fn starts_unchanged(&self) -> bool {
        crate::methods::find(self.tag()).is_ok_and(|info| info.starts_unchanged)
    }

    /// The method without what only training needs, such as a reparametrisation. Its patches are at the same sites, each
    /// the value of a tensor; [`Adapter::exported`](crate::Adapter::exported) computes them.
    fn exported(&self) -> Option<Box<dyn Method>> {
        None
    }

    /// The method with its texts turned into token ids, if it has any.
    ///
    /// # Errors
    /// The tokenizer's, or a text that cannot be used.
    fn with_text(&self, tokenize: Tokenize<'_>) -> Result<Option<Box<dyn Method>>, PeftError> {
        let _ = tokenize;
        Ok(None)
    }

    /// Steps of a warm-up after which [`select`](Method::select) decides what is trained; 0: there is none, or it is over.
    fn warmup_steps(&self) -> u64 {
        0
    }

    /// What the method has become after its warm-up. `tensor` gives the warmed-up tensors by name. Training then starts
    /// again from the beginning.
    ///
    /// # Errors
    /// A tensor is missing.
    fn select(&self, model: &MambaConfig, tensor: TensorValues<'_>) -> Result<Option<Box<dyn Method>>, PeftError> {
        let _ = (model, tensor);
        Ok(None)
    }
}

/// Token ids of a text.
pub type Tokenize<'a> = &'a dyn Fn(&str) -> Result<Vec<u32>, String>;

/// A tensor's values by its name.
pub type TensorValues<'a> = &'a dyn Fn(&str) -> Result<Vec<f64>, PeftError>;

/// What a method adds to a model.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The changes.
    pub patches: Vec<Patch>,
    /// The tensors that the changes name.
    pub tensors: Vec<TensorSpec>,
}

/// A tensor of a method.
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
    /// Whether it is trained; a constant otherwise.
    pub trained: bool,
    /// Whether it is in adapter files; otherwise it is made from `init` again, which must not depend on the run's seed.
    pub saved: bool,
    /// Its learning rate as a multiple of the run's.
    pub rate: f64,
    /// Why it may have a zero gradient or not move in the first steps, which is an error without a reason.
    pub may_stay: Option<&'static str>,
}

impl TensorSpec {
    /// A trained tensor without weight decay.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>, init: Init) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            shape: shape.into(),
            init,
            decay: false,
            trained: true,
            saved: true,
            rate: 1.0,
            may_stay: None,
        }
    }

    /// With weight decay: for matrices.
    pub fn decayed(self) -> TensorSpec {
        TensorSpec { decay: true, ..self }
    }

    /// A constant that is saved with the adapter.
    pub fn constant(self) -> TensorSpec {
        TensorSpec { decay: false, trained: false, ..self }
    }

    /// A constant that is made again when an adapter is loaded.
    pub fn derived(self) -> TensorSpec {
        TensorSpec { saved: false, ..self.constant() }
    }

    /// With a learning rate that is so many times the run's.
    pub fn at_rate(self, rate: f64) -> TensorSpec {
        TensorSpec { rate, ..self }
    }

    /// May stay as it is, for this reason.
    pub fn may_stay(self, reason: &'static str) -> TensorSpec {
        TensorSpec { may_stay: Some(reason), ..self }
    }
}

/// How a tensor starts.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// All this number.
    Constant(f64),
    /// Uniform in ±1/√(columns): PyTorch's `kaiming_uniform_(a = √5)`.
    KaimingUniform,
    /// Uniform in ±bound.
    Uniform {
        /// The bound.
        bound: f64,
        /// A seed of its own instead of the run's.
        seed: Option<u64>,
    },
    /// Normal with mean zero.
    Normal {
        /// The standard deviation.
        deviation: f64,
    },
    /// As the stored tensor of this name.
    Parameter(String),
    /// The norms of the rows `rows` of the stored matrix, or of its columns.
    Norms {
        /// The stored matrix.
        parameter: String,
        /// Which rows.
        rows: std::ops::Range<usize>,
        /// Whether the norms are those of the columns.
        of_columns: bool,
    },
    /// The last column of the stored matrix `[m, n]`, as often as the tensor `[m, k]` has columns.
    LastColumn(String),
    /// So much less the stored tensor: what takes it to this number when added to it, at chosen flat places.
    Complement {
        /// The stored tensor.
        parameter: String,
        /// The number to arrive at.
        target: f64,
        /// Which of its elements.
        entries: Staged<u32>,
    },
    /// Rows of the stored matrix, one after the other and again from the first until the tensor is full.
    Rows {
        /// The stored matrix.
        parameter: String,
        /// Which rows.
        ids: Vec<u32>,
    },
    /// Rows of the stored matrix, drawn at random.
    RandomRows(String),
    /// A factor of a rank-r approximation of rows of the stored matrix.
    Factor {
        /// The stored matrix.
        parameter: String,
        /// Which rows.
        rows: std::ops::Range<usize>,
        /// How the approximation is found.
        by: Factorisation,
        /// s of the low-rank addition: s B A is the approximation.
        scale: f64,
        /// Whether this is A `[r, n]`; otherwise B `[m, r]`.
        is_a: bool,
    },
}

/// How a matrix is approximated by a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Factorisation {
    /// Its largest singular values.
    Svd,
    /// The first columns of Q and rows of R.
    Qr,
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
    /// What it touches, in a few words.
    pub sites: &'static str,
    /// Whether it can be merged into the base model's tensors.
    pub mergeable: bool,
    /// Whether the model is unchanged before training, with the default options. Prompts and prefixes change it.
    pub starts_unchanged: bool,
    /// What it costs in each step of decoding when it is not merged.
    pub decoding: &'static str,
    /// The learning rate that a run takes where none is given.
    pub learning_rate: f64,
    /// Reads a configuration (without the `method` key).
    pub parse: fn(Value) -> Result<Box<dyn Method>, PeftError>,
    /// Configurations that the contract tests try.
    pub examples: fn() -> Vec<Value>,
}

/// One option of a method.
#[derive(Debug, Clone, Copy)]
pub struct OptionInfo {
    /// The key.
    pub name: &'static str,
    /// The default, as it would be written.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

impl OptionInfo {
    /// The options of a method followed by one more.
    pub const fn and<const N: usize, const M: usize>(options: [OptionInfo; N], more: OptionInfo) -> [OptionInfo; M] {
        assert!(M == N + 1);
        let mut all = [more; M];
        let mut i = 0;
        while i < N {
            all[i] = options[i];
            i += 1;
        }
        all
    }
}

impl MethodInfo {
    /// Parses a configuration for this entry into `C`, naming unknown keys with the nearest known one.
    ///
    /// # Errors
    /// An option is unknown, or its value cannot be.
    pub fn read<C: serde::de::DeserializeOwned>(
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
