//! The language-model head and the cross-entropy in one operation, on labelled rows only.

use std::cell::RefCell;
use std::rc::Rc;

use statetune_ssm_kernels::cross_entropy as kernel;

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::weight::weight_slice;
use crate::{Device, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, Weight, cpu_or, with_float};

/// Loss = Σ_r -ln softmax(W x_r + additions)\[target_r\] / divisor, in blocks of rows: `[R, V]` logits never exist.
///
/// Inputs: x `[R, d_model]`, the weight `[V, d_model]` if it is trained, then (x Aᵀ `[R, r]`, B `[V, r]`) for each
/// low-rank addition. Output: the loss, shape `[]`.
/// The gradients are made in the forward pass, where the logits are at hand, and scaled in the backward pass.
pub struct LinearCrossEntropy {
    /// The head, when it is frozen.
    pub frozen: Option<Weight>,
    /// `[R]`, the token each row should predict.
    pub targets: Staged<u32>,
    /// What the sum of losses is divided by: the labelled tokens of the whole (accumulated) batch.
    pub divisor: Divisor,
    /// s of each low-rank addition.
    pub scales: Vec<f64>,
    /// Where the losses of the single rows are put.
    pub(super) details: Rc<RefCell<Details>>,
}

/// The losses of the rows and their most probable tokens, where they were made.
pub(super) enum Details {
    Host {
        losses: Vec<f64>,
        argmax: Vec<u32>,
    },
    #[cfg(feature = "cuda")]
    Cuda(on_cuda::DeviceDetails),
}

impl Default for Details {
    fn default() -> Details {
        Details::Host { losses: Vec::new(), argmax: Vec::new() }
    }
}

/// A divisor, whose inverse a captured graph reads from the device.
#[derive(Debug, Clone)]
pub struct Divisor {
    value: f64,
    inverse: Staged<f32>,
}

impl From<f64> for Divisor {
    fn from(value: f64) -> Divisor {
        Divisor { value, inverse: [(1.0 / value) as f32].into() }
    }
}

impl Divisor {
    /// One over it.
    pub fn inverse(&self) -> &Staged<f32> {
        &self.inverse
    }
}

/// What a low-rank patch adds to the logits: `scale` · projected Bᵀ.
pub struct HeadAddition<'a> {
    /// x Aᵀ `[R, r]`.
    pub projected: Var,
    /// B `[V, r]`.
    pub b: &'a Var,
    /// s.
    pub scale: f64,
}

/// What [`linear_cross_entropy`] returns.
pub struct LossOutput {
    /// The loss, one number.
    pub loss: Var,
    details: Details,
}

impl LossOutput {
    /// `[R]`, -ln p(target) of each row.
    ///
    /// # Errors
    /// When they are on a device that fails.
    pub fn row_losses(&self) -> Result<Vec<f64>> {
        match &self.details {
            Details::Host { losses, .. } => Ok(losses.clone()),
            #[cfg(feature = "cuda")]
            Details::Cuda(details) => Ok(details.losses.to_host()?.to_f64_vec()),
        }
    }

    /// `[R]`, the most probable token of each row.
    ///
    /// # Errors
    /// When they are on a device that fails.
    pub fn argmax(&self) -> Result<Vec<u32>> {
        match &self.details {
            Details::Host { argmax, .. } => Ok(argmax.clone()),
            #[cfg(feature = "cuda")]
            Details::Cuda(details) => Ok(details.argmax.cuda().download(details.argmax.view())?),
        }
    }
}

impl Op for LinearCrossEntropy {
    /// The gradients, made in the forward pass.
    type Saved = Vec<Option<Tensor>>;

