//! Models and data sets from the Hugging Face hub by name: `hf://...` becomes a path in the cache, which is that of Hugging
//! Face's own tools.
//!
//! Two steps. A name is *pinned*: its branch or tag becomes a commit, which is what configurations and adapters record. A
//! pinned name is then made a file or folder in the cache; what is there is never asked for again. A path without `hf://`
//! is local, whatever it looks like.

#[cfg(feature = "hub")]
mod cache;
#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod contents;
#[cfg(feature = "hub")]
mod download;
mod error;
mod name;
mod paths;
#[cfg(feature = "hub")]
mod settings;

pub use error::HubError;
pub use name::{Kind, MAIN, Name, SCHEME, is_commit, is_name};
pub use paths::{answered, file, folder, keep_quiet, pinned};
#[cfg(feature = "hub")]
pub use settings::Settings;

/// Who watches a download: the file, bytes that are there, and bytes of the file.
pub type Progress<'a> = &'a dyn Fn(&str, u64, u64);

/// The hub and the cache of its files.
#[cfg(feature = "hub")]
#[derive(Debug)]
pub struct Hub {
    settings: Settings,
    client: client::Client,
}

#[cfg(feature = "hub")]
impl Hub {
    /// A hub; nothing is asked of it yet.
    pub fn new(settings: Settings) -> Hub {
        Hub { client: client::Client::new(&settings), settings }
    }

    /// The name with the commit that its revision stands for now; offline, that it stood for when it was last looked up.
    /// A name with a commit stays as it is.
    ///
    /// # Errors
    /// The repository or revision does not exist or may not be read; the server cannot be reached; offline, the revision
    /// was never looked up.
    pub fn pinned(&self, name: &Name) -> Result<Name, HubError> {
        if name.commit.is_some() {
            return Ok(name.clone());
        }
        let repository = self.repository(name);
        if self.settings.offline {
            let commit = repository.commit_of(name.asked()).ok_or_else(|| {
                let known = match &repository.commits()[..] {
                    [] => "of which it has nothing".into(),
                    commits => format!("of which it has {}", commits.join(", ")),
                };
                self.offline(name, format!("revision {}, {known}", name.asked()))
            })?;
            return Ok(name.at(&commit));
        }
        let commit = self.client.revision(name)?.commit;
        repository.note_commit(name.asked(), &commit)?;
        Ok(name.at(&commit))
    }

    /// The path of a file, which is downloaded if the cache does not have it.
    ///
    /// # Errors
    /// Those of [`Hub::pinned`]; the name has no path; there is no such file; it cannot be downloaded or written; its
    /// checksum is wrong; offline, the cache does not have it.
    pub fn file(&self, name: &Name, progress: Progress<'_>) -> Result<std::path::PathBuf, HubError> {
        if name.path.is_empty() {
            let problem = "a file is needed, and it names a whole repository".into();
            return Err(HubError::Name { name: name.to_string(), problem });
        }
        let name = self.pinned(name)?;
        self.files(std::slice::from_ref(&name), progress)?;
        Ok(self.repository(&name).snapshot(name.asked(), &name.path))
    }

    /// The path of a folder with the files of a model or an adapter, which are downloaded if the cache does not have them:
    /// configuration, weights with all their shards, tokenizer.
    ///
    /// # Errors
    /// Those of [`Hub::file`]; it is no folder of a model or an adapter.
    pub fn folder(&self, name: &Name, progress: Progress<'_>) -> Result<std::path::PathBuf, HubError> {
        let name = &self.pinned(name)?;
        contents::Contents { hub: self, name, progress, listed: None }.folder()
    }

    /// Has files of names with commits in the cache.
    fn files(&self, names: &[Name], progress: Progress<'_>) -> Result<(), HubError> {
        let cached = |name: &&Name| self.repository(name).snapshot(name.asked(), &name.path).is_file();
        let missing: Vec<&Name> = names.iter().filter(|name| !cached(name)).collect();
        if self.settings.offline && !missing.is_empty() {
            let paths: Vec<&str> = missing.iter().map(|name| name.path.as_str()).collect();
            return Err(self.offline(missing[0], format!("{} at {}", paths.join(", "), missing[0].asked())));
        }
        missing
            .into_iter()
            .try_for_each(|name| download::file(&self.client, &self.repository(name), name, progress).map(drop))
    }

    fn repository(&self, name: &Name) -> cache::Repository {
        cache::Repository::new(&self.settings.cache, name)
    }

    fn offline(&self, name: &Name, missing: String) -> HubError {
        HubError::Offline { what: name.what(), cache: self.settings.cache.clone(), missing }
    }
}
