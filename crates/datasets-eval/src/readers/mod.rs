//! From files to [`Dataset`](crate::Dataset): one reader per form of file (`table`, `json`, `parquet`), what their rows ask (`form`),
//! then tokenising, which all share (`tokenise`); text for pretraining (`corpus`).

mod chat;
mod corpus;
mod decode;
mod documents;
mod form;
mod jinja;
mod json;
mod load;
mod parquet;
mod resources;
mod row;
mod sieve;
mod source;
mod table;
mod template;
mod tokenise;

pub use corpus::load_corpus;
pub use load::{load, load_watched};
