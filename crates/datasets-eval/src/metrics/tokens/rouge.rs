//! The tokens of ROUGE: rouge-score 0.1.2, after the original script of Lin (2004).

use super::porter_stem;

/// Runs of a-z and 0-9 in the lower-cased text; everything else separates. With `stemmer`, the stems of tokens of more than
/// three characters.
pub fn rouge_tokens(text: &str, stemmer: bool) -> Vec<String> {
    let lower = text.to_lowercase();
    let tokens = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit())).filter(|t| !t.is_empty());
    tokens.map(|token| if stemmer && token.len() > 3 { porter_stem(token) } else { token.to_owned() }).collect()
}
