//! What tensors hold before training.

use std::collections::HashMap;
use std::ops::Range;

use statetune_mamba_model::{Mamba, ModelError};
use statetune_ssm_kernels::random::{normal, stream_of, uniform};
use statetune_tensor::Tensor;

use crate::method::{Factorisation, Init, TensorSpec};
use crate::{PeftError, linalg};

/// Makes the start values of one adapter. A decomposition that several tensors need is made once.
pub(super) struct Starts<'a> {
    model: &'a Mamba,
    seed: u64,
    factors: HashMap<Decomposition, Factors>,
}

/// What was decomposed and how: the matrix, its rows, the way, the rank, the bits of the scale.
type Decomposition = (String, Range<usize>, Factorisation, usize, u64);

/// A `[r, n]` and B `[m, r]`.
type Factors = (Vec<f64>, Vec<f64>);

impl<'a> Starts<'a> {
    pub fn new(model: &'a Mamba, seed: u64) -> Starts<'a> {
        Starts { model, seed, factors: HashMap::new() }
    }

    /// A tensor's start value in the model's compute type. Random ones depend on (seed, name) only.
    pub fn of(&mut self, spec: &TensorSpec) -> Result<Tensor, PeftError> {
        let len = spec.shape.iter().product();
        let columns = spec.shape.last().copied().unwrap_or(1);
        let constant = |x: f64| Tensor::from_vec(vec![x; len], &spec.shape);
        let value = match &spec.init {
            Init::Zeros => constant(0.0)?,
            Init::Ones => constant(1.0)?,
            Init::Constant(x) => constant(*x)?,
            Init::KaimingUniform => self.uniform(spec, 1.0 / (columns as f64).sqrt(), self.seed)?,
            Init::Uniform { bound, seed } => self.uniform(spec, *bound, seed.unwrap_or(self.seed))?,
            Init::Normal { deviation } => {
                let mut values = vec![0f32; len];
                normal(&mut values, 0.0, *deviation, self.seed, stream_of(&spec.name));
                Tensor::from_vec(values, &spec.shape)?
            }
            Init::Parameter(name) => self.stored(name)?.clone(),
            Init::Norms { parameter, rows, of_columns } => {
                let (values, n) = self.rows(parameter, rows)?;
                let mut squares = vec![0.0; len];
                for (i, row) in values.chunks_exact(n).enumerate() {
                    match of_columns {
                        true => squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x),
                        false => squares[i] = row.iter().map(|x| x * x).sum(),
                    }
                }
                Tensor::from_vec(squares.into_iter().map(f64::sqrt).collect::<Vec<_>>(), &spec.shape)?
            }
            Init::LastColumn(parameter) => {
                let (values, n) = self.rows(parameter, &(0..spec.shape[0]))?;
                let copies = values.chunks_exact(n).flat_map(|row| std::iter::repeat_n(row[n - 1], columns));
                Tensor::from_vec(copies.collect::<Vec<f64>>(), &spec.shape)?
            }
            Init::Complement { parameter, target, entries } => {
                let values = self.stored(parameter)?.to_f64_vec();
                let missing = entries.iter().map(|&entry| target - values[entry as usize]).collect::<Vec<f64>>();
                Tensor::from_vec(missing, &spec.shape)?
            }
            Init::RandomRows(parameter) => {
                let rows = self.stored(parameter)?.shape()[0];
                let mut draws = vec![0f64; spec.shape[0]];
                uniform(&mut draws, 0.0, rows as f64, self.seed, stream_of(&spec.name));
                let ids: Vec<u32> = draws.into_iter().map(|draw| (draw as u32).min(rows as u32 - 1)).collect();
                self.picked(spec, parameter, &ids)?
            }
            Init::Rows { parameter, ids } => self.picked(spec, parameter, ids)?,
            Init::Factor { parameter, rows, by, scale, is_a } => {
                let rank = if *is_a { spec.shape[0] } else { columns };
                let (a, b) = self.factors(parameter, rows, *by, rank, *scale)?;
                Tensor::from_vec(if *is_a { a.clone() } else { b.clone() }, &spec.shape)?
            }
        };
        Ok(value.cast(self.model.trained_type()))
    }

    /// Drawn in single precision whatever is computed in, so that both paths start alike.
    fn uniform(&self, spec: &TensorSpec, bound: f64, seed: u64) -> Result<Tensor, PeftError> {
        let mut values = vec![0f32; spec.shape.iter().product()];
        uniform(&mut values, -bound, bound, seed, stream_of(&spec.name));
        Ok(Tensor::from_vec(values, &spec.shape)?)
    }

    /// Rows of a stored matrix, one after the other and again from the first until the tensor is full.
    fn picked(&self, spec: &TensorSpec, parameter: &str, ids: &[u32]) -> Result<Tensor, PeftError> {
        let stored = self.stored(parameter)?;
        let (rows, n) = (stored.shape()[0], stored.len() / stored.shape()[0].max(1));
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= rows) {
            let reason = format!("starts as row {id} of `{parameter}`, which has {rows}");
            return Err(ModelError::Patch { name: spec.name.clone(), reason }.into());
        }
        let values = stored.to_f64_vec();
        let repeated = ids.iter().cycle().take(spec.shape[0]);
        let picked = repeated.flat_map(|&id| values[id as usize * n..][..n].iter().copied());
        Ok(Tensor::from_vec(picked.collect::<Vec<f64>>(), &spec.shape)?)
    }

    fn stored(&self, name: &str) -> Result<&'a Tensor, PeftError> {
        let reason = || "the model has no such tensor".to_owned();
        let found = self.model.parameter(name).map(|parameter| &parameter.value);
        Ok(found.ok_or_else(|| ModelError::Patch { name: name.to_owned(), reason: reason() })?)
    }

    /// Some rows of a stored matrix, and how long they are.
    fn rows(&self, name: &str, rows: &Range<usize>) -> Result<(Vec<f64>, usize), PeftError> {
        let stored = self.stored(name)?;
        let n = stored.len() / stored.shape()[0].max(1);
        Ok((stored.to_f64_vec()[rows.start * n..rows.end * n].to_vec(), n))
    }

    fn factors(
        &mut self,
        parameter: &str,
        rows: &Range<usize>,
        by: Factorisation,
        rank: usize,
        scale: f64,
    ) -> Result<&Factors, PeftError> {
        let key = (parameter.to_owned(), rows.clone(), by, rank, scale.to_bits());
        if !self.factors.contains_key(&key) {
            let (values, n) = self.rows(parameter, rows)?;
            let found = match by {
                Factorisation::Svd => linalg::principal(&values, rows.len(), n, rank, scale)?,
                Factorisation::Qr => {
                    let (a, b) = linalg::orthonormal(&values, rows.len(), n, rank)?;
                    // s B A is to be Q R itself.
                    (a.into_iter().map(|x| x / scale).collect(), b)
                }
            };
            self.factors.insert(key.clone(), found);
        }
        Ok(&self.factors[&key])
    }
}
