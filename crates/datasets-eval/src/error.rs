//! What can go wrong between a file on disk and a batch of token ids. Every message names where, what was expected, what
//! was found and what to do.

use std::path::PathBuf;

/// The crate's result.
pub type Result<T, E = DataError> = std::result::Result<T, E>;

/// A data set could not be read, tokenised or packed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file system refused.
    #[error("{}: {source}; {hint}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// A row has the wrong form (not JSON, too few columns, a broken quote, not UTF-8).
    #[error("{}:{line}: expected {expected}, found {found}; {hint}", file.display())]
    Row {
        /// The file.
        file: PathBuf,
        /// Line the row starts at, from 1.
        line: usize,
        /// What a row should be.
        expected: String,
        /// What is there.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A row lacks a field the configuration asks for.
    #[error("{}:{line}: there is no field `{field}`{}; found {}", file.display(), near(nearest), list(found))]
    MissingField {
        /// The file.
        file: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// The field asked for.
        field: String,
        /// The field there is whose name is nearest.
        nearest: Option<String>,
        /// The fields there are.
        found: Vec<String>,
    },
    /// A field holds something else than it should.
    #[error("{}:{line}: field `{field}` should be {expected}, found {found}; {hint}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// The field.
        field: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A file whose columns are none of the layouts known for its task.
    #[error("{}:1: columns of {task} should be {expected}, found {}; give the task's own file or use format = \"csv\"", file.display(), list(found))]
    Columns {
        /// The file.
        file: PathBuf,
        /// The task.
        task: String,
        /// The layouts known.
        expected: String,
        /// The header's columns.
        found: Vec<String>,
    },
    /// A template with an unclosed brace or an empty placeholder.
    #[error("template `{template}`: {problem} at byte {at}; a field is written {{name}}, a brace itself {{{{ or }}}}")]
    Template {
        /// The template.
        template: String,
        /// What is wrong.
        problem: &'static str,
        /// Where, in bytes.
        at: usize,
    },
    /// A template that is no Jinja.
    #[error("{name}, line {line}: {problem}; correct the template")]
    Jinja {
        /// The key of the configuration, or the template's file.
        name: String,
        /// Line of the template, from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A Jinja template or expression that a row cannot be put into.
    #[error("{}:{line}: {name}, line {template_line}: {problem}; correct the row or the template", file.display())]
    Render {
        /// The file.
        file: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// The key of the configuration, or the template's file.
        name: String,
        /// Line of the template, from 1.
        template_line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The configuration is not usable.
    #[error("data configuration: {key}: expected {expected}, found {found}{}", near(nearest))]
    Config {
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
        /// The known value nearest to the one found.
        nearest: Option<String>,
    },
    /// No example is left.
    #[error("{}: no examples: {rows} rows read, {too_long} longer than max_tokens = {max_tokens}{}; give a file with rows or raise max_tokens", file.display(), unusable(bad_rows))]
    Empty {
        /// The file.
        file: PathBuf,
        /// Rows read.
        rows: usize,
        /// Rows dropped for their length.
        too_long: usize,
        /// The limit.
        max_tokens: usize,
        /// What is wrong with rows that could not be used.
        bad_rows: Vec<String>,
    },
    /// Text for pretraining that does not fill a row.
    #[error(
        "{files}: {tokens} tokens of text, fewer than the {needed} of one row (data.length and the token after it); give more text or lower data.length"
    )]
    TooLittleText {
        /// The files.
        files: String,
        /// Tokens they have.
        tokens: usize,
        /// Tokens of a row and the one after it.
        needed: usize,
    },
    /// A row is longer than the limit and `on_too_long` is "error".
    #[error("{}:{line}: {found} tokens, more than max_tokens = {max_tokens}; raise max_tokens or set on_too_long = \"drop\" (counted, never cut)", file.display())]
    TooLong {
        /// The file.
        file: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// Tokens of the row.
        found: usize,
        /// The limit.
        max_tokens: usize,
    },
    /// A row without a token to learn, or without one to learn it from.
    #[error("{}:{line}: {what} has no tokens; {hint}", file.display())]
    NoTokens {
        /// The file.
        file: PathBuf,
        /// Line of the row, from 1.
        line: usize,
        /// The part that is empty.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// A class whose name is not one token of its own.
    #[error(
        "label `{label}` is {found} tokens of this tokenizer, expected one; rename it in `labels` to something that is a single token (a digit, for one)"
    )]
    LabelTokens {
        /// The class.
        label: String,
        /// How many tokens it takes.
        found: usize,
    },
    /// Two classes that are the same token.
    #[error("labels `{first}` and `{second}` are the same token {token}; every class needs a token of its own")]
    SameLabel {
        /// A class.
        first: String,
        /// Another.
        second: String,
        /// Their token.
        token: u32,
    },
    /// The tokenizer file is unusable, or refused a text.
    #[error("tokenizer {}: {message}; {hint}", file.display())]
    Tokenizer {
        /// The tokenizer's file.
        file: PathBuf,
        /// What the library said.
        message: String,
        /// What to do.
        hint: &'static str,
    },
    /// A packing plan or a metric was asked for something impossible.
    #[error("{what}: expected {expected}, found {found}")]
    Argument {
        /// The argument.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The threads could not be started.
    #[error("the tokenising threads could not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl DataError {
    /// Whether it is about one row, without which the others can be used.
    pub(crate) fn is_of_one_row(&self) -> bool {
        use DataError::{MissingField, NoTokens, Render, Row, Value};
        matches!(self, Row { .. } | MissingField { .. } | Value { .. } | Render { .. } | NoTokens { .. })
    }
}

fn near(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |name| format!(" (did you mean `{name}`?)"))
}

fn unusable(bad_rows: &[String]) -> String {
    bad_rows.first().map_or(String::new(), |first| format!(", some that cannot be used (the first: {first})"))
}

fn list(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "no fields".into() } else { names.join(", ") }
}

/// The name nearest to `asked` by Levenshtein distance, if it is near enough to be a slip.
pub(crate) fn nearest<'a>(asked: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let limit = asked.chars().count().max(3) / 2 + 1;
    let distance = |name: &str| strsim::levenshtein(&asked.to_lowercase(), &name.to_lowercase());
    let best = known.into_iter().map(|name| (distance(name), name)).min()?;
    (best.0 <= limit).then(|| best.1.to_owned())
}
