//! Running text for language-model training: documents, and the windows they are cut into.

use std::path::Path;

use super::table;
use crate::Result;
use crate::config::content_extension;

/// Field of a JSON line that holds a document.
const FIELD: &str = "text";

/// The first `limit` documents with the lines they start at: objects with a field `text` in a `.jsonl` file, else
/// paragraphs of lines between blank ones.
pub(super) fn documents(text: &str, file: &Path, limit: usize) -> Result<Vec<(usize, String)>> {
    if content_extension(file).is_some_and(|extension| extension == "jsonl") {
        return jsonl_documents(text, file, FIELD, limit);
    }
    let mut documents: Vec<(usize, String)> = Vec::new();
    let mut next = 0;
    for (line, content) in table::lines(text) {
        if line == next {
            let (_, document) = documents.last_mut().expect("a document that this line follows");
            document.push('\n');
            document.push_str(content);
        } else if documents.len() == limit {
            break;
        } else {
            documents.push((line, content.to_owned()));
        }
        next = line + 1;
    }
    Ok(documents)
}

/// The first `limit` documents of JSON lines, each in a field of this name, with their lines.
pub(super) fn jsonl_documents(text: &str, file: &Path, field: &str, limit: usize) -> Result<Vec<(usize, String)>> {
    let rows = table::json_rows(text, file, limit)?;
    rows.iter().map(|row| Ok((row.line, row.get(field, file)?.to_owned()))).collect()
}

/// Windows of at most `length` tokens. Neighbours share one token, the last of one being only a target there and the
/// first of the next only an input, so that every token but the document's first is a target exactly once.
pub(super) fn windows(tokens: &[u32], length: usize) -> impl Iterator<Item = &[u32]> {
    (0..tokens.len().saturating_sub(1))
        .step_by(length - 1)
        .map(move |start| &tokens[start..tokens.len().min(start + length)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_a_target_once() {
        for count in 2..40u32 {
            let tokens: Vec<u32> = (0..count).collect();
            for length in 2..10 {
                let windows: Vec<&[u32]> = windows(&tokens, length).collect();
                assert!(windows.iter().all(|window| (2..=length).contains(&window.len())));
                let targets: Vec<u32> = windows.iter().flat_map(|window| &window[1..]).copied().collect();
                assert_eq!(targets, tokens[1..], "{count} tokens, windows of {length}");
            }
        }
    }

    #[test]
    fn documents_end_at_blank_lines() {
        let text = "a\r\nb\r\n\r\n \nc\n\nd\ne";
        let all = documents(text, Path::new("x.txt"), usize::MAX).unwrap();
        assert_eq!(all, [(1, "a\nb".to_owned()), (5, "c".to_owned()), (7, "d\ne".to_owned())]);
        assert_eq!(documents(text, Path::new("x.txt"), 2).unwrap(), all[..2]);
        let json = "{\"text\": \"a\\n\\nb\"}\n{\"text\": \"c\"}\n";
        let expected = [(1, "a\n\nb".to_owned()), (2, "c".to_owned())];
        assert_eq!(documents(json, Path::new("x.jsonl"), usize::MAX).unwrap(), expected);
    }
}
