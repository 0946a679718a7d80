//! Which modules a PEFT configuration means: by name, by regular expression, by layer, without excluded ones; and the rank or
//! alpha that a pattern gives each.

use regex::Regex;
use serde_json::{Map, Value};
use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::site::{linear_sites, matches};

use super::{Keys, authors};
use crate::PeftError;
use crate::methods::{lora, targets};

/// The modules that are adapted.
pub(super) struct Modules {
    /// As our targets: the names given where they say it all, else every module's whole path.
    pub targets: Vec<String>,
    /// Their whole paths.
    sites: Vec<String>,
}

impl Modules {
    pub fn new(keys: &Keys<'_>, model: &MambaConfig) -> Result<Modules, PeftError> {
        // Modules are the whole sites; the authors' code has parts too, under names of its own.
        let modules: Vec<String> = linear_sites(model).into_iter().map(|site| site.name).collect();
        let regex =
            |key: &str, pattern: &str| full_match(pattern).ok_or_else(|| keys.invalid(key, "a regular expression"));
        let mut targets = match keys.get("target_modules") {
            Some(Value::String(all)) if all == "all-linear" => {
                modules.iter().filter(|name| name.ends_with("_proj")).cloned().collect()
            }
            Some(Value::String(pattern)) => {
                let pattern = regex("target_modules", pattern)?;
                modules.iter().filter(|name| !is_part(name) && pattern.is_match(name)).cloned().collect()
            }
            Some(Value::Array(_)) => names(keys, "target_modules")?,
            _ => return Err(keys.invalid("target_modules", "a list of names or a regular expression")),
        };
        let named = |targets: &[String]| -> Result<Vec<String>, PeftError> {
            Ok(targets::linear(lora::INFO.tag, targets, model)?.into_iter().map(|site| site.name).collect())
        };
        let mut sites = named(&targets)?;
        let all = sites.len();
        if let Some(layers) = layers(keys)? {
            let pattern = match keys.get("layers_pattern") {
                None => Regex::new(r"^.*\.[^.]*\.(\d+)\."),
                Some(Value::String(name)) => Regex::new(&format!(r"^.*\.{name}\.(\d+)\.")),
                Some(Value::Array(_)) => {
                    let names = names(keys, "layers_pattern")?;
                    Regex::new(&format!(r"^.*\.(?:{})\.(\d+)\.", names.join("|")))
                }
                Some(_) => return Err(keys.invalid("layers_pattern", "a name or a list of names")),
            };
            let pattern = pattern.map_err(|_| keys.invalid("layers_pattern", "a name or a list of names"))?;
            sites.retain(|name| {
                let layer = pattern.captures(name).and_then(|found| found[1].parse::<u64>().ok());
                layer.is_some_and(|layer| layers.contains(&layer))
            });
        }
        match keys.get("exclude_modules") {
            None => {}
            Some(Value::String(pattern)) => {
                let pattern = regex("exclude_modules", pattern)?;
                sites.retain(|name| !pattern.is_match(name));
            }
            Some(Value::Array(_)) => {
                let excluded = names(keys, "exclude_modules")?;
                sites.retain(|name| !excluded.iter().any(|pattern| matches(name, pattern)));
            }
            Some(_) => return Err(keys.invalid("exclude_modules", "a list of names or a regular expression")),
        }
        if sites.is_empty() {
            return Err(keys.invalid("target_modules", "modules of which some are left"));
        }
        if sites.len() < all {
            targets.clone_from(&sites);
        }
        Ok(Modules { targets, sites })
    }

    /// A table of patterns, written out module by module: the first pattern that matches one counts, as in PEFT.
    pub fn pattern(
        &self,
        keys: &Keys<'_>,
        key: &str,
        read: impl Fn(&Value) -> Option<Value>,
    ) -> Result<Map<String, Value>, PeftError> {
        let mut found = Map::new();
        let Some(patterns) = keys.get(key) else { return Ok(found) };
        let mut compiled = Vec::new();
        for (pattern, value) in patterns.as_object().ok_or_else(|| keys.invalid(key, "a table of patterns"))? {
            let regex = full_match(&format!("(.*\\.)?({})", authors::target(pattern)));
            compiled.push((regex.ok_or_else(|| keys.invalid(key, "a table of regular expressions"))?, value));
        }
        for site in &self.sites {
            if let Some((_, value)) = compiled.iter().find(|(regex, _)| regex.is_match(site)) {
                found.insert(site.clone(), read(value).ok_or_else(|| keys.invalid(key, "a table of numbers"))?);
            }
        }
        Ok(found)
    }
}

/// The stored tensors of `modules_to_save`.
pub(super) fn whole(keys: &Keys<'_>, model: &MambaConfig) -> Result<Vec<String>, PeftError> {
    if keys.get("modules_to_save").is_none() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let mut parameters: Vec<String> = expected_tensors(model).into_iter().map(|(name, _)| name).collect();
    if model.tie_word_embeddings {
        parameters.push(crate::methods::partial::TIED_HEAD.to_owned());
    }
    for module in names(keys, "modules_to_save")? {
        let before = found.len();
        let of_module = |name: &&String| name.rsplit_once('.').is_some_and(|(path, _)| matches(path, &module));
        found.extend(parameters.iter().filter(of_module).cloned());
        if found.len() == before {
            return Err(keys.invalid("modules_to_save", "a list of modules that hold tensors"));
        }
    }
    Ok(found)
}

/// A list of names in our words.
fn names(keys: &Keys<'_>, key: &str) -> Result<Vec<String>, PeftError> {
    let list = keys.get(key).and_then(Value::as_array);
    let names = list.map(|list| list.iter().map(|name| name.as_str().map(authors::target)).collect::<Option<Vec<_>>>());
    names.flatten().ok_or_else(|| keys.invalid(key, "a list of names"))
}

/// The layers to transform; all of them if absent.
fn layers(keys: &Keys<'_>) -> Result<Option<Vec<u64>>, PeftError> {
    let invalid = || keys.invalid("layers_to_transform", "a number or a list of numbers");
    match keys.get("layers_to_transform") {
        None => Ok(None),
        Some(Value::Array(list)) => {
            list.iter().map(|n| n.as_u64().ok_or_else(invalid)).collect::<Result<_, _>>().map(Some)
        }
        Some(number) => Ok(Some(vec![number.as_u64().ok_or_else(invalid)?])),
    }
}

/// Python's `re.fullmatch`.
fn full_match(pattern: &str) -> Option<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).ok()
}

/// Whether a site is a part of a module: its last word is not a module's name.
pub(super) fn is_part(site: &str) -> bool {
    site.contains("_proj.")
}
