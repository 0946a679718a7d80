//! Where English sentences end: the decisions of Punkt (Kiss and Strunk, "Unsupervised multilingual sentence boundary
//! detection", Computational Linguistics 32(4), 2006) with the parameters that its authors trained for English.
//!
//! The numbers in parentheses are sections of the paper. The parameters, `punkt_english.txt`, are those that NLTK
//! distributes (`punkt_tab`), reduced to what a decision asks for: abbreviations, collocations, frequent sentence starters,
//! and how a word was seen to be written.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::LazyLock;

use super::python::{is_digit, is_space, is_word};

static PARAMETERS: LazyLock<Parameters> = LazyLock::new(|| Parameters::read(include_str!("punkt_english.txt")));

struct Parameters {
    abbreviations: HashSet<&'static str>,
    starters: HashSet<&'static str>,
    collocations: HashSet<(&'static str, &'static str)>,
    /// Seen in lower case, and never in upper case within a sentence.
    only_lower_within: HashSet<&'static str>,
    /// Seen in lower case, and in upper case within a sentence.
    both_within: HashSet<&'static str>,
    /// Seen in lower case at the start of a sentence, and never in upper case.
    lower_at_start: HashSet<&'static str>,
}

impl Parameters {
    /// Six sections, each opened by a line `= name`, of words between spaces.
    fn read(text: &'static str) -> Parameters {
        let mut sections =
            text.split("= ").skip(1).map(|section| section.split_once('\n').map_or("", |(_, words)| words));
        let mut next = || sections.next().unwrap_or_default().split_ascii_whitespace();
        Parameters {
            // A period, a space, a period, a space: the one abbreviation with spaces, an ellipsis taken apart.
            abbreviations: next().chain([". . "]).collect(),
            starters: next().collect(),
            collocations: next().filter_map(|pair| pair.split_once('|')).collect(),
            only_lower_within: next().collect(),
            both_within: next().collect(),
            lower_at_start: next().collect(),
        }
    }
}

/// The sentences of a text, without the white space between them.
pub(super) fn sentences(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let found = realigned(&text, slices(&text));
    found.into_iter().map(|at| text[at].iter().collect()).collect()
}

/// Marks that end a word, other than the period.
fn is_non_word(c: char) -> bool {
    ")\";}]*:@'({[?!".contains(c)
}

/// A place where a sentence may end.
struct Candidate {
    /// Index of the mark.
    at: usize,
    /// Where the next word begins, if white space comes before it.
    next: Option<usize>,
    /// The end of what follows and is looked at: a mark, or white space and the next word.
    after: usize,
}

/// Marks `.?!` with another mark or with white space and a word behind them.
fn candidates(text: &[char]) -> impl Iterator<Item = Candidate> {
    let is_end = |at: &usize| matches!(text[*at], '.' | '?' | '!');
    (0..text.len()).filter(is_end).filter_map(|at| {
        let begin = at + 1;
        if text.get(begin).copied().is_some_and(is_non_word) {
            return Some(Candidate { at, next: None, after: begin + 1 });
        }
        let word = begin + text[begin..].iter().take_while(|c| is_space(**c)).count();
        let after = word + text[word..].iter().take_while(|c| !is_space(**c)).count();
        (word > begin && after > word).then_some(Candidate { at, next: Some(word), after })
    })
}

/// Stretches of text that end at a sentence's end.
fn slices(text: &[char]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut begin = 0;
    let mut decide = |candidate: &Candidate, word: usize| {
        if has_break(&text[word..candidate.after]) {
            found.push(begin..candidate.at + 1);
            begin = candidate.next.unwrap_or(candidate.at + 1);
        }
    };
    // A candidate whose word reaches into that of the next is decided with the next.
    let mut open: Option<(Candidate, Range<usize>)> = None;
    for candidate in candidates(text) {
        let last = open.as_ref().map_or(0..0, |(_, word)| word.clone());
        let ascii_space = |c: &char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}');
        let between = &text[last.end..candidate.at];
        // White space in the first place does not count.
        let word = match between.iter().rposition(ascii_space) {
            Some(space) if space > 0 => last.end + space + 1,
            _ => last.start,
        };
        if let Some((earlier, _)) = open.as_ref().filter(|_| last.end <= word) {
            decide(earlier, last.start);
        }
        let word = word..candidate.at;
        open = Some((candidate, word));
    }
    if let Some((candidate, word)) = open {
        decide(&candidate, word.start);
    }
    let end = text.iter().rposition(|c| !is_space(*c)).map_or(0, |last| last + 1);
    found.push(begin..end.max(begin));
    found
}

