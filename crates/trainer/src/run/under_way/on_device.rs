//! The loop's steps where the model is on a GPU: what a step came to is known one step later.

use statetune_mamba_model::DropoutStep;
use statetune_ssm_kernels::adamw::cuda::Outcome;

use super::Loop;
use crate::TrainError;
use crate::cuda::DeviceSteps;
use crate::effect::EffectCheck;
use crate::step::MicroBatch;

impl Loop<'_> {
    /// A step on a GPU: it is launched, and the outcome of the one before is taken note of. The first steps are
    /// waited for, since their effect is checked.
    pub(super) fn step_on_device(
        &mut self,
        micro_batches: &[MicroBatch],
        dropout: DropoutStep,
    ) -> Result<(), TrainError> {
        let run = self.run;
        let mut device = match self.device.take() {
            Some(device) => device,
            None => DeviceSteps::new(run.model, &self.adapter, &mut self.optimizer, true)?
                .by_chunks(run.settings.chunk_tokens),
        };
        let checked = self.optimizer.updates() < EffectCheck::UPDATES;
        device.gradients(micro_batches, Some(dropout))?;
        if self.optimizer.updates() == 0 {
            self.effect.first_gradients(&self.adapter, &device.gradients_on_host()?)?;
        }
        // While this step runs, the outcome of the one before arrives.
        let before = device.outcome()?;
        device.update(self.rate, run.settings.clip_norm)?;
        self.device = Some(device);
        if let Some(outcome) = before {
            self.note(self.progress.step, outcome)?;
        }
        if checked {
            // This step is not counted yet.
            self.settle_at(self.progress.step + 1)?;
            self.effect.updated(&self.adapter, self.optimizer.updates())?;
        }
        Ok(())
    }

    /// Waits for the outcome of the last step launched, which is step `step`.
    pub(super) fn settle_at(&mut self, step: u64) -> Result<(), TrainError> {
        match self.device.as_mut().map(|device| device.outcome()).transpose()?.flatten() {
            Some(outcome) => self.note(step, outcome),
            None => Ok(()),
        }
    }

    /// Takes note of what step `step` (from 1) came to.
    fn note(&mut self, step: u64, outcome: Outcome) -> Result<(), TrainError> {
        self.optimizer.set_updates(outcome.updates);
        let loss = f64::from(outcome.loss);
        if !outcome.finite {
            self.known = (loss, f64::NAN);
            let what = match loss.is_finite() {
                true => "a gradient is not finite".to_owned(),
                false => format!("the loss is {loss}"),
            };
            return self.skip(step, what);
        }
        self.progress.non_finite_in_a_row = 0;
        self.progress.loss_since_log.0 += loss;
        self.progress.loss_since_log.1 += 1;
        self.known = (loss, f64::from(outcome.norm));
        Ok(())
    }
}
