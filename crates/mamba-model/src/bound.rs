//! Patches bound to one computation: their tensors as leaves of a tape, made into the values that the blocks look for, and
//! sorted to where they look.

use std::collections::HashMap;
use std::ops::Range;

use statetune_ssm_kernels::random::{DropoutKey, stream_of};
use statetune_tensor::ops::{self, AdaptedWeight, Dropout, DropoutRows, NormAxis};
use statetune_tensor::{Gradients, Staged, Tape, Tensor, Var};

use crate::leaf_values::leaf_values;
use crate::parameters::Id;
use crate::patch::{Change, Ends, Patches, Value};
use crate::patched_linear::product;
use crate::site::{Operand, Site, VirtualPlace};
use crate::{Mamba, ModelError};

/// The counter of this step's dropout masks; absent in evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DropoutStep {
    /// The run's seed.
    pub seed: u64,
    /// The optimiser step.
    pub step: u64,
}

/// What a backward pass holds constant though it depends on trained tensors: DoRA's norms, in order. Differences that are to
/// equal a gradient must hold it too.
#[derive(Debug, Clone, Default)]
pub struct Held {
    norms: Vec<Tensor>,
}

/// A low-rank addition to rows of a matrix.
pub(crate) struct BoundLowRank {
    pub rows: Range<usize>,
    pub a: Var,
    /// Multiplies what A makes: the gradient of a diagonal on a frozen A is not that of an A.
    pub diagonal: Option<Var>,
    pub b: Var,
    pub scale: f64,
    pub ends: Ends,
    /// What the sum is multiplied with, per output or, at the lookup of an embedding, per hidden unit.
    pub gain: Option<Var>,
    dropout: Option<BoundDropout>,
}

/// Dropout of what A multiplies.
#[derive(Clone)]
struct BoundDropout {
    probability: f32,
    keys: [DropoutKey; 2], // at the input end and at the output end
    step: Option<Staged<u64>>,
}

impl BoundLowRank {
    /// What A multiplies if dropout changes it.
    pub fn dropped(&self, tape: &Tape, x: &Var, rows: &DropoutRows) -> Result<Option<Var>, ModelError> {
        self.dropout.as_ref().map(|dropout| dropout.apply(tape, x, 0, rows)).transpose()
    }

    /// The same at the language-model head.
    pub fn dropped_at_head(&self, tape: &Tape, x: &Var, rows: &DropoutRows) -> Result<Option<Var>, ModelError> {
        self.dropout.as_ref().map(|dropout| dropout.apply(tape, x, 1, rows)).transpose()
    }

    /// x Aᵀ, with the diagonal where there is one.
    pub fn projected(&self, tape: &Tape, x: &Var) -> Result<Var, ModelError> {
        self.with_diagonal(tape, product(tape, x, &self.a)?)
    }

    /// What stands between A and B `[T, r]`, times the diagonal where there is one.
    pub fn with_diagonal(&self, tape: &Tape, x: Var) -> Result<Var, ModelError> {
        self.diagonal.as_ref().map_or(Ok(x.clone()), |diagonal| Ok(ops::scale_columns(tape, &x, diagonal)?))
    }

    /// Whether it changes the use of a tied matrix at this end.
    pub fn is_at(&self, end: Ends) -> bool {
        self.ends == Ends::Both || self.ends == end
    }
}

impl BoundDropout {
    fn apply(&self, tape: &Tape, x: &Var, end: usize, rows: &DropoutRows) -> Result<Var, ModelError> {
        let (probability, key, step) = (self.probability, self.keys[end], self.step.clone());
        Ok(ops::dropout(tape, x, Dropout { probability, key, step, rows: rows.clone() })?)
    }
}

/// Additions to chosen columns of some rows.
pub(crate) struct BoundColumns {
    pub rows: Range<usize>,
    pub values: Var,
    pub columns: Staged<u32>,
}

