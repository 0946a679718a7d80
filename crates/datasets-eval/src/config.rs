//! The `[data]` part of a run's configuration: plain fields. What they may be together is in `check`, reading in
//! `readers`.

mod check;
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
    /// DART: a JSON list of triple sets with their annotations, as published.
    Dart,
    /// SAMSum: `dialogue` and `summary`, as CSV, a JSON list, JSON lines or Parquet by the file's ending.
    Samsum,
    /// Spider: a JSON list of questions with `query` and `db_id`, as published, and `tables.json`.
    Spider,
    /// One JSON object per line.
    #[default]
    Jsonl,
    /// A list of JSON objects.
    Json,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// Parquet, as most data sets of the Hugging Face hub are stored.
    Parquet,
    /// Plain text, documents separated by blank lines, or (`.jsonl`, `.parquet`) rows with a field `text`; every token is
    /// learnt.
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

/// What to do with a row that cannot be used: no JSON, a field missing, no UTF-8, a database missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// Fail, naming file and line.
    #[default]
    Stop,
    /// Leave it out, count it and keep the message.
    Count,
}

/// The prompt form of a task that has one of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Without the slips of the authors' form.
    #[default]
    Clean,
    /// The State-offset paper's, token for token as in the authors' code.
    Paper,
}

/// The language of `prompt` and `completion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TemplateLanguage {
    /// `{name}` is a field, `{{` a brace.
    #[default]
    Fields,
    /// Jinja, as minijinja has it; what is undefined is an error.
    Jinja,
}

/// Which tokens are learnt and scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Those of the completion.
    #[default]
    Completion,
    /// All but the first of the prompt.
    All,
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
    /// Formats with a prompt form of their own: which.
    #[serde(default)]
    pub preset: Preset,
    /// Format spider: `tables.json`, the schemas of the databases.
    #[serde(default)]
    pub tables: Option<PathBuf>,
    /// Format spider: the folder of the databases, `<db_id>/<db_id>.sqlite`. Where it is given, a validation row whose
    /// database is not there cannot be used.
    #[serde(default)]
    pub databases: Option<PathBuf>,
    /// File to train on.
    #[serde(default)]
    pub train: Option<PathBuf>,
    /// File to evaluate on.
    #[serde(default)]
    pub validation: Option<PathBuf>,
    /// Format json, where the file is an object: its key that holds the list of rows.
    #[serde(default)]
    pub rows_key: Option<String>,
    /// The language of `prompt` and `completion`.
    #[serde(default)]
    pub templates: TemplateLanguage,
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
    /// Instead of a template, where there are several right answers: a Jinja expression, such as the name of a field, whose
    /// value is a list of texts. Each makes an example, all are references of an evaluation.
    #[serde(default)]
    pub references: Option<String>,
    /// In an evaluation, rows with the same prompt are one item, their completions its references.
    #[serde(default)]
    pub group_references: bool,
    /// For chats, instead of prompt and completion: the field that holds a list of messages with `role` and `content`.
    #[serde(default)]
    pub messages_field: Option<String>,
    /// The chat template: a Jinja file, or a `tokenizer_config.json` that holds one. Absent: `chat_template.jinja` or
    /// `tokenizer_config.json` beside the tokenizer.
    #[serde(default)]
    pub chat_template: Option<PathBuf>,
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
    /// Which tokens are learnt and scored.
    #[serde(default)]
    pub loss: Loss,
    /// The most tokens of an example, prompt and completion together; the length of a window in format text.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// What to do with longer rows.
    #[serde(default)]
    pub on_too_long: OnTooLong,
    /// What to do with rows that cannot be used.
    #[serde(default)]
    pub on_bad_row: OnBadRow,
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
            preset: Preset::default(),
            tables: None,
            databases: None,
            train: None,
            validation: None,
            rows_key: None,
            templates: TemplateLanguage::default(),
            prompt: None,
            completion: None,
            prompt_field: None,
            completion_field: None,
            references: None,
            group_references: false,
            messages_field: None,
            chat_template: None,
            label_field: None,
            labels: Vec::new(),
            end_of_text: None,
            loss: Loss::default(),
            max_tokens: default_max_tokens(),
            on_too_long: OnTooLong::default(),
            on_bad_row: OnBadRow::default(),
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
}

pub(crate) fn config_error(key: &'static str, expected: &str, found: &str) -> DataError {
    DataError::Config { key, expected: expected.into(), found: found.into(), nearest: None }
}
