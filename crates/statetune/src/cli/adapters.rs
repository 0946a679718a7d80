//! Adapters as they are typed: `PATH`, `NAME=PATH`, or a run folder; and the base model that they are for.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use statetune_mamba_model::Mamba;
use statetune_peft_methods::AdapterSet;
use statetune_peft_methods::adapter::ADAPTER_CONFIG;
use statetune_trainer::RunConfig;

use super::{Output, setup};
use crate::hub;

/// An adapter folder with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// What `--use` calls it.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
}

impl Named {
    /// An adapter folder under its own name.
    pub fn folder(path: &Path) -> Named {
        // `..` and `.` have no name; the folder that they are has.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let name = path.file_name().or(real.file_name()).unwrap_or(path.as_os_str());
        Named { name: name.to_string_lossy().into_owned(), path: path.to_path_buf() }
    }

    /// Reads `NAME=PATH` or `PATH`. What exists is a path, whatever is in its name. A run folder stands for its best
    /// adapter.
    ///
    /// # Errors
    /// The name or the path is empty, or the run has no adapter yet.
    pub fn parse(text: &str) -> anyhow::Result<Named> {
        let named = match text.split_once('=').filter(|_| !Path::new(text).exists()) {
            Some((name, path)) if name.is_empty() || path.is_empty() => {
                bail!("`--adapter {text}`: expected PATH or NAME=PATH");
            }
            Some((name, path)) => Named { name: name.into(), path: path.into() },
            None => Named::folder(Path::new(text)),
        };
        Ok(Named { path: adapter_folder(&named.path)?, ..named })
    }

    /// The same of several, which must have different names.
    ///
    /// # Errors
    /// As [`Named::parse`]; two have the same name.
    pub fn parse_all(texts: &[String]) -> anyhow::Result<Vec<Named>> {
        let all = texts.iter().map(|text| Named::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
        for (i, second) in all.iter().enumerate() {
            if let Some(first) = all[..i].iter().find(|first| first.name == second.name) {
                let (name, first, second) = (&second.name, first.path.display(), second.path.display());
                bail!("{first} and {second} are both called `{name}`: give them names, `--adapter NAME=PATH`");
            }
        }
        Ok(all)
    }

    /// For JSON.
    pub fn json(all: &[Named]) -> Value {
        all.iter().map(|named| json!({"name": named.name, "path": named.path})).collect()
    }
}

/// A run's best adapter, or the folder itself, from the hub if it is a name there.
fn adapter_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let path = &hub::folder(path)?;
    if !is_run(path) {
        return Ok(path.to_path_buf());
    }
    setup::best_adapter(path).with_context(|| format!("{} has no adapter yet: train first", path.display()))
}

fn is_run(path: &Path) -> bool {
    path.join("config.toml").is_file() && !path.join(ADAPTER_CONFIG).is_file()
}

/// Loads adapters onto their model; what they say without effect is reported.
///
/// # Errors
/// One cannot be read or does not fit.
pub fn load<'m>(all: &[Named], model: &'m Mamba, output: Output) -> anyhow::Result<AdapterSet<'m>> {
    let mut set = AdapterSet::new(model);
    for named in all {
        set.insert(&named.name, setup::adapter(&named.path, model, output)?)?;
    }
    Ok(set)
}

/// Those that `--use` names, in its order, or all.
///
/// # Errors
/// There is none of that name; the nearest is suggested.
pub fn chosen(all: Vec<Named>, set: &AdapterSet<'_>, names: &[String]) -> anyhow::Result<Vec<Named>> {
    if names.is_empty() {
        return Ok(all);
    }
    names.iter().try_for_each(|name| set.get(name).map(drop))?;
    let of = |name: &String| all.iter().find(|named| named.name == *name).cloned();
    Ok(names.iter().filter_map(of).collect())
}

/// The names alone.
pub fn names(all: &[Named]) -> Vec<&str> {
    all.iter().map(|named| named.name.as_str()).collect()
}

