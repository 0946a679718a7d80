//! Text for pretraining: documents of all files end to end, one stream of tokens, cut into rows of one length.

use std::path::Path;

use super::documents::{jsonl_documents, parquet_documents, windows};
use super::load::end_of_text;
use super::{decode, source};
use crate::cache::Entry;
use crate::config::content_extension;
use crate::{CorpusConfig, Counts, DataError, Dataset, Example, Pool, Result, Split, Tokenizer, Watch};

/// Reads and tokenises a split, or takes it from the cache in the folder `cache` if it is there and whole.
///
/// A row is an example of `length + 1` tokens, of which all but the first are targets; neighbours share one token, so every
/// token of the stream but its first is a target exactly once. The last row is as long as what is left. `watch` hears how
/// many documents are tokenised. The result does not depend on the number of threads in `pool`.
///
/// # Errors
/// A file cannot be read or decompressed; a line is no JSON object with such a field; a document is empty; there is less
/// text than one row.
pub fn load_corpus(
    config: &CorpusConfig,
    split: Split,
    tokenizer: &Tokenizer,
    pool: &Pool,
    cache: Option<&Path>,
    watch: Watch<'_>,
) -> Result<Dataset> {
    config.check()?;
    let files = config.files(split)?;
    let end = end_of_text(config.end_of_text.as_deref(), tokenizer)?;
    let contents = files.iter().map(|file| source::read(file)).collect::<Result<Vec<_>>>()?;
    let entry = cache.map(|folder| Entry::of_corpus(folder, tokenizer.digest(), &contents, config, split));
    if let Some(dataset) = entry.as_ref().and_then(Entry::read) {
        return Ok(dataset);
    }
    let end_name = config.end_of_text.as_deref().unwrap_or(crate::END_OF_TEXT);
    let mut documents = Vec::new();
    let (field, limit) = (&config.text_field, config.limit.unwrap_or(usize::MAX));
    for (file, bytes) in files.iter().zip(&contents) {
        let found = match content_extension(file).as_deref() {
            Some("parquet") => parquet_documents(bytes.clone(), file, field, limit)?,
            Some("jsonl") => jsonl_documents(decode::decode(bytes, file)?, file, field, limit)?,
            _ => plain_documents(decode::decode(bytes, file)?, end.map(|_| end_name), limit),
        };
        let empty = found.iter().find(|(_, document)| document.is_empty());
        if let Some(&(line, _)) = empty {
            let (what, hint) = ("the document", "remove it");
            return Err(DataError::NoTokens { file: file.clone(), line, what, hint });
        }
        documents.extend(found.into_iter().map(|(_, document)| document));
    }
    drop(contents);
    let encode = |index: usize| {
        let mut tokens = tokenizer.encode(&documents[index])?;
        tokens.extend(end.filter(|end| tokens.last() != Some(end)));
        Ok(tokens)
    };
    let encoded = pool.map_watched(documents.len(), encode, watch)?;
    let longest = encoded.iter().map(Vec::len).max().unwrap_or(0);
    let stream = encoded.concat();
    if stream.len() <= config.length {
        let files = files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(DataError::TooLittleText { files, tokens: stream.len(), needed: config.length + 1 });
    }
    let examples: Vec<Example> = windows(&stream, config.length + 1)
        .enumerate()
        .map(|(id, row)| Example { id: id as u64, tokens: row.to_vec(), labelled_from: 1, class: None })
        .collect();
    let counts = Counts { rows: documents.len(), kept: examples.len(), max_tokens: longest, ..Counts::default() };
    let dataset = Dataset { examples, counts, ..Dataset::default() };
    if let Some(entry) = entry {
        entry.write(&dataset)?;
    }
    Ok(dataset)
}

/// The documents of plain text with the lines they start at: what stands between the names of the token that ends a
/// text, blank ones left out; all of it where there is no such token.
fn plain_documents(text: &str, end: Option<&str>, limit: usize) -> Vec<(usize, String)> {
    let parts: Vec<&str> = match end {
        Some(end) => text.split(end).collect(),
        None => vec![text],
    };
    let mut line = 1;
    let mut documents = Vec::new();
    for part in parts {
        if !part.trim().is_empty() && documents.len() < limit {
            documents.push((line, part.to_owned()));
        }
        line += part.matches('\n').count();
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_ends_where_the_token_is_written() {
        let text = "a\nb<end>\n<end>\nc\n\nd";
        let all = plain_documents(text, Some("<end>"), usize::MAX);
        assert_eq!(all, [(1, "a\nb".to_owned()), (3, "\nc\n\nd".to_owned())]);
        assert_eq!(plain_documents(text, Some("<end>"), 1), all[..1]);
        assert_eq!(plain_documents(text, None, usize::MAX), [(1, text.to_owned())]);
    }
}
