//! `statetune compare`, and finding the evaluations it is given.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use statetune_trainer::evaluate::{self, Comparison, Kept, Stored};

use super::{CompareArguments, Output};

/// The folder of evaluations in a run folder.
pub const EVALUATIONS: &str = "evaluations";
/// The evaluation of the untuned model there.
pub const BASE: &str = "base";

pub(super) fn run(arguments: &CompareArguments, output: Output) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for given in &arguments.evaluations {
        all.extend(find(given)?);
    }
    let comparison = compare(all)?;
    if output.json {
        say!("{:#}", serde_json::to_value(&comparison)?);
    } else {
        say!("{}", comparison.markdown().trim_end());
    }
    Ok(())
}

/// Reads evaluations and compares them with the first.
///
/// # Errors
/// A folder holds none, two are the same one or have one name, or they do not compare.
pub fn compare(all: Vec<(String, PathBuf)>) -> anyhow::Result<Comparison> {
    for (i, (name, path)) in all.iter().enumerate() {
        if let Some((_, first)) = all[..i].iter().find(|(first, _)| first == name) {
            let (first, second) = (first.display(), path.display());
            bail!("{first} and {second} are both called `{name}`: give them names, NAME=PATH");
        }
    }
    let mut read = Vec::with_capacity(all.len());
    for (name, path) in all {
        read.push((name, Stored::read(&path)?));
    }
    let all: Vec<(String, &Stored)> = read.iter().map(|(name, stored)| (name.clone(), stored)).collect();
    Ok(evaluate::compare(&all)?)
}

/// The evaluations of what is typed, with names: one, or all of a folder, a run's by the run's name and theirs.
fn find(given: &str) -> anyhow::Result<Vec<(String, PathBuf)>> {
    let (name, path) = match given.split_once('=').filter(|_| !Path::new(given).exists()) {
        Some((name, path)) if name.is_empty() || path.is_empty() => bail!("`{given}`: expected PATH or NAME=PATH"),
        Some((name, path)) => (Some(name.to_owned()), PathBuf::from(path)),
        None => (None, PathBuf::from(given)),
    };
    if is_evaluation(&path) {
        return Ok(vec![(name.map_or_else(|| Ok(Kept::read(&path)?.subject.name), anyhow::Ok)?, path)]);
    }
    let inside = path.join(EVALUATIONS);
    let inside = if inside.is_dir() { inside } else { path.clone() };
    let entries = fs::read_dir(&inside).with_context(|| format!("cannot read {}", inside.display()))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|folder| is_evaluation(folder) && !hidden(folder));
    // What others are compared with comes first.
    folders.sort_by_key(|folder| (file_name(folder) != BASE, folder.clone()));
    if folders.is_empty() {
        bail!("{} holds no evaluation ({}): `statetune eval` writes one", path.display(), Kept::FILE);
    }
    let run = name.unwrap_or_else(|| file_name(&fs::canonicalize(&path).unwrap_or_else(|_| path.clone())));
    match &folders[..] {
        [only] => Ok(vec![(run, only.clone())]),
        _ => Ok(folders.into_iter().map(|folder| (format!("{run}/{}", file_name(&folder)), folder)).collect()),
    }
}

fn is_evaluation(folder: &Path) -> bool {
    folder.join(Kept::FILE).is_file()
}

/// What a killed process left half written.
fn hidden(folder: &Path) -> bool {
    file_name(folder).starts_with('.')
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
