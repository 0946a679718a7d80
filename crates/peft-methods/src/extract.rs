//! A low-rank adapter from the difference of two models of one shape: per linear site the largest singular values of
//! tuned - base, so that base + adapter comes near the tuned model.
//!
//! What differs outside the chosen sites (norms, `A_log`, biases, the convolution) is reported by name, or taken along
//! whole by the method `partial`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Serialize;
use serde_json::{Map, Value, json};
use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::site::matches;
use statetune_mamba_model::{LinearSite, Mamba, linear_sites};
use statetune_tensor::Tensor;

use crate::linalg::{LowRank, Rank, available, low_rank_of};
use crate::{Adapter, PeftError, methods, nearest};

/// What is extracted.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Linear sites, by trailing part of the path, not overlapping; none: every whole matrix.
    pub targets: Vec<String>,
    /// How many singular values each site keeps.
    pub rank: Rank,
    /// Whether tensors that differ elsewhere become part of the adapter, whole.
    pub rest: bool,
}

impl Default for Options {
    /// Every whole matrix, nine tenths of the difference's energy, nothing else.
    fn default() -> Options {
        Options { targets: Vec::new(), rank: Rank::Energy(0.9), rest: false }
    }
}

/// What was extracted, and what was not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The sites of the adapter, in the order of the model.
    pub sites: Vec<SiteReport>,
    /// Chosen sites without any difference; the adapter leaves them out.
    pub unchanged: Vec<String>,
    /// Tensors that differ outside the chosen sites.
    pub rest: Vec<RestReport>,
    /// Whether the adapter holds those.
    pub rest_included: bool,
}

/// One site of an extracted adapter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteReport {
    /// The site's name.
    pub name: String,
    /// Its outputs and inputs.
    pub shape: [usize; 2],
    /// r.
    pub rank: usize,
    /// The share of the difference's sum of squares that the adapter keeps.
    pub energy: f64,
    /// The Frobenius norm of tuned - base - B A.
    pub error: f64,
    /// The Frobenius norm of tuned - base.
    pub norm: f64,
}

/// A tensor that differs outside the chosen sites.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestReport {
    /// The tensor's name.
    pub name: String,
    /// The Frobenius norm of its difference outside the chosen sites.
    pub norm: f64,
}

/// An adapter on `base` that comes near `tuned`, with scale 1 at every site (alpha = rank). `watch` is told how many
/// of the sites are done.
///
/// # Errors
/// [`PeftError::MissingFeature`] without the feature `lapack`; [`PeftError::Extract`] if the models are not of one shape,
/// a target matches nothing, two targets overlap, or there is no difference to extract.
pub fn extract(
    base: &Mamba,
    tuned: &Mamba,
    options: &Options,
    mut watch: impl FnMut(usize, usize),
) -> Result<(Adapter, Report), PeftError> {
    available("`extract`")?;
    options.rank.check()?;
    same_shape(base, tuned)?;
    let sites = chosen(base, &options.targets)?;
    let mut report = Report { sites: Vec::new(), unchanged: Vec::new(), rest: Vec::new(), rest_included: options.rest };
    let mut tensors = Vec::new();
    for (done, site) in sites.iter().enumerate() {
        watch(done, sites.len());
        let (out, inputs) = (site.out_features(), site.in_features);
        let (old, new) = (value(base, &site.parameter), value(tuned, &site.parameter));
        let range = site.rows.start * inputs..site.rows.end * inputs;
        let delta: Vec<f64> = new[range.clone()].iter().zip(&old[range]).map(|(new, old)| new - old).collect();
        let changed = delta.iter().any(|&difference| difference != 0.0);
        let low_rank = if changed { Some(low_rank_of(&delta, out, inputs, options.rank)?) } else { None };
        let Some(LowRank { a, b, rank, energy, error, norm }) = low_rank.filter(|found| found.rank > 0) else {
            report.unchanged.push(site.name.clone());
            continue;
        };
        tensors.push((format!("{}.lora_A", site.name), Tensor::from_vec(a, &[rank, inputs])?));
        tensors.push((format!("{}.lora_B", site.name), Tensor::from_vec(b, &[out, rank])?));
        report.sites.push(SiteReport { name: site.name.clone(), shape: [out, inputs], rank, energy, error, norm });
    }
    watch(sites.len(), sites.len());

    let mut configs = Vec::new();
    if !report.sites.is_empty() {
        configs.push(lora(&report.sites));
    }
    for (name, value, norm) in rest(base, tuned, &sites) {
        if options.rest {
            let shape = base.parameter(&name).expect("a tensor of the model").value.shape();
            tensors.push((name.clone(), Tensor::from_vec(value, shape)?));
        }
        report.rest.push(RestReport { name, norm });
    }
    if options.rest && !report.rest.is_empty() {
        let names: Vec<&str> = report.rest.iter().map(|tensor| tensor.name.as_str()).collect();
        configs.push(json!({"method": "partial", "parameters": names}));
    }
    if configs.is_empty() {
        let elsewhere = report.rest.iter().map(|tensor| format!("`{}`", tensor.name)).collect::<Vec<_>>().join(", ");
        return fail(match report.rest.is_empty() {
            true => "the two models are equal".into(),
            false => format!("they differ in no chosen site, only in {elsewhere}: take those along with `rest`"),
        });
    }
    let parse = |config| match config {
        Value::Object(object) => methods::parse(object),
        _ => unreachable!("configurations are objects"),
    };
    let methods = configs.into_iter().map(parse).collect::<Result<_, _>>()?;
    Ok((Adapter::with_tensors(base, methods, tensors)?, report))
}

