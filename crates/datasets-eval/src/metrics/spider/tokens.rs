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
    if parts.len() % 2 == 0 {
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
