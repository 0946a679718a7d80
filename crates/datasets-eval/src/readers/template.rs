//! Templates of prompts and completions: text with `{field}` placeholders.

use std::path::Path;

use super::row::Row;
use crate::{DataError, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

impl Template {
    /// The template that is one field.
    pub(crate) fn field(name: &str) -> Template {
        Template(vec![Part::Field(name.into())])
    }

    /// Parses `text`; fails on an unclosed, unopened or empty placeholder.
    pub(crate) fn parse(text: &str) -> Result<Template> {
        let error = |problem, at| DataError::Template { template: text.into(), problem, at };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(offset) = text[at..].find(['{', '}']) {
            let brace = at + offset;
            literal.push_str(&text[at..brace]);
            let (this, rest) = text[brace..].split_at(1);
            if rest.starts_with(this) {
                literal.push_str(this);
                at = brace + 2;
                continue;
            }
            if this == "}" {
                return Err(error("`}` without `{`", brace));
            }
            let length = rest.find(['{', '}']).filter(|&end| rest[end..].starts_with('}'));
            let name = &rest[..length.ok_or_else(|| error("`{` without `}`", brace))?];
            if name.is_empty() {
                return Err(error("`{}` names no field", brace));
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Field(name.into()));
            at = brace + name.len() + 2;
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Template(parts))
    }

    /// The text for a row; fails if the row lacks a field.
    pub(crate) fn render(&self, row: &Row, file: &Path) -> Result<String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Field(name) => text.push_str(&row.get(name, file)?),
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders() {
        let row =
            Row { line: 3, names: vec!["a".into(), "é b".into()].into(), values: vec!["1{a}".into(), "ü".into()] };
        let render = |text: &str| Template::parse(text).unwrap().render(&row, Path::new("x")).unwrap();
        assert_eq!(render("<{a}|{é b}>"), "<1{a}|ü>");
        assert_eq!(render("{{a}} {a}{a}\n"), "{a} 1{a}1{a}\n");
        assert_eq!(render(""), "");
        assert_eq!(Template::field("a").render(&row, Path::new("x")).unwrap(), "1{a}");
    }

    #[test]
    fn refuses_broken_braces() {
        for (text, at) in [("ab {c", 3), ("a}b", 1), ("{}", 0), ("{a{b}", 0), ("ü{", 2)] {
            match Template::parse(text) {
                Err(DataError::Template { at: found, .. }) => assert_eq!(found, at, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
