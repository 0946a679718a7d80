//! Reading one split: file to rows, rows to prompts and completions, those to tokens, with the cache in front.

use std::path::Path;

use super::documents::{documents, windows};
use super::row::Row;
use super::template::Template;
use super::{source, table};
use crate::cache::Entry;
use crate::config::config_error;
use crate::tasks::glue::GlueTask;
use crate::tokenizer::END_OF_TEXT;
use crate::{
    ClassLabel, Counts, DataConfig, DataError, Dataset, Example, Format, OnTooLong, Pool, Result, Split, Tokenizer,
    Watch,
};

/// Reads and tokenises a split, or takes it from the cache in the folder `cache` if it is there and whole.
///
/// Prompt and completion are encoded each on its own and stand end to end; the targets are the completion's tokens.
/// Fails, naming file and line, on a row it cannot use; rows longer than `max_tokens` are dropped and counted, or fail,
/// as `on_too_long` says. The result does not depend on the number of threads in `pool`.
pub fn load(
    config: &DataConfig,
    split: Split,
    tokenizer: &Tokenizer,
    pool: &Pool,
    cache: Option<&Path>,
) -> Result<Dataset> {
    load_watched(config, split, tokenizer, pool, cache, &|_, _| {})
}

/// [`load`] with somebody to watch how many rows are tokenised.
pub fn load_watched(
    config: &DataConfig,
    split: Split,
    tokenizer: &Tokenizer,
    pool: &Pool,
    cache: Option<&Path>,
    watch: Watch<'_>,
) -> Result<Dataset> {
    config.check()?;
    let file = config.file(split)?;
    let bytes = source::read(file)?;
    let entry = cache.map(|folder| Entry::new(folder, tokenizer.digest(), &bytes, config, split));
    if let Some(dataset) = entry.as_ref().and_then(Entry::read) {
        return Ok(dataset);
    }
    let text = table::decode(&bytes, file)?;
    let source = Source { config, file, tokenizer, pool, watch, limit: config.limit.unwrap_or(usize::MAX) };
    let dataset = match config.format {
        Format::Glue => source.glue(text)?,
        Format::Jsonl => source.rows(&table::json_rows(text, file, source.limit)?)?,
        Format::Csv => source.rows(&table::csv_rows(text, file, source.limit)?)?,
        Format::Text => source.text(text)?,
    };
    if dataset.examples.is_empty() {
        let Counts { rows, too_long, .. } = dataset.counts;
        return Err(DataError::Empty { file: file.into(), rows, too_long, max_tokens: config.max_tokens });
    }
    if let Some(entry) = entry {
        entry.write(&dataset)?;
    }
    Ok(dataset)
}

struct Source<'a> {
    config: &'a DataConfig,
    file: &'a Path,
    tokenizer: &'a Tokenizer,
    pool: &'a Pool,
    watch: Watch<'a>,
    limit: usize,
}

/// What a row asks for and expects; a class stands for its token.
struct Task {
    line: usize,
    prompt: String,
    completion: Completion,
}

enum Completion {
    Text(String),
    Class(usize),
}

