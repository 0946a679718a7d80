//! Text into words as the tokenizer of NLTK 3 (`word_tokenize`) splits them, for text without quotation marks: the
//! official Spider evaluator reads SQL through it, so its ways decide which queries can be read. Rules: R. MacIntyre's
//! Penn Treebank script as NLTK extends it. Sentence ends matter only where a full stop leaves its word.

/// Words that are cut in two, and where.
const CUT: [(&str, usize); 6] = [("cannot", 3), ("gimme", 3), ("gonna", 3), ("gotta", 3), ("lemme", 3), ("wanna", 3)];

/// The words, in their own case.
pub(super) fn words(text: &str) -> Vec<String> {
    let text = part_stops(text);
    let text = part_colons(&text);
    let text = part_marks(&text);
    text.split(is_space).filter(|word| !word.is_empty()).flat_map(cut).collect()
}

fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A full stop leaves its word at the end of a sentence or of the text; two or more are a word of their own.
fn part_stops(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let run = chars[at..].iter().take_while(|&&c| c == '.').count();
        let own = run > 1 || run == 1 && at > 0 && ends_sentence(&chars, at);
        if run == 0 || !own {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.push(' ');
        out.extend(&chars[at..at + run]);
        out.push(' ');
        at += run;
    }
    out
}

/// Whether the single full stop at `at` ends a sentence. A number's stop before a word in lower case does not.
fn ends_sentence(chars: &[char], at: usize) -> bool {
    let rest = &chars[at + 1..];
    if rest.iter().all(|&c| is_space(c) || ")]}>\"'".contains(c)) {
        return true;
    }
    if !is_space(rest[0]) {
        return ")\";}]*:@'({[!?".contains(rest[0]);
    }
    let word: Vec<char> = chars[..at].iter().rev().take_while(|&&c| !is_space(c)).copied().collect();
    let number = !word.is_empty() && word.iter().all(|c| c.is_ascii_digit() || ".,-".contains(*c));
    let next = rest.iter().find(|&&c| !is_space(c));
    !(number && next.is_some_and(|c| c.is_lowercase()))
}

/// A colon or comma leaves its word unless a digit follows.
fn part_colons(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let part = matches!(c, ':' | ',') && chars.peek().is_none_or(|next| !next.is_numeric());
        if !part {
            out.push(c);
            continue;
        }
        out.push(' ');
        out.push(c);
        match chars.next() {
            // The one that follows is taken along, whatever it is.
            Some(next) => out.extend([' ', next]),
            None => out.push(' '),
        }
    }
    out
}

/// Brackets and the marks that are words of their own, and double dashes.
fn part_marks(text: &str) -> String {
    let mut out = String::with_capacity(2 * text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' && chars.peek() == Some(&'-') {
            chars.next();
            out.push_str(" -- ");
        } else if c == '`' {
            out.push_str(" `");
            while chars.next_if_eq(&'`').is_some() {
                out.push('`');
            }
            out.push(' ');
        } else if ";@#$%&?!*[](){}<>«»“”‘’„".contains(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// A word, taken apart where it holds one of those that are cut in two.
fn cut(word: &str) -> Vec<String> {
    let lower = word.to_ascii_lowercase();
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    for (whole, first) in CUT {
        let found = lower.match_indices(whole).map(|(at, _)| (at, at + whole.len()));
        let mut alone = found.filter(|&(at, end)| !lower[..at].ends_with(inside) && !lower[end..].starts_with(inside));
        let Some((at, end)) = alone.next() else { continue };
        let pieces =
            [cut(&word[..at]), vec![word[at..at + first].into(), word[at + first..end].into()], cut(&word[end..])];
        return pieces.concat();
    }
    if word.is_empty() { Vec::new() } else { vec![word.to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[track_caller]
    fn splits(text: &str, expected: &str) {
        assert_eq!(words(text).join(" "), expected, "{text}");
    }

    // As NLTK 3.10 splits these sentences.
    #[test]
    fn marks_leave_their_words() {
        splits("max(a.b),min(c)", "max ( a.b ) , min ( c )");
        splits("a,5 , b:c", "a,5 , b : c");
        splits("x ... ,, a,,b", "x ... , , a , ,b");
        splits("a<=3;", "a < =3 ;");
        splits("a!=3 -- b --x---y", "a ! =3 -- b -- x -- -y");
        splits("price > 20.0 AND [a]", "price > 20.0 AND [ a ]");
        splits("a `b` c$d", "a ` b ` c $ d");
        splits("cannot t1.cannot wanna", "can not t1. can not wan na");
    }

    #[test]
    fn stops_leave_at_the_end() {
        splits("select a from t.", "select a from t .");
        splits("a.b.", "a.b .");
        splits("a..b", "a .. b");
        splits("(5.)", "( 5 . )");
    }

    // Where a sentence ends is what the trained model of NLTK says; the rule here is its for numbers.
    #[test]
    fn sentences_end_at_stops() {
        splits("t.a = 5. and b", "t.a = 5. and b");
        splits("t.a = 5. AND b", "t.a = 5 . AND b");
        splits("t1. a", "t1 . a");
    }
}
