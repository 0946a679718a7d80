//! What the fields of a `[data]` configuration may be together: sizes, and that every key given is one its format uses.

use super::{DataConfig, Format, Loss, Preset, TemplateLanguage, config_error};
use crate::Result;

impl DataConfig {
    /// Checks what can be checked without a file: sizes, and that every key given is one this format uses.
    ///
    /// # Errors
    /// Names the key, what it should be and what it is.
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
        self.check_use()?;
        if self.format == Format::Spider && self.tables.is_none() {
            return Err(config_error("tables", "the path of Spider's tables.json", "nothing"));
        }
        if !self.has_templates() || self.messages_field.is_some() {
            return Ok(());
        }
        one_of("prompt", "one of `prompt`, `prompt_field`", &[&self.prompt, &self.prompt_field])?;
        let completions = [&self.completion, &self.completion_field, &self.references, &self.label_field];
        let names = "one of `completion`, `completion_field`, `references`, `label_field`";
        one_of("completion", names, &completions)?;
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

    /// Whether the configuration says what the rows mean.
    pub(crate) fn has_templates(&self) -> bool {
        matches!(self.format, Format::Jsonl | Format::Json | Format::Csv | Format::Parquet)
    }

    /// Fails on the first key that is given and would not be used.
    fn check_use(&self) -> Result<()> {
        let rows = self.has_templates();
        let chat = rows && self.messages_field.is_some();
        let fields = rows && !chat;
        let spider = self.format == Format::Spider;
        let own_form = !rows && self.format != Format::Text;
        // Of examples with a completion, not a class.
        let written = rows && self.label_field.is_none() || own_form && self.format != Format::Glue;
        let given = [
            ("task", self.task.is_some(), self.format == Format::Glue),
            ("preset", self.preset != Preset::default(), own_form),
            ("tables", self.tables.is_some(), spider),
            ("databases", self.databases.is_some(), spider),
            ("rows_key", self.rows_key.is_some(), self.format == Format::Json),
            ("templates", self.templates != TemplateLanguage::default(), fields),
            ("prompt", self.prompt.is_some(), fields),
            ("completion", self.completion.is_some(), fields),
            ("prompt_field", self.prompt_field.is_some(), fields),
            ("completion_field", self.completion_field.is_some(), fields),
            ("references", self.references.is_some(), fields),
            ("group_references", self.group_references, fields && written),
            ("messages_field", self.messages_field.is_some(), rows),
            ("chat_template", self.chat_template.is_some(), chat),
            ("label_field", self.label_field.is_some(), fields),
            ("labels", !self.labels.is_empty(), fields),
            ("end_of_text", self.end_of_text.is_some(), self.format == Format::Text || written),
            ("loss", self.loss != Loss::default(), written),
        ];
        for (key, is_given, is_used) in given {
            if is_given && !is_used {
                return Err(config_error(key, "to be absent: it would not be used here", "a value"));
            }
        }
        Ok(())
    }
}

fn one_of(key: &'static str, expected: &str, given: &[&Option<String>]) -> Result<()> {
    match given.iter().filter(|value| value.is_some()).count() {
        1 => Ok(()),
        count => Err(config_error(key, expected, if count == 0 { "none" } else { "several" })),
    }
}
