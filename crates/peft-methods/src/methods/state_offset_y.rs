//! State-offset Tuning on y: y_t = h_t C_t + y' + ..., with a trained y' per layer (Kang et al. 2025, arXiv 2503.03499,
//! equation 9).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "state-offset-y";

const OPTIONS: &[OptionInfo] = &[];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "State-offset (y): y' [d_inner] added to the output of the scan at every step, before the gate",
    reference: "Kang et al. 2025, arXiv 2503.03499",
    options: OPTIONS,
    sites: "the output of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "one addition per channel",
    learning_rate: 1e-2,
    parse: |value| Ok(Box::new(MethodInfo::read::<StateOffsetY>(TAG, OPTIONS, value)?)),
    examples: || vec![json!({})],
};

/// The configuration: there is nothing to choose.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateOffsetY {}

impl Method for StateOffsetY {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        json!({})
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let name = format!("{}.state_offset_y", mixer_path(layer));
            let site = Site::Operand { layer, operand: Operand::OutputOffset };
            plan.patches.push(Patch { site, change: Change::dense(name.clone()) });
            plan.tensors.push(TensorSpec::new(name, [model.d_inner], Init::Zeros));
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * model.d_inner)
    }
}