    fn name(&self) -> &'static str {
        "linear_cross_entropy"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Self::Saved)> {
        let x = inputs.required(0)?;
        let weight = match &self.frozen {
            Some(weight) => weight.values(),
            None => inputs.required(1)?,
        };
        let (rows, k) = x.matrix_shape("linear_cross_entropy", "x")?;
        let (vocab, _) = weight.matrix_shape("linear_cross_entropy", "weight")?;
        if weight.shape() != [vocab, k] {
            return Err(TensorError::shape("linear_cross_entropy", "weight", format!("[V, {k}]"), weight.shape()));
        }
        TensorError::check_trained(inputs.optional(1), Device::trained_type(x.dtype()))?;
        if self.targets.len() != rows {
            return Err(TensorError::shape(
                "linear_cross_entropy",
                "targets",
                format!("[{rows}]"),
                &[self.targets.len()],
            ));
        }
        // A list that was filled up for a captured graph has targets that are none.
        let filled_up = !matches!(device, Device::Cpu(_));
        if let Some(&t) = self.targets.iter().find(|&&t| t as usize >= vocab && !(filled_up && t == u32::MAX)) {
            return Err(TensorError::shape("linear_cross_entropy", "target", format!("below {vocab}"), &[t as usize]));
        }
        let cpu = cpu_or!(device, cuda => on_cuda::linear_cross_entropy(cuda, self, inputs, need));
        with_float!(x.dtype(), "linear_cross_entropy", T => {
            let mut losses = vec![0.0 as T; rows];
            let mut argmax = vec![0u32; rows];
            let mut dx = need.input(0).then(|| vec![0.0 as T; rows * k]);
            let mut dw = (self.frozen.is_none() && need.input(1)).then(|| vec![0.0 as T; vocab * k]);
            let zeros = |i: usize| -> Result<Option<Vec<T>>> {
                Ok(if need.input(i) { Some(vec![0.0 as T; inputs.required(i)?.len()]) } else { None })
            };
            let mut below = (2..inputs.len()).map(zeros).collect::<Result<Vec<_>>>()?;
            let mut additions = Vec::new();
            for ((i, gradients), scale) in below.chunks_exact_mut(2).enumerate().zip(&self.scales) {
                let (projected, b) = (inputs.required(2 + 2 * i)?, inputs.required(3 + 2 * i)?);
                let rank = b.matrix_shape("linear_cross_entropy", "low-rank B")?.1;
                if projected.shape() != [rows, rank] || b.shape()[0] != vocab {
                    let expected = format!("[{rows}, {rank}] beside a B [{vocab}, {rank}]");
                    return Err(TensorError::shape("linear_cross_entropy", "addition", expected, projected.shape()));
                }
                let [dprojected, db] = gradients else { unreachable!("chunks of two") };
                additions.push(kernel::LogitAddition {
                    projected: projected.as_slice::<T>()?,
                    b: b.as_slice::<T>()?,
                    scale: *scale as T,
                    dprojected: dprojected.as_deref_mut(),
                    db: db.as_deref_mut(),
                });
            }
            kernel::linear_cross_entropy(
                cpu, &mut losses, Some(&mut argmax), dx.as_deref_mut(), dw.as_deref_mut(), x.as_slice::<T>()?,
                weight_slice(weight), &mut additions, &self.targets, (1.0 / self.divisor.value) as T, rows, vocab, k,
            );
            drop(additions);
            let losses: Vec<f64> = losses.into_iter().map(crate::Element::to_f64).collect();
            let loss = losses.iter().sum::<f64>() / self.divisor.value;
            *self.details.borrow_mut() = Details::Host { losses, argmax };
            let mut gradients = vec![
                dx.map(|dx| Tensor::from_vec(dx, &[rows, k])).transpose()?,
                dw.map(|dw| Tensor::from_vec(dw, &[vocab, k])).transpose()?,
            ];
            for (i, gradient) in below.into_iter().enumerate() {
                let shape = inputs.required(2 + i)?.shape();
                gradients.push(gradient.map(|gradient| Tensor::from_vec(gradient, shape)).transpose()?);
            }
            Ok((vec![Tensor::scalar(loss as T)], gradients))
        })
    }

    fn backward(
        &self,
        device: &Device,
        saved: Self::Saved,
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(d_loss) = &gradients[0] else { return Ok(vec![None; saved.len()]) };
        let scale = |gradient: Option<Tensor>| -> Result<Option<Tensor>> {
            let Some(mut gradient) = gradient else { return Ok(None) };
            let cpu = cpu_or!(device, cuda => on_cuda::scaled_by(cuda, gradient, d_loss).map(Some));
            let factor = d_loss.item()?;
            if factor != 1.0 {
                with_float!(gradient.dtype(), "linear_cross_entropy", T => {
                    let values = gradient.as_slice::<T>()?.to_vec();
                    statetune_ssm_kernels::elementwise::scale(cpu, gradient.make_mut::<T>()?, &values, factor as T);
                    Ok(())
                })?;
            }
            Ok(Some(gradient))
        };
        saved.into_iter().map(scale).collect()
    }
}

/// The summed cross-entropy of rows x `[R, d_model]` against `targets`, divided by `divisor`.
///
/// The head `[V, d_model]` is `frozen`, or, when `trained` is given, that variable.
///
/// # Errors
/// When shapes do not fit or a target is not below V.
pub fn linear_cross_entropy(
    tape: &Tape,
    x: &Var,
    frozen: &Weight,
    trained: Option<&Var>,
    additions: &[HeadAddition<'_>],
    targets: &Staged<u32>,
    divisor: &Divisor,
) -> Result<LossOutput> {
    let details = Rc::new(RefCell::new(Details::default()));
    let frozen = if trained.is_some() { None } else { Some(frozen.clone()) };
    let scales = additions.iter().map(|addition| addition.scale).collect();
    let op = LinearCrossEntropy {
        frozen,
        targets: targets.clone(),
        divisor: divisor.clone(),
        scales,
        details: details.clone(),
    };
    let mut inputs = vec![Some(x), trained];
    for addition in additions {
        inputs.extend([Some(&addition.projected), Some(addition.b)]);
    }
    let loss = tape.apply1(op, &inputs)?;
    Ok(LossOutput { loss, details: details.take() })
}
