//! From a row to what it asks: prompt, completion, and what an evaluation of written answers needs.

use std::collections::HashMap;
use std::path::Path;

use super::chat::Chat;
use super::jinja::Jinja;
use super::resources::Resources;
use super::row::{Row, kind};
use super::sieve::Sieve;
use super::template::Template;
use crate::config::config_error;
use crate::tasks::glue::GlueTask;
use crate::tasks::{dart, samsum, spider};
use crate::{DataConfig, Format, Loss, Preset, Result, Split, TemplateLanguage};

/// What a row asks for and expects.
#[derive(Debug)]
pub(super) struct Asked {
    /// Position in the file.
    pub row: usize,
    pub line: usize,
    /// What every prompt begins with; its tokens are its own, whatever follows.
    pub prefix: &'static str,
    /// Prompts and completions, at least one.
    pub pairs: Vec<(String, Completion)>,
    /// What an evaluation holds against the answer to the last prompt; empty for classes.
    pub references: Vec<String>,
    pub database: Option<String>,
}

/// A text, or the class whose token is the answer.
#[derive(Debug)]
pub(super) enum Completion {
    Text(String),
    Class(usize),
}

/// How rows are understood.
#[derive(Debug)]
pub(super) enum Form<'a> {
    Glue(&'static GlueTask),
    Dart(Preset),
    Samsum(Preset),
    Spider(Spider<'a>),
    Rows(Fields<'a>),
    Chat {
        chat: Chat,
        field: &'a str,
        /// Whether everything is learnt.
        all: bool,
    },
}

/// Schemas as they stand in prompts, and the databases that are there, where that is to be checked.
#[derive(Debug)]
pub(super) struct Spider<'a> {
    preset: Preset,
    schemas: HashMap<String, String>,
    databases: Option<(&'a Path, &'a [String])>,
}

/// What the configuration says of rows that have no form of their own.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    jinja: Jinja,
    prompt: Text,
    answer: Answer<'a>,
}

#[derive(Debug)]
enum Text {
    Template(Template),
    /// The Jinja template of this key.
    Jinja(&'static str),
}

#[derive(Debug)]
enum Answer<'a> {
    Completion(Text),
    References(&'a str),
    Label(&'a str, &'a [String]),
}

impl<'a> Form<'a> {
    /// The form of a configuration that has been checked; `None` for running text, which has no rows.
    pub(super) fn new(config: &'a DataConfig, split: Split, resources: &'a Resources) -> Result<Option<Form<'a>>> {
        Ok(Some(match config.format {
            Format::Text => return Ok(None),
            Format::Glue => {
                let name =
                    config.task.as_ref().ok_or_else(|| config_error("task", "the name of a GLUE task", "nothing"))?;
                Form::Glue(GlueTask::named(name)?)
            }
            Format::Dart => Form::Dart(config.preset),
            Format::Samsum => Form::Samsum(config.preset),
            Format::Spider => {
                let databases = config.databases.as_deref().filter(|_| split == Split::Validation);
                Form::Spider(Spider {
                    preset: config.preset,
                    schemas: resources.schemas(config.preset)?,
                    databases: databases.map(|folder| (folder, &resources.databases[..])),
                })
            }
            Format::Jsonl | Format::Json | Format::Csv | Format::Parquet => {
                match (&config.messages_field, &resources.chat) {
                    (Some(field), Some(template)) => {
                        Form::Chat { chat: template.compile()?, field, all: config.loss == Loss::All }
                    }
                    _ => Form::Rows(Fields::new(config)?),
                }
            }
        }))
    }

    /// The names of the classes, in their order; none where the answer is written.
    pub(super) fn classes(&self) -> Vec<String> {
        match self {
            Form::Glue(task) => (0..task.labels.len()).map(|index| task.answer(index)).collect(),
            Form::Rows(Fields { answer: Answer::Label(_, labels), .. }) => labels.to_vec(),
            _ => Vec::new(),
        }
    }