fn fail<T>(reason: String) -> Result<T, PeftError> {
    Err(PeftError::Extract { reason })
}

fn value(model: &Mamba, name: &str) -> Vec<f64> {
    model.parameter(name).expect("the models have the same tensors").value.to_f64_vec()
}

/// Whether the models have the same tensors in the same shapes.
fn same_shape(base: &Mamba, tuned: &Mamba) -> Result<(), PeftError> {
    let shapes = |model: &Mamba| expected_tensors(model.config()).into_iter().collect::<BTreeMap<_, _>>();
    let (ours, theirs) = (shapes(base), shapes(tuned));
    if let Some((name, shape)) = ours.iter().find(|(name, shape)| theirs.get(*name) != Some(shape)) {
        let found = theirs.get(name).map_or("lacks it".to_owned(), |shape| format!("has it in {shape:?}"));
        return fail(format!("the base model has `{name}` in {shape:?}, the tuned model {found}"));
    }
    match theirs.keys().find(|name| !ours.contains_key(*name)) {
        Some(name) => fail(format!("the tuned model has `{name}`, which the base model lacks")),
        None => Ok(()),
    }
}

/// The sites the targets name, or every whole matrix, in the order of the model.
fn chosen(model: &Mamba, targets: &[String]) -> Result<Vec<LinearSite>, PeftError> {
    // Named after their tensor; a site that stands for one use of a shared tensor holds no difference of its own.
    let module = |site: &LinearSite| site.parameter.trim_end_matches(".weight").to_owned();
    let all: Vec<LinearSite> = linear_sites(model.config())
        .into_iter()
        .filter(|site| {
            site.name.strip_prefix(&module(site)).is_some_and(|part| part.is_empty() || part.starts_with('.'))
        })
        .collect();
    if targets.is_empty() {
        return Ok(all.into_iter().filter(|site| site.name == module(site)).collect());
    }
    if let Some(target) = targets.iter().find(|target| !all.iter().any(|site| matches(&site.name, target))) {
        let short =
            |site: &LinearSite| site.name.rsplit_once("mixer.").map_or(site.name.clone(), |(_, name)| name.into());
        let known: BTreeSet<String> = all.iter().map(short).collect();
        let hint = nearest(target, known.iter().map(String::as_str));
        let hint = hint.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
        let known: Vec<String> = known.into_iter().collect();
        return fail(format!(
            "the target `{target}` matches nothing in this model{hint}; there are: {}",
            known.join(", ")
        ));
    }
    let chosen: Vec<LinearSite> =
        all.into_iter().filter(|site| targets.iter().any(|target| matches(&site.name, target))).collect();
    for (i, site) in chosen.iter().enumerate() {
        let overlaps = |other: &&LinearSite| {
            other.parameter == site.parameter && other.rows.start < site.rows.end && site.rows.start < other.rows.end
        };
        if let Some(other) = chosen[..i].iter().find(overlaps) {
            return fail(format!("`{}` and `{}` overlap: choose one of them", other.name, site.name));
        }
    }
    Ok(chosen)
}

/// The configuration of a LoRA with these ranks and scale 1 everywhere.
fn lora(sites: &[SiteReport]) -> Value {
    let mut counts = BTreeMap::<usize, usize>::new();
    sites.iter().for_each(|site| *counts.entry(site.rank).or_default() += 1);
    let (&common, _) = counts.iter().max_by_key(|(_, count)| **count).expect("there are sites");
    let others = sites.iter().filter(|site| site.rank != common);
    let pattern: Map<String, Value> = others.map(|site| (site.name.clone(), site.rank.into())).collect();
    let targets: Vec<&str> = sites.iter().map(|site| site.name.as_str()).collect();
    json!({"method": "lora", "targets": targets, "rank": common, "alpha": common, "rank_pattern": &pattern,
        "alpha_pattern": &pattern})
}

/// The tensors that differ outside the sites: name, the tuned values with the base's in the sites' rows, and the norm of
/// the difference.
fn rest(base: &Mamba, tuned: &Mamba, sites: &[LinearSite]) -> Vec<(String, Vec<f64>, f64)> {
    let mut found = Vec::new();
    for parameter in base.parameters() {
        let (old, mut new) = (parameter.value.to_f64_vec(), value(tuned, &parameter.name));
        let width = old.len() / parameter.value.shape()[0];
        for Range { start, end } in
            sites.iter().filter(|site| site.parameter == parameter.name).map(|site| site.rows.clone())
        {
            new[start * width..end * width].copy_from_slice(&old[start * width..end * width]);
        }
        let squares: f64 = new.iter().zip(&old).map(|(new, old)| (new - old) * (new - old)).sum();
        if squares > 0.0 {
            found.push((parameter.name.clone(), new, squares.sqrt()));
        }
    }
    found
}

#[cfg(all(test, not(feature = "lapack")))]
mod tests {
    use statetune_mamba_model::config::MambaConfig;
    use statetune_ssm_kernels::{Cpu, Level};
    use statetune_tensor::{DType, Device};

    use super::*;

    #[test]
    fn without_the_feature_the_error_names_it() {
        let device = Device::Cpu(Cpu::new(Level::Reference, 1).unwrap());
        let model = Mamba::random(&MambaConfig::new(10, 8, 1), &device, DType::F64, DType::F32, 1).unwrap();
        let error = extract(&model, &model, &Options::default(), |_, _| {}).unwrap_err();
        assert!(matches!(error, PeftError::MissingFeature { feature: "lapack", .. }), "{error}");
    }
}
