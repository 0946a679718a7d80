//! Paths as commands and configurations are given them: local ones stay as they are, names on the hub are looked up with the
//! settings of the environment, and a bar is shown while something is downloaded.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::{HubError, Name, is_name};

/// Whether bars are left out, for the whole process.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Shows no bars from now on.
pub fn keep_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// A path with the commit in it, if it is a name on the hub.
///
/// # Errors
/// It is a name that is not well formed or cannot be looked up.
pub fn pinned(path: &Path) -> Result<PathBuf, HubError> {
    match name(path)? {
        Some(name) => Ok(the::pinned(&name)?.to_path()),
        None => Ok(path.to_path_buf()),
    }
}

/// A file on disk.
///
/// # Errors
/// It is a name on the hub and cannot be downloaded.
pub fn file(path: &Path) -> Result<PathBuf, HubError> {
    name(path)?.map_or(Ok(path.to_path_buf()), |name| the::file(&name))
}

/// A folder on disk, of a model or an adapter.
///
/// # Errors
/// It is a name on the hub and cannot be downloaded.
pub fn folder(path: &Path) -> Result<PathBuf, HubError> {
    name(path)?.map_or(Ok(path.to_path_buf()), |name| the::folder(&name))
}

/// The recorded path, if it is what `asked` stood for when it was recorded.
pub fn answered<'a>(asked: &Path, recorded: &'a Path) -> Option<&'a Path> {
    let (asked, known) = (name(asked).ok()??, name(recorded).ok()??);
    (known.commit.is_some() && known.answers(&asked)).then_some(recorded)
}

fn name(path: &Path) -> Result<Option<Name>, HubError> {
    is_name(path).then(|| Name::parse(&path.to_string_lossy())).transpose()
}

#[cfg(feature = "hub")]
mod the {
    //! The hub of the environment.

    use std::cell::RefCell;
    use std::path::PathBuf;
    use std::sync::atomic::Ordering;

    use indicatif::{ProgressBar, ProgressStyle};

    use super::QUIET;
    use crate::hub::{Hub, HubError, Name, Settings};

    pub(super) fn pinned(name: &Name) -> Result<Name, HubError> {
        Hub::new(Settings::from_environment()?).pinned(name)
    }

    pub(super) fn file(name: &Name) -> Result<PathBuf, HubError> {
        shown(|progress| Hub::new(Settings::from_environment()?).file(name, progress))
    }

    pub(super) fn folder(name: &Name) -> Result<PathBuf, HubError> {
        shown(|progress| Hub::new(Settings::from_environment()?).folder(name, progress))
    }

    /// Downloads with a bar for each file.
    fn shown<T>(download: impl FnOnce(&dyn Fn(&str, u64, u64)) -> Result<T, HubError>) -> Result<T, HubError> {
        let current: RefCell<Option<(String, ProgressBar)>> = RefCell::new(None);
        let clear = |shown: Option<(String, ProgressBar)>| {
            if let Some((_, bar)) = shown {
                bar.finish_and_clear();
            }
        };
        let done = download(&|file, done, of| {
            if QUIET.load(Ordering::Relaxed) {
                return;
            }
            let mut shown = current.borrow_mut();
            if shown.as_ref().is_none_or(|(of, _)| of != file) {
                let bar = ProgressBar::new(of).with_style(style()).with_prefix(file.to_owned());
                clear(shown.replace((file.into(), bar.with_position(done))));
            }
            if let Some((_, bar)) = &*shown {
                bar.set_position(done);
            }
        });
        clear(current.take());
        done
    }

    fn style() -> ProgressStyle {
        let template = "{prefix} {bar:30} {bytes}/{total_bytes}  {bytes_per_sec}, {eta} left";
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    }
}

#[cfg(not(feature = "hub"))]
mod the {
    //! There is none in this build.

    use std::path::PathBuf;

    use crate::hub::{HubError, Name};

    pub(super) fn pinned(name: &Name) -> Result<Name, HubError> {
        Err(HubError::NotBuilt { name: name.to_string() })
    }

    pub(super) fn file(name: &Name) -> Result<PathBuf, HubError> {
        Err(HubError::NotBuilt { name: name.to_string() })
    }

    pub(super) fn folder(name: &Name) -> Result<PathBuf, HubError> {
        Err(HubError::NotBuilt { name: name.to_string() })
    }
}
