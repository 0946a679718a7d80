//! Convolution initial state: trained inputs of the convolution before the first token of every sequence, in place of zeros
//! (the released code of Kang et al. 2025, arXiv 2503.03499, `conv1d_init_state`).
//!
//! A prompt shorter than d_conv - 1 still sees the rest of them when it is decoded.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "conv-initial-state";

const OPTIONS: &[OptionInfo] = &[];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Convolution initial state: [d_inner, d_conv - 1] in place of the zeros before every sequence",
    reference: "Kang et al. 2025, arXiv 2503.03499",
    options: OPTIONS,
    sites: "the start of the convolution",
    mergeable: false,
    starts_unchanged: true,
    decoding: "none",
    learning_rate: 1e-2,
    parse: |value| Ok(Box::new(MethodInfo::read::<ConvInitialState>(TAG, OPTIONS, value)?)),
    examples: || vec![json!({})],
};

/// The configuration: there is nothing to choose.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvInitialState {}

impl Method for ConvInitialState {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let name = format!("{}.conv_initial_state", mixer_path(layer));
            let site = Site::Operand { layer, operand: Operand::ConvInitial };
            plan.patches.push(Patch { site, change: Change::dense(name.clone()) });
            plan.tensors.push(TensorSpec::new(name, [model.d_inner, model.d_conv - 1], Init::Zeros));
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * model.d_inner * (model.d_conv - 1))
    }
}
