//! BitFit: biases are trained, all else is frozen (Ben Zaken et al. 2021, arXiv 2106.10199). A Mamba has few: those of the
//! convolution and of Δ. With `add_missing`, named modules that have none get one that starts at zero: linear modules, and
//! the convolution where a model has none there.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Patch};
use statetune_mamba_model::site::{LinearSite, Site, linear_sites, matches, mixer_path};

use super::{lora, partial, targets};
use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "bitfit";

const OPTIONS: &[OptionInfo] = &[
    OptionInfo {
        name: "targets",
        default: "[\"conv1d\", \"dt_proj\"]",
        meaning: "modules whose biases are trained, by trailing part of the path",
    },
    OptionInfo {
        name: "add_missing",
        default: "false",
        meaning: "give modules among the targets that have no bias one that starts at zero",
    },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "BitFit: the biases of the convolution and of the step size, and new ones if wanted",
    reference: "Ben Zaken et al. 2021, arXiv 2106.10199",
    options: OPTIONS,
    sites: "biases",
    mergeable: true,
    starts_unchanged: true,
    decoding: "none where the model has the bias; else one addition",
    learning_rate: 5e-3,
    parse: |value| Ok(Box::new(BitFit::parse(value)?)),
    examples: || vec![json!({}), json!({"targets": ["in_proj", "out_proj", "dt_proj"], "add_missing": true})],
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BitFit {
    /// Modules, by trailing part of the path.
    pub targets: Vec<String>,
    /// Whether modules without a bias get one.
    pub add_missing: bool,
}

impl Default for BitFit {
    fn default() -> BitFit {
        BitFit { targets: vec!["conv1d".into(), "dt_proj".into()], add_missing: false }
    }
}

/// What a target names.
enum Named {
    /// A stored bias and its shape.
    Stored(String, Vec<usize>),
    /// A module without a bias: its name, where the bias goes, its size.
    Missing(String, Site, usize),
}

impl BitFit {
    fn parse(value: Value) -> Result<BitFit, PeftError> {
        let config: BitFit = MethodInfo::read(TAG, OPTIONS, value)?;
        match config.targets.is_empty() {
            true => Err(PeftError::Option { method: TAG, reason: "`targets` must name at least one module".into() }),
            false => Ok(config),
        }
    }

    fn named(&self, model: &MambaConfig) -> Result<Vec<Named>, PeftError> {
        let stored: Vec<(String, Vec<usize>)> =
            expected_tensors(model).into_iter().filter(|(name, _)| name.ends_with(".bias")).collect();
        let module = |name: &str| name.trim_end_matches(".bias").to_owned();
        let has_bias = |site: &LinearSite| stored.iter().any(|(name, _)| module(name) == site.name);
        let linear = linear_sites(model).into_iter().filter(|site| !site.is_embedding() && !has_bias(site));
        let linear = linear.map(|site| (site.name.clone(), lora::rows(&site), site.out_features()));
        let convolutions = (0..model.num_hidden_layers).filter(|_| !model.use_conv_bias).map(|layer| {
            let name = format!("{}.conv1d", mixer_path(layer));
            let site = Site::Rows { parameter: format!("{name}.weight"), rows: 0..model.d_inner };
            (name, site, model.d_inner)
        });
        let missing: Vec<(String, Site, usize)> = linear.chain(convolutions).collect();
        let targeted = |name: &str| self.targets.iter().any(|target| matches(name, target));
        for target in &self.targets {
            let is_stored = stored.iter().any(|(name, _)| matches(&module(name), target));
            let is_missing = missing.iter().any(|(name, ..)| matches(name, target));
            if is_stored || (is_missing && self.add_missing) {
                continue;
            }
            if is_missing {
                let reason = format!("`{target}` has no bias in this model; set `add_missing = true` to give it one");
                return Err(PeftError::Option { method: TAG, reason });
            }
            let with_bias: Vec<String> = stored.iter().map(|(name, _)| module(name)).collect();
            let known = with_bias.iter().chain(missing.iter().map(|(name, ..)| name));
            return Err(targets::no_match(TAG, target, known.map(String::as_str)));
        }
        let stored = stored.iter().filter(|(name, _)| targeted(&module(name)));
        let mut named: Vec<Named> = stored.map(|(name, shape)| Named::Stored(name.clone(), shape.clone())).collect();
        if self.add_missing {
            let missing = missing.into_iter().filter(|(name, ..)| targeted(name));
            named.extend(missing.map(|(name, site, size)| Named::Missing(name, site, size)));
        }
        Ok(named)
    }
}

impl Method for BitFit {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for named in self.named(model)? {
            match named {
                Named::Stored(name, shape) => partial::train(&mut plan, name, shape),
                Named::Missing(module, site, size) => {
                    let name = format!("{module}.bias_added");
                    plan.patches.push(Patch { site, change: Change::Bias(name.clone()) });
                    plan.tensors.push(TensorSpec::new(name, [size], Init::Zeros));
                }
            }
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        let size = |named: &Named| match named {
            Named::Stored(_, shape) => shape.iter().product::<usize>(),
            Named::Missing(_, _, size) => *size,
        };
        Ok(self.named(model)?.iter().map(size).sum())
    }
}
