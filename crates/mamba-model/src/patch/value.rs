//! Values made of trained tensors: what an operand, a low-rank factor or an addition is before it meets a model.

use statetune_tensor::{Staged, Tape, Var, ops};

use crate::ModelError;

/// A value, as an expression over tensors that are given by name.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The tensor itself.
    Dense(String),
    /// B · A, in row-major order; the place it goes to gives it its shape.
    Product {
        /// B `[m, r]`.
        b: String,
        /// A `[r, k]`, m · k being the size of the place.
        a: String,
    },
    /// The transposed matrix.
    Transposed(Box<Value>),
    /// The product, element by element.
    Times(Box<Value>, Box<Value>),
    /// The sums of a matrix' rows.
    RowSums(Box<Value>),
    /// diag(`scale` `[m]`) · `of` `[m, n]`.
    ScaledRows {
        /// One factor per row.
        scale: String,
        /// The matrix.
        of: String,
    },
    /// `values` `[n]` at the flat places `entries` of zeros of shape `shape`.
    Scattered {
        /// The values.
        values: String,
        /// Their places.
        entries: Staged<u32>,
        /// The whole's shape.
        shape: Vec<usize>,
    },
    /// A reparametrisation (Li and Liang 2021, section 4.3): tanh(E W1ᵀ + b1) W2ᵀ + b2.
    Mlp {
        /// E `[k, w]`.
        input: String,
        /// W1 `[h, w]`.
        w1: String,
        /// b1 `[h]`.
        b1: String,
        /// W2 `[w, h]`.
        w2: String,
        /// b2 `[w]`.
        b2: String,
    },
}

impl Value {
    /// The names of the tensors it is made of.
    pub fn tensors(&self) -> Vec<&str> {
        match self {
            Value::Dense(name) => vec![name],
            Value::Product { b, a } => vec![a, b],
            Value::Transposed(of) | Value::RowSums(of) => of.tensors(),
            Value::Times(one, other) => one.tensors().into_iter().chain(other.tensors()).collect(),
            Value::ScaledRows { scale, of } => vec![scale, of],
            Value::Scattered { values, .. } => vec![values],
            Value::Mlp { input, w1, b1, w2, b2 } => vec![input, w1, b1, w2, b2],
        }
    }

    /// The same over tensors whose names begin with `prefix`.
    pub(super) fn prefixed(&self, prefix: &str) -> Value {
        let name = |name: &String| format!("{prefix}{name}");
        let boxed = |value: &Value| Box::new(value.prefixed(prefix));
        match self {
            Value::Dense(tensor) => Value::Dense(name(tensor)),
            Value::Product { b, a } => Value::Product { b: name(b), a: name(a) },
            Value::Transposed(of) => Value::Transposed(boxed(of)),
            Value::Times(one, other) => Value::Times(boxed(one), boxed(other)),
            Value::RowSums(of) => Value::RowSums(boxed(of)),
            Value::ScaledRows { scale, of } => Value::ScaledRows { scale: name(scale), of: name(of) },
            Value::Scattered { values, entries, shape } => {
                Value::Scattered { values: name(values), entries: entries.clone(), shape: shape.clone() }
            }
            Value::Mlp { input, w1, b1, w2, b2 } => {
                Value::Mlp { input: name(input), w1: name(w1), b1: name(b1), w2: name(w2), b2: name(b2) }
            }
        }
    }

    /// Its shape, given the tensors' shapes; an error says in words what does not fit.
    pub(super) fn shape(&self, of: &impl Fn(&str) -> Result<Vec<usize>, ModelError>) -> Result<Vec<usize>, ModelError> {
        let fail = |reason: String| {
            let name = self.tensors().first().map_or_else(String::new, |name| (*name).to_owned());
            Err(ModelError::Patch { name, reason })
        };
        match self {
            Value::Dense(name) => of(name),
            Value::Product { b, a } => match (&of(b)?[..], &of(a)?[..]) {
                ([m, r], [inner, k]) if r == inner && *r > 0 => Ok(vec![*m, *k]),
                (b, a) => fail(format!("B {b:?} times A {a:?} is no product of matrices")),
            },
            Value::Transposed(value) => match value.shape(of)?[..] {
                [m, n] => Ok(vec![n, m]),
                ref other => fail(format!("{other:?} is no matrix to be transposed")),
            },
            Value::RowSums(value) => match value.shape(of)?[..] {
                [m, _] => Ok(vec![m]),
                ref other => fail(format!("{other:?} is no matrix whose rows could be summed")),
            },
            Value::Times(one, other) => match (one.shape(of)?, other.shape(of)?) {
                (one, other) if one == other => Ok(one),
                (one, other) => fail(format!("{one:?} times {other:?} element by element")),
            },
            Value::ScaledRows { scale, of: matrix } => match (&of(scale)?[..], &of(matrix)?[..]) {
                ([m], [rows, n]) if m == rows => Ok(vec![*m, *n]),
                (scale, matrix) => fail(format!("{scale:?} does not scale the rows of {matrix:?}")),
            },
            Value::Scattered { values, entries, shape } => {
                let (found, size) = (of(values)?, shape.iter().product::<usize>());
                match entries.iter().all(|&entry| (entry as usize) < size) && found == [entries.len()] {
                    true => Ok(shape.clone()),
                    false => fail(format!("{found:?} values for {} places of {size}", entries.len())),
                }
            }
            Value::Mlp { input, w1, b1, w2, b2 } => {
                let (input, w1, b1, w2, b2) = (of(input)?, of(w1)?, of(b1)?, of(w2)?, of(b2)?);
                match (&input[..], &w1[..]) {
                    ([k, w], [h, width]) if w == width && b1 == [*h] && w2 == [*w, *h] && b2 == [*w] => {
                        Ok(vec![*k, *w])
                    }
                    _ => fail(format!("an MLP of {input:?} with {w1:?}, {b1:?}, {w2:?}, {b2:?}")),
                }
            }
        }
    }

    /// The value on a tape, given the tensors as variables.
    pub(crate) fn on<'a>(
        &self,
        tape: &Tape,
        leaf: &impl Fn(&str) -> Result<&'a Var, ModelError>,
    ) -> Result<Var, ModelError> {
        Ok(match self {
            Value::Dense(name) => leaf(name)?.clone(),
            Value::Product { b, a } => ops::matmul(tape, leaf(b)?, leaf(a)?)?,
            Value::Transposed(of) => ops::transpose(tape, &of.on(tape, leaf)?)?,
            Value::Times(one, other) => ops::mul(tape, &one.on(tape, leaf)?, &other.on(tape, leaf)?)?,
            Value::RowSums(of) => ops::sum_last(tape, &of.on(tape, leaf)?)?,
            Value::ScaledRows { scale, of } => ops::scale_rows(tape, leaf(of)?, leaf(scale)?)?,
            Value::Scattered { values, entries, shape } => ops::scatter(tape, leaf(values)?, entries, shape)?,
            Value::Mlp { input, w1, b1, w2, b2 } => {
                let layer = |x: &Var, w: &str, b: &str| -> Result<Var, ModelError> {
                    let product = ops::matmul(tape, x, &ops::transpose(tape, leaf(w)?)?)?;
                    Ok(ops::add_row(tape, &product, leaf(b)?)?)
                };
                let hidden = ops::tanh(tape, &layer(leaf(input)?, w1, b1)?)?;
                layer(&hidden, w2, b2)?
            }
        })
    }
}
