//! Merging: what the patches do to stored tensors, written into them.

use std::collections::BTreeMap;
use std::ops::Range;

use statetune_mamba_model::Mamba;
use statetune_mamba_model::checkpoint::{EMBEDDING, LM_HEAD};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Ends, Patch, Value};
use statetune_mamba_model::site::{Site, mixer_path};
use statetune_tensor::ops::{AdaptedWeight, NormAxis};
use statetune_tensor::{DType, Tensor};

use super::Adapter;
use crate::PeftError;

/// How far the tensors of a merged model are from the exact sums, once they are stored.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MergeReport {
    /// The tensors that merging changed or added, by name.
    pub tensors: Vec<MergedTensor>,
}

/// A tensor of a merged model.
#[derive(Debug, Clone, PartialEq)]
pub struct MergedTensor {
    /// Its name in the checkpoint.
    pub name: String,
    /// The type that it is stored in.
    pub dtype: DType,
    /// The largest magnitude of (stored - exact).
    pub max_rounding: f64,
    /// The root of the mean square of (stored - exact).
    pub rms_rounding: f64,
}

impl Adapter {
    /// The model with the adapter inside: the same logits, no adapter needed. Sums are made in f64 and rounded to the
    /// storage type. Merging a patch on one side of tied embeddings unties them; one that adds a bias to `in_proj` or
    /// `out_proj`, or state dimensions to every layer, gives the model a configuration with them.
    ///
    /// # Errors
    /// [`PeftError::NotMergeable`] if a patch touches what a checkpoint has no tensor for.
    pub fn merge(&self, model: &Mamba) -> Result<Mamba, PeftError> {
        Ok(self.merge_with_report(model)?.0)
    }

    /// The same, and what rounding to the storage types costs.
    ///
    /// # Errors
    /// As [`Adapter::merge`].
    pub fn merge_with_report(&self, model: &Mamba) -> Result<(Mamba, MergeReport), PeftError> {
        let one_ended = |patch: &Patch| {
            let embedding = matches!(&patch.site, Site::Rows { parameter, .. } if parameter == EMBEDDING);
            let ends = match patch.change {
                Change::LowRank { ends, .. } | Change::Train { ends, .. } => ends,
                _ => Ends::Both,
            };
            embedding && ends != Ends::Both
        };
        let unties = model.config().tie_word_embeddings && self.patches().patches().iter().any(one_ended);
        let model = if unties { model.untied()? } else { model.clone() };
        let mut merge = Merge {
            adapter: self,
            config: model.config().clone(),
            unties,
            model: &model,
            values: BTreeMap::new(),
            added: BTreeMap::new(),
        };
        // A stored tensor is first replaced, then added to; DoRA scales that; all else comes after it.
        let passes: [fn(&Change) -> bool; 4] = [
            |change| matches!(change, Change::Train { .. }),
            |change| matches!(change, Change::Add { .. }),
            |change| matches!(change, Change::LowRank { magnitude: Some(_), .. }),
            |change| {
                let before = matches!(change, Change::Train { .. } | Change::Add { .. });
                !before && !matches!(change, Change::LowRank { magnitude: Some(_), .. })
            },
        ];
        for pass in passes {
            self.patches().patches().iter().filter(|patch| pass(&patch.change)).try_for_each(|p| merge.patch(p))?;
        }
        merge.finish()
    }
}

/// The tensors of the merged model as they come to be.
struct Merge<'a> {
    adapter: &'a Adapter,
    model: &'a Mamba,
    config: MambaConfig,
    unties: bool,
    values: BTreeMap<String, Vec<f64>>,
    /// Per layer and further state dimensions: columns of `A_log`, rows of B and of C.
    added: BTreeMap<usize, Vec<[Tensor; 3]>>,
}

