//! The tensors that a configuration calls for, and whether a checkpoint has exactly those.

use std::collections::BTreeMap;

use super::{Checkpoint, EMBEDDING, LM_HEAD};
use crate::config::MambaConfig;
use crate::error::ModelError;

/// Names and shapes of all tensors of a Mamba-1 model, in the order of its computation. The LM head is among them only
/// when it is not tied to the embedding.
pub fn expected_tensors(config: &MambaConfig) -> Vec<(String, Vec<usize>)> {
    let MambaConfig { vocab_size, d_model, d_inner, d_state, d_conv, dt_rank, .. } = *config;
    let mut tensors = vec![(EMBEDDING.to_string(), vec![vocab_size, d_model])];
    for layer in 0..config.num_hidden_layers {
        let mut push = |name: &str, shape: &[usize]| {
            tensors.push((format!("backbone.layers.{layer}.{name}"), shape.to_vec()));
        };
        push("norm.weight", &[d_model]);
        push("mixer.in_proj.weight", &[2 * d_inner, d_model]);
        if config.use_bias {
            push("mixer.in_proj.bias", &[2 * d_inner]);
        }
        push("mixer.conv1d.weight", &[d_inner, 1, d_conv]);
        if config.use_conv_bias {
            push("mixer.conv1d.bias", &[d_inner]);
        }
        push("mixer.x_proj.weight", &[dt_rank + 2 * d_state, d_inner]);
        push("mixer.dt_proj.weight", &[d_inner, dt_rank]);
        push("mixer.dt_proj.bias", &[d_inner]);
        push("mixer.A_log", &[d_inner, d_state]);
        push("mixer.D", &[d_inner]);
        push("mixer.out_proj.weight", &[d_model, d_inner]);
        if config.use_bias {
            push("mixer.out_proj.bias", &[d_model]);
        }
    }
    tensors.push(("backbone.norm_f.weight".to_string(), vec![d_model]));
    if !config.tie_word_embeddings {
        tensors.push((LM_HEAD.to_string(), vec![vocab_size, d_model]));
    }
    tensors
}

impl Checkpoint {
    /// Checks that the tensors are exactly those of the configuration, in its shapes. A tied model may bring its LM
    /// head along if it equals the embedding. Reads no weights but those of such a head.
    ///
    /// # Errors
    /// [`ModelError::NotSupportedYet`] for Mamba-2; [`MissingTensors`](ModelError::MissingTensors),
    /// [`UnexpectedTensors`](ModelError::UnexpectedTensors), [`WrongShape`](ModelError::WrongShape),
    /// [`UntiedHead`](ModelError::UntiedHead).
    pub fn validate_structure(&self) -> Result<(), ModelError> {
        let config = self.config().mamba()?;
        let expected: BTreeMap<_, _> = expected_tensors(config).into_iter().collect();
        let missing: Vec<String> = expected.keys().filter(|name| !self.tensors.contains_key(*name)).cloned().collect();
        if !missing.is_empty() {
            return Err(ModelError::MissingTensors { folder: self.folder.clone(), tensors: missing });
        }
        let redundant_head = config.tie_word_embeddings && self.tensors.contains_key(LM_HEAD);
        let unexpected: Vec<String> = self
            .names()
            .filter(|name| !expected.contains_key(*name) && (*name != LM_HEAD || !redundant_head))
            .map(str::to_string)
            .collect();
        if !unexpected.is_empty() {
            return Err(ModelError::UnexpectedTensors { folder: self.folder.clone(), tensors: unexpected });
        }
        for (name, tensor) in &self.tensors {
            // The one name without a place is the redundant head, which must be the embedding.
            let shape = expected.get(name).unwrap_or(&expected[EMBEDDING]);
            if tensor.shape() != shape {
                let (path, expected, found) = (tensor.path().to_path_buf(), shape.clone(), tensor.shape().to_vec());
                return Err(ModelError::WrongShape { path, tensor: name.clone(), expected, found });
            }
        }
        if redundant_head { self.check_tied() } else { Ok(()) }
    }

    /// Checks [structure](Checkpoint::validate_structure) and [finiteness](Checkpoint::check_finite).
    ///
    /// # Errors
    /// Theirs.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.validate_structure()?;
        self.check_finite()
    }

    /// Refuses NaN and infinity in any tensor. Reads all weights once.
    ///
    /// # Errors
    /// [`ModelError::NonFiniteWeight`] with the first tensor and element.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        self.tensors.values().try_for_each(|tensor| tensor.check_finite())
    }

    fn check_tied(&self) -> Result<(), ModelError> {
        let (head, embedding) = (self.tensor(LM_HEAD)?, self.tensor(EMBEDDING)?);
        if head.shares_storage(embedding) || (head.dtype() == embedding.dtype() && head.bytes() == embedding.bytes()) {
            return Ok(());
        }
        // Bit comparison would tell the two zeros apart and equal NaNs alike; neither makes another model, and NaN is
        // refused under its own name.
        let differs = |index: &usize| {
            let (a, b) = (head.value(*index), embedding.value(*index));
            a != b && !(a.is_nan() && b.is_nan())
        };
        match (0..head.elements()).find(differs) {
            None => Ok(()),
            Some(index) => Err(ModelError::UntiedHead { folder: self.folder.clone(), index }),
        }
    }
}
