//! Merging: what the patches do to stored tensors, written into them.

use std::collections::BTreeMap;

use statetune_mamba_model::Mamba;
use statetune_mamba_model::checkpoint::{EMBEDDING, LM_HEAD};
use statetune_mamba_model::patch::{Change, Ends};
use statetune_mamba_model::site::Site;
use statetune_tensor::Tensor;

use super::Adapter;
use crate::PeftError;

impl Adapter {
    /// The model with the adapter inside: the same logits, no adapter needed. Sums are made in f64 and rounded to the
    /// storage type. Merging a patch on the input side of tied embeddings unties them.
    ///
    /// # Errors
    /// [`PeftError::NotMergeable`] if a patch touches anything but stored tensors.
    pub fn merge(&self, model: &Mamba) -> Result<Mamba, PeftError> {
        let tied = model.config().tie_word_embeddings;
        let unties = tied
            && self.patches().patches().iter().any(|patch| {
                let embedding = matches!(&patch.site, Site::Rows { parameter, .. } if parameter == EMBEDDING);
                embedding && matches!(patch.change, Change::LowRank { ends: Ends::Input, .. })
            });
        let model = if unties { model.untied()? } else { model.clone() };
        let mut merged: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let stored = |name: &str| model.parameter(name).map(|p| p.value.to_f64_vec()).expect("patches were checked");
        // Trained tensors replace the stored ones first; low-rank additions then add to them.
        for patch in self.patches().patches() {
            match (&patch.site, &patch.change) {
                (Site::Rows { parameter, .. }, Change::Train(value)) => {
                    let value = self.patches().tensor(value)?.tensor().to_f64_vec();
                    if unties && parameter == EMBEDDING {
                        merged.insert(LM_HEAD.to_owned(), value.clone());
                    }
                    merged.insert(parameter.clone(), value);
                }
                (Site::Rows { .. }, Change::LowRank { .. }) => {}
                _ => return Err(PeftError::NotMergeable { site: patch.site.to_string() }),
            }
        }
        for patch in self.patches().patches() {
            let (Site::Rows { parameter, rows }, Change::LowRank { a, b, scale, ends, .. }) =
                (&patch.site, &patch.change)
            else {
                continue;
            };
            let (a, b) = (self.patches().tensor(a)?.tensor(), self.patches().tensor(b)?.tensor());
            let both = unties && parameter == EMBEDDING && *ends == Ends::Both;
            for name in [Some(parameter.as_str()), both.then_some(LM_HEAD)].into_iter().flatten() {
                let weight = merged.entry(name.to_owned()).or_insert_with(|| stored(name));
                add_product(weight, rows.start, &a, &b, *scale);
            }
        }
        let shape = |name: &str| model.parameter(name).map(|p| p.value.shape().to_vec()).expect("patches were checked");
        let merged = merged.into_iter().map(|(name, values)| {
            let value = Tensor::from_vec(values, &shape(&name))?;
            Ok((name, value))
        });
        Ok(model.with_parameters(merged.collect::<Result<_, PeftError>>()?)?)
    }
}

/// Rows from `first` on gain `scale` · B A.
fn add_product(weight: &mut [f64], first: usize, a: &Tensor, b: &Tensor, scale: f64) {
    let (columns, rank) = (a.shape()[1], a.shape()[0]);
    let (a, b) = (a.to_f64_vec(), b.to_f64_vec());
    for (i, b_row) in b.chunks(rank).enumerate() {
        let row = &mut weight[(first + i) * columns..][..columns];
        for (factor, a_row) in b_row.iter().zip(a.chunks(columns)) {
            row.iter_mut().zip(a_row).for_each(|(w, a)| *w += scale * factor * a);
        }
    }
}
