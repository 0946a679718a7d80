//! One training step up to the gradient: micro-batches in, the loss and the summed gradients out.
//!
//! The loss of every micro-batch is divided by the labelled tokens of the whole step, so that accumulated gradients are
//! those of the big batch. Gradients, then reduce, then update: the update is the optimiser's.

use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba, Patches};
use statetune_ssm_kernels::elementwise;
use statetune_tensor::{Device, Tape, Tensor, Var, cpu_or, with_float};

use crate::TrainError;
use crate::long::{self, Chunks};

/// What is processed at once.
#[derive(Debug, Clone)]
pub struct MicroBatch {
    /// A prefix that all sequences share (a task's instruction), run once; absent: the sequences are whole.
    pub prefix: Option<Batch>,
    /// The sequences, without the prefix.
    pub batch: Batch,
    /// `[R]`, the rows of `batch` whose next token is labelled.
    pub rows: Vec<u32>,
    /// `[R]`, those tokens.
    pub targets: Vec<u32>,
}

impl MicroBatch {
    /// Tokens that are computed.
    pub fn tokens(&self) -> usize {
        self.batch.tokens() + self.prefix.as_ref().map_or(0, Batch::tokens)
    }
}

/// The labelled tokens of a step, by which its losses are divided.
pub(crate) fn labelled_tokens(micro_batches: &[MicroBatch]) -> Result<usize, TrainError> {
    match micro_batches.iter().map(|micro| micro.rows.len()).sum() {
        0 => Err(TrainError::NothingToDo { reason: "a step has no labelled token: there is nothing to learn".into() }),
        labelled => Ok(labelled),
    }
}

/// `[T, d_model]`, the hidden states of a batch whose sequences may share a prefix, which is run once.
pub(crate) fn hidden_states(
    model: &Mamba,
    tape: &Tape,
    bound: &Bound,
    prefix: Option<&Batch>,
    batch: &Batch,
) -> Result<Var, TrainError> {
    let states = match prefix {
        Some(prefix) => {
            let output = model.forward(tape, bound, prefix, None, true)?;
            Some(output.states.expect("asked for").shared_by(batch.sequences())?)
        }
        None => None,
    };
    Ok(model.forward(tape, bound, batch, states.as_ref(), false)?.hidden)
}

/// The result of [`gradients`].
#[derive(Debug)]
pub struct StepGradients {
    /// Mean loss over the labelled tokens.
    pub loss: f64,
    /// The labelled tokens.
    pub labelled: usize,
    /// Per trained tensor; `None` where nothing depended on it.
    pub gradients: Vec<Option<Tensor>>,
}

/// Loss and gradients of a step's micro-batches.
///
/// # Errors
/// There is no labelled token, or the model refuses the batch.
pub fn gradients(
    model: &Mamba,
    patches: &Patches,
    micro_batches: &[MicroBatch],
    dropout: Option<DropoutStep>,
) -> Result<StepGradients, TrainError> {
    gradients_by_chunks(model, patches, micro_batches, dropout, 0)
}

