//! What the tests of the readers share: a small tokenizer, files in a temporary folder, and data sets told as text.
#![allow(dead_code)] // every test binary uses its own part

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use statetune_datasets_eval::world::{World, bpe};
use statetune_datasets_eval::{DataConfig, DataError, Dataset, Format, Pool, Result, Split, Tokenizer, load};
use tempfile::TempDir;

/// `tokenizer.json` of a small byte-level tokenizer: every text comes back from its tokens, `<|endoftext|>` is token 0.
pub static TOKENIZER_JSON: LazyLock<String> = LazyLock::new(|| {
    let folder = folder();
    bpe::save(&bpe::train(World::new(1).text(1, 500), 1500).unwrap(), folder.path()).unwrap();
    std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()
});

/// That tokenizer.
pub static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| tokenizer(&TOKENIZER_JSON));

/// The tokenizer of such a text.
pub fn tokenizer(json: &str) -> Tokenizer {
    Tokenizer::from_bytes(json.as_bytes(), Path::new("tokenizer.json")).unwrap()
}

/// Where relative paths of the environment start: the repository.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// An empty folder that goes with its value.
pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A file of this content.
pub fn file(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let file = folder.path().join(name);
    std::fs::write(&file, content).unwrap();
    file
}

/// Rows whose fields `prompt` and `completion` are what their names say.
pub fn pairs(format: Format, train: PathBuf) -> DataConfig {
    let field = |name: &str| Some(name.to_owned());
    DataConfig { prompt_field: field("prompt"), completion_field: field("completion"), ..of_format(format, train) }
}

/// Rows whose field `prompt` is answered by one of the labels in `label`.
pub fn classes(format: Format, train: PathBuf, labels: &[&str]) -> DataConfig {
    let labels = labels.iter().map(|&label| label.into()).collect();
    DataConfig { completion_field: None, label_field: Some("label".into()), labels, ..pairs(format, train) }
}

/// A task of GLUE, with room for long rows.
pub fn glue(task: &str, train: PathBuf) -> DataConfig {
    DataConfig { task: Some(task.into()), max_tokens: 4096, ..of_format(Format::Glue, train) }
}

/// Nothing but a format and a file.
pub fn of_format(format: Format, train: PathBuf) -> DataConfig {
    DataConfig { format, train: Some(train), ..DataConfig::default() }
}

/// The training split, without a cache.
pub fn read(config: &DataConfig) -> Result<Dataset> {
    load(config, Split::Train, &TOKENIZER, &Pool::new(2).unwrap(), None)
}

/// The error that reading ends in.
#[track_caller]
pub fn fails(config: &DataConfig) -> DataError {
    match read(config) {
        Err(error) => error,
        Ok(dataset) => panic!("expected an error, read {:?}", texts(&dataset)),
    }
}

/// An error's message; the temporary folder is left out of its paths.
pub fn message(error: &DataError, folder: &TempDir) -> String {
    error.to_string().replace(&format!("{}/", folder.path().display()), "")
}

/// Every example as the text before its targets and that of its targets.
pub fn texts(dataset: &Dataset) -> Vec<(String, String)> {
    let text = |tokens: &[u32]| TOKENIZER.decode(tokens, true).unwrap();
    let halves = dataset.examples.iter().map(|example| example.tokens.split_at(example.labelled_from));
    halves.map(|(prompt, completion)| (text(prompt), text(completion))).collect()
}

/// Reads and compares with the texts expected.
#[track_caller]
pub fn reads<A: AsRef<str>, B: AsRef<str>>(config: &DataConfig, expected: &[(A, B)]) {
    let found = texts(&read(config).unwrap_or_else(|error| panic!("{error}")));
    let found: Vec<(&str, &str)> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let expected: Vec<(&str, &str)> = expected.iter().map(|(a, b)| (a.as_ref(), b.as_ref())).collect();
    assert_eq!(found, expected);
}
