//! State gain: y_t[d] = Σ_n g[d] l[n] h_t[d,n] C_t[n] + ..., the state rescaled in the readout by a factor per channel and
//! one per state dimension (after the vectors of Liu et al. 2022, arXiv 2205.05638, which rescale activations).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as PatchValue};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "state-gain";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "channels", default: "true", meaning: "train g, a factor per channel; starts at 1" },
    OptionInfo { name: "states", default: "true", meaning: "train l, a factor per state dimension; starts at 1" },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "State gain: factors g [d_inner] and l [d_state] on the state in the readout",
    reference: "after Liu et al. 2022, arXiv 2205.05638",
    options: OPTIONS,
    sites: "the readout of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "a product per state dimension inside the scan",
    learning_rate: 3e-3,
    parse: |value| Ok(Box::new(StateGain::parse(value)?)),
    examples: || vec![json!({}), json!({"channels": false}), json!({"states": false})],
};

/// The configuration: which of the two are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateGain {
    /// g.
    pub channels: bool,
    /// l.
    pub states: bool,
}

impl Default for StateGain {
    fn default() -> StateGain {
        StateGain { channels: true, states: true }
    }
}

impl StateGain {
    fn parse(value: Value) -> Result<StateGain, PeftError> {
        let config: StateGain = MethodInfo::read(TAG, OPTIONS, value)?;
        match config.channels || config.states {
            true => Ok(config),
            false => {
                let reason = "one of `channels` and `states` must be trained".into();
                Err(PeftError::Option { method: TAG, reason })
            }
        }
    }
}

impl Method for StateGain {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let mut factor = |name: &str, shape: [usize; 2], trained: bool| {
                let name = format!("{}.state_gain.{name}", mixer_path(layer));
                let spec = TensorSpec::new(name.clone(), shape, Init::Ones);
                // What is not trained stays 1: there is nothing to save.
                plan.tensors.push(if trained { spec } else { spec.derived() });
                name
            };
            let b = factor("channels", [model.d_inner, 1], self.channels);
            let a = factor("states", [1, model.d_state], self.states);
            let site = Site::Operand { layer, operand: Operand::StateScale };
            plan.patches.push(Patch { site, change: Change::Operand(PatchValue::Product { b, a }) });
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let channels = if self.channels { model.d_inner } else { 0 };
        let states = if self.states { model.d_state } else { 0 };
        Ok(model.num_hidden_layers * (channels + states))
    }
}
