//! Adapters by name on one model: one at a time, several at once, or averaged into a new one.
//!
//! - One name switches to that adapter.
//! - Several names stack: all patches apply at once, in this order. Low-rank additions and offsets add up, state scales
//!   multiply, soft tokens and virtual inputs follow one another. Two adapters that replace the same stored tensor, or
//!   set the magnitude of the same rows, exclude each other.
//! - [`AdapterSet::average`] makes one adapter of several.

mod average;

use std::ops::Range;

use statetune_mamba_model::patch::{Change, Ends, Patch};
use statetune_mamba_model::site::Site;
use statetune_mamba_model::{Mamba, Patches};

use crate::adapter::MergeReport;
use crate::{Adapter, PeftError, nearest};

/// Adapters by name on one model.
#[derive(Debug)]
pub struct AdapterSet<'m> {
    model: &'m Mamba,
    adapters: Vec<(String, Adapter)>,
}

impl<'m> AdapterSet<'m> {
    /// No adapters yet.
    pub fn new(model: &'m Mamba) -> AdapterSet<'m> {
        AdapterSet { model, adapters: Vec::new() }
    }

    /// Adds an adapter.
    ///
    /// # Errors
    /// The name is empty or taken; the adapter is one of another model.
    pub fn insert(&mut self, name: impl Into<String>, adapter: Adapter) -> Result<(), PeftError> {
        let name = name.into();
        self.check_new(&name)?;
        let mut expected = Vec::new();
        for method in adapter.methods() {
            expected.extend(method.plan(self.model.config())?.tensors);
        }
        let differs = adapter
            .specs()
            .iter()
            .find(|spec| !expected.iter().any(|other| other.name == spec.name && other.shape == spec.shape));
        if let Some(spec) = differs {
            let reason = format!("it is for another model: there is no place for `{}` {:?}", spec.name, spec.shape);
            return Err(PeftError::AdapterName { name, reason });
        }
        self.adapters.push((name, adapter));
        Ok(())
    }

    fn check_new(&self, name: &str) -> Result<(), PeftError> {
        let fail = |reason: &str| Err(PeftError::AdapterName { name: name.to_owned(), reason: reason.into() });
        if name.is_empty() {
            return fail("a name has at least one letter");
        }
        match self.names().any(|known| known == name) {
            true => fail("there is an adapter of this name already: give each a name of its own"),
            false => Ok(()),
        }
    }

    /// The names, in the order of insertion.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapters.iter().map(|(name, _)| name.as_str())
    }

    /// The adapter of a name.
    ///
    /// # Errors
    /// There is none; the nearest name is suggested.
    pub fn get(&self, name: &str) -> Result<&Adapter, PeftError> {
        let found = self.adapters.iter().find(|(known, _)| known == name).map(|(_, adapter)| adapter);
        found.ok_or_else(|| PeftError::UnknownAdapter {
            found: name.to_owned(),
            nearest: nearest(name, self.names()).map(str::to_owned),
            known: self.names().collect::<Vec<_>>().join(", "),
        })
    }

    /// What the model applies: the patches of one adapter, of several at once in this order, or none. They share the
    /// adapters' tensors; of several, a tensor's name is its adapter's, a slash, and its own.
    ///
    /// # Errors
    /// A name is unknown or comes twice; [`PeftError::CannotStack`] if two of the adapters exclude each other.
    pub fn patches(&self, names: &[impl AsRef<str>]) -> Result<Patches, PeftError> {
        let mut chosen: Vec<(&str, &Adapter)> = Vec::new();
        for name in names {
            let name = name.as_ref();
            let adapter = self.get(name)?;
            if chosen.iter().any(|(other, _)| *other == name) {
                let reason = "an adapter can be taken once".into();
                return Err(PeftError::AdapterName { name: name.to_owned(), reason });
            }
            chosen.push((name, adapter));
        }
        if let [(_, adapter)] = chosen[..] {
            return Ok(adapter.patches().clone());
        }
        let mut stack = Patches::none();
        for (i, (second, adapter)) in chosen.iter().enumerate() {
            for (first, other) in &chosen[..i] {
                if let Some(reason) = conflict(other.patches(), adapter.patches()) {
                    let (first, second) = ((*first).to_owned(), (*second).to_owned());
                    return Err(PeftError::CannotStack { first, second, reason });
                }
            }
            stack = stack.and(adapter.patches().prefixed(&format!("{second}/")))?;
        }
        Ok(stack)
    }

