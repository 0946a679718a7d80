//! Names on the hub: `hf://OWNER/NAME[@REVISION][/PATH]` for models, `hf://datasets/OWNER/NAME[@REVISION]/PATH` for data.
//!
//! A revision is a branch, a tag or a commit; `main` where there is none. It ends at the next `/`, but for those that begin
//! with `refs/` and have three parts (`refs/pr/7`, `refs/convert/parquet`). Once it is known which commit a branch or tag
//! stands for, the name says both: `@main:COMMIT`, which `git` permits in no name of its own.

use std::fmt;
use std::path::{Path, PathBuf};

use super::HubError;

/// What every name begins with.
pub const SCHEME: &str = "hf://";
/// The revision of a name without one.
pub const MAIN: &str = "main";

/// The kinds of repositories that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Models, and adapters.
    Model,
    /// Data sets.
    Dataset,
}

/// A repository, or a file or folder in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// What the repository holds.
    pub kind: Kind,
    /// `OWNER/NAME`.
    pub repository: String,
    /// Branch or tag; `None` where only a commit is named, or nothing.
    pub revision: Option<String>,
    /// The commit: 40 digits.
    pub commit: Option<String>,
    /// Path in the repository; empty: all of it.
    pub path: String,
}

/// Whether a path is a name on the hub. No other is ever looked up there.
pub fn is_name(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.starts_with(SCHEME))
}

