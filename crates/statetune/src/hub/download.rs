//! One file into the cache: under `.incomplete` until all of it is there and its checksum is right. A download that was
//! broken off goes on where it stopped, in the same process and in the next.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::cache::{Repository, made_for};
use super::client::{Client, FileInfo, TRIES, Trouble, wait, what_file};
use super::name::Name;
use super::{HubError, Progress};

const PIECE: usize = 1 << 18;

/// The file of a name with a commit, in the cache.
pub(super) fn file(
    client: &Client,
    repository: &Repository,
    name: &Name,
    progress: Progress<'_>,
) -> Result<PathBuf, HubError> {
    let commit = name.asked();
    let info = client.info(name)?;
    let blob = repository.blob(&info.etag);
    let lock = repository.lock(&info.etag)?;
    if !blob.metadata().is_ok_and(|found| found.len() == info.bytes) {
        download(client, repository, name, &info, progress)?;
    }
    drop(lock);
    repository.link(&info.etag, commit, &name.path)
}

fn download(
    client: &Client,
    repository: &Repository,
    name: &Name,
    info: &FileInfo,
    progress: Progress<'_>,
) -> Result<(), HubError> {
    let blob = repository.blob(&info.etag);
    let partial = blob.with_file_name(format!("{}.incomplete", info.etag));
    let mut begun = Begun::open(&partial, info).map_err(|source| repository.failed("open", &partial, source))?;
    let (mut tries, mut last) = (0, None);
    while begun.bytes < info.bytes {
        let before = begun.bytes;
        match client.bytes(name, before) {
            Ok((begin, bytes)) => {
                if begin != before {
                    begun.restart(info).map_err(|source| repository.failed("write", &partial, source))?;
                }
                let shown = &mut |done: u64| progress(&name.path, done, info.bytes);
                begun.take(bytes, info.bytes, shown).map_err(|source| repository.failed("write", &partial, source))?;
            }
            Err(Trouble::Lasting(error)) => return Err(error),
            Err(Trouble::Passing(error)) => last = Some(error),
        }
        if begun.bytes < info.bytes {
            // Only what gains nothing is held against the server.
            tries = if begun.bytes > before { 0 } else { tries + 1 };
            if tries == TRIES {
                return Err(last.unwrap_or_else(|| client.broken_off(name, begun.bytes, info.bytes)));
            }
            wait(tries);
        }
    }
    begun.file.sync_all().map_err(|source| repository.failed("write", &partial, source))?;
    if let Some((kind, found)) = begun.sum.finish().filter(|(_, found)| *found != info.etag) {
        // Going on from wrong bytes would never end well.
        fs::remove_file(&partial).map_err(|source| repository.failed("remove", &partial, source))?;
        return Err(HubError::Checksum { what: what_file(name), kind, expected: info.etag.clone(), found });
    }
    fs::rename(&partial, &blob).map_err(|source| repository.failed("write", &blob, source))
}

/// What has come of a file.
struct Begun {
    file: File,
    bytes: u64,
    sum: Sum,
}

impl Begun {
    /// Goes on with the bytes that are there.
    fn open(path: &Path, info: &FileInfo) -> std::io::Result<Begun> {
        made_for(path)?;
        let file = File::options().create(true).read(true).append(true).open(path)?;
        let mut begun = Begun { file, bytes: 0, sum: Sum::of(info) };
        if begun.file.metadata()?.len() > info.bytes {
            begun.restart(info)?;
            return Ok(begun);
        }
        let mut piece = vec![0; PIECE];
        loop {
            match begun.file.read(&mut piece)? {
                0 => return Ok(begun),
                read => {
                    begun.sum.update(&piece[..read]);
                    begun.bytes += read as u64;
                }
            }
        }
    }

    fn restart(&mut self, info: &FileInfo) -> std::io::Result<()> {
        self.file.set_len(0)?;
        (self.bytes, self.sum) = (0, Sum::of(info));
        Ok(())
    }

    /// Writes bytes to the end of the file until there are `all`, or no more come.
    ///
    /// # Errors
    /// Those of writing. A connection that breaks off is an end.
    fn take(&mut self, mut from: impl Read, all: u64, shown: &mut dyn FnMut(u64)) -> std::io::Result<()> {
        let mut piece = vec![0; PIECE];
        while self.bytes < all {
            let room = PIECE.min((all - self.bytes) as usize);
            let read = match from.read(&mut piece[..room]) {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            self.file.write_all(&piece[..read])?;
            self.sum.update(&piece[..read]);
            self.bytes += read as u64;
            shown(self.bytes);
        }
        Ok(())
    }
}

/// The checksum of which an ETag is the value.
enum Sum {
    /// Of large files.
    Sha256(Sha256),
    /// Of a git blob.
    Git(Sha1),
    /// Servers beside the hub have others.
    Unknown,
}

impl Sum {
    fn of(info: &FileInfo) -> Sum {
        let digits = info.etag.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        match info.etag.len() {
            64 if digits => Sum::Sha256(Sha256::new()),
            40 if digits => Sum::Git(Sha1::new_with_prefix(format!("blob {}\0", info.bytes))),
            _ => Sum::Unknown,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha256(sum) => sum.update(bytes),
            Sum::Git(sum) => sum.update(bytes),
            Sum::Unknown => {}
        }
    }

    /// Its name, and its digits.
    fn finish(self) -> Option<(&'static str, String)> {
        let digits = |sum: &[u8]| sum.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Sum::Sha256(sum) => Some(("SHA-256", digits(&sum.finalize()))),
            Sum::Git(sum) => Some(("SHA-1 (git)", digits(&sum.finalize()))),
            Sum::Unknown => None,
        }
    }
}
