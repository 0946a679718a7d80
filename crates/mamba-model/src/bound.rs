//! Patches bound to one computation: the trained tensors as leaves of a tape, sorted to where the blocks look for them.

use std::collections::HashMap;

use statetune_ssm_kernels::random::{DropoutKey, stream_of};
use statetune_tensor::ops::{self, Dropout, DropoutRows};
use statetune_tensor::{Gradients, Tape, Tensor, Var};

use crate::parameters::Id;
use crate::patch::{Change, Ends, Patches, Value};
use crate::site::{Operand, Site};
use crate::{Mamba, ModelError};

/// The counter of this step's dropout masks; absent in evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutStep {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
}

/// A low-rank addition to rows of a matrix.
pub(crate) struct BoundLowRank {
    pub rows: std::ops::Range<usize>,
    pub a: Var,
    pub b: Var,
    pub scale: f64,
    pub ends: Ends,
    dropout: Option<(f32, DropoutKey)>,
}

impl BoundLowRank {
    /// What A multiplies if dropout changes it.
    pub fn dropped(&self, tape: &Tape, x: &Var, rows: &DropoutRows) -> Result<Option<Var>, ModelError> {
        let Some((probability, key)) = self.dropout else { return Ok(None) };
        let op = Dropout { probability, key, rows: rows.clone() };
        Ok(Some(ops::dropout(tape, x, op)?))
    }
}

/// The patches of a model on a tape.
pub struct Bound {
    leaves: Vec<Var>,
    trained: HashMap<Id, Var>,
    low_rank: HashMap<Id, Vec<BoundLowRank>>,
    operands: HashMap<(usize, Operand), Var>,
}

impl Bound {
    /// Makes leaves of the patches' tensors. `dropout` is this step's counter, or `None` in evaluation.
    ///
    /// # Errors
    /// When the patches do not fit the model (they were checked against another).
    pub fn new(
        tape: &Tape,
        model: &Mamba,
        patches: &Patches,
        dropout: Option<DropoutStep>,
    ) -> Result<Bound, ModelError> {
        let leaves: Vec<Var> = patches.tensors().iter().map(|t| tape.leaf(t.buffer.tensor())).collect();
        let leaf = |name: &str| -> Result<&Var, ModelError> {
            let at = patches.tensors().iter().position(|t| t.name == name);
            at.map(|i| &leaves[i])
                .ok_or_else(|| ModelError::Patch { name: name.to_owned(), reason: "no such tensor".into() })
        };
        let mut trained = HashMap::new();
        let mut low_rank: HashMap<Id, Vec<BoundLowRank>> = HashMap::new();
        let mut operands: HashMap<(usize, Operand), Var> = HashMap::new();
        for patch in patches.patches() {
            let fail = |reason: &str| ModelError::Patch { name: patch.site.to_string(), reason: reason.into() };
            match (&patch.site, &patch.change) {
                (Site::Rows { parameter, .. }, Change::Train(value)) => {
                    let id = model.ids().find(parameter).ok_or_else(|| fail("the model has no such tensor"))?;
                    if trained.insert(id, leaf(value)?.clone()).is_some() {
                        return Err(fail("two patches train this tensor"));
                    }
                }
                (Site::Rows { parameter, rows }, Change::LowRank { a, b, scale, dropout: p, ends }) => {
                    let id = model.ids().find(parameter).ok_or_else(|| fail("the model has no such tensor"))?;
                    let key = |step: DropoutStep| DropoutKey { seed: step.seed, step: step.step, site: stream_of(a) };
                    low_rank.entry(id).or_default().push(BoundLowRank {
                        rows: rows.clone(),
                        a: leaf(a)?.clone(),
                        b: leaf(b)?.clone(),
                        scale: *scale,
                        ends: *ends,
                        dropout: dropout.filter(|_| *p > 0.0).map(|step| (*p, key(step))),
                    });
                }
                (Site::Operand { layer, operand }, Change::Operand(value)) => {
                    let shape = operand.shape(model.config());
                    let value = match value {
                        Value::Dense(name) => leaf(name)?.clone(),
                        Value::Product { b, a } => {
                            let product = ops::matmul(tape, leaf(b)?, leaf(a)?)?;
                            ops::reshape(tape, &product, &shape)?
                        }
                    };
                    let sum = match operands.get(&(*layer, *operand)) {
                        Some(_) if *operand == Operand::StateScale => {
                            return Err(fail("two patches scale the same state"));
                        }
                        Some(other) => ops::add(tape, other, &value)?,
                        None => value,
                    };
                    operands.insert((*layer, *operand), sum);
                }
                _ => return Err(fail("the change does not fit the site")),
            }
        }
        Ok(Bound { leaves, trained, low_rank, operands })
    }

    /// The gradients of the trained tensors in the order of [`Patches::tensors`]; `None` where nothing depended on one.
    pub fn gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor>> {
        self.leaves.iter().map(|leaf| gradients.take(leaf)).collect()
    }

    pub(crate) fn trained(&self, id: Id) -> Option<&Var> {
        self.trained.get(&id)
    }

    pub(crate) fn low_rank(&self, id: Id) -> &[BoundLowRank] {
        self.low_rank.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn operand(&self, layer: usize, operand: Operand) -> Option<&Var> {
        self.operands.get(&(layer, operand))
    }
}
