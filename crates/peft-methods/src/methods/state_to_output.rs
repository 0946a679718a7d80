//! State-to-output transforms: scales and biases on the state and on C in the readout (the released code of Kang et al.
//! 2025, arXiv 2503.03499, `state_to_y`): y_t = Σ_n (s ∘ h_t + b)(s_C ∘ C_t + b_C).
//!
//! In the scan's operands: S = s ∘ s_C, E = s ∘ b_C, O = s_C ∘ b, y' = Σ_n b_C ∘ b. The tensors are [d_state, d_inner], as
//! in the authors' files.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as PatchValue};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "state-to-output";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "scale", default: "true", meaning: "train s, which multiplies the state; starts at 1" },
    OptionInfo { name: "bias", default: "true", meaning: "train b, which is added to the state; starts at 0" },
    OptionInfo { name: "scale_C", default: "true", meaning: "train s_C, which multiplies C; starts at 1" },
    OptionInfo { name: "bias_C", default: "true", meaning: "train b_C, which is added to C; starts at 0" },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "State-to-output transforms: scale and bias of the state and of C in the readout, [d_state, d_inner] each",
    reference: "Kang et al. 2025, arXiv 2503.03499",
    options: OPTIONS,
    sites: "the readout of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "a product and an addition per state dimension inside the scan",
    learning_rate: 3e-3,
    parse: |value| Ok(Box::new(StateToOutput::parse(value)?)),
    examples: || {
        let only = |name: &str| {
            let mut config = json!({"scale": false, "bias": false, "scale_C": false, "bias_C": false});
            config[name] = true.into();
            config
        };
        vec![json!({}), only("scale"), only("bias"), only("scale_C"), only("bias_C"), json!({"scale": false})]
    },
};

/// The configuration: which of the four are trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateToOutput {
    /// s.
    pub scale: bool,
    /// b.
    pub bias: bool,
    /// s_C.
    #[serde(rename = "scale_C")]
    pub scale_c: bool,
    /// b_C.
    #[serde(rename = "bias_C")]
    pub bias_c: bool,
}

impl Default for StateToOutput {
    fn default() -> StateToOutput {
        StateToOutput { scale: true, bias: true, scale_c: true, bias_c: true }
    }
}

impl StateToOutput {
    fn parse(value: Value) -> Result<StateToOutput, PeftError> {
        let config: StateToOutput = MethodInfo::read(TAG, OPTIONS, value)?;
        if config.count() == 0 {
            let reason = "at least one of `scale`, `bias`, `scale_C`, `bias_C` must be trained".into();
            return Err(PeftError::Option { method: TAG, reason });
        }
        Ok(config)
    }

    fn count(&self) -> usize {
        [self.scale, self.bias, self.scale_c, self.bias_c].into_iter().filter(|trained| *trained).count()
    }
}

impl Method for StateToOutput {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let mut tensor = |trained: bool, name: &str, init: Init| {
                let name = format!("{}.state_to_output.{name}", mixer_path(layer));
                trained.then(|| {
                    plan.tensors.push(TensorSpec::new(name.clone(), [model.d_state, model.d_inner], init));
                    PatchValue::Transposed(Box::new(PatchValue::Dense(name)))
                })
            };
            let s = tensor(self.scale, "scale", Init::Ones);
            let b = tensor(self.bias, "bias", Init::Zeros);
            let s_c = tensor(self.scale_c, "scale_C", Init::Ones);
            let b_c = tensor(self.bias_c, "bias_C", Init::Zeros);
            // An absent scale is 1, an absent bias 0: what is left of each product.
            let times = |one: &PatchValue, other: &PatchValue| {
                PatchValue::Times(Box::new(one.clone()), Box::new(other.clone()))
            };
            let scaled = |bias: &Option<PatchValue>, scale: &Option<PatchValue>| {
                bias.as_ref().map(|bias| scale.as_ref().map_or_else(|| bias.clone(), |scale| times(scale, bias)))
            };
            let both = b.as_ref().zip(b_c.as_ref());
            let operands = [
                (Operand::StateScale, scaled(&s, &s_c).or_else(|| s_c.clone())),
                (Operand::StateExtra, scaled(&b_c, &s)),
                (Operand::StateOffset, scaled(&b, &s_c)),
                (Operand::OutputOffset, both.map(|(b, b_c)| PatchValue::RowSums(Box::new(times(b, b_c))))),
            ];
            for (operand, value) in operands {
                let Some(value) = value else { continue };
                plan.patches.push(Patch { site: Site::Operand { layer, operand }, change: Change::Operand(value) });
            }
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * self.count() * model.d_state * model.d_inner)
    }
}
