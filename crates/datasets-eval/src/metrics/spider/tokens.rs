//! SQL into the tokens of the official Spider evaluator (`tokenize` in its `process_sql.py`): lower-cased words, with
//! every quoted text one token between double quotes.

use std::collections::HashMap;

use super::words::words;

/// The tokens of a query.
///
/// # Errors
///
/// An odd number of quotation marks.
pub(super) fn tokens(sql: &str) -> Result<Vec<String>, String> {
    let sql = sql.replace('\'', "\"");
    let parts: Vec<&str> = sql.split('"').collect();
    if parts.len().is_multiple_of(2) {
        return Err("expected quotation marks in pairs, found an odd number".into());
    }
    // A quoted text is a word that stands for it until the rest is split.
    let mut quoted = HashMap::new();
    let mut text = String::with_capacity(sql.len());
    for (i, part) in parts.iter().enumerate() {
        if i % 2 == 0 {
            text.push_str(part);
        } else {
            let name = format!("__val_{}_{}__", i, part.len());
            text.push_str(&name);
            quoted.insert(name, format!("\"{part}\""));
        }
    }
    let lower = words(&text).into_iter().map(|word| word.to_lowercase());
    let mut tokens: Vec<String> = Vec::new();
    for word in lower {
        let token = quoted.remove(&word).unwrap_or(word);
        match tokens.last_mut() {
            Some(last) if token == "=" && ["!", ">", "<"].contains(&last.as_str()) => last.push('='),
            _ => tokens.push(token),
        }
    }
    Ok(tokens)
}

/// Whether the statement as a whole, not a query within it, is ordered.
pub(super) fn is_ordered(tokens: &[String]) -> bool {
    let mut depth = 0i64;
    tokens.windows(2).any(|pair| {
        depth += i64::from(pair[0] == "(") - i64::from(pair[0] == ")");
        depth == 0 && pair[0] == "order" && pair[1] == "by"
    })
}

#[cfg(test)]
#[path = "../../../../../tests/support/golden_folders.rs"]
mod golden_folders;

#[cfg(test)]
mod tests {
    use super::golden_folders::{folders_with, json};
    use super::{is_ordered, tokens};

    #[test]
    fn golden_tokens() {
        for folder in folders_with("results.json").into_iter().filter(|folder| folder.join("tables.json").is_file()) {
            let results = json(&folder.join("results.json"));
            for item in results["items"].as_array().expect("a list of pairs") {
                for (query, list) in [("gold", "gold_tokens"), ("pred", "pred_tokens")] {
                    let found = tokens(item[query].as_str().expect("a query")).unwrap();
                    assert_eq!(serde_json::json!(found), item[list], "{}", item[query]);
                }
            }
        }
    }

    #[test]
    fn quoted_texts_are_single_tokens() {
        let found = tokens("SELECT a FROM t WHERE b >= 'Two, Words' AND c ! = \"x\"").unwrap();
        let expected = ["select", "a", "from", "t", "where", "b", ">=", "\"Two, Words\"", "and", "c", "!=", "\"x\""];
        assert_eq!(found, expected);
        assert!(tokens("SELECT 'a").is_err());
    }

    #[test]
    fn only_the_whole_is_ordered() {
        let ordered = |sql: &str| is_ordered(&tokens(sql).unwrap());
        assert!(ordered("SELECT a FROM t ORDER BY a") && ordered("SELECT a FROM (SELECT b FROM t) ORDER  BY a"));
        assert!(!ordered("SELECT a FROM (SELECT a FROM t ORDER BY a)") && !ordered("SELECT \"order by\" FROM t"));
    }
}