/// Further state dimensions of a layer.
pub(crate) struct BoundState {
    pub a: Var, // [D, k], -exp(A_log)
    pub b: Var, // [k, D]
    pub c: Var, // [k, D]
}

/// The patches of a model on a tape.
pub struct Bound {
    leaves: Vec<Var>,
    trained: HashMap<Id, Var>,
    tied_head: Option<Var>,
    low_rank: HashMap<Id, Vec<BoundLowRank>>,
    columns: HashMap<Id, Vec<BoundColumns>>,
    biases: HashMap<Id, Vec<(Range<usize>, Var)>>,
    operands: HashMap<(usize, Operand), Var>,
    states: HashMap<usize, BoundState>,
    virtual_inputs: HashMap<usize, Vec<(VirtualPlace, Var)>>,
    soft_tokens: Option<Var>,
    held: Held,
}

impl Bound {
    /// Makes leaves of the patches' trained tensors, and constants of the others. `dropout` is this step's counter, or
    /// `None` in evaluation. It is of what the patches hold now: when that changes, a computation needs another.
    ///
    /// # Errors
    /// When the patches do not fit the model (they were checked against another), or two of them exclude each other.
    pub fn new(
        tape: &Tape,
        model: &Mamba,
        patches: &Patches,
        dropout: Option<DropoutStep>,
    ) -> Result<Bound, ModelError> {
        Bound::holding(tape, model, patches, dropout, None)
    }

    /// The same where dropout on a device reads its step from this word there, in place of the one it was bound with: a
    /// captured graph then draws new masks in every step.
    pub fn reading_step(mut self, step: &Staged<u64>) -> Bound {
        for dropout in self.low_rank.values_mut().flatten().filter_map(|part| part.dropout.as_mut()) {
            dropout.step = Some(step.clone());
        }
        self
    }

    /// The same with what a backward pass holds constant taken from another moment instead of made anew.
    ///
    /// # Errors
    /// As [`Bound::new`].
    pub fn holding(
        tape: &Tape,
        model: &Mamba,
        patches: &Patches,
        dropout: Option<DropoutStep>,
        held: Option<&Held>,
    ) -> Result<Bound, ModelError> {
        let values = leaf_values(tape, model, patches)?;
        let leaf = |(tensor, value): (&crate::patch::PatchTensor, Tensor)| match tensor.trained {
            true => tape.leaf(value),
            false => value.into(),
        };
        let leaves: Vec<Var> = patches.tensors().iter().zip(values).map(leaf).collect();
        let mut binder = Binder {
            tape,
            model,
            leaves: patches.tensors().iter().map(|t| t.name.as_str()).zip(&leaves).collect(),
            dropout,
            additions: HashMap::new(),
            magnitudes: Vec::new(),
            bound: Bound {
                leaves: Vec::new(),
                trained: HashMap::new(),
                tied_head: None,
                low_rank: HashMap::new(),
                columns: HashMap::new(),
                biases: HashMap::new(),
                operands: HashMap::new(),
                states: HashMap::new(),
                virtual_inputs: HashMap::new(),
                soft_tokens: None,
                held: Held::default(),
            },
        };
        for patch in patches.patches() {
            let in_patch = |error: ModelError| match error {
                ModelError::Patch { name, reason } if name.is_empty() => {
                    ModelError::Patch { name: patch.site.to_string(), reason }
                }
                other => other,
            };
            binder.bind(&patch.site, &patch.change).map_err(in_patch)?;
        }
        binder.add_to_stored()?;
        binder.make_gains(held)?;
        binder.widen_operands()?;
        let mut bound = binder.bound;
        bound.leaves = leaves;
        Ok(bound)
    }

    /// What a backward pass holds constant.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// The gradients of the tensors in the order of [`Patches::tensors`]; `None` for constants, and where nothing depended
    /// on one.
    pub fn gradients(&self, gradients: &mut Gradients) -> Vec<Option<Tensor>> {
        self.leaves.iter().map(|leaf| gradients.take(leaf)).collect()
    }

