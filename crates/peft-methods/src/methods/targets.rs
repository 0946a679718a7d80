//! Which sites and tensors a configuration's names mean.

use regex::Regex;
use statetune_mamba_model::checkpoint::expected_tensors;
use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::site::{LinearSite, linear_sites, matches};

use crate::{PeftError, nearest};

/// The linear sites that `targets` name by trailing parts of their paths, in the order of the model.
///
/// # Errors
/// When a target names nothing.
pub fn linear(tag: &'static str, targets: &[String], model: &MambaConfig) -> Result<Vec<LinearSite>, PeftError> {
    let all = linear_sites(model);
    let unmatched = |pattern: &&String| !all.iter().any(|site| matches(&site.name, pattern));
    if let Some(pattern) = targets.iter().find(unmatched) {
        return Err(no_match(tag, pattern, all.iter().map(|site| site.name.as_str())));
    }
    Ok(all.into_iter().filter(|site| targets.iter().any(|target| matches(&site.name, target))).collect())
}

/// The stored tensors, with their shapes, that `patterns` name: by trailing parts of their paths, or as regular expressions
/// for whole paths.
///
/// # Errors
/// When a pattern names nothing.
pub fn parameters(
    tag: &'static str,
    patterns: &[String],
    model: &MambaConfig,
) -> Result<Vec<(String, Vec<usize>)>, PeftError> {
    let mut all = expected_tensors(model);
    let stored = all.len();
    if model.tie_word_embeddings {
        all.push((super::partial::TIED_HEAD.to_owned(), vec![model.vocab_size, model.d_model]));
    }
    let mut named = vec![false; all.len()];
    for pattern in patterns {
        let whole = Regex::new(&format!("^(?:{pattern})$")).ok();
        let mut found = false;
        for (i, (named, (name, _))) in named.iter_mut().zip(&all).enumerate() {
            // An expression for many tensors does not mean the tied head beside the embedding.
            let by_expression = i < stored && whole.as_ref().is_some_and(|regex| regex.is_match(name));
            if matches(name, pattern) || by_expression {
                (*named, found) = (true, true);
            }
        }
        if !found {
            return Err(no_match(tag, pattern, all.iter().map(|(name, _)| name.as_str())));
        }
    }
    Ok(all.into_iter().zip(named).filter(|(_, named)| *named).map(|(tensor, _)| tensor).collect())
}

/// The error for a pattern that names none of `names`.
pub(super) fn no_match<'a>(tag: &'static str, pattern: &str, names: impl Iterator<Item = &'a str>) -> PeftError {
    let mut known: Vec<&str> = names.map(without_layer).collect();
    known.sort_unstable();
    known.dedup();
    PeftError::NoMatch {
        method: tag,
        pattern: pattern.to_owned(),
        nearest: nearest(pattern, known.iter().copied()).map(str::to_owned),
        known: known.join(", "),
    }
}

/// A name without the layer it is in.
fn without_layer(name: &str) -> &str {
    let inside = name.strip_prefix("backbone.layers.").and_then(|rest| rest.split_once('.')).map(|(_, inside)| inside);
    let inside = inside.unwrap_or(name);
    inside.strip_prefix("mixer.").unwrap_or(inside)
}
