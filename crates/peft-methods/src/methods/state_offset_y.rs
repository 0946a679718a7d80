//! State-offset Tuning on y: y_t = h_t C_t + y' + ..., with a trained y' per layer (Kang et al. 2025, arXiv 2503.03499,
//! equation 9).

use serde_json::json;
use statetune_mamba_model::site::Operand;

use super::dense_operand::DenseOperand;
use crate::method::MethodInfo;

const TAG: &str = "state-offset-y";

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "State-offset (y): y' [d_inner] added to the output of the scan at every step, before the gate",
    reference: "Kang et al. 2025, arXiv 2503.03499",
    options: &[],
    sites: "the output of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "one addition per channel",
    learning_rate: 1e-2,
    parse: |value| METHOD.parse(value),
    examples: || vec![json!({})],
};

const METHOD: DenseOperand = DenseOperand {
    tag: TAG,
    operand: Operand::OutputOffset,
    tensor: "state_offset_y",
    per_layer: |model| model.d_inner,
};
