//! Full fine-tuning: every stored tensor is trained. The yardstick, and how a base model is pretrained.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::config::MambaConfig;

use crate::PeftError;
use crate::method::{Method, MethodInfo, OptionInfo, Plan};

const TAG: &str = "full";

const OPTIONS: &[OptionInfo] = &[];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Full fine-tuning: every tensor of the model",
    reference: "Gu and Dao 2023, arXiv 2312.00752",
    options: OPTIONS,
    sites: "every tensor",
    mergeable: true,
    starts_unchanged: true,
    decoding: "none: it is merged",
    learning_rate: 3e-4,
    parse: |value| Ok(Box::new(MethodInfo::read::<Full>(TAG, OPTIONS, value)?)),
    examples: || vec![json!({})],
};

/// The configuration: there is nothing to choose.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Full {}

impl Method for Full {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for (name, shape) in expected_tensors(model) {
            super::partial::train(&mut plan, name, shape);
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let MambaConfig { vocab_size: v, d_model: m, d_inner: d, d_state: n, d_conv: k, dt_rank: r, .. } = *model;
        let biases = if model.use_bias { 2 * d + m } else { 0 };
        let conv = d * k + if model.use_conv_bias { d } else { 0 };
        let layer = m + 2 * d * m + biases + conv + (r + 2 * n) * d + d * r + d + d * n + d + m * d;
        let ends = if model.tie_word_embeddings { v * m } else { 2 * v * m };
        Ok(ends + model.num_hidden_layers * layer + m)
    }
}