    /// The model with these adapters inside, stacked in this order (see [`Adapter::merge_with_report`]).
    ///
    /// # Errors
    /// Those of [`AdapterSet::patches`] and of [`Adapter::merge`].
    pub fn merge(&self, names: &[impl AsRef<str>]) -> Result<(Mamba, MergeReport), PeftError> {
        Adapter::of_patches(self.model, self.patches(names)?).merge_with_report(self.model)
    }

    /// A new adapter, the average of others with weights that sum to 1.
    ///
    /// Methods are averaged one by one, so all adapters must have methods of the same kinds in the same order:
    /// - What adds a product to a matrix (LoRA, LoRA+, LoRA-FA, PiSSA, OLoRA; low-rank State-offset; LoRA on the
    ///   convolution) becomes the exact weighted sum of the additions: factors are put side by side, so ranks add up.
    ///   The mean of factors would be something else: the products of one adapter's A and another's B are in it. PiSSA
    ///   and OLoRA become plain LoRA.
    /// - DoRA: its additions so, its magnitudes as means.
    /// - Everything else: the weighted mean, tensor by tensor, of adapters with the same shapes. It is the mean of the
    ///   trained tensors, not of what they do where that is not linear in them (decays, products of scales).
    ///
    /// Of reparametrised tensors the values are averaged, not the MLPs. Constants must be equal.
    ///
    /// # Errors
    /// A name is unknown, `new_name` is taken; [`PeftError::CannotAverage`] if the weights do not sum to 1 or the
    /// adapters are not alike.
    pub fn average(
        &mut self,
        new_name: impl Into<String>,
        parts: &[(impl AsRef<str>, f64)],
    ) -> Result<&Adapter, PeftError> {
        let new_name = new_name.into();
        self.check_new(&new_name)?;
        let weighted = parts.iter().map(|(name, weight)| Ok((name.as_ref(), self.get(name.as_ref())?, *weight)));
        let average = average::average(self.model, &weighted.collect::<Result<Vec<_>, PeftError>>()?)?;
        self.adapters.push((new_name, average));
        Ok(&self.adapters[self.adapters.len() - 1].1)
    }
}

/// Why two adapters exclude each other, if they do.
fn conflict(first: &Patches, second: &Patches) -> Option<String> {
    let overlap = |a: &Patch, b: &Patch| {
        let (Site::Rows { parameter, rows }, Site::Rows { parameter: other, rows: others }) = (&a.site, &b.site) else {
            return None;
        };
        if parameter != other || !meet(rows, others) {
            return None;
        }
        match (&a.change, &b.change) {
            (Change::Train { ends, .. }, Change::Train { ends: others, .. }) if share(*ends, *others) => {
                Some(format!("both train `{parameter}` itself"))
            }
            (
                Change::LowRank { magnitude: Some(_), ends, .. },
                Change::LowRank { magnitude: Some(_), ends: others, .. },
            ) if share(*ends, *others) => Some(format!("both set the magnitude of `{}`", a.site)),
            _ => None,
        }
    };
    first.patches().iter().find_map(|a| second.patches().iter().find_map(|b| overlap(a, b)))
}

fn meet(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Whether some use of a tied matrix is in both.
fn share(a: Ends, b: Ends) -> bool {
    a == b || a == Ends::Both || b == Ends::Both
}
