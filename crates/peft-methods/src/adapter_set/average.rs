//! One adapter of several: sums of products exactly, everything else tensor by tensor.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use statetune_mamba_model::patch::{Change, Ends, Patch, Value as PatchValue};
use statetune_mamba_model::{Mamba, linear_sites};
use statetune_tensor::Tensor;

use crate::method::{Method, Plan};
use crate::methods::{self, conv_lora, dora, lora, lora_fa, lora_plus, principal, state_offset_h};
use crate::{Adapter, PeftError};

/// How far the sum of the weights may be from 1: that of a few decimal fractions is not exactly it.
const SUM_TOLERANCE: f64 = 1e-6;

/// One method of one of the adapters.
struct Part<'a> {
    name: &'a str,
    adapter: &'a Adapter,
    method: &'a dyn Method,
    plan: Plan,
    weight: f64,
}

/// A method's configuration and its tensors.
type Averaged = (Value, Vec<(String, Tensor)>);

fn fail<T>(reason: String) -> Result<T, PeftError> {
    Err(PeftError::CannotAverage { reason })
}

/// The average of adapters, by name and weight.
pub(super) fn average(model: &Mamba, parts: &[(&str, &Adapter, f64)]) -> Result<Adapter, PeftError> {
    let Some(&(first, adapter, _)) = parts.first() else { return fail("no adapter is named".into()) };
    let sum: f64 = parts.iter().map(|(_, _, weight)| weight).sum();
    if !(sum - 1.0).abs().is_finite() || (sum - 1.0).abs() > SUM_TOLERANCE {
        return fail(format!("the weights sum to {sum}, those of an average sum to 1"));
    }
    let tags = |adapter: &Adapter| adapter.methods().iter().map(|m| m.tag()).collect::<Vec<_>>().join(" with ");
    for (name, other, _) in parts {
        if other.methods().len() != adapter.methods().len() {
            return fail(format!("`{first}` is {}, `{name}` is {}", tags(adapter), tags(other)));
        }
    }
    let exported = parts.iter().map(|(_, adapter, _)| adapter.exported(model)).collect::<Result<Vec<_>, _>>()?;
    let (mut configs, mut tensors) = (Vec::new(), Vec::new());
    for i in 0..adapter.methods().len() {
        let mut of_method = Vec::new();
        for ((name, _, weight), adapter) in parts.iter().zip(&exported) {
            let method = adapter.methods()[i].as_ref();
            let plan = method.plan(model.config())?;
            of_method.push(Part { name, adapter, method, plan, weight: *weight });
        }
        let (config, values) = average_method(model, &of_method)?;
        configs.push(methods::parse_value(config)?);
        tensors.extend(values);
    }
    Adapter::with_tensors(model, configs, tensors)
}

