//! A tokenised data set: examples as token ids with the place where their targets begin. Knows nothing of files
//! (`readers`) nor of batches (`packing`).

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// One row, tokenised: prompt and completion end to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct Example {
    /// Position of the row in its file (of the window, for text); stable under shuffling, limits and dropped rows.
    pub id: u64,
    /// All tokens, targets included.
    pub tokens: Vec<u32>,
    /// `tokens[labelled_from..]` are the targets; `1 <= labelled_from < tokens.len()`.
    pub labelled_from: usize,
    /// Index into [`Dataset::classes`]; `None` for generation.
    pub class: Option<usize>,
}

/// A class of a classification task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct ClassLabel {
    /// The label as the prompt asks for it, e.g. "0".
    pub name: String,
    /// The one token it is.
    pub token: u32,
}

/// What became of the rows of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct Counts {
    /// Rows read (documents, for text).
    pub rows: usize,
    /// Examples kept (windows, for text).
    pub kept: usize,
    /// Rows dropped because they are longer than the limit.
    pub too_long: usize,
    /// The longest row read, in tokens.
    pub max_tokens: usize,
}

/// Tokenised examples of one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct Dataset {
    /// In the order of the file.
    pub examples: Vec<Example>,
    /// Classes in the order of their indices; empty for generation.
    pub classes: Vec<ClassLabel>,
    /// What became of the rows.
    pub counts: Counts,
}

impl Dataset {
    /// The number of positions each example takes in a packed batch: its tokens but the last, which is only a target.
    pub fn lengths(&self) -> Vec<usize> {
        self.examples.iter().map(|example| example.tokens.len() - 1).collect()
    }
}
