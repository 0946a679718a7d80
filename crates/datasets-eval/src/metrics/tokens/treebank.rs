//! The words of METEOR: the Penn Treebank's conventions (Robert MacIntyre's script) with the changes of NLTK 3.9's
//! `word_tokenize`.
//!
//! The rules are an ordered table, each applied to the whole text before the next: a mark is separated by spaces put around
//! it, and at the end the text is cut at white space.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::punkt::sentences;
use super::python::{self, is_space, is_word};

/// A pattern and what replaces it; `$1` is its first group.
type Rule = (&'static str, &'static str);

/// Quotes that open, before anything else changes what stands around them.
const OPENING: [Rule; 4] = [("[«“‘„]|`+", " $0 "), ("^\"", "``"), ("``", " `` "), ("([ (\\[{<])(?:\"|'')", "$1 `` ")];

/// Punctuation. The white space of the last period's rules has Python's extra characters; `$` there may stand before a
/// line end, which that white space takes in.
const PUNCTUATION: [Rule; 11] = [
    (r#"([^.])(\.)([\])}>"'»”’ ]*)[\s\x1c-\x1f]*$"#, "$1 $2 $3 "),
    (r"([:,])([^\d])", " $1 $2"),
    (r"[:,]$", " $0 "),
    (r"\.{2,}", " $0 "),
    (r"[;@#$%&]", " $0 "),
    (r#"([^.])(\.)([\])}>"']*)[\s\x1c-\x1f]*$"#, "$1 $2$3 "),
    (r"[?!]", " $0 "),
    (r"([^'])' ", "$1 ' "),
    (r"\*", " $0 "),
    (r"[\]\[(){}<>]", " $0 "),
    (r"--", " -- "),
];

/// Quotes that close, then what an apostrophe joins to a word.
const CLOSING: [Rule; 6] = [
    ("[»”’]", " $0 "),
    ("''", " '' "),
    ("\"", " '' "),
    (r"[\s\x1c-\x1f]+", " "),
    (r"([^' ])('[sS]|'[mM]|'[dD]|') ", "$1 $2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
];

/// Words written as one, cut behind so many characters. The last two want a space before them, the one marked a space
/// behind.
const JOINED: [(&str, usize); 10] = [
    ("cannot", 3),
    ("d'ye", 1),
    ("gimme", 3),
    ("gonna", 3),
    ("gotta", 3),
    ("lemme", 3),
    ("more'n", 4),
    ("wanna", 3),
    ("'tis", 2),
    ("'twas", 2),
];

static COMPILED: LazyLock<[Vec<(Regex, &'static str)>; 3]> = LazyLock::new(|| {
    let compile = |rules: &[Rule]| -> Vec<(Regex, &'static str)> {
        rules.iter().map(|(pattern, by)| (Regex::new(pattern).expect("a valid pattern"), *by)).collect()
    };
    [compile(&OPENING), compile(&PUNCTUATION), compile(&CLOSING)]
});

/// NLTK's `word_tokenize`: English sentences, then the words of each.
pub fn word_tokenize(text: &str) -> Vec<String> {
    sentences(text).iter().flat_map(|sentence| word_tokenize_preserve_line(sentence)).collect()
}

/// The same without cutting sentences (`preserve_line=True`): only the last period of the text stands alone.
pub fn word_tokenize_preserve_line(text: &str) -> Vec<String> {
    let [opening, punctuation, closing] = &*COMPILED;
    let text = apply(opening, text.to_owned());
    let text = apply(punctuation, quotes_before_letters(&text));
    let mut text = apply(closing, format!(" {text} "));
    for (word, cut) in JOINED {
        text = separated(text, word, cut);
    }
    python::split(&text).map(str::to_owned).collect()
}

fn apply(rules: &[(Regex, &str)], mut text: String) -> String {
    for (pattern, by) in rules {
        if let Cow::Owned(changed) = pattern.replace_all(&text, *by) {
            text = changed;
        }
    }
    text
}

/// A space behind an apostrophe before a single letter or digit, unless that is one of the endings 'm, 't, 's, 'd, 'n.
fn quotes_before_letters(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        out.push(c);
        let mut ahead = rest.clone();
        let (letter, behind) = (ahead.next(), ahead.next());
        let Some(letter) = letter.filter(|letter| c == '\'' && is_word(*letter)) else { continue };
        let ending = letter.to_uppercase().next().is_some_and(|upper| "MTSDN".contains(upper));
        if !ending && !behind.is_some_and(is_word) {
            out.extend([' ', letter]);
            rest.next();
        }
    }
    out
}

/// Spaces around both halves of a joined word, in any case, wherever it stands alone.
fn separated(text: String, word: &str, cut: usize) -> String {
    let apostrophe = word.starts_with('\'');
    let mut out = String::new();
    let mut done = 0;
    for at in starts(&text, word) {
        let (before, behind) = (text[..at].chars().next_back(), text[at + word.len()..].chars().next());
        let begins = if apostrophe { before == Some(' ') } else { !before.is_some_and(is_word) };
        let ends = if word == "wanna" { behind.is_some_and(is_space) } else { !behind.is_some_and(is_word) };
        if begins && ends && at >= done {
            out.push_str(&text[done..at]);
            out.extend([" ", &text[at..at + cut], " ", &text[at + cut..at + word.len()], " "]);
            done = at + word.len();
        }
    }
    if done == 0 {
        return text;
    }
    out.push_str(&text[done..]);
    out
}

/// Where an ASCII word begins in a text, whatever the case.
fn starts(text: &str, word: &str) -> impl Iterator<Item = usize> {
    let (bytes, word) = (text.as_bytes(), word.as_bytes());
    let last = (bytes.len() + 1).saturating_sub(word.len());
    (0..last).filter(move |&at| bytes[at..at + word.len()].eq_ignore_ascii_case(word))
}
