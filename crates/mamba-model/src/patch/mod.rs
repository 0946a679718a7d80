//! Patches: what a fine-tuning method declares. The model applies them; it knows no method by name.

mod check;
mod value;

use statetune_tensor::{Buffer, DType, Device, Staged, Tape, Tensor, Var};

pub use crate::site::Ends;
use crate::site::Site;
use crate::{Mamba, ModelError};
pub use value::Value;

/// What happens at a site. Tensors are given by name.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// W becomes W + `scale` · B A, computed as two small products.
    LowRank {
        /// A `[r, in_features]`.
        a: Value,
        /// B `[rows, r]`.
        b: Value,
        /// s.
        scale: f64,
        /// The probability with which A's input is dropped in training.
        dropout: f32,
        /// Where a tied matrix is changed.
        ends: Ends,
        /// m: the sum is scaled to these row norms (of an embedding: column norms), as in DoRA.
        magnitude: Option<String>,
    },
    /// Chosen columns of W gain `values`, computed as a product with the chosen inputs.
    Columns {
        /// `[rows, columns]`.
        values: String,
        /// Which columns.
        columns: Staged<u32>,
    },
    /// The outputs gain a bias.
    Bias(String),
    /// The stored tensor itself is trained; the named tensor holds its present value.
    Train {
        /// Its present value.
        value: String,
        /// Where a tied matrix is replaced.
        ends: Ends,
    },
    /// The stored tensor gains `scale` · `value`. Of a matrix this makes a copy and brings back its whole gradient.
    Add {
        /// Of as many numbers as the tensor has.
        value: Value,
        /// s.
        scale: f64,
    },
    /// The operand, the virtual inputs or the soft tokens take a value. On one operand several patches add (S: multiply),
    /// virtual inputs and soft tokens follow one another.
    Operand(Value),
    /// Further state dimensions.
    AddedState {
        /// `[D, k]`, in logarithms.
        a_log: Value,
        /// `[k, D]`, rows of `x_proj` for B.
        b: Value,
        /// `[k, D]`, rows of `x_proj` for C.
        c: Value,
    },
}

impl Change {
    /// The stored tensor is trained, at both ends of a tied one.
    pub fn train(value: impl Into<String>) -> Change {
        Change::Train { value: value.into(), ends: Ends::Both }
    }

    /// The operand is the tensor itself.
    pub fn dense(tensor: impl Into<String>) -> Change {
        Change::Operand(Value::Dense(tensor.into()))
    }

    /// The same over tensors whose names begin with `prefix`.
    fn prefixed(&self, prefix: &str) -> Change {
        let name = |name: &String| format!("{prefix}{name}");
        match self {
            Change::LowRank { a, b, scale, dropout, ends, magnitude } => Change::LowRank {
                a: a.prefixed(prefix),
                b: b.prefixed(prefix),
                scale: *scale,
                dropout: *dropout,
                ends: *ends,
                magnitude: magnitude.as_ref().map(name),
            },
            Change::Columns { values, columns } => Change::Columns { values: name(values), columns: columns.clone() },
            Change::Bias(bias) => Change::Bias(name(bias)),
            Change::Train { value, ends } => Change::Train { value: name(value), ends: *ends },
            Change::Add { value, scale } => Change::Add { value: value.prefixed(prefix), scale: *scale },
            Change::Operand(value) => Change::Operand(value.prefixed(prefix)),
            Change::AddedState { a_log, b, c } => {
                Change::AddedState { a_log: a_log.prefixed(prefix), b: b.prefixed(prefix), c: c.prefixed(prefix) }
            }
        }
    }
}

/// One change at one site.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Where.
    pub site: Site,
    /// What.
    pub change: Change,
}

impl Patch {
    /// The names of the tensors it uses.
    pub fn tensors(&self) -> Vec<&str> {
        match &self.change {
            Change::LowRank { a, b, magnitude, .. } => {
                let magnitude = magnitude.iter().map(String::as_str);
                a.tensors().into_iter().chain(b.tensors()).chain(magnitude).collect()
            }
            Change::Columns { values: name, .. } | Change::Bias(name) | Change::Train { value: name, .. } => vec![name],
            Change::Add { value, .. } | Change::Operand(value) => value.tensors(),
            Change::AddedState { a_log, b, c } => [a_log, b, c].into_iter().flat_map(Value::tensors).collect(),
        }
    }
}

/// A tensor that patches are made of.
#[derive(Debug, Clone)]
pub struct PatchTensor {
    /// Its name, unique among the patches of a model.
    pub name: String,
    /// Its values, in the model's compute type.
    pub buffer: Buffer,
    /// Whether it is trained; a constant otherwise.
    pub trained: bool,
}

/// The patches of a model and the tensors they are made of, in a fixed order.
#[derive(Debug, Clone, Default)]
pub struct Patches {
    patches: Vec<Patch>,
    tensors: Vec<PatchTensor>,
}

impl Patches {
    /// No patches: the base model.
    pub fn none() -> Patches {
        Patches::default()
    }

