//! No silent no-op: a patch must have a gradient at the first step, and every tensor must have moved after three.

use statetune_mamba_model::Patches;
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
    pub fn new(patches: &Patches) -> EffectCheck {
        EffectCheck { start: Some(patches.tensors().iter().map(|t| t.buffer.tensor()).collect()) }
    }

    /// A check that has been passed: for runs that are resumed after the first steps.
    pub fn passed() -> EffectCheck {
        EffectCheck { start: None }
    }

    /// Called with the gradients of the first step.
    ///
    /// # Errors
    /// [`TrainError::NoEffect`] for a patch whose tensors all have a zero gradient.
    pub fn first_gradients(&self, patches: &Patches, gradients: &[Option<Tensor>]) -> Result<(), TrainError> {
        for patch in patches.patches() {
            let names = patch.tensors();
            let moves = patches.tensors().iter().zip(gradients).any(|(tensor, gradient)| {
                let zero = |g: &Tensor| g.to_f64_vec().iter().all(|&x| x == 0.0);
                names.contains(&tensor.name.as_str()) && gradient.as_ref().is_some_and(|g| !zero(g))
            });
            if !moves {
                let reason = "has a zero gradient at the first step".into();
                return Err(TrainError::NoEffect { name: patch.site.to_string(), reason });
            }
        }
        Ok(())
    }

    /// Called after each update made at a learning rate above zero.
    ///
    /// # Errors
    /// [`TrainError::NoEffect`] for a tensor that has not moved after three.
    pub fn updated(&mut self, patches: &Patches, updates: u64) -> Result<(), TrainError> {
        if updates < Self::UPDATES {
            return Ok(());
        }
        let Some(start) = self.start.take() else { return Ok(()) };
        for (tensor, start) in patches.tensors().iter().zip(start) {
            if tensor.buffer.tensor().to_f64_vec() == start.to_f64_vec() {
                let reason = format!("has not moved after {} updates", Self::UPDATES);
                return Err(TrainError::NoEffect { name: tensor.name.clone(), reason });
            }
        }
        Ok(())
    }
}
