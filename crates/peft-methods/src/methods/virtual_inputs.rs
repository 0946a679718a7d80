//! Prefix and affix tuning: trained virtual inputs in front of every layer's sequence, which pass its convolution and scan;
//! their outputs are dropped, what stays is the state they leave. A prefix enters as x after `in_proj`, an affix before it
//! (Yoshimura et al. 2024, MambaPEFT, arXiv 2411.03855, section 3.2, after Li and Liang 2021, arXiv 2101.00190).
//!
//! They are run once per step for all sequences, and once per prompt in decoding.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::{Site, VirtualPlace, mixer_path};

use super::reparametrised;
use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan};

const PREFIX: &str = "prefix-tuning";
const AFFIX: &str = "affix-tuning";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo { name: "tokens", default: "16", meaning: "k, the virtual inputs of each layer" },
    OptionInfo {
        name: "mlp",
        default: "none",
        meaning: "hidden units of an MLP per layer that makes them in training and is gone from the exported adapter",
    },
];

/// The entry of prefix tuning in the list of methods.
pub static PREFIX_INFO: MethodInfo = MethodInfo {
    tag: PREFIX,
    summary: "Prefix tuning: virtual inputs [k, d_inner] per layer in front of x, after in_proj",
    reference: "Li and Liang 2021, arXiv 2101.00190; Yoshimura et al. 2024, arXiv 2411.03855",
    options: OPTIONS,
    sites: "x of every layer",
    mergeable: false,
    starts_unchanged: false,
    decoding: "k virtual inputs per layer, once per sequence",
    learning_rate: 3e-2,
    parse: |value| parse(PREFIX, VirtualPlace::BeforeConv, value),
    examples,
};

/// The entry of affix tuning in the list of methods.
pub static AFFIX_INFO: MethodInfo = MethodInfo {
    tag: AFFIX,
    summary: "Affix tuning: virtual inputs [k, d_model] per layer in front of in_proj",
    reference: "Yoshimura et al. 2024, arXiv 2411.03855",
    options: OPTIONS,
    sites: "the normalised input of every layer",
    mergeable: false,
    starts_unchanged: false,
    decoding: "k virtual inputs per layer, once per sequence",
    learning_rate: 3e-2,
    parse: |value| parse(AFFIX, VirtualPlace::BeforeInProj, value),
    examples,
};

fn examples() -> Vec<Value> {
    // Shorter and longer than the convolution.
    vec![json!({"tokens": 2}), json!({"tokens": 6, "mlp": 3})]
}

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// k.
    tokens: usize,
    /// Hidden units of the MLP; none when absent.
    mlp: Option<usize>,
}

impl Default for Options {
    fn default() -> Options {
        Options { tokens: 16, mlp: None }
    }
}

fn parse(tag: &'static str, place: VirtualPlace, value: Value) -> Result<Box<dyn Method>, PeftError> {
    let options: Options = MethodInfo::read(tag, OPTIONS, value)?;
    let fail = |reason: &str| Err(PeftError::Option { method: tag, reason: reason.into() });
    match options {
        Options { tokens: 0, .. } => fail("`tokens` must be at least 1"),
        Options { mlp: Some(0), .. } => fail("`mlp` must be at least 1; leave it out for no MLP"),
        options => Ok(Box::new(VirtualInputs { tag, place, options })),
    }
}

/// Either method.
#[derive(Debug, Clone)]
struct VirtualInputs {
    tag: &'static str,
    place: VirtualPlace,
    options: Options,
}

impl VirtualInputs {
    fn shape(&self, model: &MambaConfig) -> [usize; 2] {
        [self.options.tokens, self.place.width(model)]
    }
}

impl Method for VirtualInputs {
    fn tag(&self) -> &'static str {
        self.tag
    }

    fn config(&self) -> Value {
        serde_json::to_value(&self.options).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        let (suffix, deviation) = match self.place {
            // Of the size of what is there: x is small, the normalised input of order one.
            VirtualPlace::BeforeConv => ("prefix", 0.1),
            VirtualPlace::BeforeInProj => ("affix", 1.0),
        };
        for layer in 0..model.num_hidden_layers {
            let name = format!("{}.{suffix}", mixer_path(layer));
            let (init, mlp) = (Init::Normal { deviation }, self.options.mlp);
            let value = reparametrised::matrix(&mut plan, name, self.shape(model), init, mlp);
            let site = Site::VirtualInputs { layer, place: self.place };
            plan.patches.push(Patch { site, change: Change::Operand(value) });
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(model.num_hidden_layers * reparametrised::size(self.shape(model), self.options.mlp))
    }

    fn exported(&self) -> Option<Box<dyn Method>> {
        let plain = Options { mlp: None, ..self.options.clone() };
        self.options.mlp.map(|_| Box::new(VirtualInputs { options: plain, ..self.clone() }) as Box<dyn Method>)
    }
}
