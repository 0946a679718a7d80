//! The known word that a mistyped one most resembles.

use strsim::levenshtein;

/// The candidate with the smallest edit distance to `word`, if that is at most half of the word's length.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.into_iter().map(|candidate| (levenshtein(word, candidate), candidate));
    scored.min().filter(|(score, _)| *score <= word.chars().count().div_ceil(2)).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let known = ["learning_rate", "rank", "targets"];
        assert_eq!(nearest("learning-rate", known), Some("learning_rate"));
        assert_eq!(nearest("rnak", known), Some("rank"));
        assert_eq!(nearest("zebra_stripes", known), None);
    }
}
