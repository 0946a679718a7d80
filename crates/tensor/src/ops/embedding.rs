//! Looking up embedding rows.

use statetune_ssm_kernels::embedding as kernel;

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::weight::weight_slice;
use crate::{
    DType, Device, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, Weight, cpu_or, with_float,
};

pub(super) struct Embedding {
    pub(super) frozen: Option<Weight>,
    pub(super) ids: Staged<u32>,
    pub(super) compute: DType,
}

impl Op for Embedding {
    type Saved = [usize; 2];

    fn name(&self) -> &'static str {
        "embedding"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, _: &Need) -> Result<(Vec<Tensor>, [usize; 2])> {
        let cpu = cpu_or!(device, cuda => on_cuda::embedding(cuda, self, inputs));
        let weight = match &self.frozen {
            Some(weight) => weight.values(),
            None => inputs.required(0)?,
        };
        let (vocab, width) = weight.matrix_shape("embedding", "weight")?;
        TensorError::check_trained(inputs.optional(0), Device::trained_type(self.compute))?;
        if let Some(&id) = self.ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(TensorError::shape("embedding", "token id", format!("below {vocab}"), &[id as usize]));
        }
        let y = with_float!(self.compute, "embedding", T => {
            let mut y = vec![0.0 as T; self.ids.len() * width];
            kernel::gather_rows(cpu, &mut y, weight_slice(weight), &self.ids, width);
            Tensor::from_vec(y, &[self.ids.len(), width])
        })?;
        Ok((vec![y], [vocab, width]))
    }

    fn backward(
        &self,
        device: &Device,
        [vocab, width]: [usize; 2],
        gradients: Vec<Option<Tensor>>,
        _: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::embedding_backward(cuda, &self.ids, &gradients, vocab, width));
        let Some(dy) = &gradients[0] else { return Ok(vec![None]) };
        let dw = with_float!(self.compute, "embedding", T => {
            let mut dw = vec![0.0 as T; vocab * width];
            kernel::scatter_add_rows(cpu, &mut dw, dy.as_slice::<T>()?, &self.ids, width);
            Tensor::from_vec(dw, &[vocab, width])
        })?;
        Ok(vec![Some(dw)])
    }
}

/// The rows `ids` of an embedding `[V, d_model]`, as `[T, d_model]` in the compute type.
///
/// The weight is frozen, or, when `trained` is given, that variable (in the compute type).
///
/// # Errors
/// When an id is not below V.
pub fn embedding(
    tape: &Tape,
    frozen: &Weight,
    trained: Option<&Var>,
    ids: &Staged<u32>,
    compute: DType,
) -> Result<Var> {
    let frozen = if trained.is_some() { None } else { Some(frozen.clone()) };
    tape.apply1(Embedding { frozen, ids: ids.clone(), compute }, &[trained])
}
