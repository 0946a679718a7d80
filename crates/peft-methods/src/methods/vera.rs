//! VeRA: W becomes W + Λ_b B Λ_d A with A and B frozen, random, and shared by all sites of a shape; only the diagonals Λ_d and
//! Λ_b are trained (Kopiczko et al. 2023, arXiv 2310.11454, equation 2).
//!
//! A and B are made from `projection_seed` whenever the adapter is loaded, so its file holds two vectors per site.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as PatchValue};

use super::lora::rows;
use super::targets;
use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "vera";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "targets",
        default: "[\"x_proj\", \"out_proj\"]",
        meaning: "linear sites, by trailing part of the path",
    },
    OptionInfo { name: "rank", default: "64", meaning: "r of the random matrices" },
    OptionInfo { name: "dropout", default: "0.0", meaning: "probability of dropping an input of A in training" },
    OptionInfo { name: "d_initial", default: "0.1", meaning: "start of the diagonal between A and B" },
    OptionInfo { name: "projection_seed", default: "0", meaning: "seed of the random matrices" },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "VeRA: two trained vectors per linear site around frozen random matrices that sites share",
    reference: "Kopiczko et al. 2023, arXiv 2310.11454",
    options: OPTIONS,
    sites: "linear sites",
    mergeable: true,
    starts_unchanged: true,
    decoding: "two products of rank r per site",
    learning_rate: 2e-2,
    parse: |value| Ok(Box::new(Vera::parse(value)?)),
    examples: || {
        vec![
            json!({"rank": 4}),
            json!({"targets": ["in_proj.x", "in_proj.z", "dt_proj", "embeddings"], "rank": 3, "dropout": 0.2}),
        ]
    },
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vera {
    /// Linear sites, by trailing part of the path.
    pub targets: Vec<String>,
    /// r.
    pub rank: usize,
    /// The probability of dropping an input of A in training, below 1.
    pub dropout: f32,
    /// Start of Λ_d.
    pub d_initial: f64,
    /// Seed of A and B.
    pub projection_seed: u64,
}

impl Default for Vera {
    /// d_initial as in the paper's appendix A; rank 64, since A and B cost nothing to store.
    fn default() -> Vera {
        let targets = vec!["x_proj".into(), "out_proj".into()];
        Vera { targets, rank: 64, dropout: 0.0, d_initial: 0.1, projection_seed: 0 }
    }
}

impl Vera {
    fn parse(value: Value) -> Result<Vera, PeftError> {
        let config: Vera = MethodInfo::read(TAG, OPTIONS, value)?;
        let fail = |reason: String| Err(PeftError::Option { method: TAG, reason });
        match config {
            Vera { ref targets, .. } if targets.is_empty() => fail("`targets` must name at least one site".into()),
            Vera { rank: 0, .. } => fail("`rank` must be at least 1".into()),
            Vera { d_initial, .. } if d_initial == 0.0 || !d_initial.is_finite() => {
                fail(format!("`d_initial` must be a number other than 0, found {d_initial}"))
            }
            Vera { dropout, .. } if !(0.0..1.0).contains(&dropout) => {
                fail(format!("`dropout` must be at least 0 and below 1, found {dropout}"))
            }
            config => Ok(config),
        }
    }
}

impl Method for Vera {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        let rank = self.rank;
        for site in targets::linear(TAG, &self.targets, model)? {
            // Uniform with the variance of He et al. 2015 for the inputs that a row sums over.
            let projection = |name: String, shape: [usize; 2]| {
                let init = Init::Uniform { bound: (6.0 / shape[1] as f64).sqrt(), seed: Some(self.projection_seed) };
                TensorSpec::new(name, shape, init).derived()
            };
            let (inputs, outputs) = (site.in_features, site.out_features());
            let seed = self.projection_seed;
            let a = projection(format!("vera_A.{rank}x{inputs}.seed{seed}"), [rank, inputs]);
            let b = projection(format!("vera_B.{outputs}x{rank}.seed{seed}"), [outputs, rank]);
            let d_name = format!("{}.vera_lambda_d", site.name);
            let b_name = format!("{}.vera_lambda_b", site.name);
            plan.patches.push(Patch {
                site: rows(&site),
                change: Change::LowRank {
                    a: PatchValue::ScaledRows { scale: d_name.clone(), of: a.name.clone() },
                    b: PatchValue::ScaledRows { scale: b_name.clone(), of: b.name.clone() },
                    scale: 1.0,
                    dropout: self.dropout,
                    ends: site.ends,
                    magnitude: None,
                },
            });
            for shared in [a, b] {
                if !plan.tensors.contains(&shared) {
                    plan.tensors.push(shared);
                }
            }
            plan.tensors.push(TensorSpec::new(d_name, [rank], Init::Constant(self.d_initial)));
            plan.tensors.push(TensorSpec::new(b_name, [outputs], Init::Zeros));
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let sites = targets::linear(TAG, &self.targets, model)?;
        Ok(sites.iter().map(|site| self.rank + site.out_features()).sum())
    }
}