impl Source<'_> {
    fn glue(&self, text: &str) -> Result<Dataset> {
        let name =
            self.config.task.as_ref().ok_or_else(|| config_error("task", "the name of a GLUE task", "nothing"))?;
        let task = GlueTask::named(name)?;
        let rows = table::glue_rows(text, self.file, task, self.limit)?;
        let tasks = rows.iter().map(|row| {
            let texts: Result<Vec<&str>> = task.columns.iter().map(|column| row.get(column, self.file)).collect();
            let class = self.class(row, task.label_column, task.labels)?;
            Ok(Task { line: row.line, prompt: task.prompt(&texts?), completion: Completion::Class(class) })
        });
        let answers: Vec<String> = (0..task.labels.len()).map(|index| task.answer(index)).collect();
        self.tokenise(&tasks.collect::<Result<Vec<Task>>>()?, self.classes(&answers)?)
    }

    fn rows(&self, rows: &[Row]) -> Result<Dataset> {
        let config = self.config;
        let template = |text: &Option<String>, field: &Option<String>| match (text, field) {
            (Some(text), _) => Template::parse(text).map(Some),
            (None, field) => Ok(field.as_deref().map(Template::field)),
        };
        // `check` has made sure that there is exactly one form of each.
        let prompt = template(&config.prompt, &config.prompt_field)?.expect("a prompt");
        let completion = template(&config.completion, &config.completion_field)?;
        let tasks = rows.iter().map(|row| {
            let completion = match (&completion, &config.label_field) {
                (Some(template), _) => Completion::Text(template.render(row, self.file)?),
                (None, field) => {
                    Completion::Class(self.class(row, field.as_deref().expect("a label field"), &config.labels)?)
                }
            };
            Ok(Task { line: row.line, prompt: prompt.render(row, self.file)?, completion })
        });
        self.tokenise(&tasks.collect::<Result<Vec<Task>>>()?, self.classes(&config.labels)?)
    }

    /// The class a row names.
    fn class<S: AsRef<str>>(&self, row: &Row, field: &str, labels: &[S]) -> Result<usize> {
        let value = row.get(field, self.file)?;
        labels.iter().position(|label| label.as_ref() == value).ok_or_else(|| DataError::Value {
            file: self.file.into(),
            line: row.line,
            field: field.into(),
            expected: format!(
                "one of {}",
                labels.iter().map(|label| format!("`{}`", label.as_ref())).collect::<Vec<_>>().join(", ")
            ),
            found: format!("`{value}`"),
            hint: "correct the row or the labels",
        })
    }

    /// The classes with their tokens: one each, all different.
    fn classes(&self, names: &[String]) -> Result<Vec<ClassLabel>> {
        let mut classes: Vec<ClassLabel> = Vec::with_capacity(names.len());
        for name in names {
            let [token] = self.tokenizer.encode(name)?[..] else {
                let found = self.tokenizer.encode(name)?.len();
                return Err(DataError::LabelTokens { label: name.clone(), found });
            };
            if let Some(other) = classes.iter().find(|class| class.token == token) {
                return Err(DataError::SameLabel { first: other.name.clone(), second: name.clone(), token });
            }
            classes.push(ClassLabel { name: name.clone(), token });
        }
        Ok(classes)
    }

    /// The token that ends a text, if any.
    fn end_of_text(&self) -> Result<Option<u32>> {
        end_of_text(self.config.end_of_text.as_deref(), self.tokenizer)
    }

    fn no_tokens(&self, line: usize, what: &'static str, hint: &'static str) -> DataError {
        DataError::NoTokens { file: self.file.into(), line, what, hint }
    }

    /// Tokens of every row in order; the first row that cannot be used fails.
    fn tokenise(&self, tasks: &[Task], classes: Vec<ClassLabel>) -> Result<Dataset> {
        let end = self.end_of_text()?;
        let encode = |index: usize| {
            let task = &tasks[index];
            let mut tokens = self.tokenizer.encode(&task.prompt)?;
            let labelled_from = tokens.len();
            let class = match &task.completion {
                Completion::Class(class) => {
                    tokens.push(classes[*class].token);
                    Some(*class)
                }
                Completion::Text(text) => {
                    tokens.extend(self.tokenizer.encode(text)?);
                    None
                }
            };
            if labelled_from == 0 {
                return Err(self.no_tokens(
                    task.line,
                    "the prompt",
                    "the model needs a token to start from; correct the row",
                ));
            }
            if tokens.len() == labelled_from {
                return Err(self.no_tokens(
                    task.line,
                    "the completion",
                    "there is nothing to learn from it; correct or remove the row",
                ));
            }
            // A template may have written the end itself.
            tokens.extend(end.filter(|end| class.is_none() && tokens.last() != Some(end)));
            Ok(Example { id: index as u64, tokens, labelled_from, class })
        };
        let examples = self.pool.map_watched(tasks.len(), encode, self.watch)?;
        let lines = tasks.iter().map(|task| task.line);
        self.select(examples, lines, classes)
    }

    /// Leaves out what is too long, and counts.
    fn select(
        &self,
        examples: Vec<Example>,
        lines: impl Iterator<Item = usize>,
        classes: Vec<ClassLabel>,
    ) -> Result<Dataset> {
        let max_tokens = self.config.max_tokens;
        let longest = examples.iter().map(|example| example.tokens.len()).max().unwrap_or(0);
        let rows = examples.len();
        let mut kept = Vec::with_capacity(rows);
        for (example, line) in examples.into_iter().zip(lines) {
            let found = example.tokens.len();
            if found <= max_tokens {
                kept.push(example);
            } else if self.config.on_too_long == OnTooLong::Error {
                return Err(DataError::TooLong { file: self.file.into(), line, found, max_tokens });
            }
        }
        let counts = Counts { rows, kept: kept.len(), too_long: rows - kept.len(), max_tokens: longest };
        Ok(Dataset { examples: kept, classes, counts })
    }

    /// Windows of documents: nothing is dropped, every token but a document's first is a target once.
    fn text(&self, text: &str) -> Result<Dataset> {
        let end = self.end_of_text()?;
        let documents = documents(text, self.file, self.limit)?;
        let encode = |index: usize| {
            let (line, document) = &documents[index];
            let mut tokens = self.tokenizer.encode(document)?;
            if tokens.is_empty() {
                return Err(self.no_tokens(*line, "the document", "remove it"));
            }
            tokens.extend(end.filter(|end| tokens.last() != Some(end)));
            match tokens.len() {
                1 => Err(self.no_tokens(
                    *line,
                    "the document after its first",
                    "there is nothing to predict in it; remove it",
                )),
                _ => Ok(tokens),
            }
        };
        let encoded = self.pool.map_watched(documents.len(), encode, self.watch)?;
        let cut = encoded.iter().flat_map(|tokens| windows(tokens, self.config.max_tokens)).enumerate();
        let example = |(id, window): (usize, &[u32])| Example {
            id: id as u64,
            tokens: window.to_vec(),
            labelled_from: 1,
            class: None,
        };
        let examples: Vec<Example> = cut.map(example).collect();
        let longest = encoded.iter().map(Vec::len).max().unwrap_or(0);
        let counts = Counts { rows: documents.len(), kept: examples.len(), too_long: 0, max_tokens: longest };
        Ok(Dataset { examples, classes: Vec::new(), counts })
    }
}

/// The token that a configuration says ends a text: by name, `<|endoftext|>` where none is named and the tokenizer has
/// it, none for "".
pub(super) fn end_of_text(configured: Option<&str>, tokenizer: &Tokenizer) -> Result<Option<u32>> {
    match configured {
        Some("") => Ok(None),
        None => Ok(tokenizer.token(END_OF_TEXT)),
        Some(name) => match tokenizer.token(name) {
            Some(token) => Ok(Some(token)),
            None => {
                Err(config_error("end_of_text", "a token of the tokenizer, or \"\" for none", &format!("\"{name}\"")))
            }
        },
    }
}
