//! The tokens of TER: Tercom's normalisation (Snover et al., "A study of translation edit rate", AMTA 2006) with the
//! options of sacrebleu 2.6.

use super::mteval::{separate_digits, separate_symbols, unescape};
use super::python;

/// What is done to a text before it is cut at white space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TercomOptions {
    /// Line ends, entities and marks as in the tokens of BLEU, and a possessive `'s` of its own.
    pub normalized: bool,
    /// Marks of punctuation are left out.
    pub no_punctuation: bool,
    /// With `normalized`, Chinese characters stand alone; with `no_punctuation`, marks of Asian scripts go too.
    pub asian_support: bool,
    /// Case matters; by default it does not.
    pub case_sensitive: bool,
}

/// The tokens of a text.
pub fn tercom(text: &str, options: &TercomOptions) -> Vec<String> {
    let mut text = if options.case_sensitive { text.to_owned() } else { text.to_lowercase() };
    if options.normalized && !text.is_empty() {
        text = normalized(&text);
        if options.asian_support {
            text = surrounded(&text, |c| is_ideograph(c) || is_asian_mark(c));
        }
    }
    if options.no_punctuation {
        text.retain(|c| !".,?:;!\"()".contains(c));
        if options.asian_support {
            text.retain(|c| !is_asian_mark(c));
        }
    }
    python::split(&text).map(str::to_owned).collect()
}

fn normalized(text: &str) -> String {
    let text = unescape(&text.replace("\n-", "").replace('\n', " "));
    // The space at the end makes the possessive of the last word one before a space.
    let text = separate_symbols(&format!(" {text} ")).replace("'s ", " 's ");
    separate_digits(&text)
}

fn surrounded(text: &str, of: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if of(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// Ranges as in the tool; the one that ends at U+3F22 ends there in it too. Its rules for kana need the kana at the very
/// start of the text, where a space has been put, so that they change nothing.
fn is_ideograph(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}' | '\u{3400}'..='\u{4dbf}' | '\u{31c0}'..='\u{31ef}' | '\u{2e80}'..='\u{2eff}'
        | '\u{3300}'..='\u{33ff}' | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}' | '\u{3200}'..='\u{3f22}')
}

fn is_asian_mark(c: char) -> bool {
    matches!(c,
        '\u{3001}' | '\u{3002}' | '\u{3008}'..='\u{3011}' | '\u{3014}'..='\u{301f}' | '\u{ff61}'..='\u{ff65}'
        | '\u{30fb}' | '\u{ff0e}' | '\u{ff0c}' | '\u{ff1f}' | '\u{ff1a}' | '\u{ff1b}' | '\u{ff01}' | '\u{ff02}'
        | '\u{ff08}' | '\u{ff09}')
}
