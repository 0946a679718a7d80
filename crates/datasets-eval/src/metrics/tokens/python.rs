//! Characters and case as Python's `str` and `re` see them, on which the reference tools stand.
//!
//! Rust's own notions differ in small ways: Python takes U+001C to U+001F for white space, no combining mark for a part of a
//! word, and only decimal digits (category Nd) for `\d`.

use std::sync::LazyLock;

use regex::Regex;

static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}]$").expect("a valid pattern"));
static DIGIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\p{Nd}$").expect("a valid pattern"));

/// Whether a set of characters, given as a pattern of one, has it.
fn is_of(pattern: &Regex, c: char) -> bool {
    pattern.is_match(c.encode_utf8(&mut [0; 4]))
}

/// `str.isspace`, and `\s` of `re`.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `\w` of `re`: letters, numbers of any kind and `_`.
pub(super) fn is_word(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_alphanumeric() || c == '_' } else { is_of(&WORD, c) }
}

/// `\d` of `re`: decimal digits of any script.
pub(super) fn is_digit(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { is_of(&DIGIT, c) }
}

/// `str.split` without arguments.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `str.rstrip` without arguments.
pub(crate) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked of Python 3.11.
    #[test]
    fn classes_are_those_of_python() {
        for (c, space, word, digit) in [
            ('\u{1c}', true, false, false),
            ('\u{a0}', true, false, false),
            ('\u{200b}', false, false, false),
            ('_', false, true, false),
            ('½', false, true, false),
            ('²', false, true, false),
            ('٣', false, true, true),
            ('\u{301}', false, false, false),
            ('‿', false, false, false),
            ('漢', false, true, false),
            ('🎉', false, false, false),
        ] {
            assert_eq!((is_space(c), is_word(c), is_digit(c)), (space, word, digit), "{c:?}");
        }
        assert_eq!(split("a\u{1f}b \u{3000} c").collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(trim_end("a \u{85}"), "a");
    }
}
