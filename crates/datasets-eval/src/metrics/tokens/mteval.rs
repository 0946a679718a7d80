//! The tokens of BLEU: NIST's `mteval-v13a`, as sacrebleu 2.6 and the Hugging Face `bleu` metric cut them ("13a"), and the
//! rules it shares with Tercom.

use super::python;

/// The tokens of a text.
pub fn mteval_13a(text: &str) -> Vec<String> {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = format!(" {} ", unescape(&text));
    python::split(&separate_marks(&text)).map(str::to_owned).collect()
}

/// The four entities that the tools know, each replaced in all places before the next.
pub(super) fn unescape(text: &str) -> String {
    if !text.contains('&') {
        return text.to_owned();
    }
    text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
}

/// Spaces around every mark; a period or comma keeps to a digit on each side, a dash to anything but a digit before it.
pub(super) fn separate_marks(text: &str) -> String {
    separate_digits(&separate_symbols(text))
}

/// Spaces around ASCII marks and spaces, but not around the apostrophe, comma, dash and period.
pub(super) fn separate_symbols(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if c == ' ' || c.is_ascii_punctuation() && !matches!(c, '\'' | ',' | '-' | '.') {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// The three rules about digits, one after the other. Each goes from left to right and never looks twice at a character
/// that it has used.
pub(super) fn separate_digits(text: &str) -> String {
    let is_stop = |c: char| matches!(c, '.' | ',');
    let text = pairs(text, |a, b| !a.is_ascii_digit() && is_stop(b), |a, b| vec![a, ' ', b, ' ']);
    let text = pairs(&text, |a, b| is_stop(a) && !b.is_ascii_digit(), |a, b| vec![' ', a, ' ', b]);
    pairs(&text, |a, b| a.is_ascii_digit() && b == '-', |a, b| vec![a, ' ', b, ' '])
}

/// Replaces neighbours that fit, from left to right, without overlap.
fn pairs(text: &str, fits: impl Fn(char, char) -> bool, replace: impl Fn(char, char) -> Vec<char>) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut rest = text.chars();
    while let Some(a) = rest.next() {
        match rest.clone().next() {
            Some(b) if fits(a, b) => {
                out.extend(replace(a, b));
                rest.next();
            }
            _ => out.push(a),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked of sacrebleu 2.6.
    #[test]
    fn tokens_are_those_of_the_tool() {
        for (text, tokens) in [
            ("1,,2 3.14 a.b.", "1 , , 2 3.14 a . b ."),
            ("10-20 a-b -5", "10 - 20 a-b -5"),
            ("don't (stop)!", "don't ( stop ) !"),
            ("AT&amp;T &lt;skipped&gt; <skipped>x", "AT & T < skipped > x"),
            ("cut-\nting\nline", "cutting line"),
            ("café, 日本。 ２,３", "café , 日本。 ２ , ３"),
        ] {
            assert_eq!(mteval_13a(text).join(" "), tokens, "{text:?}");
        }
    }
}
