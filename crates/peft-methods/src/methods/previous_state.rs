//! Previous-state output: y_t gains Σ_n h_{t-1} C'_t with C'_t = P u_t (the released code of Kang et al. 2025, arXiv
//! 2503.03499, `state_to_y` of type `prev_state`). The previous state of the first token is the initial state.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "previous-state";

const OPTIONS: &[OptionInfo] = &[OptionInfo {
    name: "init",
    default: "\"zeros\"",
    meaning: "start of P: \"zeros\", or \"kaiming\" as in the authors' code, which changes the model before training",
}];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Previous-state output: the readout also sees the state before the token, through P [d_state, d_inner]",
    reference: "Kang et al. 2025, arXiv 2503.03499",
    options: OPTIONS,
    sites: "the readout of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "a small product per layer, and one more readout of the state",
    learning_rate: 3e-3,
    parse: |value| Ok(Box::new(MethodInfo::read::<PreviousState>(TAG, OPTIONS, value)?)),
    examples: || vec![json!({})],
};

/// How P starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Zeros: the model is unchanged.
    #[default]
    Zeros,
    /// Kaiming-uniform, as in the authors' code.
    Kaiming,
}

/// The configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PreviousState {
    /// How P starts.
    pub init: Start,
}

impl Method for PreviousState {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn starts_unchanged(&self) -> bool {
        self.init == Start::Zeros
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let name = format!("{}.previous_state", mixer_path(layer));
            let site = Site::Operand { layer, operand: Operand::PreviousMap };
            plan.patches.push(Patch { site, change: Change::dense(name.clone()) });
            let init = match self.init {
                Start::Zeros => Init::Zeros,
                Start::Kaiming => Init::KaimingUniform,
            };
            plan.tensors.push(TensorSpec::new(name, [model.d_state, model.d_inner], init).decayed());
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * model.d_state * model.d_inner)
    }
}
