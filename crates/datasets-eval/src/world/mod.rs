//! A small world of the project's own: an archipelago with its towns, people, shops, ships and prices, the English that
//! is written about it, four task families in miniature, and a tokenizer trained on the text. It feeds the embedded
//! default (`cargo xtask pretrain-tiny`, `cargo xtask quickstart`), so that both need no data and no network. Nothing is
//! read from files and nothing depends on the machine: the same seeds give the same bytes everywhere.
//!
//! # What it holds
//!
//! - [`World::text`]: documents of one to three short passages, 540 bytes each. At [`DEFAULT_DOCUMENTS`] they come to 6.5 MB:
//!   1.24 million words, 1,566 of them different, or 1.69 million tokens of a [`bpe`] tokenizer of 2,048 (0.26 tokens
//!   per byte). Another seed gives other documents, for a held-out loss.
//! - [`World::task`]: examples of one [`Family`] and [`Split`]. Each family has many thousands of examples; a tenth of
//!   them each are validation and test, cut by a hash of what has to be answered, so that a split holds no record,
//!   query or dialogue of another even in other words. The usual size is 2,000 for training and 500 for each of the rest. Means, in tokens of prompt and completion: 65
//!   (records), 72 (queries), 75 (dialogues) and 33 (feelings); none is longer than 120.
//! - [`World::sql_schema`] and [`World::sql_rows`]: the database that every statement of [`Family::Sql`] runs on.
//! - [`bpe`]: the tokenizer, trained on the text alone.
//!
//! The base model sees the text, never a task's form: no `###`, no statement of SQL, no label in its place. Yet every
//! word that a task needs occurs in the text, and reviews and stories express feelings in the words that
//! [`Family::Feeling`] asks about. Half of the documents tell of islands drawn anew with the same words, so that what a
//! text says of a name has to be read there and cannot be remembered.

pub mod bpe;
mod database;
mod entities;
mod feeling;
mod goods;
mod lexicon;
mod plots;
mod prose;
pub(crate) mod rng;
mod task;
mod template;
#[cfg(test)]
mod tests;

pub use entities::World;
pub use task::{Family, Split, TaskExample, Tasks};

/// Documents of the usual pretraining text.
pub const DEFAULT_DOCUMENTS: usize = 12_000;
