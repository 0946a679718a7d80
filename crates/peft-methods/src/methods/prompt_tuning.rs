//! Prompt tuning: trained soft tokens in front of the embedded sequence (Lester et al. 2021, arXiv 2104.08691), with an
//! optional MLP before them in training. They are run once per step, and sequences start from the state they leave: an SSM
//! remembers of a prompt what its state does.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::checkpoint::EMBEDDING;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::Site;

use super::reparametrised;
use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, Tokenize};

const TAG: &str = "prompt-tuning";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "tokens", default: "16", meaning: "k, the soft tokens" },
    OptionInfo {
        name: "init",
        default: "\"vocabulary\"",
        meaning: "how they start without a text: \"vocabulary\", as the embeddings of tokens drawn at random; \"normal\", as \
                  normal numbers of deviation 1, as Hugging Face PEFT does",
    },
    OptionInfo { name: "init_text", default: "none", meaning: "text whose tokens' embeddings they start as, repeated" },
    OptionInfo {
        name: "init_tokens",
        default: "none",
        meaning: "the same as token ids; `init_text` is turned into them when a run begins",
    },
    OptionInfo {
        name: "mlp",
        default: "none",
        meaning: "hidden units of an MLP that makes them in training and is gone from the exported adapter",
    },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "Prompt tuning: soft tokens [k, d_model] in front of the embedded sequence",
    reference: "Lester et al. 2021, arXiv 2104.08691",
    options: OPTIONS,
    sites: "the embedded sequence",
    mergeable: false,
    starts_unchanged: false,
    decoding: "k tokens, once per sequence",
    learning_rate: 1e-2,
    parse: |value| Ok(Box::new(PromptTuning::parse(value)?)),
    examples: || {
        vec![
            json!({"tokens": 3}),
            json!({"tokens": 2, "mlp": 4, "init": "normal"}),
            json!({"tokens": 4, "init_tokens": [1, 2, 3]}),
        ]
    },
};

/// How soft tokens start without a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// As embeddings of random tokens (Lester et al. 2021, section 3.2).
    #[default]
    Vocabulary,
    /// As normal numbers of deviation 1.
    Normal,
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PromptTuning {
    /// k.
    pub tokens: usize,
    /// How the soft tokens start without a text.
    pub init: Start,
    /// Text whose embeddings the soft tokens start as.
    pub init_text: Option<String>,
    /// Its token ids.
    pub init_tokens: Option<Vec<u32>>,
    /// Hidden units of the MLP; none when absent.
    pub mlp: Option<usize>,
}

impl Default for PromptTuning {
    fn default() -> PromptTuning {
        PromptTuning { tokens: 16, init: Start::Vocabulary, init_text: None, init_tokens: None, mlp: None }
    }
}

impl PromptTuning {
    fn parse(value: Value) -> Result<PromptTuning, PeftError> {
        let config: PromptTuning = MethodInfo::read(TAG, OPTIONS, value)?;
        let fail = |reason: &str| Err(PeftError::Option { method: TAG, reason: reason.into() });
        match &config {
            PromptTuning { tokens: 0, .. } => fail("`tokens` must be at least 1"),
            PromptTuning { mlp: Some(0), .. } => fail("`mlp` must be at least 1; leave it out for no MLP"),
            PromptTuning { init_tokens: Some(ids), .. } if ids.is_empty() => fail("`init_tokens` must not be empty"),
            _ => Ok(config),
        }
    }
}

impl Method for PromptTuning {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        let init = match (&self.init_tokens, &self.init_text) {
            (Some(ids), _) => Init::Rows { parameter: EMBEDDING.into(), ids: ids.clone() },
            (None, Some(_)) => {
                let reason = "`init_text` was not turned into tokens: give `init_tokens` where there is no tokenizer";
                return Err(PeftError::Option { method: TAG, reason: reason.into() });
            }
            (None, None) => match self.init {
                Start::Vocabulary => Init::RandomRows(EMBEDDING.into()),
                Start::Normal => Init::Normal { deviation: 1.0 },
            },
        };
        let shape = [self.tokens, model.d_model];
        let value = reparametrised::matrix(&mut plan, "prompt_tokens".into(), shape, init, self.mlp);
        plan.patches.push(Patch { site: Site::SoftTokens, change: Change::Operand(value) });
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(reparametrised::size([self.tokens, model.d_model], self.mlp))
    }

    fn exported(&self) -> Option<Box<dyn Method>> {
        self.mlp.map(|_| Box::new(PromptTuning { mlp: None, ..self.clone() }) as Box<dyn Method>)
    }

    fn with_text(&self, tokenize: Tokenize<'_>) -> Result<Option<Box<dyn Method>>, PeftError> {
        let (Some(text), None) = (&self.init_text, &self.init_tokens) else { return Ok(None) };
        let fail = |reason: String| PeftError::Option { method: TAG, reason: format!("`init_text`: {reason}") };
        let ids = tokenize(text).map_err(fail)?;
        if ids.is_empty() {
            return Err(fail("it has no tokens".into()));
        }
        Ok(Some(Box::new(PromptTuning { init_tokens: Some(ids), ..self.clone() })))
    }
}
