//! Word F1: how many words an answer and the right one share, whatever their order (Rajpurkar et al., "SQuAD", 2016, over
//! white-space words without any normalisation).

use std::collections::HashMap;

/// The harmonic mean of the share of the answer's words that the right answer has, and of the right answer's words that
/// the answer has, each word as often as it occurs in both. 1 for two texts without words, 0 where one has none.
pub fn word_f1(answer: &str, right: &str) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    let mut words = 0;
    for word in right.split_whitespace() {
        *left.entry(word).or_default() += 1;
        words += 1;
    }
    let mut shared = 0;
    for word in answer.split_whitespace() {
        words += 1;
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    if words == 0 { 1.0 } else { 2.0 * f64::from(shared) / words as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_as_often_as_both_have_them() {
        for (answer, right, score) in [
            ("a b c", "c  b a\n", 1.0),
            ("a a a", "a b", 0.4),
            ("a", "", 0.0),
            ("", "", 1.0),
            ("x y", "a b c", 0.0),
            ("a b", "a b c d", 2.0 / 3.0),
        ] {
            assert!((word_f1(answer, right) - score).abs() < 1e-12, "{answer:?} {right:?}");
        }
    }
}
