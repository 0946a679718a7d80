//! Whether a patch fits a model: the site exists, and the shapes are those it calls for.

use std::ops::Range;

use super::{Change, Patch, Patches, Value};
use crate::ModelError;
use crate::checkpoint::expected_tensors;
use crate::config::MambaConfig;
use crate::site::{Ends, Site, linear_sites};

impl Patches {
    pub(super) fn check(&self, config: &MambaConfig, patch: &Patch) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Patch { name: patch.site.to_string(), reason });
        let layer = match &patch.site {
            Site::Operand { layer, .. } | Site::AddedState { layer } | Site::VirtualInputs { layer, .. } => *layer,
            _ => 0,
        };
        if layer >= config.num_hidden_layers {
            return fail(format!("the model has {} layers", config.num_hidden_layers));
        }
        match (&patch.site, &patch.change) {
            (Site::Rows { parameter, rows }, change) => self.check_rows(config, parameter, rows, change).or_else(fail),
            (Site::Operand { operand, .. }, Change::Operand(value)) => {
                let (expected, found) = (operand.shape(config), self.shape(value)?);
                let fills = matches!(value, Value::Product { .. })
                    && found.iter().product::<usize>() == expected.iter().product::<usize>();
                if found == expected || fills {
                    Ok(())
                } else {
                    fail(format!("shape {found:?}, expected {expected:?}"))
                }
            }
            (Site::AddedState { .. }, Change::AddedState { a_log, b, c }) => {
                let (d, [a_log, b, c]) = (config.d_inner, [self.shape(a_log)?, self.shape(b)?, self.shape(c)?]);
                match a_log[..] {
                    [rows, k] if rows == d && k > 0 && b == [k, d] && c == [k, d] => Ok(()),
                    _ => fail(format!("A_log {a_log:?}, B {b:?}, C {c:?} should be [{d}, k], [k, {d}], [k, {d}]")),
                }
            }
            (Site::VirtualInputs { place, .. }, Change::Operand(value)) => {
                self.check_tokens(value, place.width(config)).or_else(fail)
            }
            (Site::SoftTokens, Change::Operand(value)) => self.check_tokens(value, config.d_model).or_else(fail),
            _ => fail("the change does not fit the site".into()),
        }
    }

    fn shape(&self, value: &Value) -> Result<Vec<usize>, ModelError> {
        value.shape(&|name| Ok(self.tensor(name)?.shape()))
    }

    fn check_tokens(&self, value: &Value, width: usize) -> Result<(), String> {
        match self.shape(value).map_err(|error| error.to_string())?[..] {
            [k, w] if k > 0 && w == width => Ok(()),
            ref found => Err(format!("shape {found:?}, expected [k, {width}]")),
        }
    }

    fn check_rows(
        &self,
        config: &MambaConfig,
        parameter: &str,
        rows: &Range<usize>,
        change: &Change,
    ) -> Result<(), String> {
        let shape = |value: &Value| self.shape(value).map_err(|error| error.to_string());
        let named = |name: &str| shape(&Value::Dense(name.to_owned()));
        let expected = expected_tensors(config);
        let Some((_, stored)) = expected.iter().find(|(name, _)| name == parameter) else {
            return Err("the model has no such tensor".into());
        };
        if rows.is_empty() || rows.end > stored[0] {
            return Err(format!("the tensor has {} rows", stored[0]));
        }
        let whole = *rows == (0..stored[0]);
        let linear = || linear_sites(config).iter().any(|s| s.parameter == parameter && s.rows == *rows);
        let check_bias = |bias: &str| match named(bias)? {
            found if found == [rows.len()] => Ok(()),
            found => Err(format!("a bias of shape {found:?}, expected [{}]", rows.len())),
        };
        match change {
            Change::Operand(_) | Change::AddedState { .. } => Err("a stored tensor takes no operand".into()),
            Change::Train { value, .. } => match named(value)? {
                found if whole && found == *stored => Ok(()),
                found => Err(format!("`{value}` has shape {found:?}, the stored tensor {stored:?}")),
            },
            Change::Add { value, .. } => match shape(value)? {
                found if whole && found.iter().product::<usize>() == stored.iter().product::<usize>() => Ok(()),
                found => Err(format!("an addition of shape {found:?} to the stored tensor {stored:?}")),
            },
            // The convolution has a bias per channel, as a linear layer has one per output.
            Change::Bias(bias) if whole && parameter.ends_with("conv1d.weight") => check_bias(bias),
            _ if !linear() => Err("these rows are not a linear site".into()),
            Change::LowRank { a, b, magnitude, ends, .. } => {
                let (a, b) = (shape(a)?, shape(b)?);
                let fits = a.len() == 2 && a[1] == stored[1] && b == [rows.len(), a[0]] && a[0] > 0;
                if !fits {
                    return Err(format!("A {a:?} and B {b:?} should be [r, {}] and [{}, r]", stored[1], rows.len()));
                }
                let Some(magnitude) = magnitude else { return Ok(()) };
                // One number per output; of an embedding, whose rows are looked up, per hidden unit.
                let looked_up = parameter == crate::checkpoint::EMBEDDING && *ends != Ends::Output;
                let count = if looked_up { stored[1] } else { rows.len() };
                match named(magnitude)? {
                    found if found == [count] => Ok(()),
                    found => Err(format!("a magnitude of shape {found:?}, expected [{count}]")),
                }
            }
            Change::Columns { values, columns } => {
                let found = named(values)?;
                let below = columns.iter().all(|&column| (column as usize) < stored[1]);
                match below && !columns.is_empty() && found == [rows.len(), columns.len()] {
                    true => Ok(()),
                    false => Err(format!("{found:?} for {} of {} columns", columns.len(), stored[1])),
                }
            }
            Change::Bias(bias) => check_bias(bias),
        }
    }
}
