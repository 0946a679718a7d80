//! The cache on disk, in the layout of Hugging Face's library for Python, so that each finds what the other has downloaded:
//!
//! ```text
//! models--OWNER--NAME/refs/REVISION              the commit that a branch or tag stood for last
//! models--OWNER--NAME/snapshots/COMMIT/PATH      a link to the file's contents
//! models--OWNER--NAME/blobs/ETAG                 the contents, by their checksum
//! models--OWNER--NAME/blobs/ETAG.incomplete      as far as they have come
//! models--OWNER--NAME/.no_exist/COMMIT/PATH      an empty file: the commit has no such file
//! .locks/models--OWNER--NAME/ETAG.lock           held while the contents are being downloaded
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::HubError;
use super::name::{Kind, Name, is_commit};

/// The part of the cache that belongs to one repository.
#[derive(Debug)]
pub(super) struct Repository {
    what: String,
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    pub(super) fn new(cache: &Path, name: &Name) -> Repository {
        let kind = if name.kind == Kind::Dataset { "datasets" } else { "models" };
        let own = format!("{kind}--{}", name.repository.replace('/', "--"));
        Repository { what: name.what(), folder: cache.join(&own), locks: cache.join(".locks").join(own) }
    }

    /// The commit that a revision stood for when it was last looked up.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes what a revision stands for.
    pub(super) fn note_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let file = self.folder.join("refs").join(revision);
        if self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        // Beside and renamed: another process may be reading it.
        let temporary = beside(&file);
        let written =
            made_for(&file).and_then(|()| fs::write(&temporary, commit)).and_then(|()| fs::rename(&temporary, &file));
        written.map_err(|source| self.failed("write", &file, source))
    }

    /// The commits of which there are files.
    pub(super) fn commits(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.folder.join("snapshots")) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut commits: Vec<String> = names.filter(|name| is_commit(name)).collect();
        commits.sort();
        commits
    }

    /// Where a file or folder of a commit is, or would be.
    pub(super) fn snapshot(&self, commit: &str, path: &str) -> PathBuf {
        let folder = self.folder.join("snapshots").join(commit);
        if path.is_empty() { folder } else { folder.join(path) }
    }

    /// Where contents are, or would be.
    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Whether it is known that a commit has no such file.
    pub(super) fn lacks(&self, commit: &str, path: &str) -> bool {
        self.folder.join(".no_exist").join(commit).join(path).is_file()
    }

    /// Notes that a commit has no such file. It only saves asking again: where it cannot be written, nothing is lost.
    pub(super) fn note_absent(&self, commit: &str, path: &str) {
        let file = self.folder.join(".no_exist").join(commit).join(path);
        let _ = made_for(&file).and_then(|()| fs::write(&file, ""));
    }

    /// Waits until no other process downloads these contents, and keeps others waiting until the file is dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let open = || {
            made_for(&path)?;
            let file = File::options().create(true).append(true).open(&path)?;
            match file.lock() {
                // A file system without locks: two downloads at once do more work, and one of them may have to be repeated.
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                locked => locked?,
            }
            Ok(file)
        };
        open().map_err(|source| self.failed("lock", &path, source))
    }

    /// Puts contents where a commit has them.
    pub(super) fn link(&self, etag: &str, commit: &str, path: &str) -> Result<PathBuf, HubError> {
        let (blob, file) = (self.blob(etag), self.snapshot(commit, path));
        let link = || {
            made_for(&file)?;
            let temporary = beside(&file);
            linked(&blob, &temporary, path.split('/').count())?;
            fs::rename(&temporary, &file)
        };
        link().map_err(|source| self.failed("write", &file, source))?;
        Ok(file)
    }

    pub(super) fn failed(&self, doing: &'static str, file: &Path, source: io::Error) -> HubError {
        use io::ErrorKind::{FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        let hint = match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => {
                "free space, or set HF_HOME to a folder on another disk; the same command then goes on where this one stopped"
            }
            PermissionDenied | ReadOnlyFilesystem => "set HF_HOME to a folder that can be written",
            _ => "set HF_HOME to another folder if this one cannot be used",
        };
        HubError::Io { what: self.what.clone(), doing, file: file.into(), source, hint }
    }
}

/// A name beside a file that nobody else uses, so that the file is there at every moment, old or new.
fn beside(file: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    file.with_file_name(format!(".{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Makes the folder that a file goes into.
pub(super) fn made_for(file: &Path) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)
}

/// A link that still leads there when the cache is moved. `depth` is the number of parts below the commit's folder.
#[cfg(unix)]
fn linked(blob: &Path, file: &Path, depth: usize) -> io::Result<()> {
    let Some(etag) = blob.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut up: PathBuf = std::iter::repeat_n("..", depth + 1).collect();
    up.push("blobs");
    std::os::unix::fs::symlink(up.join(etag), file)
}

/// Links need a privilege elsewhere: a second name for the contents, or a copy.
#[cfg(not(unix))]
fn linked(blob: &Path, file: &Path, _depth: usize) -> io::Result<()> {
    fs::hard_link(blob, file).or_else(|_| fs::copy(blob, file).map(drop))
}
