//! LoRA and rsLoRA on any linear site: W becomes W + s B A with s = alpha / r or alpha / √r (Hu et al. 2021, arXiv
//! 2106.09685; Kalajdzievski 2023, arXiv 2312.03732).
//!
//! Sites are named by any trailing part of their path: `in_proj`, `in_proj.x`, `x_proj.dt`,
//! `backbone.layers.3.mixer.out_proj`, `embeddings`, `lm_head`. A target that names nothing is an error. On tied embeddings
//! `embeddings` is both ends (unless `input_embedding_only`), `lm_head` the output end.
//!
//! Methods in LoRA's place (DoRA, LoRA+, LoRA-FA, PiSSA, OLoRA) take its options and change what they must.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::patch::{Change, Ends, Patch, Value as PatchValue};
use statetune_mamba_model::site::{LinearSite, Site, matches};

use crate::PeftError;
use crate::method::{Init, Method, MethodInfo, OptionInfo, Plan, TensorSpec};

const TAG: &str = "lora";

/// The options of all methods in LoRA's place.
pub(super) const OPTIONS: [OptionInfo; 8] = [
    OptionInfo {
        name: "targets",
        default: "[\"x_proj\", \"out_proj\"]",
        meaning: "linear sites, by trailing part of the path",
    },
    OptionInfo { name: "rank", default: "8", meaning: "r" },
    OptionInfo { name: "alpha", default: "8", meaning: "s = alpha / r" },
    OptionInfo { name: "dropout", default: "0.0", meaning: "probability of dropping an input of A in training" },
    OptionInfo { name: "rslora", default: "false", meaning: "s = alpha / sqrt(r)" },
    OptionInfo { name: "rank_pattern", default: "{}", meaning: "another rank for the sites of a target" },
    OptionInfo { name: "alpha_pattern", default: "{}", meaning: "another alpha for the sites of a target" },
    OptionInfo {
        name: "input_embedding_only",
        default: "false",
        meaning: "on tied embeddings change the lookup only, not the head (the meaning in Hugging Face PEFT)",
    },
];

/// The entry in the list of methods.
pub static INFO: MethodInfo = MethodInfo {
    tag: TAG,
    summary: "LoRA, rsLoRA: low-rank additions to linear sites",
    reference: "Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv 2312.03732",
    options: &OPTIONS,
    sites: "linear sites",
    mergeable: true,
    starts_unchanged: true,
    decoding: "two small products per site",
    learning_rate: 2e-3,
    parse: |value| Ok(Box::new(Lora::parse(value)?)),
    examples: || {
        let all = json!(["in_proj.x", "in_proj.z", "x_proj.dt", "x_proj.b", "x_proj.c", "dt_proj", "out_proj"]);
        vec![
            json!({}),
            json!({"targets": all, "rank": 2, "alpha": 4, "dropout": 0.3}),
            json!({"targets": ["in_proj", "in_proj.x", "embeddings"], "rank": 3, "rslora": true,
                "rank_pattern": {"in_proj": 2}, "alpha_pattern": {"in_proj.x": 1}}),
            json!({"targets": ["embeddings", "x_proj"], "rank": 2, "input_embedding_only": true}),
            json!({"targets": ["lm_head", "dt_proj"], "rank": 2, "dropout": 0.2}),
        ]
    },
};

/// The configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lora {
    /// Linear sites, by trailing part of the path.
    pub targets: Vec<String>,
    /// r.
    pub rank: usize,
    /// alpha.
    pub alpha: f64,
    /// The probability of dropping an input of A in training, below 1.
    pub dropout: f32,
    /// Whether s = alpha / √r and not alpha / r.
    pub rslora: bool,
    /// Other ranks, by trailing part of the path; the longest that matches counts.
    pub rank_pattern: std::collections::BTreeMap<String, usize>,
    /// Other alphas, likewise.
    pub alpha_pattern: std::collections::BTreeMap<String, f64>,
    /// On tied embeddings change the lookup only.
    pub input_embedding_only: bool,
}

