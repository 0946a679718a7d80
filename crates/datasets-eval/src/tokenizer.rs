//! Text to token ids: a thin wrapper over `tokenizers`. Parallel work runs in a pool of its own, never in the global one:
//! the library itself is only ever asked for one text at a time, so its own parallelism has nothing to do.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::{DataError, Result};

/// What ends a text unless something else is named: the token of the GPT-NeoX and Mamba vocabularies.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Who wants to know how far something is: (done, of), from any thread.
pub type Watch<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// Rows between two calls of a [`Watch`].
const WATCH_EVERY: usize = 256;

/// Threads for tokenising.
#[derive(Debug)]
pub struct Pool(rayon::ThreadPool);

impl Pool {
    /// A pool of this many threads. Results do not depend on their number.
    pub fn new(threads: usize) -> Result<Pool> {
        let names = |index| format!("tokenise-{index}");
        Ok(Pool(rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(names).build()?))
    }

    /// `f` of every index in order; the first error by index, whatever the timing.
    pub(crate) fn map<T: Send>(&self, count: usize, f: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        self.map_watched(count, f, &|_, _| {})
    }

    /// The same; `watch` hears now and then, from any thread, how many are done of how many.
    pub(crate) fn map_watched<T: Send>(
        &self,
        count: usize,
        f: impl Fn(usize) -> Result<T> + Sync,
        watch: Watch<'_>,
    ) -> Result<Vec<T>> {
        let done = AtomicUsize::new(0);
        let watched = |index: usize| {
            let result = f(index);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            if done.is_multiple_of(WATCH_EVERY) || done == count {
                watch(done, count);
            }
            result
        };
        let results: Vec<Result<T>> = self.0.install(|| (0..count).into_par_iter().map(watched).collect());
        results.into_iter().collect()
    }
}

/// A tokenizer as `tokenizer.json` describes it, without its truncation, padding and special-token template.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    digest: [u8; 32],
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn open(file: &Path) -> Result<Tokenizer> {
        let hint = "give a readable tokenizer.json";
        let bytes = std::fs::read(file).map_err(|source| DataError::Io { file: file.into(), source, hint })?;
        Tokenizer::from_bytes(&bytes, file)
    }

    /// A tokenizer from the bytes of a `tokenizer.json`; `file` is its name in messages.
    pub fn from_bytes(bytes: &[u8], file: &Path) -> Result<Tokenizer> {
        let error = |error: tokenizers::Error| DataError::Tokenizer {
            file: file.into(),
            message: error.to_string(),
            hint: "give a complete tokenizer.json of the Hugging Face tokenizers library",
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(error)?;
        // Texts are never cut or filled in silence, whatever the file was saved with.
        inner.with_truncation(None).map_err(error)?;
        inner.with_padding(None);
        Ok(Tokenizer { inner, file: file.into(), digest: Sha256::digest(bytes).into() })
    }

    /// Token ids of a text, encoded on its own, no special tokens added (those written in the text are recognised).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| DataError::Tokenizer {
            file: self.file.clone(),
            message: error.to_string(),
            hint: "the text is outside what this tokenizer can encode; use the tokenizer of the model",
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// [`encode`](Self::encode) of every text, in parallel.
    pub fn encode_all<S: AsRef<str> + Sync>(&self, texts: &[S], pool: &Pool) -> Result<Vec<Vec<u32>>> {
        pool.map(texts.len(), |index| self.encode(texts[index].as_ref()))
    }

    /// The text of some tokens; special tokens are written out only if asked for.
    pub fn decode(&self, ids: &[u32], with_special_tokens: bool) -> Result<String> {
        self.inner.decode(ids, !with_special_tokens).map_err(|error| DataError::Tokenizer {
            file: self.file.clone(),
            message: error.to_string(),
            hint: "the tokens are not of this tokenizer; use the tokenizer of the model",
        })
    }

    /// The id of a token by its exact name, e.g. `<|endoftext|>`.
    pub fn token(&self, name: &str) -> Option<u32> {
        self.inner.token_to_id(name)
    }

    /// One more than the largest id: the rows an embedding must have at least.
    pub fn ids(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// SHA-256 of the file.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}