/// An adapter or a run as a command is given it.
#[derive(Debug)]
pub struct Source {
    /// The adapter.
    pub adapter: Named,
    /// The base model's folder, or its name on the hub.
    pub base: PathBuf,
    /// The run's configuration, if it is a run folder.
    pub run: Option<RunConfig>,
}

impl Source {
    /// Finds out what `path` is. `model` is the base model, if it is not where the adapter or the run says.
    ///
    /// # Errors
    /// It is neither, it has no adapter yet, or it names no base model.
    pub fn open(path: &Path, model: Option<&Path>) -> anyhow::Result<Source> {
        let named = Named::folder(path);
        let (path, model) = (&hub::folder(path)?, model.map(hub::pinned).transpose()?);
        let (adapter, model) = (Named { path: adapter_folder(path)?, ..named }, model.as_deref());
        if is_run(path) {
            let config = RunConfig::read(&path.join("config.toml"), &[])?;
            let base = model.map_or(config.model.path.clone(), Path::to_path_buf);
            return Ok(Source { adapter, base, run: Some(config) });
        }
        if !path.exists() {
            bail!("{} does not exist", path.display());
        }
        if !path.join(ADAPTER_CONFIG).is_file() {
            bail!("{} is no adapter and no run: it has neither {ADAPTER_CONFIG} nor config.toml", path.display());
        }
        Ok(Source { base: base_of(path, model)?, adapter, run: None })
    }
}

/// The base model of an adapter folder: `model`, or where the adapter says.
///
/// # Errors
/// It says nothing that is there.
pub fn base_of(adapter: &Path, model: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(model) = model {
        return Ok(hub::pinned(model)?);
    }
    let file = adapter.join(ADAPTER_CONFIG);
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let config: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
    let named = config["base_model_name_or_path"].as_str().map(PathBuf::from);
    let named = named.context("the adapter names no base model: give one by --model")?;
    if hub::is_name(&named) {
        return Ok(hub::pinned(&named)?);
    }
    // Adapters made elsewhere name their base relative to themselves.
    let found = [named.clone(), adapter.join(&named)].into_iter().find(|path| path.is_dir());
    found.with_context(|| {
        let (adapter, named) = (adapter.display(), named.display());
        format!("{adapter} is for the model {named}, which is not here: give its folder or its name on the hub (hf://...) by --model")
    })
}

/// The base model of several adapters, which must be one.
///
/// # Errors
/// They are for different models.
pub fn common_base(all: &[Named], model: Option<&Path>) -> anyhow::Result<PathBuf> {
    let Some(first) = all.first() else { bail!("no adapter is named") };
    let base = base_of(&first.path, model)?;
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    for other in &all[1..] {
        let found = base_of(&other.path, model)?;
        if real(&found) != real(&base) {
            let (name, other_name) = (&first.name, &other.name);
            let (base, found) = (base.display(), found.display());
            bail!("`{name}` is for the model {base}, `{other_name}` for {found}: give the one to use by --model");
        }
    }
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths() {
        let parse = |text: &str| Named::parse(text).map(|named| (named.name, named.path.display().to_string()));
        assert_eq!(parse("a/b/absent").unwrap(), ("absent".into(), "a/b/absent".into()));
        assert_eq!(parse("tone=a/lr=1/best").unwrap(), ("tone".into(), "a/lr=1/best".into()));
        assert!(parse("=a").is_err() && parse("a=").is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lr=1");
        fs::create_dir(&path).unwrap();
        assert_eq!(parse(path.to_str().unwrap()).unwrap().0, "lr=1");
        let texts = ["x/best", "y/best"].map(String::from);
        let error = Named::parse_all(&texts).unwrap_err().to_string();
        assert!(error.contains("x/best and y/best are both called `best`") && error.contains("NAME=PATH"), "{error}");
    }
}
