//! The general operations: gradients against finite differences in `f64`, and `f32` at every level against `f64`.
//!
//! Both walk one list of cases; what single operations promise beyond that (losses per row, dropout's identity, the
//! errors) has tests of its own.

mod cases;
mod errors;
mod gradients;
mod levels;
mod patch_cases;
mod values;
