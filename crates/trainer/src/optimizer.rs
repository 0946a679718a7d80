//! AdamW over the tensors of an adapter (Loshchilov and Hutter 2019, arXiv 1711.05101), with its state.

use statetune_peft_methods::Adapter;
use statetune_ssm_kernels::adamw::AdamWStep;
use statetune_tensor::{Device, Tensor, optim};

use crate::TrainError;

/// AdamW's constants. Defaults are PyTorch's but for the weight decay, which is 0 as in the fine-tuning of the paper.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay. Never on `A_log`, D, biases, norms and state tensors.
    pub weight_decay: f64,
}

impl Default for AdamWSettings {
    fn default() -> AdamWSettings {
        AdamWSettings { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimiser's state: two moments per tensor, and the number of updates made.
#[derive(Debug, Clone)]
pub struct AdamW {
    settings: AdamWSettings,
    updates: u64,
    moments: Vec<(Tensor, Tensor)>,
}

impl AdamW {
    /// A fresh state for the tensors of an adapter.
    pub fn new(adapter: &Adapter, settings: AdamWSettings) -> AdamW {
        let zeros = |t: &statetune_mamba_model::patch::PatchTensor| {
            // A constant has none.
            let shape = if t.trained { t.buffer.shape() } else { vec![0] };
            let zeros = Tensor::zeros(t.buffer.dtype(), &shape);
            (zeros.clone(), zeros)
        };
        AdamW { settings, updates: 0, moments: adapter.patches().tensors().iter().map(zeros).collect() }
    }

    /// The number of updates made.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Brings the moments where a device computes, each to memory of its own.
    ///
    /// # Errors
    /// When the device's memory does not suffice.
    pub fn to(&mut self, device: &Device) -> Result<(), TrainError> {
        for (m, v) in &mut self.moments {
            (*m, *v) = (m.to(device)?, v.to(device)?);
        }
        Ok(())
    }

    /// AdamW's constants.
    pub fn settings(&self) -> &AdamWSettings {
        &self.settings
    }

    /// Takes note of updates that a device has made.
    #[cfg(feature = "cuda")]
    pub(crate) fn set_updates(&mut self, updates: u64) {
        self.updates = updates;
    }

    /// First and second moments, per tensor.
    pub fn moments(&self) -> &[(Tensor, Tensor)] {
        &self.moments
    }

    /// Takes up a saved state; shapes must be those of the adapter.
    ///
    /// # Errors
    /// When they are not, naming the tensor's place.
    pub fn restore(&mut self, updates: u64, moments: Vec<(Tensor, Tensor)>) -> Result<(), String> {
        if moments.len() != self.moments.len() {
            return Err(format!("moments of {} tensors, expected {}", moments.len(), self.moments.len()));
        }
        for (i, ((m, v), (own, _))) in moments.iter().zip(&self.moments).enumerate() {
            let fits = |t: &Tensor| t.shape() == own.shape() && t.dtype() == own.dtype();
            if !fits(m) || !fits(v) {
                return Err(format!("moment {i} has shape {:?}, expected {:?}", m.shape(), own.shape()));
            }
        }
        self.updates = updates;
        self.moments = moments;
        Ok(())
    }

    /// One update at learning rate `lr` (times a tensor's own rate) with gradients scaled by `gradient_scale` (the clip factor). Tensors without a
    /// gradient stay.
    ///
    /// # Errors
    /// When a gradient is of another shape or type than its tensor.
    pub fn update(
        &mut self,
        device: &Device,
        adapter: &Adapter,
        gradients: &[Option<Tensor>],
        lr: f64,
        gradient_scale: f64,
    ) -> Result<(), TrainError> {
        self.updates += 1;
        let tensors = adapter.patches().tensors().iter().zip(adapter.specs());
        for (((tensor, spec), gradient), (m, v)) in tensors.zip(gradients).zip(&mut self.moments) {
            let Some(gradient) = gradient else { continue };
            let step = AdamWStep {
                lr: lr * spec.rate,
                beta1: self.settings.beta1,
                beta2: self.settings.beta2,
                eps: self.settings.eps,
                weight_decay: if spec.decay { self.settings.weight_decay } else { 0.0 },
                step: self.updates,
                grad_scale: gradient_scale,
            };
            optim::adamw(device, &tensor.buffer, (m, v), gradient, &step)?;
        }
        Ok(())
    }
}