/// Whether this is how the hub writes a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a path in a repository leads to a place inside it, on every system.
pub(super) fn is_inside(path: &str) -> bool {
    let odd = |c: char| c == '\\' || c == ':' || c.is_control();
    !path.contains(odd) && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

impl Name {
    /// Reads a name.
    ///
    /// # Errors
    /// It is not of the form above; the part that is not is named.
    pub fn parse(text: &str) -> Result<Name, HubError> {
        let wrong = |problem: String| HubError::Name { name: text.into(), problem };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong(format!("it does not begin with {SCHEME}")))?;
        let (kind, rest) = match rest.strip_prefix("datasets/") {
            Some(rest) => (Kind::Dataset, rest),
            None => (Kind::Model, rest),
        };
        let mut parts = rest.splitn(3, '/');
        let owner = parts.next().unwrap_or_default();
        if owner == "spaces" {
            return Err(wrong("spaces are not read".into()));
        }
        let Some(second) = parts.next() else { return Err(wrong("the owner and the name are two parts".into())) };
        let mut path = parts.next().unwrap_or_default();
        let (name, revision) = match second.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (second, None),
        };
        let mut revision = revision.map(str::to_owned);
        if revision.as_deref() == Some("refs") {
            let mut more = path.splitn(3, '/');
            let (group, last) = (more.next().unwrap_or_default(), more.next().unwrap_or_default());
            revision = Some(format!("refs/{group}/{last}"));
            path = more.next().unwrap_or_default();
        }
        let well = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !part.is_empty() && part.chars().all(known) && !part.starts_with(['-', '.']) && !part.contains("..")
        };
        if let Some(part) = [owner, name].into_iter().find(|part| !well(part)) {
            return Err(wrong(format!("`{part}` is no owner's or repository's name")));
        }
        let (revision, commit) = match revision {
            Some(revision) => match revision.split_once(':') {
                Some((_, commit)) if !is_commit(commit) => return Err(wrong(format!("`{commit}` is no commit"))),
                Some((revision, commit)) => (Some(revision.to_owned()), Some(commit.to_owned())),
                None if is_commit(&revision) => (None, Some(revision)),
                None => (Some(revision), None),
            },
            None => (None, None),
        };
        let odd = |c: char| " ~^?*[@".contains(c);
        if let Some(revision) = revision.as_ref().filter(|text| !is_inside(text) || text.contains(odd)) {
            return Err(wrong(format!("`{revision}` is no revision")));
        }
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && !is_inside(path) {
            return Err(wrong(format!("`{path}` is no path in a repository")));
        }
        Ok(Name { kind, repository: format!("{owner}/{name}"), revision, commit, path: path.into() })
    }

    /// The revision asked for: the commit, the branch or tag, or `main`.
    pub fn asked(&self) -> &str {
        self.commit.as_deref().or(self.revision.as_deref()).unwrap_or(MAIN)
    }

    /// The same place with the commit that its revision stands for.
    pub fn at(&self, commit: &str) -> Name {
        let revision = match &self.commit {
            Some(_) => self.revision.clone(),
            None => Some(self.revision.clone().unwrap_or_else(|| MAIN.into())),
        };
        Name { revision, commit: Some(commit.into()), ..self.clone() }
    }

    /// Another file or folder of the same repository, at the same commit.
    pub fn with_path(&self, path: &str) -> Name {
        Name { path: path.into(), ..self.clone() }
    }

    /// A path below this one, in the repository.
    pub fn below(&self, path: &str) -> String {
        if self.path.is_empty() { path.into() } else { format!("{}/{path}", self.path) }
    }

    /// Whether this name, as it was recorded with its commit, is what `asked` stood for then: the same place, and the
    /// same branch, tag or commit.
    pub fn answers(&self, asked: &Name) -> bool {
        let place = |name: &Name| (name.kind, name.repository.clone(), name.path.clone());
        let revision = |name: &Name| name.revision.clone().unwrap_or_else(|| MAIN.into());
        place(self) == place(asked)
            && match &asked.commit {
                Some(commit) => self.commit.as_ref() == Some(commit),
                None => revision(self) == revision(asked),
            }
    }

    /// The repository for messages, such as `data set OWNER/NAME`.
    pub fn what(&self) -> String {
        let kind = if self.kind == Kind::Dataset { "data set" } else { "model" };
        format!("{kind} {}", self.repository)
    }

    /// The name as a path, as configurations have it.
    pub fn to_path(&self) -> PathBuf {
        self.to_string().into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        write!(f, "{SCHEME}{kind}{}", self.repository)?;
        match (&self.revision, &self.commit) {
            (Some(revision), Some(commit)) => write!(f, "@{revision}:{commit}")?,
            (Some(revision), None) => write!(f, "@{revision}")?,
            (None, Some(commit)) => write!(f, "@{commit}")?,
            (None, None) => {}
        }
        if self.path.is_empty() { Ok(()) } else { write!(f, "/{}", self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn names_are_written_as_they_are_read() {
        let parts = |text: &str| {
            let name = Name::parse(text).unwrap();
            assert_eq!(name.to_string(), text);
            (name.kind, name.repository, name.revision, name.commit, name.path)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parts("hf://o/n"), (Kind::Model, "o/n".into(), None, None, "".into()));
        assert_eq!(parts("hf://o/n.1/a/b"), (Kind::Model, "o/n.1".into(), None, None, "a/b".into()));
        assert_eq!(parts("hf://o/n@v1/a"), (Kind::Model, "o/n".into(), some("v1"), None, "a".into()));
        assert_eq!(
            parts(&format!("hf://o/n@v1:{COMMIT}/a")),
            (Kind::Model, "o/n".into(), some("v1"), some(COMMIT), "a".into())
        );
        assert_eq!(
            parts(&format!("hf://datasets/o/n@{COMMIT}/a.csv")),
            (Kind::Dataset, "o/n".into(), None, some(COMMIT), "a.csv".into())
        );
        assert_eq!(
            parts("hf://datasets/o/n@refs/convert/parquet/default/0.parquet"),
            (Kind::Dataset, "o/n".into(), some("refs/convert/parquet"), None, "default/0.parquet".into())
        );
        assert_eq!(Name::parse("hf://o/n/a/").unwrap().path, "a");
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (text, part) in [
            ("o/n", "does not begin"),
            ("hf://gpt2", "two parts"),
            ("hf://datasets/glue", "two parts"),
            ("hf:///n", "`` is no owner's"),
            ("hf://o/..", "`..` is no owner's"),
            ("hf://spaces/o/n", "spaces"),
            ("hf://o/n@", "`` is no revision"),
            ("hf://o/n@a b", "`a b` is no revision"),
            ("hf://o/n@refs/pr", "`refs/pr/` is no revision"),
            ("hf://o/n@main:123", "`123` is no commit"),
            ("hf://o/n/a/../../b", "no path in a repository"),
            ("hf://o/n//a", "no path in a repository"),
            ("hf://o/n/a\\b", "no path in a repository"),
        ] {
            let error = Name::parse(text).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("hf://OWNER/NAME[@REVISION]"), "{text}: {error}");
        }
    }

    #[test]
    fn a_recorded_name_answers_what_it_was_made_of() {
        let name = |text: &str| Name::parse(text).unwrap();
        let other = "89abcdef0123456789abcdef0123456789abcdef";
        let recorded = name("hf://o/n/a").at(COMMIT);
        assert_eq!(recorded.to_string(), format!("hf://o/n@main:{COMMIT}/a"));
        let same =
            ["hf://o/n/a".into(), "hf://o/n@main/a".into(), format!("hf://o/n@{COMMIT}/a"), recorded.to_string()];
        assert!(same.iter().all(|text| recorded.answers(&name(text))));
        let others = ["hf://o/n/b".into(), "hf://o/m/a".into(), "hf://datasets/o/n/a".into(), "hf://o/n@v1/a".into()];
        assert!(others.iter().all(|text: &String| !recorded.answers(&name(text))));
        assert!(!recorded.answers(&name(&format!("hf://o/n@{other}/a"))));
    }
}
