//! The `[data]` part of a pretraining: text files, and the length of the rows that their documents are cut into. Reading
//! is in `readers`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::{Split, config_error};
use crate::Result;

/// Text to pretrain on: documents end to end, cut into rows of one length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusConfig {
    /// Files to train on, one path or a list: `.jsonl` with a document per line, `.parquet` with a document per row, else
    /// plain text; text also `.zst`.
    #[serde(default, deserialize_with = "one_or_more")]
    pub train: Vec<PathBuf>,
    /// Files to evaluate on.
    #[serde(default, deserialize_with = "one_or_more")]
    pub validation: Vec<PathBuf>,
    /// Tokens of a row that the model reads; each predicts the one after it.
    #[serde(default = "default_length")]
    pub length: usize,
    /// The field of a JSON line or of a row that holds the document.
    #[serde(default = "default_text_field")]
    pub text_field: String,
    /// The token after each document. Absent: `<|endoftext|>` where the tokenizer has it; "": none. In plain text it
    /// also ends a document where it is written.
    #[serde(default)]
    pub end_of_text: Option<String>,
    /// Only the first documents of each file.
    #[serde(default)]
    pub limit: Option<usize>,
}

fn default_length() -> usize {
    512
}

fn default_text_field() -> String {
    "text".into()
}

impl Default for CorpusConfig {
    fn default() -> CorpusConfig {
        CorpusConfig {
            train: Vec::new(),
            validation: Vec::new(),
            length: default_length(),
            text_field: default_text_field(),
            end_of_text: None,
            limit: None,
        }
    }
}

impl CorpusConfig {
    /// The files of a split; fails if the configuration names none.
    pub fn files(&self, split: Split) -> Result<&[PathBuf]> {
        let (key, files) = match split {
            Split::Train => ("train", &self.train),
            Split::Validation => ("validation", &self.validation),
        };
        match files.is_empty() {
            true => Err(config_error(key, "the path of a file, or a list of them", "nothing")),
            false => Ok(files),
        }
    }

    /// Checks what can be checked without a file.
    pub fn check(&self) -> Result<()> {
        if self.length == 0 {
            return Err(config_error("length", "at least 1", "0"));
        }
        if self.limit == Some(0) {
            return Err(config_error("limit", "at least 1, or no limit", "0"));
        }
        for (key, files) in [("train", &self.train), ("validation", &self.validation)] {
            let twice = files.iter().enumerate().find(|(i, file)| files[..*i].contains(file));
            if let Some((_, file)) = twice {
                return Err(config_error(key, "each file once", &format!("{} twice", file.display())));
            }
        }
        Ok(())
    }
}

/// A path, or a list of paths.
fn one_or_more<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    struct Paths;
    impl<'de> serde::de::Visitor<'de> for Paths {
        type Value = Vec<PathBuf>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a path or a list of paths")
        }

        fn visit_str<E>(self, path: &str) -> Result<Vec<PathBuf>, E> {
            Ok(vec![path.into()])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<PathBuf>, A::Error> {
            let mut paths = Vec::new();
            while let Some(path) = list.next_element::<PathBuf>()? {
                paths.push(path);
            }
            Ok(paths)
        }
    }
    from.deserialize_any(Paths)
}

/// The extension that says how a file's text is to be read: that before `.zst`, in lower case.
pub(crate) fn content_extension(file: &Path) -> Option<String> {
    let lower = |file: &Path| file.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    match lower(file) {
        Some(zst) if zst == "zst" => lower(Path::new(file.file_stem()?)),
        other => other,
    }
}

/// Whether a file is compressed, by its name.
pub(crate) fn is_zstd(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst"))
}
