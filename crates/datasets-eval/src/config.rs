//! The `[data]` part of a run's configuration: plain fields and what they may be together. Reading is in `readers`.

mod corpus;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{DataError, Result};

pub use corpus::CorpusConfig;
pub(crate) use corpus::{content_extension, is_zstd};

/// The form of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A task of the GLUE benchmark, as its tsv files come, with the prompt form of the paper.
    Glue,
    /// One JSON object per line.
    #[default]
    Jsonl,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// Plain text, documents separated by blank lines, or (`.jsonl`) objects with a field `text`; every token is learnt.
    Text,
}

/// What to do with a row longer than the limit. It is never cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnTooLong {
    /// Leave it out and count it.
    #[default]
    Drop,
    /// Fail, naming its line.
    Error,
}

/// Which file of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// `train`
    Train,
    /// `validation`
    Validation,
}

/// Where the data is and how a row becomes a prompt and a completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// The form of the files.
    pub format: Format,
    /// Format glue: the task, e.g. "sst2".
    #[serde(default)]
    pub task: Option<String>,
    /// File to train on.
    #[serde(default)]
    pub train: Option<PathBuf>,
    /// File to evaluate on.
    #[serde(default)]
    pub validation: Option<PathBuf>,
    /// Template of the prompt, e.g. "{question}###"; a brace itself is written twice.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Template of the completion, which is what the model learns to write.
    #[serde(default)]
    pub completion: Option<String>,
    /// Instead of a template: the field that is the prompt.
    #[serde(default)]
    pub prompt_field: Option<String>,
    /// Instead of a template: the field that is the completion.
    #[serde(default)]
    pub completion_field: Option<String>,
    /// For classification, instead of a completion: the field that holds one of `labels`.
    #[serde(default)]
    pub label_field: Option<String>,
    /// The classes; each must be one token.
    #[serde(default)]
    pub labels: Vec<String>,
    /// The token that ends a completion or a document. Absent: `<|endoftext|>` where the tokenizer has it; "": none.
    /// Not used in classification, whose completion is the one token of the class.
    #[serde(default)]
    pub end_of_text: Option<String>,
    /// The most tokens of an example, prompt and completion together; the length of a window in format text.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What to do with longer rows.
    #[serde(default)]
    pub on_too_long: OnTooLong,
    /// Only the first rows of each file.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Longer than every row of GLUE but a few dozen.
fn default_max_tokens() -> usize {
    512
}

impl Default for DataConfig {
    fn default() -> DataConfig {
        DataConfig {
            format: Format::default(),
            task: None,
            train: None,
            validation: None,
            prompt: None,
            completion: None,
            prompt_field: None,
            completion_field: None,
            label_field: None,
            labels: Vec::new(),
            end_of_text: None,
            max_tokens: default_max_tokens(),
            on_too_long: OnTooLong::default(),
            limit: None,
        }
    }
}

impl DataConfig {
    /// The file of a split; fails if the configuration names none.
    pub fn file(&self, split: Split) -> Result<&Path> {
        let (key, file) = match split {
            Split::Train => ("train", &self.train),
            Split::Validation => ("validation", &self.validation),
        };
        file.as_deref().ok_or_else(|| config_error(key, "the path of a file", "nothing"))
    }

    /// Checks what can be checked without a file: sizes, and that every key given is one this format uses.
    pub fn check(&self) -> Result<()> {
        if self.max_tokens < 2 {
            return Err(config_error(
                "max_tokens",
                "at least 2 (a token and the one after it)",
                &self.max_tokens.to_string(),
            ));
        }
        if self.limit == Some(0) {
            return Err(config_error("limit", "at least 1, or no limit", "0"));
        }
        let rows = matches!(self.format, Format::Jsonl | Format::Csv);
        let given = [
            ("task", self.task.is_some(), self.format == Format::Glue),
            ("prompt", self.prompt.is_some(), rows),
            ("completion", self.completion.is_some(), rows),
            ("prompt_field", self.prompt_field.is_some(), rows),
            ("completion_field", self.completion_field.is_some(), rows),
            ("label_field", self.label_field.is_some(), rows),
            ("labels", !self.labels.is_empty(), rows),
            (
                "end_of_text",
                self.end_of_text.is_some(),
                self.format == Format::Text || rows && self.label_field.is_none(),
            ),
        ];
        for (key, is_given, is_used) in given {
            if is_given && !is_used {
                return Err(config_error(key, "to be absent: it would not be used here", "a value"));
            }
        }
        if !rows {
            return Ok(());
        }
        one_of("prompt", "one of `prompt`, `prompt_field`", &[&self.prompt, &self.prompt_field])?;
        let completions = [&self.completion, &self.completion_field, &self.label_field];
        one_of("completion", "one of `completion`, `completion_field`, `label_field`", &completions)?;
        match (&self.label_field, self.labels.len()) {
            (Some(_), 0 | 1) => Err(config_error(
                "labels",
                "at least two classes, as `label_field` is given",
                &format!("{:?}", self.labels),
            )),
            (None, 1..) => Err(config_error("labels", "to come with a `label_field`", &format!("{:?}", self.labels))),
            _ => Ok(()),
        }
    }
}

fn one_of(key: &'static str, expected: &str, given: &[&Option<String>]) -> Result<()> {
    match given.iter().filter(|value| value.is_some()).count() {
        1 => Ok(()),
        count => Err(config_error(key, expected, if count == 0 { "none" } else { "several" })),
    }
}

pub(crate) fn config_error(key: &'static str, expected: &str, found: &str) -> DataError {
    DataError::Config { key, expected: expected.into(), found: found.into(), nearest: None }
}
