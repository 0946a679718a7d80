//! DoRA on any linear site: W'' = m ∘ (W + s B A) / ‖W + s B A‖ with a trained magnitude m that starts as the norms of W's
//! rows (Liu et al. 2024, arXiv 2402.09353, equation 5). The norm is a constant in the backward pass (section 4.3); the
//! base's bias is not scaled; dropout drops inputs of A only.
//!
//! Of an embedding m has one number per hidden unit, the norms of its columns, as in Hugging Face PEFT.

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::Change;
use statetune_mamba_model::site::LinearSite;

use super::lora::{Factors, Lora, OPTIONS};
use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, Plan, TensorSpec};

const TAG: &str = "dora";

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "DoRA: a low-rank direction and a trained magnitude per output of linear sites",
    reference: "Liu et al. 2024, arXiv 2402.09353",
    options: &OPTIONS,
    sites: "linear sites",
    mergeable: true,
    starts_unchanged: true,
    decoding: "two small products and a scaling per site",
    learning_rate: 2e-3,
    parse: |value| Ok(Box::new(Dora::parse(value)?)),
    examples: || {
        let parts = json!(["in_proj.x", "in_proj.z", "x_proj.dt", "x_proj.b", "x_proj.c", "dt_proj", "out_proj"]);
        vec![
            json!({}),
            json!({"targets": parts, "rank": 2, "alpha": 4, "dropout": 0.3}),
            json!({"targets": ["embeddings", "in_proj"], "rank": 2, "rslora": true}),
            json!({"targets": ["embeddings"], "rank": 2, "input_embedding_only": true}),
            json!({"targets": ["lm_head", "dt_proj"], "rank": 2}),
        ]
    },
};

/// The configuration: that of LoRA.
#[derive(Debug, Clone, PartialEq)]
pub struct Dora(pub Lora);

impl Dora {
    fn parse(value: Value) -> Result<Dora, PeftError> {
        let lora: Lora = MethodInfo::read(TAG, &OPTIONS, value)?;
        lora.check(TAG)?;
        Ok(Dora(lora))
    }

    /// How many magnitudes a site has.
    fn magnitudes(site: &LinearSite) -> usize {
        if site.is_embedding() { site.in_features } else { site.out_features() }
    }
}

impl Method for Dora {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(&self.0).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for site in self.0.sites(TAG, model)? {
            let Factors { a, b, mut patch } = self.0.factors(&site);
            let name = format!("{}.lora_magnitude", site.name);
            if let Change::LowRank { magnitude, .. } = &mut patch.change {
                *magnitude = Some(name.clone());
            }
            let init = Init::Norms {
                parameter: site.parameter.clone(),
                rows: site.rows.clone(),
                of_columns: site.is_embedding(),
            };
            plan.tensors.extend([a, b, TensorSpec::new(name, [Dora::magnitudes(&site)], init)]);
            plan.patches.push(patch);
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let sites = self.0.sites(TAG, model)?;
        Ok(sites.iter().map(|site| self.0.size_of(site) + Dora::magnitudes(site)).sum())
    }
}
