//! Chats: a list of messages to prompts and completions, by the chat template that a model comes with.
//!
//! Every message of the assistant is a completion; its prompt is the template's text of the messages before it. A
//! published template writes whole conversations, so the completion is what its text with the message adds to the text
//! without.

use std::path::{Path, PathBuf};

use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use serde_json::Value as Json;

use super::jinja::{environment, failed_row, said_of, syntax, syntax_error};
use super::row::{Row, kind};
use crate::config::config_error;
use crate::{DataConfig, DataError, Result, Tokenizer};

const NAME: &str = "chat_template";
/// The role whose messages are learnt.
const ASSISTANT: &str = "assistant";

/// A chat template with the tokens it may write.
#[derive(Debug, Default)]
pub(super) struct ChatTemplate {
    source: String,
    /// Names such as `eos_token` and their texts.
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// The template that a configuration names, else the one beside the tokenizer.
    pub(super) fn find(config: &DataConfig, tokenizer: &Tokenizer) -> Result<ChatTemplate> {
        let beside = |name: &str| tokenizer.file().with_file_name(name);
        let settings_file = match &config.chat_template {
            Some(file) if is_json(file) => file.clone(),
            _ => beside("tokenizer_config.json"),
        };
        let settings = if settings_file.is_file() { Some(settings(&settings_file)?) } else { None };
        let file: Option<PathBuf> = match &config.chat_template {
            Some(file) => Some(file.clone()).filter(|file| !is_json(file)),
            None => Some(beside("chat_template.jinja")).filter(|file| file.is_file()),
        };
        let tokens = settings.as_ref().map_or_else(Vec::new, special_tokens);
        if let Some(file) = file {
            return Ok(ChatTemplate { source: text_of(&file)?, tokens });
        }
        match settings.as_ref().and_then(|settings| template_in(&settings[NAME])) {
            Some(source) => Ok(ChatTemplate { source, tokens }),
            None => Err(config_error(
                NAME,
                "a Jinja file, or a tokenizer_config.json that holds a chat template",
                &format!("none in {}", settings_file.display()),
            )),
        }
    }

    /// All that its text depends on, for the cache.
    pub(super) fn fingerprint(&self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }

    /// The template made ready for rows.
    pub(super) fn compile(&self) -> Result<Chat> {
        // As the library that templates are published for does: a tag's line leaves nothing behind, and what is undefined is
        // false, though it cannot be written.
        let mut environment = environment(UndefinedBehavior::SemiStrict);
        environment.set_syntax(syntax(|syntax| syntax.trim_blocks(true).lstrip_blocks(true)));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        for (name, text) in &self.tokens {
            environment.add_global(name.clone(), text.clone());
        }
        environment.add_template_owned(NAME, self.source.clone()).map_err(|error| syntax_error(NAME, &error))?;
        Ok(Chat(environment))
    }
}

fn is_json(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

fn text_of(file: &Path) -> Result<String> {
    let hint = "give a readable chat template, UTF-8";
    std::fs::read_to_string(file).map_err(|source| DataError::Io { file: file.into(), source, hint })
}

fn settings(file: &Path) -> Result<Json> {
    serde_json::from_str(&text_of(file)?).map_err(|cause| DataError::Row {
        file: file.into(),
        line: cause.line(),
        expected: "JSON".into(),
        found: format!("a mistake ({cause})"),
        hint: "give the tokenizer_config.json of the model",
    })
}

/// The template of a `tokenizer_config.json`: a text, or the one named "default" of several.
fn template_in(value: &Json) -> Option<String> {
    let named = |list: &Vec<Json>| {
        list.iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str().map(String::from))
    };
    value.as_str().map(String::from).or_else(|| value.as_array().and_then(named))
}

/// `bos_token` and the like: texts, or objects with the text in `content`.
fn special_tokens(settings: &Json) -> Vec<(String, String)> {
    let entries = settings.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"));
    let text = |value: &Json| value.as_str().or_else(|| value["content"].as_str()).map(String::from);
    entries.filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
}

/// A chat template, compiled.
#[derive(Debug)]
pub(super) struct Chat(Environment<'static>);

/// A message of the assistant, with all that comes before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// The conversation up to the message.
    pub prompt: String,
    /// What the template writes for the message, its end included.
    pub completion: String,
    /// The message itself.
    pub content: String,
}

impl Chat {
    /// The turns of the assistant, in order: at least one.
    pub(super) fn turns(&self, field: &str, row: &Row, file: &Path) -> Result<Vec<Turn>> {
        let hint = "write messages as objects with `role` and `content`";
        let expected = "a list of messages";
        let Json::Array(messages) = row.value(field, file)? else {
            return Err(row.wrong(field, file, expected, kind(row.value(field, file)?), hint));
        };
        let mut turns = Vec::new();
        for (index, message) in messages.iter().enumerate() {
            let part = |name: &str| {
                let text = message[name].as_str();
                text.ok_or_else(|| {
                    let found = format!("{} as `{name}` of message {}", kind(&message[name]), index + 1);
                    row.wrong(field, file, expected, found, hint)
                })
            };
            if part("role")? != ASSISTANT {
                continue;
            }
            let content = part("content")?.to_owned();
            let prompt = self.render(&messages[..index], true, row, file)?;
            let whole = self.render(&messages[..=index], false, row, file)?;
            let Some(completion) = whole.strip_prefix(&prompt) else {
                let found = format!("another text before message {} than without it", index + 1);
                let expected = "messages that the chat template writes one after the other";
                return Err(row.wrong(field, file, expected, found, "use a template that only adds"));
            };
            turns.push(Turn { completion: completion.to_owned(), prompt, content });
        }
        if turns.is_empty() {
            let found = format!("{} of other roles", messages.len());
            return Err(row.wrong(field, file, "a message of the role `assistant`", found, "remove the row"));
        }
        Ok(turns)
    }

    fn render(&self, messages: &[Json], add_generation_prompt: bool, row: &Row, file: &Path) -> Result<String> {
        let messages = Value::from(Serde(messages));
        let template = self.0.get_template(NAME).map_err(|error| syntax_error(NAME, &error))?;
        let rendered = template.render(context! { messages, add_generation_prompt });
        rendered.map_err(|error| failed_row(NAME, &error, said_of(&error), row, file))
    }
}
