//! The known name closest to what was typed.

/// The name with the least edit distance, if it is no more than a third of the typed name's length (at least 2).
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (typed.chars().count() / 3).max(2);
    let best = names.into_iter().map(|name| (distance(typed, name), name)).min()?;
    (best.0 <= limit).then_some(best.1)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let least = (diagonal + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_and_limits() {
        assert_eq!(["kitten", "", "abc"].map(|a| distance(a, "sitting")), [3, 7, 7]);
        assert_eq!(nearest("quikstart", ["test", "quickstart"]), Some("quickstart"));
        assert_eq!(nearest("something", ["test", "quickstart"]), None);
    }
}
