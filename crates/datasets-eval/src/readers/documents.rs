//! Running text for language-model training: documents, and the windows they are cut into.

use std::path::Path;

use super::decode::{lines, refuse_invalid};
use super::json::json_lines;
use super::load::text_of;
use super::parquet::parquet_rows;
use super::row::Parsed;
use super::sieve::Sieve;
use super::tokenise::Tokenising;
use crate::config::content_extension;
use crate::{Counts, Dataset, Example, Result};

/// Field of a JSON line that holds a document.
const FIELD: &str = "text";

/// Windows of documents: nothing is dropped, every token but a document's first is a target once.
pub(super) fn text(with: &Tokenising<'_>, bytes: &[u8], sieve: &mut Sieve) -> Result<Dataset> {
    let end = with.end_of_text()?;
    let limit = with.config.limit.unwrap_or(usize::MAX);
    let found = match content_extension(with.file).as_deref() {
        Some("parquet") => {
            let rows = parquet_rows(bytes.to_vec(), with.file, limit)?;
            rows.into_iter().map(|row| (row.line, field_of(row, FIELD, with.file))).collect()
        }
        _ => {
            let (text, invalid) = text_of(bytes, with.file, sieve)?;
            self::documents(&text, with.file, &invalid, limit)?
        }
    };
    let mut documents = Vec::new();
    let mut rows = 0;
    for (line, document) in found {
        rows += 1;
        documents.extend(sieve.take(document)?.map(|document| (line, document)));
    }
    let encode = |index: usize| {
        let (line, document) = &documents[index];
        let mut tokens = with.tokenizer.encode(document)?;
        if tokens.is_empty() {
            return Err(with.no_tokens(*line, "the document", "remove it"));
        }
        tokens.extend(end.filter(|end| tokens.last() != Some(end)));
        if tokens.len() == 1 {
            let hint = "there is nothing to predict in it; remove it";
            return Err(with.no_tokens(*line, "the document after its first", hint));
        }
        Ok(tokens)
    };
    let encoded: Vec<Vec<u32>> = with.each(documents.len(), encode, sieve)?.into_iter().flatten().collect();
    let cut = encoded.iter().flat_map(|tokens| windows(tokens, with.config.max_tokens)).enumerate();
    let example = |(id, window): (usize, &[u32])| Example {
        id: id as u64,
        tokens: window.to_vec(),
        labelled_from: 1,
        class: None,
    };
    let examples: Vec<Example> = cut.map(example).collect();
    let longest = encoded.iter().map(Vec::len).max().unwrap_or(0);
    let counts = Counts { rows, kept: examples.len(), max_tokens: longest, ..Counts::default() };
    Ok(Dataset { examples, counts, ..Dataset::default() })
}

/// The first `limit` documents with the lines they start at: objects with a field `text` in a `.jsonl` file, else
/// paragraphs of lines between blank ones.
fn documents(
    text: &str,
    file: &Path,
    invalid: &[super::decode::Invalid],
    limit: usize,
) -> Result<Vec<(usize, Result<String>)>> {
    if content_extension(file).is_some_and(|extension| extension == "jsonl") {
        let mut rows = json_lines(text, file, limit);
        refuse_invalid(&mut rows, invalid, file)?;
        return Ok(rows.into_iter().map(|row| (row.line, field_of(row, FIELD, file))).collect());
    }
    let mut documents: Vec<(usize, String)> = Vec::new();
    let mut next = 0;
    for (line, content) in lines(text) {
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
    let utf8 = |(line, document): (usize, String)| {
        let lines = line..=line + document.matches('\n').count();
        let bad = invalid.iter().find(|(at, _)| lines.contains(at));
        (line, bad.map_or(Ok(document), |&at| Err(super::decode::no_utf8(file, at))))
    };
    Ok(documents.into_iter().map(utf8).collect())
}

fn field_of(parsed: Parsed, field: &str, file: &Path) -> Result<String> {
    parsed.row.and_then(|row| Ok(row.get(field, file)?.into_owned()))
}

/// The first `limit` documents of JSON lines, each in a field of this name, with their lines.
pub(super) fn jsonl_documents(text: &str, file: &Path, field: &str, limit: usize) -> Result<Vec<(usize, String)>> {
    fields_of(json_lines(text, file, limit), file, field)
}

/// The first `limit` documents of Parquet, each in a column of this name, with the numbers of their rows.
pub(super) fn parquet_documents(
    bytes: Vec<u8>,
    file: &Path,
    field: &str,
    limit: usize,
) -> Result<Vec<(usize, String)>> {
    fields_of(parquet_rows(bytes, file, limit)?, file, field)
}

fn fields_of(rows: Vec<Parsed>, file: &Path, field: &str) -> Result<Vec<(usize, String)>> {
    // A line that is no row comes before a row without the field.
    let rows = rows.into_iter().map(|row| Ok((row.line, row.row?)));
    let rows = rows.collect::<Result<Vec<_>>>()?;
    rows.into_iter().map(|(line, row)| Ok((line, row.get(field, file)?.into_owned()))).collect()
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
        let read = |text: &str, name: &str, limit| {
            let documents = documents(text, Path::new(name), &[], limit).unwrap();
            documents.into_iter().map(|(line, text)| (line, text.unwrap())).collect::<Vec<_>>()
        };
        let all = read(text, "x.txt", usize::MAX);
        assert_eq!(all, [(1, "a\nb".to_owned()), (5, "c".to_owned()), (7, "d\ne".to_owned())]);
        assert_eq!(read(text, "x.txt", 2), all[..2]);
        let json = "{\"text\": \"a\\n\\nb\"}\n{\"text\": \"c\"}\n";
        let expected = [(1, "a\n\nb".to_owned()), (2, "c".to_owned())];
        assert_eq!(read(json, "x.jsonl", usize::MAX), expected);
    }
}
