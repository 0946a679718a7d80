//! Jinja templates over the fields of a row. What is undefined is an error, and so is writing null: a prompt with a hole
//! in it is never learnt.

use std::collections::HashSet;
use std::path::Path;

use minijinja::syntax::{SyntaxConfig, SyntaxConfigBuilder};
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};

use super::row::Row;
use crate::error::nearest;
use crate::{DataError, Result};

/// Steps that one rendering may take: a template that never ends is an error.
const FUEL: u64 = 10_000_000;

/// Named templates.
#[derive(Debug)]
pub(super) struct Jinja(Environment<'static>);

/// An environment in which nothing is escaped and null cannot be written.
pub(super) fn environment(undefined: UndefinedBehavior) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(undefined);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_formatter(|out, state, value| {
        if value.is_none() {
            return Err(Error::new(ErrorKind::InvalidOperation, "null is to be written"));
        }
        minijinja::escape_formatter(out, state, value)
    });
    environment
}

/// Jinja's own delimiters with other rules about blanks.
pub(super) fn syntax(change: impl FnOnce(&mut SyntaxConfigBuilder) -> &mut SyntaxConfigBuilder) -> SyntaxConfig {
    let mut builder = SyntaxConfig::builder();
    change(&mut builder).build().expect("the usual delimiters")
}

impl Jinja {
    /// The environment of a configuration's templates.
    pub(super) fn new() -> Jinja {
        let mut environment = environment(UndefinedBehavior::Strict);
        // What stands at the end of a prompt is part of it.
        environment.set_syntax(syntax(|syntax| syntax.keep_trailing_newline(true)));
        Jinja(environment)
    }

    /// Adds the template of a key.
    pub(super) fn add(&mut self, key: &'static str, template: &str) -> Result<()> {
        self.0.add_template_owned(key, template.to_owned()).map_err(|error| syntax_error(key, &error))
    }

    /// Fails if the expression of a key is none.
    pub(super) fn check_expression(&self, key: &'static str, expression: &str) -> Result<()> {
        self.0.compile_expression(expression).map(|_| ()).map_err(|error| syntax_error(key, &error))
    }

    /// The text of a template for a row.
    pub(super) fn render(&self, key: &str, row: &Row, file: &Path) -> Result<String> {
        let template = self.0.get_template(key).map_err(|error| syntax_error(key, &error))?;
        let failed = |error| render_error(key, &error, row, file, &template.undeclared_variables(false));
        template.render(context(row)).map_err(failed)
    }

    /// The texts that an expression gives for a row: at least one.
    pub(super) fn texts(&self, key: &'static str, expression: &str, row: &Row, file: &Path) -> Result<Vec<String>> {
        let compiled = self.0.compile_expression(expression).map_err(|error| syntax_error(key, &error))?;
        let failed = |error: Error| render_error(key, &error, row, file, &compiled.undeclared_variables(false));
        let value = compiled.eval(context(row)).map_err(failed)?;
        let wrong = |found: String| {
            row.wrong(key, file, "a list of texts, at least one", found, "correct the row or the expression")
        };
        // An undefined value is lenient about being walked through, and a string is walked through by its letters.
        if value.is_undefined() {
            return Err(failed(Error::from(ErrorKind::UndefinedError)));
        }
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            return Err(wrong(said(&value)));
        }
        let texts = value.try_iter().map_err(failed)?.map(|item| match item.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(wrong(format!("{} in the list", said(&item)))),
        });
        let texts = texts.collect::<Result<Vec<String>>>()?;
        if texts.is_empty() { Err(wrong("an empty list".into())) } else { Ok(texts) }
    }
}

/// A value's kind for messages.
fn said(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "null".into(),
        ValueKind::Undefined => "nothing of that name".into(),
        kind => format!("a {kind}"),
    }
}

/// The fields by their names, and all of them as `row` unless a field has that name.
fn context(row: &Row) -> Value {
    let fields = || row.names.iter().map(String::as_str).zip(row.values.iter().map(|value| Value::from(Serde(value))));
    let whole = Value::from_pairs(fields());
    Value::from_pairs([("row", whole)].into_iter().chain(fields()))
}

/// An error in a template's own text.
pub(super) fn syntax_error(name: &str, error: &Error) -> DataError {
    DataError::Jinja { name: name.into(), line: error.line().unwrap_or(1), problem: said_of(error) }
}

/// An error of a template with a row, which names what the row lacks.
fn render_error(key: &str, error: &Error, row: &Row, file: &Path, variables: &HashSet<String>) -> DataError {
    let mut problem = said_of(error);
    if error.kind() == ErrorKind::UndefinedError {
        let known: HashSet<&str> = row.names.iter().map(String::as_str).collect();
        let mut missing: Vec<&String> =
            variables.iter().filter(|&name| name != "row" && !known.contains(name.as_str())).collect();
        missing.sort();
        for name in missing {
            let near = nearest(name, row.names.iter().map(String::as_str));
            let near = near.map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
            problem += &format!("; the row has no `{name}`{near}");
        }
    }
    failed_row(key, error, problem, row, file)
}

/// An error of a template named `name` with a row.
pub(super) fn failed_row(name: &str, error: &Error, problem: String, row: &Row, file: &Path) -> DataError {
    let template_line = error.line().unwrap_or(1);
    DataError::Render { file: file.into(), line: row.line, name: name.into(), template_line, problem }
}

/// What an error says, without the place.
pub(super) fn said_of(error: &Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}