impl Default for Lora {
    /// Rank and alpha 8 on `x_proj` and `out_proj`, as in the comparisons of the State-offset paper's base models.
    fn default() -> Lora {
        Lora {
            targets: vec!["x_proj".into(), "out_proj".into()],
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            rslora: false,
            rank_pattern: Default::default(),
            alpha_pattern: Default::default(),
            input_embedding_only: false,
        }
    }
}

impl Lora {
    fn parse(value: Value) -> Result<Lora, PeftError> {
        let config: Lora = MethodInfo::read(TAG, &OPTIONS, value)?;
        config.check(TAG)?;
        Ok(config)
    }

    /// Checks the options by themselves, for the method `tag`.
    ///
    /// # Errors
    /// When one cannot be.
    pub fn check(&self, tag: &'static str) -> Result<(), PeftError> {
        let fail = |reason: String| Err(PeftError::Option { method: tag, reason });
        if self.targets.is_empty() {
            return fail("`targets` must name at least one site".into());
        }
        if self.rank == 0 || self.rank_pattern.values().any(|&rank| rank == 0) {
            return fail("`rank` must be at least 1".into());
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return fail(format!("`dropout` must be at least 0 and below 1, found {}", self.dropout));
        }
        match std::iter::once(&self.alpha).chain(self.alpha_pattern.values()).find(|alpha| !alpha.is_finite()) {
            Some(alpha) => fail(format!("`alpha` must be finite, found {alpha}")),
            None => Ok(()),
        }
    }

    /// The sites the targets name, in the order of the model, for the method `tag`.
    ///
    /// # Errors
    /// When a target or a pattern names nothing.
    pub fn sites(&self, tag: &'static str, model: &MambaConfig) -> Result<Vec<LinearSite>, PeftError> {
        let chosen = super::targets::linear(tag, &self.targets, model)?;
        let patterns = self.rank_pattern.keys().chain(self.alpha_pattern.keys());
        for pattern in patterns {
            if !chosen.iter().any(|site| matches(&site.name, pattern)) {
                let reason = format!("the pattern `{pattern}` matches none of the sites that `targets` names");
                return Err(PeftError::Option { method: tag, reason });
            }
        }
        Ok(chosen)
    }

    /// r of a site.
    pub fn rank_of(&self, site: &str) -> usize {
        longest(&self.rank_pattern, site).unwrap_or(self.rank)
    }

    /// s of a site.
    pub fn scale_of(&self, site: &str) -> f64 {
        let (alpha, rank) = (longest(&self.alpha_pattern, site).unwrap_or(self.alpha), self.rank_of(site) as f64);
        if self.rslora { alpha / rank.sqrt() } else { alpha / rank }
    }
}

/// The value of the longest pattern that matches.
fn longest<T: Copy>(patterns: &std::collections::BTreeMap<String, T>, site: &str) -> Option<T> {
    let matching = patterns.iter().filter(|(pattern, _)| matches(site, pattern));
    matching.max_by_key(|(pattern, _)| pattern.len()).map(|(_, &value)| value)
}

/// A and B of a site, and the patch that they make.
pub(super) struct Factors {
    /// A `[r, in]`.
    pub a: TensorSpec,
    /// B `[out, r]`.
    pub b: TensorSpec,
    /// s B A at the site.
    pub patch: Patch,
}

impl Lora {
    /// What LoRA adds to a site. Methods in its place change parts of it.
    pub(super) fn factors(&self, site: &LinearSite) -> Factors {
        let rank = self.rank_of(&site.name);
        let (a, b) = (format!("{}.lora_A", site.name), format!("{}.lora_B", site.name));
        let change = Change::LowRank {
            a: PatchValue::Dense(a.clone()),
            b: PatchValue::Dense(b.clone()),
            scale: self.scale_of(&site.name),
            dropout: self.dropout,
            ends: self.ends(site),
            magnitude: None,
        };
        Factors {
            a: TensorSpec::new(a, [rank, site.in_features], Init::KaimingUniform).decayed(),
            b: TensorSpec::new(b, [site.out_features(), rank], Init::Zeros).decayed(),
            patch: Patch { site: rows(site), change },
        }
    }

