//! A tokenised data set: examples as token ids with the place where their targets begin. Knows nothing of files
//! (`readers`) nor of batches (`packing`).

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// One row, tokenised: prompt and completion end to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct Example {
    /// Position of the row in its file (of the window, for text); stable under shuffling, limits and dropped rows. Where a
    /// row makes several examples, the further ones have 1, 2, ... in the upper 32 bits: see [`row`](Self::row).
    pub id: u64,
    /// All tokens, targets included.
    pub tokens: Vec<u32>,
    /// `tokens[labelled_from..]` are the targets; `1 <= labelled_from < tokens.len()`.
    pub labelled_from: usize,
    /// Index into [`Dataset::classes`]; `None` for generation.
    pub class: Option<usize>,
}

impl Example {
    /// Bits of an id that hold the position of the row.
    const ROW_BITS: u32 = 32;

    /// The id of example `part` of the row at this position.
    pub(crate) fn id_of(row: usize, part: usize) -> u64 {
        row as u64 | (part as u64) << Example::ROW_BITS
    }

    /// Position of its row in the file; that of [`Item::row`] for the same row.
    pub fn row(&self) -> u64 {
        self.id & ((1 << Example::ROW_BITS) - 1)
    }
}

/// A row as an evaluation of written answers needs it: what the model is given, and what is held against its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct Item {
    /// Position of the row in its file, from 0.
    pub row: u64,
    /// Line of the file that the row starts at, from 1.
    pub line: u64,
    /// Tokens of the prompt alone; at least one, fewer than `max_tokens`.
    pub prompt: Vec<u32>,
    /// Right answers, at least one, as the file has them, whatever the prompt form makes of them for training. For Spider
    /// the query.
    pub references: Vec<String>,
    /// For Spider the database that the question is about (`db_id`).
    pub database: Option<String>,
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
    /// Examples left out because they are longer than the limit.
    pub too_long: usize,
    /// Items left out because their prompt alone reaches the limit.
    pub prompts_too_long: usize,
    /// Rows, and answers of a row, left out because they cannot be used; [`Dataset::bad_rows`] names them.
    pub bad: usize,
    /// The longest example read, in tokens.
    pub max_tokens: usize,
}

/// Tokenised examples of one split.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, Encode, Decode)]
pub struct Dataset {
    /// In the order of the file.
    pub examples: Vec<Example>,
    /// The rows of a validation split that ask for a written answer, in the order of the file. Empty for training, for
    /// classes and for running text.
    pub items: Vec<Item>,
    /// Classes in the order of their indices; empty for generation.
    pub classes: Vec<ClassLabel>,
    /// What became of the rows.
    pub counts: Counts,
    /// What is wrong with the first [`Dataset::BAD_ROWS`] rows that cannot be used, with file and line.
    pub bad_rows: Vec<String>,
}

impl Dataset {
    /// The most messages that are kept about rows that cannot be used.
    pub const BAD_ROWS: usize = 20;

    /// The number of positions each example takes in a packed batch: its tokens but the last, which is only a target.
    pub fn lengths(&self) -> Vec<usize> {
        self.examples.iter().map(|example| example.tokens.len() - 1).collect()
    }
}
