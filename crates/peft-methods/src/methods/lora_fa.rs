//! LoRA-FA: LoRA with A frozen at its random start, so that only x Aᵀ is kept for the backward pass (Zhang et al. 2023, arXiv
//! 2308.03303).

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;

use super::lora::{Factors, Lora, OPTIONS};
use crate::PeftError;
use crate::method::{Method, MethodInfo, Plan};

const TAG: &str = "lora-fa";

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "LoRA-FA: LoRA with A frozen at its random start",
    reference: "Zhang et al. 2023, arXiv 2308.03303",
    options: &OPTIONS,
    sites: "linear sites",
    mergeable: true,
    starts_unchanged: true,
    decoding: "two small products per site",
    learning_rate: 5e-3,
    parse: |value| {
        let lora: Lora = MethodInfo::read(TAG, &OPTIONS, value)?;
        lora.check(TAG)?;
        Ok(Box::new(LoraFa(lora)))
    },
    examples: || vec![json!({}), json!({"targets": ["in_proj", "x_proj.dt", "embeddings"], "rank": 2, "dropout": 0.2})],
};

/// The configuration: that of LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraFa(pub Lora);

impl Method for LoraFa {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(&self.0).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for site in self.0.sites(TAG, model)? {
            let Factors { a, b, patch } = self.0.factors(&site);
            plan.tensors.extend([a.constant(), b]);
            plan.patches.push(patch);
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let sites = self.0.sites(TAG, model)?;
        Ok(sites.iter().map(|site| self.0.rank_of(&site.name) * site.out_features()).sum())
    }
}