/// Gives quotes and brackets behind a sentence's end to that sentence.
fn realigned(text: &[char], slices: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut moved = 0;
    for (i, slice) in slices.iter().enumerate() {
        let own = (slice.start + moved).min(slice.end)..slice.end;
        let closing = slices.get(i + 1).and_then(|next| Some((next.start, closing(&text[next.clone()])?)));
        if let Some((next, (marks, length))) = closing {
            found.push(slice.start + moved..next + marks);
            moved = length;
        } else {
            moved = 0;
            found.extend((!own.is_empty()).then_some(own));
        }
    }
    found
}

/// Quotes and brackets that a text begins with: their number, and their length with the white space behind.
fn closing(text: &[char]) -> Option<(usize, usize)> {
    let marks = text.iter().take_while(|c| matches!(c, '"' | '\'' | ')' | ']' | '}')).count();
    (1..=marks).find_map(|marks| {
        let rest = &text[marks..];
        let spaces = rest.iter().take_while(|c| is_space(**c)).count();
        (spaces > 0 || rest.is_empty() || rest.starts_with(&['-', '-'])).then_some((marks, marks + spaces))
    })
}

/// A word with what has been decided about it.
struct Token {
    text: String,
    /// Lower case, numbers all alike.
    kind: String,
    breaks: bool,
    abbreviation: bool,
    ellipsis: bool,
}

/// Whether a sentence ends before the last word of this text.
fn has_break(text: &[char]) -> bool {
    let lines = text.split(|c| *c == '\n');
    let mut tokens: Vec<Token> = lines.flat_map(words).map(Token::new).collect();
    for i in 1..tokens.len() {
        let (before, after) = tokens.split_at_mut(i);
        before[i - 1].reconsider(&after[0]);
        if before[i - 1].breaks {
            return true;
        }
    }
    false
}

/// The words of a line; marks stand alone, periods stay where they are.
fn words(line: &[char]) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < line.len() {
        if is_space(line[at]) {
            at += 1;
            continue;
        }
        let length = match repeated(&line[at..]) {
            0 if "(\"`{[:;&#*@)}]-,".contains(line[at]) => 1,
            0 => word_length(&line[at..]),
            marks => marks,
        };
        found.push(line[at..at + length].iter().collect());
        at += length;
    }
    found
}

/// Length of dashes, of periods, or of periods with spaces between that a text begins with; 0 if it does not.
fn repeated(text: &[char]) -> usize {
    for mark in ['-', '.'] {
        let length = text.iter().take_while(|c| **c == mark).count();
        if length >= 2 {
            return length;
        }
    }
    let pairs = text.chunks_exact(2).take_while(|pair| pair[0] == '.' && is_space(pair[1])).count();
    // The last of the periods has no space to offer.
    (2..=pairs).rev().find(|pairs| text.get(2 * pairs) == Some(&'.')).map_or(0, |pairs| 2 * pairs + 1)
}

/// The shortest word that ends before white space, a mark, or a comma that ends the word; at least one character.
fn word_length(text: &[char]) -> usize {
    let ends = |at: usize| match text.get(at) {
        None => true,
        Some(c) => is_space(*c) || is_non_word(*c) || repeated(&text[at..]) > 0,
    };
    (1..text.len()).find(|&at| ends(at) || text[at] == ',' && ends(at + 1)).unwrap_or(text.len())
}

