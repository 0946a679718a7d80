//! Reading one split: file to rows, rows to prompts and completions, those to tokens, with the cache in front.

use std::borrow::Cow;
use std::path::Path;

use super::decode::{decode, decode_lossy, refuse_invalid};
use super::documents::text;
use super::form::{Asked, Form};
use super::resources::Resources;
use super::row::Parsed;
use super::sieve::Sieve;
use super::tokenise::Tokenising;
use super::{json, parquet, source, table};
use crate::cache::Entry;
use crate::config::{config_error, content_extension};
use crate::tokenizer::END_OF_TEXT;
use crate::{Counts, DataConfig, DataError, Dataset, Format, Pool, Result, Split, Tokenizer, Watch};

/// Reads and tokenises a split, or takes it from the cache in the folder `cache` if it is there and whole.
///
/// Prompt and completion are encoded each on its own and stand end to end; the targets are the completion's tokens, or all
/// but the first, as `loss` says. A validation split that asks for written answers also has [`Dataset::items`]. Rows longer
/// than `max_tokens` are dropped and counted, or fail, as `on_too_long` says. The result does not depend on the number of
/// threads in `pool`.
///
/// # Errors
/// The configuration is not valid; a file cannot be read; a row, named with file and line, cannot be used, unless
/// `on_bad_row` has such rows counted; no example is left.
pub fn load(
    config: &DataConfig,
    split: Split,
    tokenizer: &Tokenizer,
    pool: &Pool,
    cache: Option<&Path>,
) -> Result<Dataset> {
    load_watched(config, split, tokenizer, pool, cache, &|_, _| {})
}

/// [`load`] with somebody to watch how many examples are tokenised.
///
/// # Errors
/// Those of [`load`].
pub fn load_watched(
    config: &DataConfig,
    split: Split,
    tokenizer: &Tokenizer,
    pool: &Pool,
    cache: Option<&Path>,
    watch: Watch<'_>,
) -> Result<Dataset> {
    config.check()?;
    let file = config.file(split)?;
    let bytes = source::read(file)?;
    let resources = Resources::read(config, split, tokenizer)?;
    let entry = cache.map(|folder| {
        let others = resources.fingerprints();
        let data = [&bytes].into_iter().chain(&others).map(Vec::as_slice);
        Entry::new(folder, tokenizer.digest(), data, config, split)
    });
    if let Some(dataset) = entry.as_ref().and_then(Entry::read) {
        return Ok(dataset);
    }
    let mut sieve = Sieve::new(config.on_bad_row);
    let tokenising = Tokenising { config, split, file, tokenizer, pool, watch };
    let dataset = match Form::new(config, split, &resources)? {
        None => text(&tokenising, &bytes, &mut sieve)?,
        Some(form) => {
            let rows = rows(config, &form, &bytes, file, &sieve)?;
            let count = rows.len();
            let asked = asked(&form, rows, file, &mut sieve)?;
            tokenising.tokenise(count, &asked, &form.classes(), &mut sieve)?
        }
    };
    let dataset = sieve.told(dataset);
    if dataset.examples.is_empty() {
        let Counts { rows, too_long, .. } = dataset.counts;
        let (max_tokens, bad_rows) = (config.max_tokens, dataset.bad_rows);
        return Err(DataError::Empty { file: file.into(), rows, too_long, max_tokens, bad_rows });
    }
    if let Some(entry) = entry {
        entry.write(&dataset)?;
    }
    Ok(dataset)
}

/// The text of a file: what is not UTF-8 is an error, or is left to the rows it stands in.
pub(super) fn text_of<'a>(
    bytes: &'a [u8],
    file: &Path,
    sieve: &Sieve,
) -> Result<(Cow<'a, str>, Vec<super::decode::Invalid>)> {
    if sieve.counts() { Ok(decode_lossy(bytes)) } else { Ok((decode(bytes, file)?.into(), Vec::new())) }
}

/// The rows of a file in its format.
fn rows(config: &DataConfig, form: &Form<'_>, bytes: &[u8], file: &Path, sieve: &Sieve) -> Result<Vec<Parsed>> {
    let limit = config.limit.unwrap_or(usize::MAX);
    // The data sets that are published in one form and another go by the ending.
    let own_form = !config.has_templates() && config.format != Format::Glue;
    if config.format == Format::Parquet || own_form && content_extension(file).as_deref() == Some("parquet") {
        return parquet::parquet_rows(bytes.to_vec(), file, limit);
    }
    let (text, invalid) = text_of(bytes, file, sieve)?;
    let list = |key| json::json_list(&text, file, key, limit);
    let mut rows = match (form, config.format) {
        (Form::Glue(task), _) => table::glue_rows(&text, file, task, limit)?,
        (_, Format::Csv) => table::csv_rows(&text, file, limit)?,
        (_, Format::Jsonl) => json::json_lines(&text, file, limit),
        (_, Format::Json) => list(config.rows_key.as_deref())?,
        _ => match content_extension(file).as_deref() {
            Some("csv") if config.format == Format::Samsum => table::csv_rows(&text, file, limit)?,
            Some("jsonl") => json::json_lines(&text, file, limit),
            _ => list(None)?,
        },
    };
    refuse_invalid(&mut rows, &invalid, file)?;
    Ok(rows)
}

/// What the rows ask.
fn asked(form: &Form<'_>, rows: Vec<Parsed>, file: &Path, sieve: &mut Sieve) -> Result<Vec<Asked>> {
    // Mistakes of the file come before mistakes of its values.
    let mut whole = Vec::with_capacity(rows.len());
    for (index, parsed) in rows.into_iter().enumerate() {
        whole.extend(sieve.take(parsed.row)?.map(|row| (index, row)));
    }
    let mut all = Vec::with_capacity(whole.len());
    for (index, row) in &whole {
        let asked = form.asked(*index, row, file, sieve);
        all.extend(sieve.take(asked)?);
    }
    Ok(all)
}

/// The token that a configuration says ends a text: by name, `<|endoftext|>` where none is named and the tokenizer has
/// it, none for "".
pub(super) fn end_of_text(configured: Option<&str>, tokenizer: &Tokenizer) -> Result<Option<u32>> {
    match configured {
        Some("") => Ok(None),
        None => Ok(tokenizer.token(END_OF_TEXT)),
        Some(name) => match tokenizer.token(name) {
            Some(token) => Ok(Some(token)),
            None => {
                Err(config_error("end_of_text", "a token of the tokenizer, or \"\" for none", &format!("\"{name}\"")))
            }
        },
    }
}