    /// Checks the patches against a model and the tensors against the patches.
    ///
    /// # Errors
    /// When a site does not exist in the model, a tensor is missing, twice, unused, of another element type than the
    /// model computes in, or of a wrong shape.
    pub fn new(model: &Mamba, patches: Vec<Patch>, tensors: Vec<(String, Tensor)>) -> Result<Patches, ModelError> {
        let compute = model.trained_type();
        let trained = |(name, value): (String, Tensor)| -> Result<PatchTensor, ModelError> {
            Ok(PatchTensor { name, buffer: Buffer::new(value.to(model.device())?.copied()?), trained: true })
        };
        let tensors = tensors.into_iter().map(trained).collect::<Result<Vec<_>, _>>()?;
        let set = Patches { patches, tensors };
        for (i, tensor) in set.tensors.iter().enumerate() {
            let fail = |reason: String| ModelError::Patch { name: tensor.name.clone(), reason };
            if set.tensors[..i].iter().any(|other| other.name == tensor.name) {
                return Err(fail("there are two tensors of this name".into()));
            }
            if tensor.buffer.dtype() != compute {
                let found = tensor.buffer.dtype();
                return Err(fail(format!("element type {found}, but the model computes in {compute}")));
            }
            if !set.patches.iter().any(|patch| patch.tensors().contains(&tensor.name.as_str())) {
                return Err(fail("no patch uses this tensor".into()));
            }
        }
        set.patches.iter().try_for_each(|patch| set.check(model.config(), patch))?;
        Ok(set)
    }

    /// The same with the tensors of these names as constants.
    ///
    /// # Errors
    /// When there is no such tensor.
    pub fn with_constants<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Result<Patches, ModelError> {
        for name in names {
            let reason = || "no patch uses this tensor".to_owned();
            let found = self.tensors.iter_mut().find(|tensor| tensor.name == name);
            found.ok_or_else(|| ModelError::Patch { name: name.to_owned(), reason: reason() })?.trained = false;
        }
        Ok(self)
    }

    /// The patches.
    pub fn patches(&self) -> &[Patch] {
        &self.patches
    }

    /// The tensors, in order.
    pub fn tensors(&self) -> &[PatchTensor] {
        &self.tensors
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// The number of trained numbers.
    pub fn trainable(&self) -> usize {
        self.tensors.iter().filter(|t| t.trained).map(|t| t.buffer.shape().iter().product::<usize>()).sum()
    }

    /// The state dimensions that patches add to each of `layers` layers.
    pub fn added_states(&self, layers: usize) -> Vec<usize> {
        let mut added = vec![0; layers];
        for patch in &self.patches {
            let (Site::AddedState { layer }, Change::AddedState { b, .. }) = (&patch.site, &patch.change) else {
                continue;
            };
            let rows = b.shape(&|name| Ok(self.tensor(name)?.shape())).map_or(0, |shape| shape[0]);
            added[*layer] += rows;
        }
        added
    }

    /// Whether any patch drops inputs in training.
    pub fn has_dropout(&self) -> bool {
        self.patches.iter().any(|p| matches!(p.change, Change::LowRank { dropout, .. } if dropout > 0.0))
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn tensor(&self, name: &str) -> Result<&Buffer, ModelError> {
        let found = self.tensors.iter().find(|t| t.name == name);
        found.map(|t| &t.buffer).ok_or_else(|| ModelError::Patch {
            name: name.to_owned(),
            reason: "a patch names this tensor, but there is none".into(),
        })
    }

    /// A value made of these tensors.
    ///
    /// # Errors
    /// When it names a tensor that is not there.
    pub fn value(&self, device: &Device, value: &Value) -> Result<Tensor, ModelError> {
        let leaves: Vec<Var> = self.tensors.iter().map(|tensor| tensor.buffer.tensor().into()).collect();
        let leaf = |name: &str| {
            let at = self.tensors.iter().position(|tensor| tensor.name == name);
            at.map(|at| &leaves[at]).ok_or_else(|| ModelError::Patch {
                name: name.to_owned(),
                reason: "a patch names this tensor, but there is none".into(),
            })
        };
        Ok(value.on(&Tape::inference(device), &leaf)?.tensor().clone())
    }

    /// Both sets at once: the methods compose.
    ///
    /// # Errors
    /// When a tensor name occurs in both.
    pub fn and(mut self, other: Patches) -> Result<Patches, ModelError> {
        if let Some(twice) = other.tensors.iter().find(|t| self.tensors.iter().any(|own| own.name == t.name)) {
            return Err(ModelError::Patch { name: twice.name.clone(), reason: "two methods train this tensor".into() });
        }
        self.patches.extend(other.patches);
        self.tensors.extend(other.tensors);
        Ok(self)
    }

    /// The same patches over the same tensors, whose names begin with `prefix`: so the patches of two adapters can be
    /// taken together though their tensors are called alike.
    pub fn prefixed(&self, prefix: &str) -> Patches {
        let patch = |patch: &Patch| Patch { site: patch.site.clone(), change: patch.change.prefixed(prefix) };
        let tensor = |tensor: &PatchTensor| PatchTensor { name: format!("{prefix}{}", tensor.name), ..tensor.clone() };
        Patches {
            patches: self.patches.iter().map(patch).collect(),
            tensors: self.tensors.iter().map(tensor).collect(),
        }
    }

    /// The same patches over copies of the tensors, in another element type: `f64` for checks.
    pub fn cast(&self, dtype: DType) -> Patches {
        let cast = |t: &PatchTensor| PatchTensor {
            name: t.name.clone(),
            buffer: Buffer::new(t.buffer.tensor().cast(dtype)),
            trained: t.trained,
        };
        Patches { patches: self.patches.clone(), tensors: self.tensors.iter().map(cast).collect() }
    }
}
