//! Partial fine-tuning: the stored tensors that patterns name are trained, the rest is frozen.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::checkpoint::EMBEDDING;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Ends, Patch};
use statetune_mamba_model::site::Site;

use super::targets;
use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "partial";

/// The name under which the head of tied embeddings is trained by itself, though no stored tensor has it.
pub const TIED_HEAD: &str = "lm_head.weight";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "parameters",
        default: "[\"A_log\", \"D\", \"conv1d.weight\", \"dt_proj.bias\"]",
        meaning: "stored tensors, by trailing part of the path or by a regular expression for the whole of it; \
                  `lm_head.weight` is the output end of tied embeddings",
    },
    OptionInfo {
        name: "input_embedding_only",
        default: "false",
        meaning: "on tied embeddings train the lookup only, not the head (the meaning in Hugging Face PEFT)",
    },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Partial fine-tuning: the stored tensors that patterns name",
    reference: "Gu and Dao 2023, arXiv 2312.00752; compared in Yoshimura et al. 2024, arXiv 2411.03855",
    options: OPTIONS,
    sites: "named tensors",
    mergeable: true,
    starts_unchanged: true,
    decoding: "none: it is merged",
    learning_rate: 1e-3,
    parse: |value| Ok(Box::new(Partial::parse(value)?)),
    examples: || {
        vec![
            json!({}),
            json!({"parameters": ["out_proj.weight", "norm.weight", "norm_f.weight", ".*layers\\.1\\.mixer\\.x_proj.*"]}),
            json!({"parameters": ["embeddings.weight"]}),
            json!({"parameters": ["embeddings.weight"], "input_embedding_only": true}),
            json!({"parameters": ["lm_head.weight"]}),
        ]
    },
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Partial {
    /// The patterns.
    pub parameters: Vec<String>,
    /// On tied embeddings train the lookup only.
    pub input_embedding_only: bool,
}

impl Default for Partial {
    /// What is particular to a state space model and no large matrix.
    fn default() -> Partial {
        let parameters = ["A_log", "D", "conv1d.weight", "dt_proj.bias"].map(String::from).to_vec();
        Partial { parameters, input_embedding_only: false }
    }
}

impl Partial {
    fn parse(value: Value) -> Result<Partial, PeftError> {
        let config: Partial = MethodInfo::read(TAG, OPTIONS, value)?;
        match config.parameters.is_empty() {
            true => Err(PeftError::Option { method: TAG, reason: "`parameters` must name at least one tensor".into() }),
            false => Ok(config),
        }
    }
}

/// Adds a stored tensor to what is trained.
pub(super) fn train(plan: &mut Plan, name: String, shape: Vec<usize>) {
    train_at(plan, name.clone(), name, shape, Ends::Both);
}

/// The same under a name of its own, at some ends.
fn train_at(plan: &mut Plan, name: String, parameter: String, shape: Vec<usize>, ends: Ends) {
    let site = Site::Rows { parameter: parameter.clone(), rows: 0..shape[0] };
    plan.patches.push(Patch { site, change: Change::Train { value: name.clone(), ends } });
    // Decay is for matrices; A_log is one in shape only.
    let matrix = shape.len() > 1 && !name.ends_with("A_log");
    let spec = TensorSpec::new(name, shape, Init::Parameter(parameter));
    plan.tensors.push(if matrix { spec.decayed() } else { spec });
}

impl Method for Partial {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        let named = targets::parameters(TAG, &self.parameters, model)?;
        let head_apart = model.tie_word_embeddings && named.iter().any(|(name, _)| name == TIED_HEAD);
        for (name, shape) in named {
            let (parameter, ends) = match &name[..] {
                TIED_HEAD if head_apart => (EMBEDDING.to_owned(), Ends::Output),
                EMBEDDING if head_apart || self.input_embedding_only => (name.clone(), Ends::Input),
                _ => (name.clone(), Ends::Both),
            };
            train_at(&mut plan, name, parameter, shape, ends);
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let named = targets::parameters(TAG, &self.parameters, model)?;
        Ok(named.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum())
    }
}