impl Merge<'_> {
    fn value(&self, value: &Value) -> Result<Tensor, PeftError> {
        Ok(self.adapter.patches().value(self.model.device(), value)?)
    }

    fn tensor(&self, name: &str) -> Result<Vec<f64>, PeftError> {
        Ok(self.adapter.patches().tensor(name)?.tensor().to_f64_vec())
    }

    /// The values of a stored tensor so far, and how many columns it has.
    fn stored(&mut self, name: &str) -> (&mut Vec<f64>, usize) {
        let parameter = self.model.parameter(name).expect("patches were checked");
        let columns = parameter.value.len() / parameter.value.shape()[0];
        let values = self.values.entry(name.to_owned()).or_insert_with(|| parameter.value.to_f64_vec());
        (values, columns)
    }

    /// The stored tensors that a change at these ends is for.
    fn names(&self, parameter: &str, ends: Ends) -> Vec<String> {
        let both: &[&str] = match (parameter == EMBEDDING && self.unties, ends) {
            (true, Ends::Both) => &[EMBEDDING, LM_HEAD],
            (true, Ends::Output) => &[LM_HEAD],
            _ => return vec![parameter.to_owned()],
        };
        both.iter().map(|name| (*name).to_owned()).collect()
    }

    fn patch(&mut self, patch: &Patch) -> Result<(), PeftError> {
        let refused = || PeftError::NotMergeable { site: patch.site.to_string() };
        let (parameter, rows) = match (&patch.site, &patch.change) {
            (Site::Rows { parameter, rows }, _) => (parameter, rows),
            (Site::AddedState { layer }, Change::AddedState { a_log, b, c }) => {
                let tensors = [self.value(a_log)?, self.value(b)?, self.value(c)?];
                self.added.entry(*layer).or_default().push(tensors);
                return Ok(());
            }
            _ => return Err(refused()),
        };
        match &patch.change {
            Change::Train { value, ends } => {
                let value = self.tensor(value)?;
                for name in self.names(parameter, *ends) {
                    self.values.insert(name, value.clone());
                }
            }
            Change::Add { value, scale } => {
                let addition = self.value(value)?.to_f64_vec();
                for name in self.names(parameter, Ends::Both) {
                    let (values, _) = self.stored(&name);
                    values.iter_mut().zip(&addition).for_each(|(w, x)| *w += scale * x);
                }
            }
            Change::LowRank { a, b, scale, ends, magnitude, .. } => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                let magnitude = magnitude.as_ref().map(|name| self.tensor(name)).transpose()?;
                let looked_up = parameter == EMBEDDING && *ends != Ends::Output;
                for name in self.names(parameter, *ends) {
                    let model = self.model;
                    let (values, columns) = self.stored(&name);
                    let rows_of_it = &mut values[rows.start * columns..rows.end * columns];
                    match &magnitude {
                        Some(magnitude) => {
                            scale_to_norms(rows_of_it, columns, &a, &b, *scale, magnitude, looked_up, model)?;
                        }
                        None => add_product(rows_of_it, &a, &b, *scale),
                    }
                }
            }
            Change::Columns { values: name, columns: chosen } => {
                let addition = self.tensor(name)?;
                for name in self.names(parameter, Ends::Both) {
                    let (values, columns) = self.stored(&name);
                    let rows_of_it = values[rows.start * columns..rows.end * columns].chunks_exact_mut(columns);
                    for (row, addition) in rows_of_it.zip(addition.chunks_exact(chosen.len())) {
                        chosen.iter().zip(addition).for_each(|(&column, x)| row[column as usize] += x);
                    }
                }
            }
            Change::Bias(bias) => {
                let (name, bias) = (parameter.replace(".weight", ".bias"), self.tensor(bias)?);
                self.add_bias(&name, rows, &bias).ok_or_else(refused)?;
            }
            Change::Operand(_) | Change::AddedState { .. } => return Err(refused()),
        }
        Ok(())
    }

    /// Adds to a stored bias, or to one that the configuration can switch on.
    fn add_bias(&mut self, name: &str, rows: &Range<usize>, bias: &[f64]) -> Option<()> {
        let known = self.model.parameter(name).map(|parameter| parameter.value.to_f64_vec());
        let size = match name.rsplit('.').nth(1) {
            Some("in_proj") => 2 * self.config.d_inner,
            Some("out_proj") => self.config.d_model,
            Some("conv1d") => self.config.d_inner,
            _ if known.is_none() => return None,
            _ => 0, // its size is that of the stored one
        };
        match name.ends_with("conv1d.bias") {
            true => self.config.use_conv_bias |= known.is_none(),
            false => self.config.use_bias |= known.is_none(),
        }
        let values = self.values.entry(name.to_owned()).or_insert_with(|| known.unwrap_or_else(|| vec![0.0; size]));
        values[rows.clone()].iter_mut().zip(bias).for_each(|(w, x)| *w += x);
        Some(())
    }

    fn finish(mut self) -> Result<(Mamba, MergeReport), PeftError> {
        self.join_states()?;
        let expected = statetune_mamba_model::checkpoint::expected_tensors(&self.config);
        let shape = |name: &str| expected.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
        // A configuration with biases has them everywhere: zeros where no patch brought one.
        for (name, shape) in expected.iter().filter(|(name, _)| name.ends_with(".bias")) {
            if self.model.parameter(name).is_none() {
                self.values.entry(name.clone()).or_insert_with(|| vec![0.0; shape.iter().product()]);
            }
        }
        let values = self.values.into_iter().map(|(name, values)| {
            let tensor = Tensor::from_vec(values, &shape(&name).expect("a tensor of the model"))?;
            Ok((name, tensor))
        });
        let exact = values.collect::<Result<BTreeMap<String, Tensor>, PeftError>>()?;
        let merged = self.model.rebuilt(self.config, exact.clone())?;
        let tensors = exact.into_iter().map(|(name, exact)| {
            let dtype = merged.parameter(&name).expect("a tensor of the model").stored;
            rounding(name, &exact, dtype)
        });
        let report = MergeReport { tensors: tensors.collect() };
        Ok((merged, report))
    }

    /// Further state dimensions become part of `A_log` and of `x_proj`, if every layer has as many.
    fn join_states(&mut self) -> Result<(), PeftError> {
        let width = |tensors: &[[Tensor; 3]]| tensors.iter().map(|[a_log, ..]| a_log.shape()[1]).sum::<usize>();
        let Some((&first, tensors)) = self.added.first_key_value() else { return Ok(()) };
        let (k, layers) = (width(tensors), self.config.num_hidden_layers);
        if self.added.len() != layers || self.added.values().any(|tensors| width(tensors) != k) {
            return Err(PeftError::NotMergeable { site: Site::AddedState { layer: first }.to_string() });
        }
        let MambaConfig { d_inner, d_state, dt_rank, .. } = self.config;
        for (layer, tensors) in std::mem::take(&mut self.added) {
            let path = mixer_path(layer);
            let (a_log, _) = self.stored(&format!("{path}.A_log"));
            let mut wide = Vec::with_capacity(d_inner * (d_state + k));
            for (channel, row) in a_log.chunks_exact(d_state).enumerate() {
                wide.extend_from_slice(row);
                for [a_log, ..] in &tensors {
                    let width = a_log.shape()[1];
                    wide.extend_from_slice(&a_log.to_f64_vec()[channel * width..][..width]);
                }
            }
            *a_log = wide;
            let (x_proj, columns) = self.stored(&format!("{path}.x_proj.weight"));
            let mut rows = x_proj[..(dt_rank + d_state) * columns].to_vec();
            tensors.iter().for_each(|[_, b, _]| rows.extend(b.to_f64_vec()));
            rows.extend_from_slice(&x_proj[(dt_rank + d_state) * columns..]);
            tensors.iter().for_each(|[_, _, c]| rows.extend(c.to_f64_vec()));
            *x_proj = rows;
        }
        self.config.d_state += k;
        Ok(())
    }
}