    /// The uses of the site's matrix that are changed.
    fn ends(&self, site: &LinearSite) -> Ends {
        if self.input_embedding_only && site.is_embedding() { Ends::Input } else { site.ends }
    }

    /// The trained numbers of A and B at a site.
    pub(super) fn size_of(&self, site: &LinearSite) -> usize {
        self.rank_of(&site.name) * (site.in_features + site.out_features())
    }
}

/// The site of a linear site's rows.
pub(super) fn rows(site: &LinearSite) -> Site {
    Site::Rows { parameter: site.parameter.clone(), rows: site.rows.clone() }
}

impl Method for Lora {
    fn tag(&self) -> &'static str {
        TAG
    }

    fn config(&self) -> Value {
        serde_json::to_value(self).expect("a plain struct")
    }

    fn plan(&self, model: &MambaConfig) -> Result<Plan, PeftError> {
        let mut plan = Plan::default();
        for site in self.sites(TAG, model)? {
            let Factors { a, b, patch } = self.factors(&site);
            plan.tensors.extend([a, b]);
            plan.patches.push(patch);
        }
        Ok(plan)
    }

    fn trainable(&self, model: &MambaConfig) -> Result<usize, PeftError> {
        Ok(self.sites(TAG, model)?.iter().map(|site| self.size_of(site)).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(config: Value) -> Result<Vec<String>, PeftError> {
        let sites = Lora::parse(config)?.sites(TAG, &MambaConfig::new(10, 16, 2))?;
        Ok(sites.into_iter().map(|site| site.name).collect())
    }

    #[test]
    fn targets_name_sites_by_trailing_parts() {
        let both = |site: &str| (0..2).map(|l| format!("backbone.layers.{l}.mixer.{site}")).collect::<Vec<_>>();
        assert_eq!(sites(json!({"targets": ["in_proj"]})).unwrap(), both("in_proj"));
        assert_eq!(sites(json!({"targets": ["in_proj.x"]})).unwrap(), both("in_proj.x"));
        assert_eq!(sites(json!({"targets": ["layers.1.mixer.out_proj"]})).unwrap(), both("out_proj")[1..]);
    }

    #[test]
    fn a_target_that_matches_nothing_is_an_error_with_the_nearest_name() {
        let error = sites(json!({"targets": ["in_proj.x", "out_prj"]})).unwrap_err().to_string();
        assert!(error.contains("`out_prj`") && error.contains("did you mean `out_proj`"), "{error}");
        let error = sites(json!({"targets": ["roj"]})).unwrap_err().to_string();
        assert!(error.contains("matches nothing"), "parts of words are no match: {error}");
        let error = sites(json!({"rank_pattern": {"in_proj": 4}})).unwrap_err().to_string();
        assert!(error.contains("matches none"), "{error}");
    }

    #[test]
    fn scales() {
        let config =
            json!({"targets": ["in_proj", "in_proj.x"], "rank": 4, "alpha": 8, "rank_pattern": {"in_proj.x": 16}});
        let lora = Lora::parse(config.clone()).unwrap();
        assert_eq!((lora.scale_of("a.in_proj"), lora.scale_of("a.in_proj.x")), (2.0, 0.5));
        let rslora = Lora { rslora: true, ..lora };
        assert_eq!((rslora.scale_of("a.in_proj"), rslora.scale_of("a.in_proj.x")), (4.0, 2.0));
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        for config in
            [json!({"rank": 0}), json!({"dropout": 1.0}), json!({"targets": []}), json!({"target": ["x_proj"]})]
        {
            assert!(Lora::parse(config).is_err());
        }
    }
}