/// The same where a sequence of more than `chunk_tokens` tokens (0: none) goes through the model that many at a time, for
/// another forward pass of it and a recurrent state per chunk in place of all that a backward pass keeps.
///
/// # Errors
/// As [`gradients`].
pub fn gradients_by_chunks(
    model: &Mamba,
    patches: &Patches,
    micro_batches: &[MicroBatch],
    dropout: Option<DropoutStep>,
    chunk_tokens: usize,
) -> Result<StepGradients, TrainError> {
    let labelled = labelled_tokens(micro_batches)?;
    let (whole, long) = long::split(micro_batches, chunk_tokens)?;
    let mut loss = 0.0;
    let mut sums: Vec<Option<Tensor>> = vec![None; patches.tensors().len()];
    for micro in whole.iter().filter(|micro| !micro.rows.is_empty()) {
        let tape = Tape::new(model.device());
        let bound = Bound::new(&tape, model, patches, dropout)?;
        let hidden = hidden_states(model, &tape, &bound, micro.prefix.as_ref(), &micro.batch)?;
        let (rows, targets) = (micro.rows.as_slice(), micro.targets.as_slice());
        let output = model.loss(&tape, &bound, &micro.batch, &hidden, rows, targets, labelled as f64)?;
        loss += output.loss.tensor().item()?;
        if output.loss.is_tracked() {
            let mut gradients = tape.backward(&output.loss)?;
            for (sum, gradient) in sums.iter_mut().zip(bound.gradients(&mut gradients)) {
                accumulate(model.device(), sum, gradient)?;
            }
        }
    }
    let chunks = Chunks { model, patches, dropout, chunk_tokens, divisor: (labelled as f64).into() };
    for sequence in &long {
        chunks.gradients(sequence, |chunk_loss, gradients| {
            loss += chunk_loss.map_or(Ok(0.0), |loss| loss.item())?;
            sums.iter_mut().zip(gradients).try_for_each(|(sum, gradient)| accumulate(model.device(), sum, gradient))
        })?;
    }
    Ok(StepGradients { loss, labelled, gradients: sums })
}

fn accumulate(device: &Device, sum: &mut Option<Tensor>, gradient: Option<Tensor>) -> Result<(), TrainError> {
    let Some(gradient) = gradient else { return Ok(()) };
    let Some(sum) = sum else {
        *sum = Some(gradient);
        return Ok(());
    };
    let cpu = cpu_or!(device, _cuda => {
        let tape = Tape::inference(device);
        *sum = statetune_tensor::ops::add(&tape, &sum.clone().into(), &gradient.into())?.tensor().clone();
        Ok(())
    });
    with_float!(gradient.dtype(), "accumulate", T => {
        elementwise::add_assign(cpu, sum.make_mut::<T>()?, gradient.as_slice::<T>()?);
        Ok(())
    })?;
    Ok(())
}

impl StepGradients {
    /// The same with the gradients in the memory of the host.
    #[cfg(feature = "cuda")]
    fn on_host(&self) -> Result<StepGradients, TrainError> {
        let host = |gradient: &Option<Tensor>| gradient.as_ref().map(Tensor::to_host).transpose();
        let gradients = self.gradients.iter().map(host).collect::<Result<_, _>>()?;
        Ok(StepGradients { loss: self.loss, labelled: self.labelled, gradients })
    }

    /// What is not finite: the loss or a tensor, by name.
    ///
    /// # Errors
    /// When a gradient is of a storage type.
    pub fn non_finite(&self, device: &Device, patches: &Patches) -> Result<Option<String>, TrainError> {
        if !self.loss.is_finite() {
            return Ok(Some(format!("the loss is {}", self.loss)));
        }
        let cpu = match device {
            Device::Cpu(cpu) => cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => {
                return self.on_host()?.non_finite(&Device::best_cpu()?, patches);
            }
        };
        for (tensor, gradient) in patches.tensors().iter().zip(&self.gradients) {
            let Some(gradient) = gradient else { continue };
            let at = with_float!(gradient.dtype(), "gradient", T => {
                Ok(elementwise::first_non_finite(cpu, gradient.as_slice::<T>()?))
            })?;
            if let Some(at) = at {
                return Ok(Some(format!("the gradient of `{}` is not finite at element {at}", tensor.name)));
            }
        }
        Ok(None)
    }

    /// The Euclidean norm of all gradients together.
    ///
    /// # Errors
    /// When a gradient is of a storage type.
    pub fn norm(&self, device: &Device) -> Result<f64, TrainError> {
        let cpu = match device {
            Device::Cpu(cpu) => cpu,
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => return self.on_host()?.norm(&Device::best_cpu()?),
        };
        let mut sum = 0.0;
        for gradient in self.gradients.iter().flatten() {
            sum += with_float!(gradient.dtype(), "gradient", T => {
                Ok(elementwise::sum_of_squares(cpu, gradient.as_slice::<T>()?))
            })?;
        }
        Ok(sum.sqrt())
    }
}
