//! What every entry of METHODS owes, alone and together with others: identity at the start, count = formula, parallel =
//! recurrent, packed = alone, merged = unmerged, saved = loaded, exported = trained, gradients that are right, and no
//! gradient work for what is frozen. Tensors are random of order 0.1: at their zeros every equality would be empty.

mod constants;
mod embeddings;
mod entries;
mod equalities;
mod files;
mod gradients;
mod merge;
mod start;
mod support;
mod work;
