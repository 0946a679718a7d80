//! LoRA on the depthwise convolution: its weight [d_inner, 1, d_conv], read as a matrix [d_inner, d_conv], gains s B A.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch, Value as PatchValue};
use statetune_mamba_model::site::{Site, mixer_path};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "conv-lora";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "rank", default: "2", meaning: "r, at most d_conv" },
    OptionInfo { name: "alpha", default: "2", meaning: "s = alpha / r" },
    OptionInfo { name: "rslora", default: "false", meaning: "s = alpha / sqrt(r)" },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "LoRA on the convolution: B [d_inner, r] times A [r, d_conv] added to its weight",
    reference: "Hu et al. 2021, arXiv 2106.09685, on the convolution of Gu and Dao 2023, arXiv 2312.00752",
    options: OPTIONS,
    sites: "the convolution's weight",
    mergeable: true,
    starts_unchanged: true,
    decoding: "none: its product is made once per generation",
    learning_rate: 5e-3,
    parse: |value| Ok(Box::new(ConvLora::parse(value)?)),
    examples: || vec![json!({}), json!({"rank": 3, "alpha": 1.5, "rslora": true})],
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConvLora {
    /// r.
    pub rank: usize,
    /// alpha.
    pub alpha: f64,
    /// Whether s = alpha / √r and not alpha / r.
    pub rslora: bool,
}

impl Default for ConvLora {
    fn default() -> ConvLora {
        ConvLora { rank: 2, alpha: 2.0, rslora: false }
    }
}

impl ConvLora {
    fn parse(value: Value) -> Result<ConvLora, PeftError> {
        let config: ConvLora = MethodInfo::read(TAG, OPTIONS, value)?;
        match config.rank > 0 && config.alpha.is_finite() {
            true => Ok(config),
            false => {
                let reason = format!("`rank` {} must be at least 1 and `alpha` {} finite", config.rank, config.alpha);
                Err(PeftError::Option { method: TAG, reason })
            }
        }
    }
}

impl Method for ConvLora {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        if self.rank > model.d_conv {
            let reason = format!("`rank` must be at most d_conv = {}, found {}", model.d_conv, self.rank);
            return Err(PeftError::Option { method: TAG, reason });
        }
        let rank = self.rank as f64;
        let scale = self.alpha / if self.rslora { rank.sqrt() } else { rank };
        for layer in 0..model.num_hidden_layers {
            let conv = format!("{}.conv1d", mixer_path(layer));
            let (a, b) = (format!("{conv}.lora_A"), format!("{conv}.lora_B"));
            let site = Site::Rows { parameter: format!("{conv}.weight"), rows: 0..model.d_inner };
            let value = PatchValue::Product { b: b.clone(), a: a.clone() };
            plan.patches.push(Patch { site, change: Change::Add { value, scale } });
            plan.tensors.push(TensorSpec::new(a, [self.rank, model.d_conv], Init::KaimingUniform).decayed());
            plan.tensors.push(TensorSpec::new(b, [model.d_inner, self.rank], Init::Zeros).decayed());
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * self.rank * (model.d_inner + model.d_conv))
    }
}
