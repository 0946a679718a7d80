//! Patches: what a fine-tuning method declares. The model applies them; it knows no method by name.

use statetune_tensor::{Buffer, DType, Tensor};

use crate::config::MambaConfig;
use crate::site::Site;
use crate::{Mamba, ModelError};

/// Which uses of a shared matrix a low-rank patch changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Every use.
    Both,
    /// The lookup of tied embeddings, not the language-model head (the meaning of Hugging Face PEFT).
    Input,
}

/// An operand's value, made of trained tensors (given by name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The tensor itself.
    Dense(String),
    /// reshape(B · A, the operand's shape), row-major.
    Product {
        /// B `[m, r]`.
        b: String,
        /// A `[r, k]`, m · k being the operand's size.
        a: String,
    },
}

/// What happens at a site. Trained tensors are given by name.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// W becomes W + `scale` · B A, computed as two small products.
    LowRank {
        /// A `[r, in_features]`.
        a: String,
        /// B `[rows, r]`.
        b: String,
        /// s.
        scale: f64,
        /// The probability with which A's input is dropped in training.
        dropout: f32,
        /// Where a tied matrix is changed.
        ends: Ends,
    },
    /// The stored tensor itself is trained; the named tensor holds its present value.
    Train(String),
    /// The operand takes a value; several patches on one operand add.
    Operand(Value),
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
            Change::LowRank { a, b, .. } | Change::Operand(Value::Product { b, a }) => vec![a, b],
            Change::Train(value) | Change::Operand(Value::Dense(value)) => vec![value],
        }
    }
}

/// A trained tensor.
#[derive(Debug, Clone)]
pub struct PatchTensor {
    /// Its name, unique among the patches of a model.
    pub name: String,
    /// Its values, in the model's compute type.
    pub buffer: Buffer,
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
        let compute = model.compute();
        let tensors: Vec<PatchTensor> =
            tensors.into_iter().map(|(name, value)| PatchTensor { name, buffer: Buffer::new(value) }).collect();
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

    /// The patches.
    pub fn patches(&self) -> &[Patch] {
        &self.patches
    }

    /// The trained tensors, in order.
    pub fn tensors(&self) -> &[PatchTensor] {
        &self.tensors
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// The number of trained numbers.
    pub fn trainable(&self) -> usize {
        self.tensors.iter().map(|t| t.buffer.shape().iter().product::<usize>()).sum()
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

    fn check(&self, config: &MambaConfig, patch: &Patch) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Patch { name: patch.site.to_string(), reason });
        let shape = |name: &str| self.tensor(name).map(Buffer::shape);
        match (&patch.site, &patch.change) {
            (Site::Rows { parameter, rows }, change) => {
                let expected = crate::checkpoint::expected_tensors(config);
                let Some((_, stored)) = expected.iter().find(|(name, _)| name == parameter) else {
                    return fail("the model has no such tensor".into());
                };
                if rows.is_empty() || rows.end > stored[0] {
                    return fail(format!("the tensor has {} rows", stored[0]));
                }
                match change {
                    Change::Operand(_) => fail("a stored tensor takes no operand".into()),
                    Change::Train(value) if *rows != (0..stored[0]) || shape(value)? != *stored => {
                        fail(format!("`{value}` has shape {:?}, the stored tensor {stored:?}", shape(value)?))
                    }
                    Change::Train(_) => Ok(()),
                    Change::LowRank { a, b, .. } => {
                        let linear = crate::site::linear_sites(config);
                        if !linear.iter().any(|s| s.parameter == *parameter && s.rows == *rows) {
                            return fail("these rows are not a linear site".into());
                        }
                        let (a, b) = (shape(a)?, shape(b)?);
                        let fits = a.len() == 2 && a[1] == stored[1] && b == [rows.len(), a[0]] && a[0] > 0;
                        if fits {
                            return Ok(());
                        }
                        fail(format!("A {a:?} and B {b:?} should be [r, {}] and [{}, r]", stored[1], rows.len()))
                    }
                }
            }
            (Site::Operand { layer, operand }, Change::Operand(value)) => {
                if *layer >= config.num_hidden_layers {
                    return fail(format!("the model has {} layers", config.num_hidden_layers));
                }
                let expected = operand.shape(config);
                let found = match value {
                    Value::Dense(name) => shape(name)?,
                    Value::Product { b, a } => {
                        let (a, b) = (shape(a)?, shape(b)?);
                        let product = a.len() == 2 && b.len() == 2 && b[1] == a[0] && a[0] > 0;
                        if !product || b[0] * a[1] != expected.iter().product::<usize>() {
                            return fail(format!("B {b:?} times A {a:?} does not fill {expected:?}"));
                        }
                        expected.clone()
                    }
                };
                if found == expected { Ok(()) } else { fail(format!("shape {found:?}, expected {expected:?}")) }
            }
            (Site::Operand { .. }, _) => fail("an operand takes a value only".into()),
        }
    }

    /// The same patches over copies of the tensors, in another element type: `f64` for checks.
    pub fn cast(&self, dtype: DType) -> Patches {
        let cast =
            |t: &PatchTensor| PatchTensor { name: t.name.clone(), buffer: Buffer::new(t.buffer.tensor().cast(dtype)) };
        Patches { patches: self.patches.clone(), tensors: self.tensors.iter().map(cast).collect() }
    }
}
