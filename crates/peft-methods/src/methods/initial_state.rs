//! Initial-state tuning: a trained h_0 per layer, the state before the first token of every sequence (Kang et al. 2025, arXiv
//! 2503.03499, section 3; Galim et al. 2024, arXiv 2410.09016, where it is compared with prefix tuning).
//!
//! The scan starts from it natively, in every packed sequence, in prefill and in decoding: it costs a lookup per sequence.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "initial-state";

const OPTIONS: &[OptionInfo] = &[];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Initial-state tuning: h_0 [d_inner, d_state], the state before the first token of every sequence",
    reference: "Galim et al. 2024, arXiv 2410.09016",
    options: OPTIONS,
    sites: "the start of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "none",
    learning_rate: 1e-2,
    parse: |value| Ok(Box::new(MethodInfo::read::<InitialState>(TAG, OPTIONS, value)?)),
    examples: || vec![json!({})],
};

/// The configuration: there is nothing to choose.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitialState {}

impl Method for InitialState {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let name = format!("{}.initial_state", mixer_path(layer));
            let site = Site::Operand { layer, operand: Operand::ScanInitial };
            plan.patches.push(Patch { site, change: Change::dense(name.clone()) });
            plan.tensors.push(TensorSpec::new(name, [model.d_inner, model.d_state], Init::Zeros));
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * model.d_inner * model.d_state)
    }
}
