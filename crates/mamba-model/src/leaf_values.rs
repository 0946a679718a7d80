//! What a computation's leaves hold.

use std::collections::HashMap;

use statetune_tensor::ops::{Factor, as_factors};
use statetune_tensor::{Tape, Tensor};

use crate::patch::{Change, Patches, Value};
use crate::site::Site;
use crate::{Mamba, ModelError};

/// What the patches' tensors hold, factors of low-rank additions as the device reads them.
pub(crate) fn leaf_values(tape: &Tape, model: &Mamba, patches: &Patches) -> Result<Vec<Tensor>, ModelError> {
    let mut which: HashMap<&str, Factor> = HashMap::new();
    for patch in patches.patches() {
        // The head and the embedding add theirs by products.
        let Site::Rows { parameter, .. } = &patch.site else { continue };
        let id = model.ids().find(parameter);
        if id == Some(model.ids().embedding) || id == Some(model.ids().head) {
            continue;
        }
        if let Change::LowRank { a, b, .. } = &patch.change {
            for (value, factor) in [(a, Factor::A), (b, Factor::B)] {
                if let Value::Dense(name) = value {
                    which.insert(name, factor);
                }
            }
        }
    }
    let (mut values, mut factors, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (i, tensor) in patches.tensors().iter().enumerate() {
        let value = tensor.buffer.tensor();
        if let Some(&factor) = which.get(tensor.name.as_str()) {
            factors.push((value.clone(), factor));
            places.push(i);
        }
        values.push(value);
    }
    for (i, factor) in places.into_iter().zip(as_factors(tape.device(), model.compute(), factors)?) {
        values[i] = factor;
    }
    Ok(values)
}
