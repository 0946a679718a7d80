//! State-offset Tuning on h: y_t = (h_t + h') C_t + ..., with a trained h' per layer at every step, never fed into the
//! recurrence (Kang et al. 2025, arXiv 2503.03499, equation 8; low rank: section 4 and appendix).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as OperandValue};
use statetune_mamba_model::site::{Operand, Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "state-offset-h";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "rank", default: "none", meaning: "rank r of h' = reshape(B A); absent: h' is trained whole" },
    OptionInfo {
        name: "rank_ratio",
        default: "1",
        meaning: "q: B is [d_inner / q, r] and A [r, d_state * q]; only with a rank",
    },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "State-offset (h): h' [d_inner, d_state] added to the state in the readout of every step",
    reference: "Kang et al. 2025, arXiv 2503.03499",
    options: OPTIONS,
    sites: "the readout of the scan",
    mergeable: false,
    starts_unchanged: true,
    decoding: "a dot product per channel inside the scan",
    learning_rate: 3e-3,
    parse: |value| Ok(Box::new(StateOffsetH::parse(value)?)),
    examples: || vec![json!({}), json!({"rank": 2}), json!({"rank": 3, "rank_ratio": 2})],
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateOffsetH {
    /// r of the low-rank form; the whole of h' when absent.
    pub rank: Option<usize>,
    /// q, by which B is lower and A wider. A divisor of `d_inner`.
    pub rank_ratio: usize,
}

impl Default for StateOffsetH {
    fn default() -> StateOffsetH {
        StateOffsetH { rank: None, rank_ratio: 1 }
    }
}

impl StateOffsetH {
    fn parse(value: Value) -> Result<StateOffsetH, PeftError> {
        let config: StateOffsetH = MethodInfo::read(TAG, OPTIONS, value)?;
        let fail = |reason: &str| Err(PeftError::Option { method: TAG, reason: reason.into() });
        match config {
            StateOffsetH { rank: Some(0), .. } => fail("`rank` must be at least 1; leave it out to train h' whole"),
            StateOffsetH { rank_ratio: 0, .. } => fail("`rank_ratio` must be at least 1"),
            StateOffsetH { rank: None, rank_ratio: 2.. } => fail("`rank_ratio` needs a `rank`"),
            _ => Ok(config),
        }
    }

    /// Shapes of B and A.
    fn factors(&self, model: &MambaConfig, rank: usize) -> Result<([usize; 2], [usize; 2]), PeftError> {
        let q = self.rank_ratio;
        if !model.d_inner.is_multiple_of(q) {
            let reason = format!("`rank_ratio` must divide d_inner = {}, found {q}", model.d_inner);
            return Err(PeftError::Option { method: TAG, reason });
        }
        Ok(([model.d_inner / q, rank], [rank, model.d_state * q]))
    }
}

impl Method for StateOffsetH {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for layer in 0..model.num_hidden_layers {
            let name = format!("{}.state_offset_h", mixer_path(layer));
            let mut tensor = |name: String, shape: &[usize], init: Init| {
                plan.tensors.push(TensorSpec::new(name, shape, init));
            };
            let value = match self.rank {
                None => {
                    tensor(name.clone(), &[model.d_inner, model.d_state], Init::Zeros);
                    OperandValue::Dense(name)
                }
                Some(rank) => {
                    let (b_shape, a_shape) = self.factors(model, rank)?;
                    let (a, b) = (format!("{name}.lora_A"), format!("{name}.lora_B"));
                    tensor(a.clone(), &a_shape, Init::KaimingUniform);
                    tensor(b.clone(), &b_shape, Init::Zeros);
                    OperandValue::Product { b, a }
                }
            };
            let site = Site::Operand { layer, operand: Operand::StateOffset };
            plan.patches.push(Patch { site, change: Change::Operand(value) });
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let (d, n, q) = (model.d_inner, model.d_state, self.rank_ratio);
        let per_layer = self.rank.map_or(d * n, |r| r * (d / q + n * q));
        Ok(model.num_hidden_layers * per_layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_cannot_be_are_refused() {
        for (config, part) in [
            (json!({"rank": 0}), "`rank`"),
            (json!({"rank": 2, "rank_ratio": 0}), "`rank_ratio`"),
            (json!({"rank_ratio": 2}), "needs a `rank`"),
            (json!({"rnak": 2}), "did you mean `rank`"),
            (json!({"rank": "two"}), "invalid type"),
        ] {
            let error = StateOffsetH::parse(config).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let config = StateOffsetH::parse(json!({"rank": 2, "rank_ratio": 3})).unwrap();
        assert!(config.plan(&MambaConfig::new(10, 8, 1)).unwrap_err().to_string().contains("must divide"));
    }
}
