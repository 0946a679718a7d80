//! The known name closest to what was typed.

/// The name with the least edit distance, if it is no more than a third of the typed name's length (at least 2).
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (typed.chars().count() / 3).max(2);
    let best = names.into_iter().map(|name| (strsim::levenshtein(typed, name), name)).min()?;
    (best.0 <= limit).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_names_are_not() {
        assert_eq!(nearest("quikstart", ["test", "quickstart"]), Some("quickstart"));
        assert_eq!(nearest("something", ["test", "quickstart"]), None);
    }
}
