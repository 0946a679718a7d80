//! From files to [`Dataset`]: one reader per form, then tokenising, which all share (`load`).

mod documents;
mod load;
mod row;
mod table;
mod template;

pub use load::{load, load_watched};
