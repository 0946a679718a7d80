//! The folder of a run: whether it can take a configuration, and its beginning.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use statetune_trainer::TrainError;

/// Checks that a folder can take this run: empty for a new one, with this very configuration for one that goes on.
/// `read` reads a configuration; `same` is that of now, with what may differ taken from the one before.
///
/// # Errors
/// It holds a run already, or none to resume, or one of another configuration: the first key that differs is named.
pub fn check<C: PartialEq + Serialize>(
    folder: &Path,
    resume: bool,
    read: impl FnOnce(&Path) -> Result<C, TrainError>,
    same: impl FnOnce(&C) -> C,
) -> anyhow::Result<()> {
    let file = folder.join("config.toml");
    if !resume {
        if file.exists() {
            bail!(
                "{} holds a run already: go on with it by --resume, or choose another folder by --set output.folder=...",
                folder.display()
            );
        }
        return Ok(());
    }
    if !file.is_file() {
        bail!("{} holds no run to resume: start it without --resume", folder.display());
    }
    let before = read(&file)?;
    let now = same(&before);
    if now != before {
        let (key, was, is) = difference(&before, &now)?;
        bail!("{} was started with another configuration: `{key}` was {was} then, is {is} now", folder.display());
    }
    Ok(())
}

/// The first key that two configurations do not agree on, with both values.
fn difference(before: &impl Serialize, now: &impl Serialize) -> anyhow::Result<(String, String, String)> {
    let (before, now) = (leaves(before)?, leaves(now)?);
    let key = before.keys().chain(now.keys()).filter(|key| before.get(*key) != now.get(*key)).min();
    let key = key.context("configurations that differ do so in a key")?;
    let text =
        |leaves: &BTreeMap<String, toml::Value>| leaves.get(key).map_or("not set".into(), toml::Value::to_string);
    Ok((key.clone(), text(&before), text(&now)))
}

/// The values of a configuration by dotted key, as `--set` takes them.
fn leaves(config: &impl Serialize) -> anyhow::Result<BTreeMap<String, toml::Value>> {
    fn walk(key: String, value: toml::Value, found: &mut BTreeMap<String, toml::Value>) {
        let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
        match value {
            toml::Value::Table(table) => table.into_iter().for_each(|(part, value)| walk(below(&part), value, found)),
            toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                list.into_iter().enumerate().for_each(|(i, value)| walk(below(&i.to_string()), value, found));
            }
            other => drop(found.insert(key, other)),
        }
    }
    let mut found = BTreeMap::new();
    walk(String::new(), toml::Value::try_from(config)?, &mut found);
    Ok(found)
}

/// Makes the folder of a new run, with its configuration.
///
/// # Errors
/// The system refuses; nothing is left behind then.
pub fn open(folder: &Path, config: &str) -> anyhow::Result<()> {
    let file = folder.join("config.toml");
    if file.exists() {
        return Ok(());
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    // Whole or not at all: half a configuration could neither be resumed nor started anew.
    let temporary = folder.join("config.tmp");
    let written = fs::write(&temporary, config).and_then(|()| fs::rename(&temporary, &file));
    if written.is_err() {
        // What could not be written is of no use; the error that matters is the first.
        let _ = fs::remove_file(&temporary);
        let _ = fs::remove_dir(folder);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}