/// What storing a tensor in a type costs.
fn rounding(name: String, exact: &Tensor, dtype: DType) -> MergedTensor {
    let (values, stored) = (exact.to_f64_vec(), exact.cast(dtype).to_f64_vec());
    let errors = || values.iter().zip(&stored).map(|(exact, stored)| (stored - exact).abs());
    let max_rounding = errors().fold(0.0, f64::max);
    let squares: f64 = errors().map(|error| error * error).sum();
    MergedTensor { name, dtype, max_rounding, rms_rounding: (squares / values.len().max(1) as f64).sqrt() }
}

/// The rows gain `scale` · B A.
fn add_product(weight: &mut [f64], a: &Tensor, b: &Tensor, scale: f64) {
    let (columns, rank) = (a.shape()[1], a.shape()[0]);
    let (a, b) = (a.to_f64_vec(), b.to_f64_vec());
    for (row, b_row) in weight.chunks_exact_mut(columns).zip(b.chunks(rank)) {
        for (factor, a_row) in b_row.iter().zip(a.chunks(columns)) {
            row.iter_mut().zip(a_row).for_each(|(w, a)| *w += scale * factor * a);
        }
    }
}

/// W becomes m ∘ (W + sBA) / ‖W + sBA‖, by rows or, of an embedding, by columns.
fn scale_to_norms(
    weight: &mut [f64],
    columns: usize,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    magnitude: &[f64],
    by_columns: bool,
    model: &Mamba,
) -> Result<(), PeftError> {
    let rows = weight.len() / columns;
    let double = |tensor: &Tensor| -> Result<Tensor, PeftError> { Ok(tensor.to_host()?.cast(DType::F64)) };
    let adapted = AdaptedWeight {
        weight: &Tensor::from_vec(weight.to_vec(), &[rows, columns])?,
        rows: 0..rows,
        a: &double(a)?,
        b: &double(b)?,
        scale,
    };
    let axis = if by_columns { NormAxis::Columns } else { NormAxis::Rows };
    let norms = adapted.norms(&model.host()?, axis)?.to_f64_vec();
    add_product(weight, a, b, scale);
    for (i, row) in weight.chunks_exact_mut(columns).enumerate() {
        for (j, w) in row.iter_mut().enumerate() {
            let at = if by_columns { j } else { i };
            *w *= magnitude[at] / norms[at];
        }
    }
    Ok(())
}
