//! LoRA that starts from a decomposition of W: PiSSA from its largest singular values (Meng et al. 2024, arXiv 2404.02948),
//! OLoRA from its QR decomposition (Büyükakyüz 2024, arXiv 2406.01775).
//!
//! Where the papers take the start s B0 A0 away from the base, here the base stays as it is and the patch is
//! s (B A - B0 A0): the same numbers, and the adapter remains one. The start is saved with it, since a decomposition is
//! not the same in every library. Starting needs the feature `lapack`; using a saved adapter does not.

use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as PatchValue};

use super::lora::{Factors, Lora, OPTIONS};
use crate::PeftError;
use crate::method::{Factorisation, Init, Method, MethodInfo, Plan, TensorSpec};

const PISSA: &str = "pissa";
const OLORA: &str = "olora";

/// PiSSA's entry in the list of methods.
pub static PISSA_INFO: MethodInfo = MethodInfo {
    tag: PISSA,
    summary: "PiSSA: LoRA that starts from the largest singular values of W (starting needs the feature `lapack`)",
    reference: "Meng et al. 2024, arXiv 2404.02948",
    options: &OPTIONS,
    sites: "linear sites",
    mergeable: true,
    starts_unchanged: true,
    decoding: "four small products per site",
    learning_rate: 5e-4,
    parse: |value| parse(PISSA, Factorisation::Svd, value),
    examples,
};

/// OLoRA's entry in the list of methods.
pub static OLORA_INFO: MethodInfo = MethodInfo {
    tag: OLORA,
    summary: "OLoRA: LoRA that starts from the QR decomposition of W (starting needs the feature `lapack`)",
    reference: "Büyükakyüz 2024, arXiv 2406.01775",
    options: &OPTIONS,
    sites: "linear sites",
    mergeable: true,
    starts_unchanged: true,
    decoding: "four small products per site",
    learning_rate: 5e-4,
    parse: |value| parse(OLORA, Factorisation::Qr, value),
    examples,
};

fn examples() -> Vec<Value> {
    vec![
        json!({"targets": ["x_proj", "out_proj"], "rank": 2, "alpha": 2}),
        json!({"targets": ["in_proj.x", "dt_proj"], "rank": 1, "alpha": 2, "dropout": 0.2}),
    ]
}

fn parse(tag: &'static str, by: Factorisation, value: Value) -> Result<Box<dyn Method>, PeftError> {
    let lora: Lora = MethodInfo::read(tag, &OPTIONS, value)?;
    lora.check(tag)?;
    if lora.alpha <= 0.0 || lora.alpha_pattern.values().any(|&alpha| alpha <= 0.0) {
        let reason = format!("`alpha` must be above 0, found {}", lora.alpha);
        return Err(PeftError::Option { method: tag, reason });
    }
    Ok(Box::new(Principal { tag, by, lora }))
}

/// The configuration: that of LoRA.
#[derive(Debug, Clone, PartialEq)]
struct Principal {
    tag: &'static str,
    by: Factorisation,
    lora: Lora,
}

impl Method for Principal {
    fn tag(&self) -> &'static str {
        self.tag
    }

    fn config(&self) -> Value {
        serde_json::to_value(&self.lora).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for site in self.lora.sites(self.tag, model)? {
            let (most, rank) = (site.in_features.min(site.out_features()), self.lora.rank_of(&site.name));
            if rank > most {
                let reason = format!("`rank` must be at most {most} at `{}`, found {rank}", site.name);
                return Err(PeftError::Option { method: self.tag, reason });
            }
            let Factors { a, b, patch } = self.lora.factors(&site);
            let Change::LowRank { scale, ends, .. } = patch.change else { unreachable!("LoRA's patch is low-rank") };
            let starting = |spec: TensorSpec, is_a: bool| TensorSpec {
                init: Init::Factor {
                    parameter: site.parameter.clone(),
                    rows: site.rows.clone(),
                    by: self.by,
                    scale,
                    is_a,
                },
                ..spec
            };
            let (a, b) = (starting(a, true), starting(b, false));
            let start = |spec: &TensorSpec| TensorSpec { name: format!("{}0", spec.name), ..spec.clone() }.constant();
            let (a0, b0) = (start(&a), start(&b));
            let taken_away = Change::LowRank {
                a: PatchValue::Dense(a0.name.clone()),
                b: PatchValue::Dense(b0.name.clone()),
                scale: -scale,
                dropout: 0.0,
                ends,
                magnitude: None,
            };
            plan.patches.extend([Patch { site: patch.site.clone(), change: taken_away }, patch]);
            plan.tensors.extend([a, b, a0, b0]);
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(self.lora.sites(self.tag, model)?.iter().map(|site| self.lora.size_of(site)).sum())
    }
}
