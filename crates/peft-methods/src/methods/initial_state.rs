//! Initial-state tuning: a trained h_0 per layer, the state before the first token of every sequence (Kang et al. 2025, arXiv
//! 2503.03499, section 3; Galim et al. 2024, arXiv 2410.09016, where it is compared with prefix tuning).
//!
//! The scan starts from it natively, in every packed sequence, in prefill and in decoding: it costs a lookup per sequence.

use serde_json::json;
use statetune_mamba_model::site::Operand;

use super::dense_operand::DenseOperand;
use crate::method::MethodInfo;

const TAG: &str = "initial-state";

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Initial-state tuning: h_0 [d_inner, d_state], the state before the first token of every sequence",
    reference: "Galim et al. 2024, arXiv 2410.09016",
    options: &[],
    sites: "the start of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "none",
    learning_rate: 1e-2,
    parse: |value| METHOD.parse(value),
    examples: || vec![json!({})],
};

const METHOD: DenseOperand = DenseOperand {
    tag: TAG,
    operand: Operand::ScanInitial,
    tensor: "initial_state",
    per_layer: |model| model.d_inner * model.d_state,
};
