//! The cache of tokenised data: one file per (tokenizer, data, configuration), named by their hash. A file that is
//! truncated, damaged, of another version or of other inputs is made anew, never trusted.
//!
//! Layout: magic [8], version u32 little-endian, key [32], SHA-256 of the payload [32], payload (bincode of [`Dataset`]).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use crate::config::content_extension;
use crate::{CorpusConfig, DataConfig, DataError, Dataset, OnBadRow, Result, Split};

const MAGIC: [u8; 8] = *b"STTOKENS";
/// Raised when the layout, or how rows become tokens, changes.
const VERSION: u32 = 2;
const HEADER: usize = MAGIC.len() + 4 + 32 + 32;

/// Loads of this process that have written; each has a temporary file of its own.
static WRITERS: AtomicU64 = AtomicU64::new(0);

/// Where the tokens of one split belong.
#[derive(Debug)]
pub(crate) struct Entry {
    file: PathBuf,
    key: [u8; 32],
}

impl Entry {
    /// The place in `folder` for this data under this configuration and tokenizer (by its digest). `data` is the contents
    /// of every file that the configuration names. Paths are not part of the key, the extension is: it decides how text
    /// is read.
    pub(crate) fn new<'a>(
        folder: &Path,
        tokenizer: [u8; 32],
        data: impl IntoIterator<Item = &'a [u8]>,
        config: &DataConfig,
        split: Split,
    ) -> Entry {
        let extension = config.file(split).ok().and_then(content_extension);
        // What is said of bad rows names the file.
        let named = config.file(split).ok().filter(|_| config.on_bad_row == OnBadRow::Count);
        // A validation split also has items.
        let pathless = DataConfig {
            train: None,
            validation: None,
            tables: None,
            databases: None,
            chat_template: None,
            ..config.clone()
        };
        // Debug text is a total description of these plain structs.
        Entry::named(folder, tokenizer, data, &format!("{split:?} {extension:?} {named:?} {pathless:?}"))
    }

    /// The same for the files of a corpus, in their order.
    pub(crate) fn of_corpus(
        folder: &Path,
        tokenizer: [u8; 32],
        data: &[Vec<u8>],
        config: &CorpusConfig,
        split: Split,
    ) -> Entry {
        let files = config.files(split).unwrap_or_default();
        let extensions: Vec<Option<String>> = files.iter().map(|file| content_extension(file)).collect();
        let pathless = CorpusConfig { train: Vec::new(), validation: Vec::new(), ..config.clone() };
        Entry::named(folder, tokenizer, data.iter().map(Vec::as_slice), &format!("{extensions:?} {pathless:?}"))
    }

    fn named<'a>(
        folder: &Path,
        tokenizer: [u8; 32],
        data: impl IntoIterator<Item = &'a [u8]>,
        description: &str,
    ) -> Entry {
        let mut hash = Sha256::new();
        hash.update(VERSION.to_le_bytes());
        hash.update(tokenizer);
        for data in data {
            hash.update(Sha256::digest(data));
        }
        hash.update(description);
        let key: [u8; 32] = hash.finalize().into();
        let name: String = key[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        Entry { file: folder.join(name + ".tokens"), key }
    }

    /// The data set, if the file is there and whole.
    pub(crate) fn read(&self) -> Option<Dataset> {
        let bytes = std::fs::read(&self.file).ok()?;
        let (header, payload) = bytes.split_at_checked(HEADER)?;
        if header != self.header(payload) {
            return None;
        }
        let (dataset, used) = bincode::decode_from_slice(payload, bincode::config::standard()).ok()?;
        (used == payload.len()).then_some(dataset)
    }

    /// Writes the data set under a temporary name and renames it, so that no reader sees half a file.
    pub(crate) fn write(&self, dataset: &Dataset) -> Result<()> {
        let failed = |source| DataError::Io {
            file: self.file.clone(),
            source,
            hint: "the token cache could not be written; free space, give another cache folder, or go without one",
        };
        let payload = bincode::encode_to_vec(dataset, bincode::config::standard())
            .map_err(|e| failed(std::io::Error::other(e)))?;
        let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
        let temporary = self.file.with_extension(format!("{}.{writer}.tmp", std::process::id()));
        let write = || {
            if let Some(folder) = self.file.parent() {
                std::fs::create_dir_all(folder)?;
            }
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(&self.header(&payload))?;
            file.write_all(&payload)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.file)
        };
        write().map_err(|source| {
            // The first failure is the one to report.
            let _ = std::fs::remove_file(&temporary);
            failed(source)
        })
    }

    fn header(&self, payload: &[u8]) -> Vec<u8> {
        let checksum = Sha256::digest(payload);
        [&MAGIC[..], &VERSION.to_le_bytes(), &self.key, checksum.as_slice()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClassLabel, Counts, Example, Item};

    fn dataset() -> Dataset {
        Dataset {
            examples: (0..9)
                .map(|id| Example { id, tokens: vec![7, 70_000, 3], labelled_from: 2, class: Some(1) })
                .collect(),
            items: vec![Item {
                row: 3,
                line: 9,
                prompt: vec![7, 70_000],
                references: vec!["ü".into(), "".into()],
                database: Some("d".into()),
            }],
            classes: vec![ClassLabel { name: "0".into(), token: 17 }],
            counts: Counts { rows: 10, kept: 9, too_long: 1, prompts_too_long: 2, bad: 3, max_tokens: 99 },
            bad_rows: vec!["a:3: wrong".into()],
        }
    }

    #[test]
    fn damaged_files_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let config = DataConfig { train: Some("a.csv".into()), ..DataConfig::default() };
        let entry = Entry::new(&folder.path().join("new"), [1; 32], [&b"rows"[..]], &config, Split::Train);
        assert!(entry.read().is_none());
        entry.write(&dataset()).unwrap();
        assert_eq!(entry.read(), Some(dataset()));
        assert_eq!(std::fs::read_dir(folder.path().join("new")).unwrap().count(), 1, "no temporary file is left");
        let whole = std::fs::read(&entry.file).unwrap();
        for length in [0, 7, HEADER - 1, HEADER, whole.len() - 1] {
            std::fs::write(&entry.file, &whole[..length]).unwrap();
            assert!(entry.read().is_none(), "cut to {length} bytes");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&entry.file, bytes).unwrap();
            assert!(entry.read().is_none(), "byte {at} changed");
        }
        entry.write(&dataset()).unwrap();
        assert_eq!(entry.read(), Some(dataset()));
    }

    #[test]
    fn every_input_is_part_of_the_name() {
        let config =
            DataConfig { train: Some("a.csv".into()), validation: Some("b.jsonl".into()), ..DataConfig::default() };
        let entry = |tokenizer, data: &[u8], config: &DataConfig, split| {
            Entry::new(Path::new("c"), tokenizer, [data], config, split).file
        };
        let base = entry([1; 32], b"rows", &config, Split::Train);
        let longer = DataConfig { max_tokens: 99, ..config.clone() };
        let moved = DataConfig { train: Some("elsewhere/z.csv".into()), ..config.clone() };
        assert_eq!(base, entry([1; 32], b"rows", &moved, Split::Train));
        let counting = |config: &DataConfig| DataConfig { on_bad_row: OnBadRow::Count, ..config.clone() };
        let (here, there) = (counting(&config), counting(&moved));
        assert_ne!(entry([1; 32], b"rows", &here, Split::Train), entry([1; 32], b"rows", &there, Split::Train));
        for other in [
            entry([2; 32], b"rows", &config, Split::Train),
            entry([1; 32], b"row", &config, Split::Train),
            entry([1; 32], b"rows", &longer, Split::Train),
            entry([1; 32], b"rows", &config, Split::Validation),
        ] {
            assert_ne!(base, other);
        }
    }
}