impl Token {
    /// What a word's type alone decides (3).
    fn new(text: String) -> Token {
        let lower = text.to_lowercase();
        let kind = if is_number(&lower) { "##number##".to_owned() } else { lower.clone() };
        let ends = [".", "?", "!"].contains(&text.as_str());
        let ellipsis = text.len() > 1 && text.chars().all(|c| c == '.');
        let period = !ends && text.ends_with('.') && !text.ends_with("..");
        let abbreviation = period && {
            let stem = &lower[..lower.len() - 1];
            let known = &PARAMETERS.abbreviations;
            known.contains(stem) || stem.rsplit('-').next().is_some_and(|last| known.contains(last))
        };
        Token { text, kind, breaks: ends || period && !abbreviation, abbreviation, ellipsis }
    }

    fn kind_without_period(&self) -> &str {
        if self.kind.len() > 1 { self.kind.strip_suffix('.').unwrap_or(&self.kind) } else { &self.kind }
    }

    /// The type, without the period that ended its sentence.
    fn kind_in_sentence(&self) -> &str {
        if self.breaks { self.kind_without_period() } else { &self.kind }
    }

    /// One letter and a period.
    fn is_initial(&self) -> bool {
        let mut letters = self.text.chars();
        letters.next().is_some_and(|c| is_word(c) && !is_digit(c)) && letters.as_str() == "."
    }

    fn first(&self) -> char {
        self.text.chars().next().unwrap_or_default()
    }

    /// Decides again with the next word in sight (4).
    fn reconsider(&mut self, next: &Token) {
        if !self.text.ends_with('.') {
            return;
        }
        let own = self.kind_without_period();
        let next_kind = next.kind_in_sentence();
        let initial = self.is_initial();
        // Two words known to stand together (4.1.2).
        if PARAMETERS.collocations.contains(&(own, next_kind)) {
            self.breaks = false;
            return;
        }
        let starts = next.starts_sentence();
        if (self.abbreviation || self.ellipsis) && !initial {
            // The next word's case (4.1.1), or that it often begins sentences (4.1.3).
            let starter = next.first().is_uppercase() && PARAMETERS.starters.contains(next_kind);
            if starts == Some(true) || starter {
                self.breaks = true;
                return;
            }
        }
        // Initials and ordinal numbers (4.3).
        if initial || own == "##number##" {
            let never_lower =
                !PARAMETERS.only_lower_within.contains(next_kind) && !PARAMETERS.both_within.contains(next_kind);
            let name = starts.is_none() && initial && next.first().is_uppercase() && never_lower;
            if starts == Some(false) || name {
                self.breaks = false;
            }
        }
    }

    /// Whether case says that this word begins a sentence (4.1.1); `None` where it does not say.
    fn starts_sentence(&self) -> Option<bool> {
        if [";", ":", ",", ".", "!", "?"].contains(&self.text.as_str()) {
            return Some(false);
        }
        let kind = self.kind_in_sentence();
        if self.first().is_uppercase() && PARAMETERS.only_lower_within.contains(kind) {
            return Some(true);
        }
        (self.first().is_lowercase() && !PARAMETERS.lower_at_start.contains(kind)).then_some(false)
    }
}

/// A sign, a mark, a digit; then digits and marks.
fn is_number(lower: &str) -> bool {
    let rest = lower.strip_prefix('-').unwrap_or(lower);
    let rest = rest.strip_prefix(['.', ',']).unwrap_or(rest);
    let mut rest = rest.chars();
    rest.next().is_some_and(is_digit) && rest.all(|c| is_digit(c) || matches!(c, ',' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked of NLTK 3.9 with its English parameters.
    #[test]
    fn sentences_are_those_of_the_tool() {
        for (text, expected) in [
            ("He came at 5 p.m. and left.  She stayed.", &["He came at 5 p.m. and left.", "She stayed."][..]),
            ("He left Acme Inc. The firm closed.", &["He left Acme Inc.", "The firm closed."]),
            ("By J. Bach and U.S. Steel. Yes.", &["By J. Bach and U.S. Steel.", "Yes."]),
            ("(One two.) Three \"four.\" Five!!! Six", &["(One two.)", "Three \"four.\"", "Five!!!", "Six"]),
            ("Wait . . . what? i.e. this", &["Wait .", ".", ".", "what?", "i.e.", "this"]),
            ("", &[]),
        ] {
            assert_eq!(sentences(text), expected, "{text:?}");
        }
    }
}
