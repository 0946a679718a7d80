//! Convolution initial state: trained inputs of the convolution before the first token of every sequence, in place of zeros
//! (the released code of Kang et al. 2025, arXiv 2503.03499, `conv1d_init_state`).
//!
//! A prompt shorter than d_conv - 1 still sees the rest of them when it is decoded.

use serde_json::json;
use statetune_mamba_model::site::Operand;

use super::dense_operand::DenseOperand;
use crate::method::MethodInfo;

const TAG: &str = "conv-initial-state";

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Convolution initial state: [d_inner, d_conv - 1] in place of the zeros before every sequence",
    reference: "Kang et al. 2025, arXiv 2503.03499",
    options: &[],
    sites: "the start of the convolution",
    mergeable: false,
    starts_unchanged: true,
    decoding: "none",
    learning_rate: 1e-2,
    parse: |value| METHOD.parse(value),
    examples: || vec![json!({})],
};

const METHOD: DenseOperand = DenseOperand {
    tag: TAG,
    operand: Operand::ConvInitial,
    tensor: "conv_initial_state",
    per_layer: |model| model.d_inner * (model.d_conv - 1),
};