    /// The present value of a stored tensor that patches change as a whole; of a tied embedding at the lookup.
    pub(crate) fn trained(&self, id: Id) -> Option<&Var> {
        self.trained.get(&id)
    }

    /// The same of the language-model head.
    pub(crate) fn trained_head(&self, model: &Mamba) -> Option<&Var> {
        match model.config().tie_word_embeddings {
            true => self.tied_head.as_ref(),
            false => self.trained(model.ids().head),
        }
    }

    pub(crate) fn low_rank(&self, id: Id) -> &[BoundLowRank] {
        self.low_rank.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn columns(&self, id: Id) -> &[BoundColumns] {
        self.columns.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn biases(&self, id: Id) -> &[(Range<usize>, Var)] {
        self.biases.get(&id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn operand(&self, layer: usize, operand: Operand) -> Option<&Var> {
        self.operands.get(&(layer, operand))
    }

    pub(crate) fn added_state(&self, layer: usize) -> Option<&BoundState> {
        self.states.get(&layer)
    }

    pub(crate) fn virtual_inputs(&self, layer: usize) -> &[(VirtualPlace, Var)] {
        self.virtual_inputs.get(&layer).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn soft_tokens(&self) -> Option<&Var> {
        self.soft_tokens.as_ref()
    }
}

/// A [`Bound`] in the making.
struct Binder<'a> {
    tape: &'a Tape,
    model: &'a Mamba,
    leaves: HashMap<&'a str, &'a Var>,
    dropout: Option<DropoutStep>,
    additions: HashMap<Id, Vec<(Var, f64)>>,
    magnitudes: Vec<(Id, usize, Var)>, // of the low-rank addition with this index
    bound: Bound,
}

/// An error whose name is filled in with the patch's site.
fn refuse(reason: &str) -> ModelError {
    ModelError::Patch { name: String::new(), reason: reason.into() }
}

impl<'a> Binder<'a> {
    fn leaf(&self, name: &str) -> Result<&'a Var, ModelError> {
        let found = self.leaves.get(name).copied();
        found.ok_or_else(|| ModelError::Patch { name: name.to_owned(), reason: "no such tensor".into() })
    }

    fn value(&self, value: &Value) -> Result<Var, ModelError> {
        value.on(self.tape, &|name: &str| self.leaf(name))
    }

    fn bind(&mut self, site: &Site, change: &Change) -> Result<(), ModelError> {
        match (site, change) {
            (Site::Rows { parameter, rows }, change) => {
                let id = self.model.ids().find(parameter).ok_or_else(|| refuse("the model has no such tensor"))?;
                self.bind_rows(id, rows, change)
            }
            (Site::Operand { layer, operand }, Change::Operand(value)) => self.bind_operand(*layer, *operand, value),
            (Site::AddedState { layer }, Change::AddedState { a_log, b, c }) => {
                let a = ops::neg_exp(self.tape, &self.value(a_log)?)?;
                let mut state = BoundState { a, b: self.value(b)?, c: self.value(c)? };
                if let Some(other) = self.bound.states.remove(layer) {
                    state = BoundState {
                        a: ops::join_columns(self.tape, &[&other.a, &state.a])?,
                        b: self.join_rows(&other.b, &state.b)?,
                        c: self.join_rows(&other.c, &state.c)?,
                    };
                }
                self.bound.states.insert(*layer, state);
                Ok(())
            }
            (Site::VirtualInputs { layer, place }, Change::Operand(value)) => {
                let value = self.value(value)?;
                self.bound.virtual_inputs.entry(*layer).or_default().push((*place, value));
                Ok(())
            }
            (Site::SoftTokens, Change::Operand(value)) => {
                let value = self.value(value)?;
                self.bound.soft_tokens = Some(match self.bound.soft_tokens.take() {
                    Some(before) => self.join_rows(&before, &value)?,
                    None => value,
                });
                Ok(())
            }
            _ => Err(refuse("the change does not fit the site")),
        }
    }

    fn bind_rows(&mut self, id: Id, rows: &Range<usize>, change: &Change) -> Result<(), ModelError> {
        match change {
            Change::Train { value, ends } => {
                let (value, embedding) = (self.leaf(value)?.clone(), self.model.ids().embedding);
                let tied = self.model.config().tie_word_embeddings && id == embedding;
                let twice = || refuse("two patches train this tensor");
                if tied && *ends != Ends::Input && self.bound.tied_head.replace(value.clone()).is_some() {
                    return Err(twice());
                }
                let input = !(tied && *ends == Ends::Output);
                if input && self.bound.trained.insert(id, value).is_some() {
                    return Err(twice());
                }
            }
            Change::Add { value, scale } => {
                let value = self.value(value)?;
                self.additions.entry(id).or_default().push((value, *scale));
            }
            Change::LowRank { a, b, scale, dropout: p, ends, magnitude } => {
                let name = a.tensors().first().map_or("", |name| name);
                let key = |step: DropoutStep, name: &str| DropoutKey {
                    seed: step.seed,
                    step: step.step,
                    site: stream_of(name),
                };
                let dropout = self.dropout.filter(|_| *p > 0.0);
                let (a, diagonal) = match (a, magnitude) {
                    (Value::ScaledRows { scale, of }, None) => {
                        (self.leaf(of)?.clone(), Some(self.leaf(scale)?.clone()))
                    }
                    (a, _) => (self.value(a)?, None),
                };
                let part = BoundLowRank {
                    rows: rows.clone(),
                    a,
                    diagonal,
                    b: self.value(b)?,
                    scale: *scale,
                    ends: *ends,
                    gain: None,
                    dropout: dropout.map(|step| BoundDropout {
                        probability: *p,
                        keys: [key(step, name), key(step, &format!("{name}@head"))],
                        step: None,
                    }),
                };
                let parts = self.bound.low_rank.entry(id).or_default();
                parts.push(part);
                let at = parts.len() - 1;
                if let Some(magnitude) = magnitude {
                    self.magnitudes.push((id, at, self.leaf(magnitude)?.clone()));
                }
            }
            Change::Columns { values, columns } => {
                let (values, columns) = (self.leaf(values)?.clone(), columns.clone());
                self.bound.columns.entry(id).or_default().push(BoundColumns { rows: rows.clone(), values, columns });
            }
            Change::Bias(bias) => {
                let bias = self.leaf(bias)?.clone();
                self.bound.biases.entry(id).or_default().push((rows.clone(), bias));
            }
            _ => return Err(refuse("the change does not fit the site")),
        }
        Ok(())
    }

    fn bind_operand(&mut self, layer: usize, operand: Operand, value: &Value) -> Result<(), ModelError> {
        let value = ops::reshape(self.tape, &self.value(value)?, &operand.shape(self.model.config()))?;
        let joined = match self.bound.operands.get(&(layer, operand)) {
            Some(other) if operand == Operand::StateScale => ops::mul(self.tape, other, &value)?,
            Some(other) => ops::add(self.tape, other, &value)?,
            None => value,
        };
        self.bound.operands.insert((layer, operand), joined);
        Ok(())
    }

    /// The rows of both, one after the other.
    fn join_rows(&self, a: &Var, b: &Var) -> Result<Var, ModelError> {
        let (tape, width) = (self.tape, a.shape()[1]);
        let flat = |x: &Var| ops::reshape(tape, x, &[1, x.tensor().len()]);
        let joined = ops::join_columns(tape, &[&flat(a)?, &flat(b)?])?;
        Ok(ops::reshape(tape, &joined, &[a.shape()[0] + b.shape()[0], width])?)
    }

    /// Stored tensors with their additions, as if they were trained.
    fn add_to_stored(&mut self) -> Result<(), ModelError> {
        let (tape, model) = (self.tape, self.model);
        for (id, additions) in std::mem::take(&mut self.additions) {
            let stored: Var = model.value(id).cast(model.trained_type()).into();
            let with_additions = |start: Option<&Var>| -> Result<Var, ModelError> {
                let mut sum = start.cloned().unwrap_or_else(|| stored.clone());
                for (value, scale) in &additions {
                    let value = ops::reshape(tape, value, stored.shape())?;
                    sum = ops::add(tape, &sum, &ops::scale(tape, &value, *scale)?)?;
                }
                Ok(sum)
            };
            if model.config().tie_word_embeddings && id == model.ids().embedding {
                self.bound.tied_head = Some(with_additions(self.bound.tied_head.as_ref())?);
            }
            let sum = with_additions(self.bound.trained(id))?;
            self.bound.trained.insert(id, sum);
        }
        Ok(())
    }

    /// DoRA's gains, from the magnitudes and the weights as they now are.
    fn make_gains(&mut self, held: Option<&Held>) -> Result<(), ModelError> {
        let mut taken: Vec<(Id, Range<usize>, Ends)> = Vec::new();
        for (i, (id, at, magnitude)) in std::mem::take(&mut self.magnitudes).into_iter().enumerate() {
            let part = &self.bound.low_rank[&id][at];
            let overlap = |(other, rows, ends): &(Id, Range<usize>, Ends)| {
                let meet = rows.start < part.rows.end && part.rows.start < rows.end;
                *other == id && meet && (*ends == part.ends || *ends == Ends::Both || part.ends == Ends::Both)
            };
            if taken.iter().any(overlap) {
                let name = self.model.parameters()[id].name.clone();
                return Err(ModelError::Patch {
                    name,
                    reason: "two patches set the magnitude of the same rows".into(),
                });
            }
            taken.push((id, part.rows.clone(), part.ends));
            let looked_up = id == self.model.ids().embedding && part.ends != Ends::Output;
            let trained =
                if part.ends == Ends::Output { self.bound.trained_head(self.model) } else { self.bound.trained(id) };
            let weight = AdaptedWeight {
                weight: trained.map_or_else(|| self.model.value(id), Var::tensor),
                rows: part.rows.clone(),
                a: part.a.tensor(),
                b: part.b.tensor(),
                scale: part.scale,
            };
            let axis = if looked_up { NormAxis::Columns } else { NormAxis::Rows };
            let norms = match held {
                Some(held) => held.norms[i].clone(),
                None => weight.norms(self.tape.device(), axis)?,
            };
            let gain = ops::dora_gain(self.tape, &magnitude, &norms)?;
            self.bound.held.norms.push(norms);
            self.bound.low_rank.get_mut(&id).expect("bound before")[at].gain = Some(gain);
        }
        Ok(())
    }

    /// Operands of width N where a layer has N + k state dimensions: the others are left as without the operand.
    fn widen_operands(&mut self) -> Result<(), ModelError> {
        let (trained, device) = (self.model.trained_type(), self.tape.device());
        for (&layer, state) in &self.bound.states {
            let shape = [state.a.shape()[0], state.a.shape()[1]];
            let filled = |x: f64| -> Result<Var, ModelError> {
                Ok(Tensor::from_vec(vec![x; shape[0] * shape[1]], &shape)?.cast(trained).to(device)?.into())
            };
            let (one, zero) = (filled(1.0)?, filled(0.0)?);
            for operand in [Operand::StateScale, Operand::StateExtra, Operand::StateOffset, Operand::ScanInitial] {
                let Some(value) = self.bound.operands.get(&(layer, operand)) else { continue };
                let rest = if operand == Operand::StateScale { &one } else { &zero };
                let wide = ops::join_columns(self.tape, &[value, rest])?;
                self.bound.operands.insert((layer, operand), wide);
            }
        }
        Ok(())
    }
}