    /// What a row at this position asks. A reference that cannot be used goes to the sieve alone.
    pub(super) fn asked(&self, index: usize, row: &Row, file: &Path, sieve: &mut Sieve) -> Result<Asked> {
        let asked =
            |pairs, references| Asked { row: index, line: row.line, prefix: "", pairs, references, database: None };
        let written = |prompt, answer: &str, reference: &str| {
            asked(vec![(prompt, Completion::Text(answer.into()))], vec![reference.into()])
        };
        match self {
            Form::Glue(task) => {
                let texts: Result<Vec<_>> = task.columns.iter().map(|column| row.get(column, file)).collect();
                let class = class(row, task.label_column, task.labels, file)?;
                Ok(asked(vec![(task.prompt(&texts?), Completion::Class(class))], Vec::new()))
            }
            Form::Dart(preset) => {
                let prompt = dart::prompt(&triples(row, file)?);
                let references = annotations(row, file, sieve)?;
                let pair = |text: &String| (prompt.clone(), Completion::Text(dart::answer(text, *preset).into()));
                let pairs = references.iter().map(pair).collect();
                Ok(Asked { prefix: dart::INSTRUCTION, ..asked(pairs, references) })
            }
            Form::Samsum(preset) => {
                let (dialogue, summary) = (row.get("dialogue", file)?, row.get("summary", file)?);
                Ok(written(samsum::prompt(&dialogue, *preset), samsum::answer(&summary, *preset), &summary))
            }
            Form::Spider(spider) => spider.asked(row, file, written),
            Form::Rows(fields) => {
                // A field that an answer lacks is told first.
                let answers = match &fields.answer {
                    Answer::Completion(text) => vec![fields.text(text, row, file)?],
                    Answer::References(expression) => fields.jinja.texts("references", expression, row, file)?,
                    Answer::Label(field, labels) => {
                        let class = Completion::Class(class(row, field, labels, file)?);
                        return Ok(asked(vec![(fields.text(&fields.prompt, row, file)?, class)], Vec::new()));
                    }
                };
                let prompt = fields.text(&fields.prompt, row, file)?;
                let pair = |text: &String| (prompt.clone(), Completion::Text(text.clone()));
                Ok(asked(answers.iter().map(pair).collect(), answers))
            }
            Form::Chat { chat, field, all } => {
                let turns = chat.turns(field, row, file)?;
                let reference = turns.last().map(|turn| turn.content.clone());
                // All of a chat is learnt with its last turn.
                let before = if *all { turns.len() - 1 } else { 0 };
                let turns = turns.into_iter().skip(before);
                let pairs = turns.map(|turn| (turn.prompt, Completion::Text(turn.completion))).collect();
                Ok(asked(pairs, reference.into_iter().collect()))
            }
        }
    }
}

impl Spider<'_> {
    fn asked(&self, row: &Row, file: &Path, written: impl Fn(String, &str, &str) -> Asked) -> Result<Asked> {
        let (name, query) = (row.get("db_id", file)?, row.get("query", file)?);
        let Some(schema) = self.schemas.get(&*name) else {
            let found = format!("`{name}`");
            return Err(row.wrong("db_id", file, "a database of tables.json", found, "correct the row or the tables"));
        };
        if let Some((folder, there)) = self.databases
            && there.binary_search_by(|known| known.as_str().cmp(&name)).is_err()
        {
            let found = format!("`{name}`, which has no file {name}/{name}.sqlite");
            let expected = format!("a database in {}", folder.display());
            return Err(row.wrong("db_id", file, expected, found, "add the database or leave the row out"));
        }
        let prompt = spider::prompt(&row.get("question", file)?, schema, self.preset);
        let asked = written(prompt, &spider::answer(&query, self.preset), &query);
        Ok(Asked { prefix: spider::instruction(self.preset), database: Some(name.into()), ..asked })
    }
}

