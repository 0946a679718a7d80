//! The tokenizer of the embedded model: byte-level byte-pair encoding (Sennrich, Haddow, Birch, "Neural machine
//! translation of rare words with subword units", 2016, on bytes as in GPT-2) trained by the `tokenizers` crate, written
//! in the layout of Hugging Face. The special token `<|endoftext|>` has id 0.

use std::path::{Path, PathBuf};

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

use crate::END_OF_TEXT;

/// Tokens that have to be whole for the feeling task: its labels as completions have them, and bare.
const WHOLE: [&str; 4] = [" 0", " 1", "0", "1"];

/// Why a tokenizer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BpeError {
    /// The vocabulary has no room for every byte and the special token.
    #[error("vocabulary size: expected at least 257 (every byte and {END_OF_TEXT}), found {found}")]
    VocabularyTooSmall {
        /// The size asked for.
        found: usize,
    },
    /// The training text uses a label too rarely for it to become a token.
    #[error(
        "label {label:?}: expected one token, found {found} with a vocabulary of {vocab_size}; \
         train on more text or with a larger vocabulary"
    )]
    SplitLabel {
        /// The label.
        label: &'static str,
        /// How many tokens it fell into.
        found: usize,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// The `tokenizers` crate refused.
    #[error("tokenizer: {0}")]
    Tokenizers(String),
    /// The folder or a file of it could not be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// What could not be written.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn refused(error: tokenizers::Error) -> BpeError {
    BpeError::Tokenizers(error.to_string())
}

/// Trains a tokenizer of `vocab_size` tokens (fewer if the text has fewer to merge) on documents. The same documents give
/// the same tokenizer, in any order.
///
/// # Errors
///
/// A vocabulary without room for the bytes, or a text that hardly knows the numbers 0 and 1.
pub fn train<S>(documents: impl IntoIterator<Item = S>, vocab_size: usize) -> Result<Tokenizer, BpeError>
where
    S: AsRef<str>,
{
    if vocab_size < 257 {
        return Err(BpeError::VocabularyTooSmall { found: vocab_size });
    }
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(byte_level));
    tokenizer.with_decoder(Some(ByteLevelDecoder::default()));
    let trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(vocab_size)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    // The trainer takes its text from several threads, which only count words; counts do not depend on their order.
    let documents: Vec<String> = documents.into_iter().map(|document| document.as_ref().to_string()).collect();
    tokenizer.train(&mut TrainerWrapper::from(trainer), documents.into_iter()).map_err(refused)?;
    for label in WHOLE {
        let found = tokenizer.encode(label, false).map_err(refused)?.len();
        if found != 1 {
            return Err(BpeError::SplitLabel { label, found, vocab_size });
        }
    }
    Ok(tokenizer)
}

/// Writes `tokenizer.json` and `tokenizer_config.json` into a folder that exists.
///
/// # Errors
///
/// A file that cannot be written.
pub fn save(tokenizer: &Tokenizer, folder: &Path) -> Result<(), BpeError> {
    let config = serde_json::json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": false,
    });
    let files = [
        ("tokenizer.json", tokenizer.to_string(true).map_err(refused)?),
        ("tokenizer_config.json", format!("{config:#}\n")),
    ];
    for (name, content) in files {
        let path = folder.join(name);
        std::fs::write(&path, content).map_err(|source| BpeError::Write { path, source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn a_vocabulary_smaller_than_the_bytes_is_refused() {
        let error = train(["text"], 256).expect_err("no room for the bytes");
        assert!(matches!(error, BpeError::VocabularyTooSmall { found: 256 }));
    }

    #[test]
    fn a_text_without_numbers_is_refused() {
        let error = train(["no numbers here"], 300).expect_err("labels are not tokens");
        assert!(error.to_string().contains("\" 0\""), "{error}");
    }

    #[test]
    fn training_twice_gives_the_same_file_that_loads_and_round_trips() {
        let world = World::new(1);
        let text: Vec<String> = world.text(1, 4_000).collect();
        let first = train(&text, 2048).expect("training");
        let second = train(text.iter().rev(), 2048).expect("training");
        assert_eq!(first.to_string(true).unwrap(), second.to_string(true).unwrap());
        assert_eq!(first.get_vocab_size(true), 2048);

        let folder = std::env::temp_dir().join(format!("statetune-bpe-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        save(&first, &folder).expect("saving");
        let loaded = Tokenizer::from_file(folder.join("tokenizer.json")).expect("loading");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(loaded.token_to_id(END_OF_TEXT), Some(0));
        let words = format!("{}{END_OF_TEXT}{}", text[0], text[1]);
        let ids = loaded.encode(words.as_str(), false).unwrap();
        assert_eq!(loaded.decode(ids.get_ids(), false).unwrap(), words);
        assert!(ids.get_ids().contains(&0));
    }
}
