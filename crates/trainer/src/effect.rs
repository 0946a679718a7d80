//! No silent no-op: a patch must have a gradient at the first step, and every tensor must have moved after three.

use statetune_peft_methods::{Adapter, TensorSpec};
use statetune_tensor::Tensor;

use crate::TrainError;

/// Watches the first steps of a run.
#[derive(Debug)]
pub struct EffectCheck {
    start: Option<Vec<Tensor>>,
}

impl EffectCheck {
    /// After this many updates every tensor must differ from its start.
    pub const UPDATES: u64 = 3;

    /// Remembers the tensors as they are before the first update.
    ///
    /// # Errors
    /// When they are on a device that fails.
    pub fn new(adapter: &Adapter) -> Result<EffectCheck, TrainError> {
        // On a device updates are made in place, under the eyes of who shares a tensor.
        let tensors = adapter.patches().tensors().iter().map(|t| t.buffer.tensor().to_host());
        Ok(EffectCheck { start: Some(tensors.collect::<Result<_, _>>()?) })
    }

    /// A check that has been passed: for runs that are resumed after the first steps.
    pub fn passed() -> EffectCheck {
        EffectCheck { start: None }
    }

    /// Called with the gradients of the first step.
    ///
    /// # Errors
    /// [`TrainError::NoEffect`] for a patch whose trained tensors all have a zero gradient. Those that may stay do not
    /// count.
    pub fn first_gradients(&self, adapter: &Adapter, gradients: &[Option<Tensor>]) -> Result<(), TrainError> {
        for patch in adapter.patches().patches() {
            let names = patch.tensors();
            let own = adapter.specs().iter().zip(gradients).filter(|(spec, _)| names.contains(&spec.name.as_str()));
            let must: Vec<_> = own.filter(|(spec, _)| spec.trained && spec.may_stay.is_none()).collect();
            let moves = |(_, gradient): &(&TensorSpec, &Option<Tensor>)| {
                gradient.as_ref().is_some_and(|gradient| gradient.to_f64_vec().iter().any(|&x| x != 0.0))
            };
            if !must.is_empty() && !must.iter().any(moves) {
                let reason = "has a zero gradient at the first step".into();
                return Err(TrainError::NoEffect { name: patch.site.to_string(), reason });
            }
        }
        Ok(())
    }

    /// Called after each update made at a learning rate above zero.
    ///
    /// # Errors
    /// [`TrainError::NoEffect`] for a trained tensor that has not moved after three, unless it may stay.
    pub fn updated(&mut self, adapter: &Adapter, updates: u64) -> Result<(), TrainError> {
        if updates < Self::UPDATES {
            return Ok(());
        }
        let Some(start) = self.start.take() else { return Ok(()) };
        for ((tensor, spec), start) in adapter.patches().tensors().iter().zip(adapter.specs()).zip(start) {
            let must_move = spec.trained && spec.may_stay.is_none();
            if must_move && tensor.buffer.tensor().to_f64_vec() == start.to_f64_vec() {
                let reason = format!("has not moved after {} updates", Self::UPDATES);
                return Err(TrainError::NoEffect { name: tensor.name.clone(), reason });
            }
        }
        Ok(())
    }
}
