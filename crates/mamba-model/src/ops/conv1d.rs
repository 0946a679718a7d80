//! The causal depthwise convolution of a packed batch, with bias and SiLU.

#[cfg(feature = "cuda")]
use super::on_cuda;
use statetune_ssm_kernels::{Sequences, Table, conv1d as kernel};
use statetune_tensor::{
    Device, Float, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, cpu_or, with_float,
};

/// u = silu(causal convolution of x). The value before SiLU is recomputed in the backward pass.
///
/// Inputs: x `[T, D]`, weight `[D, 1, K]`, bias `[D]` (optional), initial state rows `[rows, D, K - 1]` (optional,
/// zeros when absent). Outputs: u `[T, D]` and, if `final_state` is set, the final states `[S, D, K - 1]`.
#[derive(Clone)]
pub struct Conv1d {
    /// `[S + 1]`, where the sequences start.
    pub offsets: Staged<usize>,
    /// `[T]`, the sequence of each token.
    pub sequence_of: Staged<u32>,
    /// `[S]`, the row of the initial state that each sequence starts from.
    pub initial_row: Staged<usize>,
    /// Whether to return the final states.
    pub final_state: bool,
}

/// The inputs, kept for backward.
#[derive(Clone)]
pub struct Saved {
    pub(super) x: Tensor,
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
    pub(super) initial: Option<Tensor>,
}

impl Saved {
    fn kernel_inputs<'a, T: Float>(&'a self, op: &'a Conv1d) -> Result<kernel::Conv1dInputs<'a, T>> {
        let (_, channels) = self.x.matrix_shape("conv1d", "x")?;
        let width = self.weight.len() / channels.max(1);
        if self.weight.shape() != [channels, 1, width] || width == 0 {
            return Err(TensorError::shape("conv1d", "weight", format!("[{channels}, 1, K]"), self.weight.shape()));
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.shape() != [channels]) {
            return Err(TensorError::shape("conv1d", "bias", format!("[{channels}]"), bias.shape()));
        }
        if let Some(initial) = self.initial.as_ref().filter(|i| i.shape().get(1..) != Some(&[channels, width - 1])) {
            let expected = format!("[rows, {channels}, {}]", width - 1);
            return Err(TensorError::shape("conv1d", "initial state", expected, initial.shape()));
        }
        let init = match &self.initial {
            Some(initial) if width > 1 => Some(Table { values: initial.as_slice::<T>()?, row_of: &op.initial_row }),
            _ => None,
        };
        Ok(kernel::Conv1dInputs {
            x: self.x.as_slice::<T>()?,
            weight: self.weight.as_slice::<T>()?,
            bias: self.bias.as_ref().map(|b| b.as_slice::<T>()).transpose()?,
            init,
            silu: true,
            sequences: Sequences::new(&op.offsets),
            channels,
            width,
        })
    }
}

impl Op for Conv1d {
    type Saved = Option<Saved>;

    fn name(&self) -> &'static str {
        "conv1d"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Option<Saved>)> {
        let cpu = cpu_or!(device, cuda => on_cuda::conv1d(cuda, self, inputs, need));
        let saved = Saved {
            x: inputs.required(0)?.clone(),
            weight: inputs.required(1)?.clone(),
            bias: inputs.optional(2).cloned(),
            initial: inputs.optional(3).cloned(),
        };
        let outputs = with_float!(saved.x.dtype(), "conv1d", T => {
            let kernel_inputs = saved.kernel_inputs::<T>(self)?;
            let (channels, width, count) = (kernel_inputs.channels, kernel_inputs.width, self.offsets.len() - 1);
            let mut y = vec![0.0 as T; saved.x.len()];
            let mut state = self.final_state.then(|| vec![0.0 as T; count * channels * (width - 1)]);
            kernel::conv1d_forward(cpu, &mut y, state.as_deref_mut(), &kernel_inputs);
            let mut outputs = vec![Tensor::from_vec(y, saved.x.shape())?];
            if let Some(state) = state {
                outputs.push(Tensor::from_vec(state, &[count, channels, width - 1])?);
            }
            Ok(outputs)
        })?;
        Ok((outputs, need.any().then_some(saved)))
    }

    fn backward(
        &self,
        device: &Device,
        saved: Option<Saved>,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::conv1d_backward(cuda, self, saved, &gradients, need));
        let saved = saved.expect("saved, since an input is tracked");
        with_float!(saved.x.dtype(), "conv1d", T => {
            let kernel_inputs = saved.kernel_inputs::<T>(self)?;
            let buffer = |i: usize, tensor: Option<&Tensor>| match tensor {
                Some(tensor) if need.input(i) => Some(vec![0.0 as T; tensor.len()]),
                _ => None,
            };
            let mut dx = buffer(0, Some(&saved.x));
            let mut dweight = buffer(1, Some(&saved.weight));
            let mut dbias = buffer(2, saved.bias.as_ref());
            let mut dinit = buffer(3, saved.initial.as_ref()).filter(|_| kernel_inputs.init.is_some());
            let grads = kernel::Conv1dGrads {
                dx: dx.as_deref_mut(),
                dweight: dweight.as_deref_mut(),
                dbias: dbias.as_deref_mut(),
                dinit: dinit.as_deref_mut(),
            };
            let zeros;
            let dy = match &gradients[0] {
                Some(dy) => dy.as_slice::<T>()?,
                None => {
                    zeros = vec![0.0 as T; saved.x.len()];
                    &zeros
                }
            };
            let d_final = gradients.get(1).and_then(Option::as_ref).map(|d| d.as_slice::<T>()).transpose()?;
            kernel::conv1d_backward(cpu, grads, dy, d_final, &kernel_inputs);
            let give = |gradient: Option<Vec<T>>, like: Option<&Tensor>| {
                gradient.zip(like).map(|(g, like)| Tensor::from_vec(g, like.shape())).transpose()
            };
            Ok(vec![
                give(dx, Some(&saved.x))?,
                give(dweight, Some(&saved.weight))?,
                give(dbias, saved.bias.as_ref())?,
                give(dinit, saved.initial.as_ref())?,
            ])
        })
    }
}

/// Applies [`Conv1d`]; returns u and, if asked for, the final states.
///
/// # Errors
/// When shapes or element types do not fit.
pub fn conv1d(
    tape: &Tape,
    op: Conv1d,
    x: &Var,
    weight: &Var,
    bias: Option<&Var>,
    initial: Option<&Var>,
) -> Result<(Var, Option<Var>)> {
    let mut outputs = tape.apply(op, &[Some(x), Some(weight), bias, initial])?;
    let u = outputs.remove(0);
    Ok((u, outputs.pop()))
}
