//! From files to [`Dataset`]: one reader per form, then tokenising, which all share (`load`); text for pretraining (`corpus`).

mod corpus;
mod documents;
mod load;
mod row;
mod source;
mod table;
mod template;

pub use corpus::load_corpus;
pub use load::{load, load_watched};
