//! Words of a text, as each metric is defined on them. Scores are only comparable where the tokens are the same, so every
//! rule here follows the tool whose numbers the metric has to equal, oddities included.

mod mteval;
mod porter;
mod punkt;
pub(crate) mod python;
mod rouge;
mod tercom;
mod treebank;

pub use mteval::mteval_13a;
pub use porter::porter_stem;
pub use rouge::rouge_tokens;
pub use tercom::{TercomOptions, tercom};
pub use treebank::{word_tokenize, word_tokenize_preserve_line};