impl<'a> Fields<'a> {
    fn new(config: &'a DataConfig) -> Result<Fields<'a>> {
        let mut jinja = Jinja::new();
        let mut text = |key, template: &Option<String>, field: &Option<String>| -> Result<Option<Text>> {
            Ok(match (template, field, config.templates) {
                (Some(template), _, TemplateLanguage::Jinja) => {
                    jinja.add(key, template)?;
                    Some(Text::Jinja(key))
                }
                (Some(template), ..) => Some(Text::Template(Template::parse(template)?)),
                (None, field, _) => field.as_deref().map(|field| Text::Template(Template::field(field))),
            })
        };
        // `check` has made sure that there is exactly one form of each.
        let prompt = text("prompt", &config.prompt, &config.prompt_field)?.expect("a prompt");
        let completion = text("completion", &config.completion, &config.completion_field)?;
        let answer = match (completion, &config.references, &config.label_field) {
            (Some(text), ..) => Answer::Completion(text),
            (None, Some(expression), _) => {
                jinja.check_expression("references", expression)?;
                Answer::References(expression)
            }
            (None, None, field) => Answer::Label(field.as_deref().expect("a label field"), &config.labels),
        };
        Ok(Fields { jinja, prompt, answer })
    }

    fn text(&self, text: &Text, row: &Row, file: &Path) -> Result<String> {
        match text {
            Text::Template(template) => template.render(row, file),
            Text::Jinja(key) => self.jinja.render(key, row, file),
        }
    }
}

/// The class a row names.
fn class<S: AsRef<str>>(row: &Row, field: &str, labels: &[S], file: &Path) -> Result<usize> {
    let value = row.get(field, file)?;
    labels.iter().position(|label| label.as_ref() == value).ok_or_else(|| {
        let known: Vec<String> = labels.iter().map(|label| format!("`{}`", label.as_ref())).collect();
        let expected = format!("one of {}", known.join(", "));
        row.wrong(field, file, expected, format!("`{value}`"), "correct the row or the labels")
    })
}

/// The triples of a row of DART.
fn triples<'a>(row: &'a Row, file: &Path) -> Result<Vec<[&'a str; 3]>> {
    let field = "tripleset";
    let wrong = |found: String| {
        let expected = "triples of texts, at least one";
        row.wrong(field, file, expected, found, "write it as [[\"subject\", \"RELATION\", \"object\"], ...]")
    };
    let value = row.value(field, file)?;
    let triples = value.as_array().ok_or_else(|| wrong(kind(value).into()))?;
    if triples.is_empty() {
        return Err(wrong("an empty list".into()));
    }
    let triple = |(index, value): (usize, &'a serde_json::Value)| {
        let parts = value.as_array().map(|parts| parts.iter().map(|part| part.as_str()).collect::<Vec<_>>());
        match parts.as_deref() {
            Some([Some(subject), Some(relation), Some(object)]) => Ok([*subject, *relation, *object]),
            Some(parts) => Err(wrong(format!(
                "{} texts of {} values as triple {}",
                parts.iter().flatten().count(),
                parts.len(),
                index + 1
            ))),
            None => Err(wrong(format!("{} as triple {}", kind(value), index + 1))),
        }
    };
    triples.iter().enumerate().map(triple).collect()
}

/// The texts of the annotations of a row of DART: at least one.
fn annotations(row: &Row, file: &Path, sieve: &mut Sieve) -> Result<Vec<String>> {
    let field = "annotations";
    let hint = "write it as [{\"text\": ...}, ...]; on_bad_row = \"count\" goes on without";
    let wrong = |found: String| row.wrong(field, file, "annotations with a text each, at least one", found, hint);
    let value = row.value(field, file)?;
    let list = value.as_array().ok_or_else(|| wrong(kind(value).into()))?;
    let mut texts = Vec::with_capacity(list.len());
    for (index, annotation) in list.iter().enumerate() {
        let text = annotation["text"].as_str().map(String::from);
        let text = text.ok_or_else(|| wrong(format!("{} in annotation {}", kind(&annotation["text"]), index + 1)));
        texts.extend(sieve.take(text)?);
    }
    if texts.is_empty() { Err(wrong("none".into())) } else { Ok(texts) }
}
