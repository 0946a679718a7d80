//! LoRA+: B learns faster than A by a fixed ratio (Hayou et al. 2024, arXiv 2402.12354, section 4).

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;

use super::lora::{self, Factors, Lora};
use crate::PeftError;
use crate::method::{Method, MethodInfo, OptionInfo, Plan};

const TAG: &str = "lora-plus";

const OPTIONS: [OptionInfo; 9] = OptionInfo::and(
    lora::OPTIONS,
    OptionInfo { name: "ratio", default: "16.0", meaning: "the learning rate of B is so many times that of A" },
);

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "LoRA+: LoRA whose B has a higher learning rate than its A",
    reference: "Hayou et al. 2024, arXiv 2402.12354",
    options: &OPTIONS,
    sites: "linear sites",
    mergeable: true,
    starts_unchanged: true,
    decoding: "two small products per site",
    learning_rate: 5e-4,
    parse: |value| Ok(Box::new(LoraPlus::parse(value)?)),
    examples: || vec![json!({}), json!({"targets": ["in_proj.x", "dt_proj"], "rank": 2, "ratio": 4.0, "dropout": 0.2})],
};

/// The configuration: LoRA's, and the ratio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoraPlus {
    /// LoRA's options.
    #[serde(flatten)]
    pub lora: Lora,
    /// λ.
    pub ratio: f64,
}

impl Default for LoraPlus {
    fn default() -> LoraPlus {
        LoraPlus { lora: Lora::default(), ratio: 16.0 }
    }
}

impl LoraPlus {
    fn parse(value: Value) -> Result<LoraPlus, PeftError> {
        let config: LoraPlus = MethodInfo::read(TAG, &OPTIONS, value)?;
        config.lora.check(TAG)?;
        match config.ratio > 0.0 && config.ratio.is_finite() {
            true => Ok(config),
            false => {
                let reason = format!("`ratio` must be above 0, found {}", config.ratio);
                Err(PeftError::Option { method: TAG, reason })
            }
        }
    }
}

impl Method for LoraPlus {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for site in self.lora.sites(TAG, model)? {
            let Factors { a, b, patch } = self.lora.factors(&site);
            plan.tensors.extend([a, b.at_rate(self.ratio)]);
            plan.patches.push(patch);
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(self.lora.sites(TAG, model)?.iter().map(|site| self.lora.size_of(site)).sum())
    }
}
