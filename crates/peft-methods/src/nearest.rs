//! The known word that a mistyped one most resembles.

/// The candidate with the smallest edit distance to `word`, if that is at most half of the word's length.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.into_iter().map(|candidate| (distance(word, candidate), candidate));
    scored.min().filter(|(score, _)| *score <= word.chars().count().div_ceil(2)).map(|(_, candidate)| candidate)
}

/// Levenshtein distance: insertions, deletions and substitutions of characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
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
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
