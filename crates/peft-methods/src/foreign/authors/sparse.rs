//! The tensors of `SD_LORA`: what its warm-up chose is not written there, but follows from the update that it left.

use statetune_mamba_model::config::MambaConfig;
use statetune_tensor::Tensor;

use crate::foreign::transposed;
use crate::methods::sdt;
use crate::{Method, PeftError};

/// What the authors' update of `A_log` is called once renamed.
const WARMUP: &str = ".A_log.warmup";

/// Methods and tensors by our names.
type Renamed = (Vec<Box<dyn Method>>, Vec<(String, Tensor)>);

/// Methods and tensors, with the selection of `sdt` in its configuration. The authors see `A_log` as `[N, D]`, and the
/// trained values of every tensor as one flat vector.
pub(in crate::foreign) fn import((methods, tensors): Renamed, model: &MambaConfig) -> Result<Renamed, PeftError> {
    let tensors: Vec<_> = tensors.into_iter().filter(|(name, _)| !name.ends_with(".it_counter")).collect();
    let (updates, tensors): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(name, _)| name.ends_with(WARMUP));
    let update = |name: &str| {
        let found = updates.iter().find(|(update, _)| update == name);
        let (_, found) = found.ok_or_else(|| {
            let reason = "the adapter lacks this tensor, from which the trained entries are chosen".into();
            PeftError::Model(statetune_mamba_model::ModelError::Patch { name: name.to_owned(), reason })
        })?;
        Ok(transposed(found)?.to_f64_vec())
    };
    let chosen = |method: Box<dyn Method>| -> Result<Box<dyn Method>, PeftError> {
        match method.tag() == sdt::INFO.tag {
            true => Ok(method.select(model, &update)?.unwrap_or(method)),
            false => Ok(method),
        }
    };
    let methods = methods.into_iter().map(chosen).collect::<Result<_, _>>()?;
    let shaped = |(name, tensor): (String, Tensor)| -> Result<(String, Tensor), PeftError> {
        let flat =
            [".x_proj.b.sdt", ".x_proj.c.sdt"].iter().any(|end| name.ends_with(end)) && tensor.shape().len() == 1;
        let columns = tensor.shape().iter().product::<usize>() / model.d_state;
        let shaped = match flat && columns * model.d_state == tensor.shape()[0] {
            true => Tensor::from_vec(tensor.to_f64_vec(), &[model.d_state, columns])?.cast(tensor.dtype()),
            false => tensor,
        };
        Ok((name, shaped))
    };
    Ok((methods, tensors.into_iter().map(shaped).collect::<Result<_, _>>()?))
}