fn average_method(model: &Mamba, parts: &[Part<'_>]) -> Result<Averaged, PeftError> {
    let sums =
        [lora::INFO.tag, lora_plus::INFO.tag, lora_fa::INFO.tag, principal::PISSA_INFO.tag, principal::OLORA_INFO.tag];
    let all = |of: &dyn Fn(&Part<'_>) -> bool| parts.iter().all(of);
    if all(&|part| sums.contains(&part.method.tag())) {
        return low_rank(model, parts, lora::INFO.tag);
    }
    let first = &parts[0];
    if let Some(other) = parts.iter().find(|part| part.method.tag() != first.method.tag()) {
        let (tag, other_tag) = (first.method.tag(), other.method.tag());
        return fail(format!("`{}` is {tag} where `{}` is {other_tag}", first.name, other.name));
    }
    let option = |part: &Part<'_>, name: &str| part.method.config()[name].clone();
    let same = |name: &str| all(&|part| option(part, name) == option(first, name));
    match first.method.tag() {
        tag if tag == dora::INFO.tag => low_rank(model, parts, tag),
        tag if tag == state_offset_h::INFO.tag && all(&|part| !option(part, "rank").is_null()) => {
            if !same("rank_ratio") {
                return fail(format!("`{}` and others have another `rank_ratio`", first.name));
            }
            let mut config = methods::to_config(first.method);
            config["rank"] = parts.iter().filter_map(|part| option(part, "rank").as_u64()).sum::<u64>().into();
            Ok((config, products(parts, usize::MAX)?))
        }
        tag if tag == conv_lora::INFO.tag => {
            let ranks = parts.iter().filter_map(|part| option(part, "rank").as_u64()).sum::<u64>();
            let rank = ranks.min(model.config().d_conv as u64);
            let config = json!({"method": tag, "rank": rank, "alpha": rank, "rslora": false});
            Ok((config, products(parts, model.config().d_conv)?))
        }
        _ => mean(parts),
    }
}

/// s · B A of one adapter at a place.
#[derive(PartialEq)]
struct Product {
    a: Vec<f64>, // [r, inputs]
    b: Vec<f64>, // [outputs, r]
    rank: usize,
    inputs: usize,
}

impl Product {
    fn new(a: &Tensor, b: &Tensor) -> Product {
        Product { a: a.to_f64_vec(), b: b.to_f64_vec(), rank: a.shape()[0], inputs: a.shape()[1] }
    }

    /// The sum of products as one of the ranks' sum.
    fn sum(parts: &[(Product, f64)]) -> Product {
        let rank = parts.iter().map(|(part, _)| part.rank).sum();
        let (inputs, outputs) = (parts[0].0.inputs, parts[0].0.b.len() / parts[0].0.rank);
        let a = parts.iter().flat_map(|(part, _)| part.a.iter().copied()).collect();
        let row = |i: usize| {
            parts
                .iter()
                .flat_map(move |(part, scale)| part.b[i * part.rank..][..part.rank].iter().map(move |x| scale * x))
        };
        Product { a, b: (0..outputs).flat_map(row).collect(), rank, inputs }
    }

    /// The same product with A the identity.
    fn plain(&self) -> Product {
        let outputs = self.b.len() / self.rank;
        let mut b = vec![0.0; outputs * self.inputs];
        for (row, factors) in b.chunks_exact_mut(self.inputs).zip(self.b.chunks_exact(self.rank)) {
            for (factor, a) in factors.iter().zip(self.a.chunks_exact(self.inputs)) {
                row.iter_mut().zip(a).for_each(|(x, a)| *x += factor * a);
            }
        }
        let n = self.inputs;
        let a = (0..n * n).map(|i| f64::from(u8::from(i / n == i % n))).collect();
        Product { a, b, rank: n, inputs: n }
    }

    fn tensors(self, name: &str) -> Result<[(String, Tensor); 2], PeftError> {
        let outputs = self.b.len() / self.rank;
        Ok([
            (format!("{name}.lora_A"), Tensor::from_vec(self.a, &[self.rank, self.inputs])?),
            (format!("{name}.lora_B"), Tensor::from_vec(self.b, &[outputs, self.rank])?),
        ])
    }
}

/// What adapters of LoRA's kind add at a site.
#[derive(Default)]
struct AtSite {
    products: Vec<(Product, f64)>,
    magnitude: Vec<Vec<f64>>,
    ends: Vec<(usize, Ends)>, // of which adapter
}

/// The exact average of additions to linear sites, and of DoRA's magnitudes the mean, as the method `tag`.
fn low_rank(model: &Mamba, parts: &[Part<'_>], tag: &'static str) -> Result<Averaged, PeftError> {
    let mut sites = BTreeMap::<&str, AtSite>::new();
    for (at, part) in parts.iter().enumerate() {
        for patch in &part.plan.patches {
            let Change::LowRank { a, b, scale, ends, magnitude, .. } = &patch.change else { continue };
            let named = match a {
                PatchValue::Dense(name) => name.rsplit_once(".lora_").map(|(site, _)| site),
                _ => None,
            };
            let Some(site) = named else { return fail(format!("`{}` has no plain factors", part.name)) };
            let value = |value| part.adapter.patches().value(model.device(), value);
            let (product, factor) = (Product::new(&value(a)?, &value(b)?), part.weight * scale);
            let found = sites.entry(site).or_default();
            // The start that PiSSA and OLoRA take away may be the same in all of them.
            match found.products.iter_mut().find(|(known, _)| *known == product) {
                Some((_, known)) => *known += factor,
                None => found.products.push((product, factor)),
            }
            if let Some(name) = magnitude {
                let magnitude = part.adapter.patches().tensor(name)?.tensor().to_f64_vec();
                found.magnitude.push(magnitude.iter().map(|m| part.weight * m).collect());
            }
            found.ends.push((at, *ends));
        }
    }
    let (mut tensors, mut ranks, mut input_only) = (Vec::new(), Vec::new(), false);
    for site in linear_sites(model.config()) {
        let Some(found) = sites.remove(site.name.as_str()) else { continue };
        if let Some((other, _)) = found.ends.iter().find(|(_, ends)| *ends != found.ends[0].1) {
            let (first, other) = (parts[found.ends[0].0].name, parts[*other].name);
            return fail(format!(
                "one of `{first}` and `{other}` changes both ends of tied embeddings, the other the lookup only"
            ));
        }
        input_only |= found.ends[0].1 != site.ends;
        let product = Product::sum(&found.products);
        ranks.push((site.name.clone(), product.rank));
        tensors.extend(product.tensors(&site.name)?);
        if tag == dora::INFO.tag {
            if let Some(without) = (0..parts.len()).find(|at| !found.ends.iter().any(|(part, _)| part == at)) {
                let name = parts[without].name;
                return fail(format!("`{name}` has no magnitudes for `{}`, which others have", site.name));
            }
            let sum = found.magnitude.iter().skip(1).fold(found.magnitude[0].clone(), |sum, more| {
                sum.iter().zip(more).map(|(a, b)| a + b).collect() //
            });
            let count = sum.len();
            tensors.push((format!("{}.lora_magnitude", site.name), Tensor::from_vec(sum, &[count])?));
        }
    }
    // The targets as they were given where all adapters have the same; the most common rank for all, the others by name.
    let option = |part: &Part<'_>, name: &str| part.method.config()[name].clone();
    let same = |name: &str| parts.iter().all(|part| option(part, name) == option(&parts[0], name));
    let names: Vec<&String> = ranks.iter().map(|(site, _)| site).collect();
    let targets = if same("targets") { option(&parts[0], "targets") } else { json!(names) };
    let count = |rank: usize| ranks.iter().filter(|(_, other)| *other == rank).count();
    let common = ranks.iter().map(|(_, rank)| *rank).max_by_key(|rank| (count(*rank), *rank)).unwrap_or(1);
    let others = ranks.iter().filter(|(_, rank)| *rank != common);
    let pattern: Map<String, Value> = others.map(|(site, rank)| (site.clone(), json!(rank))).collect();
    let config = json!({
        "method": tag,
        "targets": targets,
        "rank": common,
        "alpha": common,
        "dropout": if same("dropout") { option(&parts[0], "dropout") } else { json!(0.0) },
        "rank_pattern": &pattern,
        "alpha_pattern": &pattern,
        "input_embedding_only": input_only,
    });
    Ok((config, tensors))
}

/// The exact average of products B · A that are the values of places, with scale 1; of a rank above `most` with A the
/// identity.
fn products(parts: &[Part<'_>], most: usize) -> Result<Vec<(String, Tensor)>, PeftError> {
    let mut tensors = Vec::new();
    for (i, patch) in parts[0].plan.patches.iter().enumerate() {
        let mut sum = Vec::new();
        for part in parts {
            let (value, own) = match &part.plan.patches[i].change {
                Change::Add { value, scale } => (value, *scale),
                Change::Operand(value) => (value, 1.0),
                _ => return fail(format!("`{}` is of no product", patch.site)),
            };
            let PatchValue::Product { b, a } = value else { return fail(format!("`{}` is no product", patch.site)) };
            let tensor = |name: &str| Ok::<_, PeftError>(part.adapter.patches().tensor(name)?.tensor());
            sum.push((Product::new(&tensor(a)?, &tensor(b)?), part.weight * own));
        }
        let name = patch.tensors().first().and_then(|name| name.rsplit_once(".lora_")).map(|(name, _)| name.to_owned());
        let name = name.expect("factors are called so");
        let product = Product::sum(&sum);
        let product = if product.rank > most { product.plain() } else { product };
        tensors.extend(product.tensors(&name)?);
    }
    Ok(tensors)
}

/// The weighted mean of every tensor.
fn mean(parts: &[Part<'_>]) -> Result<Averaged, PeftError> {
    let first = &parts[0];
    for part in &parts[1..] {
        let (name, other) = (first.name, part.name);
        for (i, spec) in first.plan.tensors.iter().enumerate() {
            match part.plan.tensors.get(i) {
                Some(found) if (&found.name, &found.shape) == (&spec.name, &spec.shape) => {}
                found => {
                    let found = found.map_or("nothing".into(), |found| format!("`{}` {:?}", found.name, found.shape));
                    let own = format!("`{}` {:?}", spec.name, spec.shape);
                    return fail(format!("`{name}` has {own} where `{other}` has {found}"));
                }
            }
        }
        let patches = |plan: &Plan| plan.patches.iter().map(in_evaluation).collect::<Vec<_>>();
        if part.plan.tensors.len() != first.plan.tensors.len() || patches(&part.plan) != patches(&first.plan) {
            return fail(format!("`{name}` and `{other}` use their tensors differently: compare their options"));
        }
    }
    let mut tensors = Vec::new();
    for spec in &first.plan.tensors {
        let value = |part: &Part<'_>| Ok::<_, PeftError>(part.adapter.patches().tensor(&spec.name)?.tensor());
        let own = value(first)?;
        if !spec.trained {
            for part in &parts[1..] {
                if value(part)?.to_le_bytes() != own.to_le_bytes() {
                    let (name, other) = (first.name, part.name);
                    return fail(format!("the constant `{}` of `{name}` is another in `{other}`", spec.name));
                }
            }
        }
        if !spec.saved {
            continue; // made again
        }
        let mut sum = vec![0.0; own.len()];
        for part in parts.iter().take(if spec.trained { parts.len() } else { 1 }) {
            let weight = if spec.trained { part.weight } else { 1.0 };
            sum.iter_mut().zip(value(part)?.to_f64_vec()).for_each(|(sum, x)| *sum += weight * x);
        }
        tensors.push((spec.name.clone(), Tensor::from_vec(sum, own.shape())?));
    }
    Ok((methods::to_config(first.method), tensors))
}

/// A patch without what matters in training only.
fn in_evaluation(patch: &Patch) -> Patch {
    let mut patch = patch.clone();
    if let Change::LowRank { dropout, .. } = &mut patch.change {
        *dropout = 0.0;
    }
    patch
}
