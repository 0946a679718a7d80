//! Output folders: new or empty, and written whole or not at all.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Refuses a folder that has something in it.
///
/// # Errors
/// It is no folder, or not empty.
pub fn check_free(out: &Path) -> anyhow::Result<()> {
    if !out.exists() {
        return Ok(());
    }
    if !out.is_dir() {
        bail!("{} exists and is no folder: name another", out.display());
    }
    let mut entries = fs::read_dir(out).with_context(|| format!("cannot read {}", out.display()))?;
    match entries.next() {
        Some(_) => bail!("{} exists and is not empty: name another folder", out.display()),
        None => Ok(()),
    }
}

/// Writes a folder beside under another name, which then appears by one rename.
///
/// # Errors
/// The folder is not free; those of `write`; the system refuses. Nothing is left behind then.
pub fn write_whole(out: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    check_free(out)?;
    let staging = beside(out, "writing")?;
    staged(out, &staging, write, || Ok(fs::rename(&staging, out)?))
}

/// The same in the place of a folder that may be there already: it stays whole until the new one is.
///
/// # Errors
/// Those of `write`; the system refuses. The old folder is still there then.
pub fn replace_whole(out: &Path, write: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (staging, old) = (beside(out, "writing")?, beside(out, "old")?);
    staged(out, &staging, write, || {
        if !out.exists() {
            return Ok(fs::rename(&staging, out)?);
        }
        remove(&old)?;
        fs::rename(out, &old)?;
        if let Err(error) = fs::rename(&staging, out) {
            fs::rename(&old, out)?;
            return Err(error.into());
        }
        remove(&old)
    })
}

/// A hidden name beside a folder's.
fn beside(out: &Path, what: &str) -> anyhow::Result<PathBuf> {
    let name = out.file_name().with_context(|| format!("{} is no name for a folder", out.display()))?;
    let mut hidden = OsStr::new(".").to_owned();
    hidden.push(name);
    hidden.push(".");
    hidden.push(what);
    Ok(out.with_file_name(hidden))
}

/// Removes what a killed process left behind.
fn remove(folder: &Path) -> anyhow::Result<()> {
    match folder.exists() {
        true => fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display())),
        false => Ok(()),
    }
}

fn staged(
    out: &Path,
    staging: &Path,
    write: impl FnOnce(&Path) -> anyhow::Result<()>,
    appear: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    remove(staging)?;
    let written = fs::create_dir_all(staging)
        .with_context(|| format!("cannot create {}", out.display()))
        .and_then(|()| write(staging))
        .and_then(|()| appear().with_context(|| format!("cannot write {}", out.display())));
    if written.is_err() {
        // What was written so far is of no use; the error that matters is the first.
        let _ = fs::remove_dir_all(staging);
    }
    written
}

/// A folder for files that are not kept.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one among the system's temporary files.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> anyhow::Result<Scratch> {
        let path = std::env::temp_dir().join(format!("statetune-{}", std::process::id()));
        // Left by a killed process that had the same number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failure here has nobody to go to; the system sweeps its temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
