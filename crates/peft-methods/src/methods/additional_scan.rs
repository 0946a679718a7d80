//! Additional-scan: k further state dimensions per channel, with their own columns of `A_log` and rows of `x_proj` (Yoshimura
//! et al. 2024, MambaPEFT, arXiv 2411.03855, section 3.3).
//!
//! `A_log` starts as copies of its last column: the slowest decay the checkpoint has, ln N for a fresh one. The released code
//! of Kang et al. 2025 writes N where ln N was meant; the decay exp(-Δ e^N) is then zero, so the new states remember nothing
//! and their `A_log` has no gradient. That start is there under the name "released", to reproduce, not to use.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as PatchValue};
use statetune_mamba_model::site::{Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "additional-scan";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "states", default: "8", meaning: "k, the state dimensions that are added" },
    OptionInfo {
        name: "init",
        default: "\"log\"",
        meaning: "start of A_log: \"log\", copies of its last column; \"released\", the number d_state itself, which leaves \
                  the new states without memory: for reproduction only",
    },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Additional-scan: k further state dimensions per channel, with A_log [d_inner, k], B and C [k, d_inner]",
    reference: "Yoshimura et al. 2024, arXiv 2411.03855",
    options: OPTIONS,
    sites: "the state of the scan",
    mergeable: true,
    starts_unchanged: true,
    decoding: "k more state dimensions",
    learning_rate: 5e-3,
    parse: |value| Ok(Box::new(AdditionalScan::parse(value)?)),
    examples: || vec![json!({"states": 3}), json!({"states": 2, "init": "released"})],
};

/// How `A_log` of the new states starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Copies of its last column.
    #[default]
    Log,
    /// d_state, as in the authors' released code.
    Released,
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdditionalScan {
    /// k.
    pub states: usize,
    /// How `A_log` starts.
    pub init: Start,
}

impl Default for AdditionalScan {
    fn default() -> AdditionalScan {
        AdditionalScan { states: 8, init: Start::Log }
    }
}

impl AdditionalScan {
    fn parse(value: Value) -> Result<AdditionalScan, PeftError> {
        let config: AdditionalScan = MethodInfo::read(TAG, OPTIONS, value)?;
        match config.states {
            0 => Err(PeftError::Option { method: TAG, reason: "`states` must be at least 1".into() }),
            _ => Ok(config),
        }
    }
}

impl Method for AdditionalScan {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let path = mixer_path(layer);
            let name = |part: &str| format!("{path}.additional_scan.{part}");
            let value = |part: &str| PatchValue::Dense(name(part));
            let change = Change::AddedState { a_log: value("A_log"), b: value("B"), c: value("C") };
            plan.patches.push(Patch { site: Site::AddedState { layer }, change });
            let shape = [model.d_inner, self.states];
            let a_log = match self.init {
                Start::Log => TensorSpec::new(name("A_log"), shape, Init::LastColumn(format!("{path}.A_log"))),
                Start::Released => TensorSpec::new(name("A_log"), shape, Init::Constant(model.d_state as f64))
                    .may_stay("the released start leaves no memory to learn the decay of"),
            };
            let shape = [self.states, model.d_inner];
            plan.tensors.push(a_log);
            plan.tensors.push(TensorSpec::new(name("B"), shape, Init::KaimingUniform).decayed());
            plan.tensors.push(TensorSpec::new(name("C"), shape, Init::Zeros).decayed());
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * 3 * self.states * model.d_inner)
    }
}
