//! The dictionary of METEOR's third stage: the database files of Princeton's WordNet (formats `wndb(5WN)` and
//! `morphy(7WN)`), read natively.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use crate::{DataError, Result};

/// What a word loses and gains for its base form, by part of speech.
type Endings = &'static [(&'static str, &'static str)];

/// Parts of speech: the names of their files, and their endings (`morphy(7WN)`, with NLTK's "ies" for verbs and "ves" for
/// nouns).
const PARTS: [(&str, Endings); 4] = [
    (
        "noun",
        &[
            ("s", ""),
            ("ses", "s"),
            ("ves", "f"),
            ("xes", "x"),
            ("zes", "z"),
            ("ches", "ch"),
            ("shes", "sh"),
            ("men", "man"),
            ("ies", "y"),
        ],
    ),
    ("verb", &[("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")]),
    ("adj", &[("er", ""), ("est", ""), ("er", "e"), ("est", "e")]),
    ("adv", &[]),
];

/// One part of speech.
#[derive(Debug)]
struct Part {
    /// Offsets of a word's synonym sets.
    index: HashMap<String, Vec<u32>>,
    /// The single words of a set. Sets of compounds only are empty.
    sets: HashMap<u32, Vec<String>>,
    /// Base forms of irregular forms.
    exceptions: HashMap<String, Vec<String>>,
    endings: Endings,
}

/// WordNet in memory: some hundred megabytes for version 3.0.
#[derive(Debug)]
pub struct WordNet {
    parts: Vec<Part>,
}

impl WordNet {
    /// Reads `index.P`, `data.P` and `P.exc` for P in noun, verb, adj, adv from a folder.
    ///
    /// # Errors
    ///
    /// A file is missing, or a line is not of the format.
    pub fn read(folder: &Path) -> Result<WordNet> {
        let parts = PARTS.iter().map(|(name, endings)| Part::read(folder, name, endings));
        Ok(WordNet { parts: parts.collect::<Result<_>>()? })
    }

    /// The single words that share a set with any base form of a word, in any part of speech, written as WordNet writes
    /// them.
    pub fn synonyms(&self, word: &str) -> HashSet<&str> {
        let word = word.to_lowercase();
        let mut found = HashSet::new();
        for part in &self.parts {
            for form in part.base_forms(&word) {
                let offsets = part.index.get(&form).into_iter().flatten();
                let words = offsets.filter_map(|offset| part.sets.get(offset)).flatten();
                found.extend(words.map(String::as_str));
            }
        }
        found
    }
}

/// A file's lines that are not of the licence at its beginning.
struct Lines {
    file: PathBuf,
    text: String,
}

impl Lines {
    fn read(file: PathBuf) -> Result<Lines> {
        let hint = "METEOR's dictionary is a folder with WordNet's files index.noun, data.noun, noun.exc and so on";
        let bytes = std::fs::read(&file).map_err(|source| DataError::Io { file: file.clone(), source, hint })?;
        // Words are ASCII; the glosses, which are not used, need not be UTF-8.
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Lines { file, text })
    }

    /// What `read` makes of every line's words.
    fn each(
        &self,
        expected: &'static str,
        mut read: impl FnMut(&mut dyn Iterator<Item = &str>) -> Option<()>,
    ) -> Result<()> {
        for (i, line) in self.text.lines().enumerate().filter(|(_, line)| !line.starts_with("  ") && !line.is_empty()) {
            if read(&mut line.split_ascii_whitespace()).is_none() {
                return Err(DataError::Row {
                    file: self.file.clone(),
                    line: i + 1,
                    expected: expected.into(),
                    found: format!("`{}`", line.chars().take(60).collect::<String>()),
                    hint: "give the unchanged database files of WordNet 3",
                });
            }
        }
        Ok(())
    }
}

impl Part {
    fn read(folder: &Path, name: &str, endings: Endings) -> Result<Part> {
        let mut sets = HashMap::new();
        let data = Lines::read(folder.join(format!("data.{name}")))?;
        data.each("a synonym set: offset, file, type, number of words, words", |parts| {
            let offset: u32 = parts.next()?.parse().ok()?;
            let count = usize::from_str_radix(parts.nth(2)?, 16).ok()?;
            let mut words = Vec::new();
            for _ in 0..count {
                // An adjective may carry where it can stand: "galore(ip)".
                let word = parts.next()?.split('(').next()?;
                if !word.contains('_') {
                    words.push(word.to_owned());
                }
                // The number of its sense in its file.
                parts.next()?;
            }
            sets.insert(offset, words);
            Some(())
        })?;

        let mut index = HashMap::new();
        let lines = Lines::read(folder.join(format!("index.{name}")))?;
        lines.each("a word: word, part of speech, numbers, offsets of its sets in the data file", |parts| {
            let word = parts.next()?;
            let count: usize = parts.nth(1)?.parse().ok()?;
            let pointers: usize = parts.next()?.parse().ok()?;
            // Pointers, then two counts.
            let offsets = parts.skip(pointers + 2).map(|offset| offset.parse().ok().filter(|at| sets.contains_key(at)));
            let offsets: Vec<u32> = offsets.collect::<Option<_>>()?;
            (offsets.len() == count).then_some(())?;
            index.insert(word.to_owned(), offsets);
            Some(())
        })?;

        let mut exceptions: HashMap<String, Vec<String>> = HashMap::new();
        Lines::read(folder.join(format!("{name}.exc")))?.each("a form and its base forms", |parts| {
            let form = parts.next()?;
            exceptions.insert(form.to_owned(), parts.map(str::to_owned).collect());
            Some(())
        })?;
        Ok(Part { index, sets, exceptions, endings })
    }

    /// The word itself, and what the exceptions or else the endings make of it; the index knows which of them are words.
    fn base_forms(&self, word: &str) -> Vec<String> {
        let mut forms = vec![word.to_owned()];
        match self.exceptions.get(word) {
            Some(bases) => forms.extend(bases.iter().cloned()),
            None => {
                let stems = self.endings.iter().filter_map(|(old, new)| Some((word.strip_suffix(old)?, new)));
                forms.extend(stems.map(|(stem, new)| format!("{stem}{new}")));
            }
        }
        forms
    }
}
