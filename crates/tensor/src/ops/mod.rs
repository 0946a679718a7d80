//! The general operations. Each file holds one [`Op`](crate::Op) and a function that applies it to a tape.

mod columns;
mod cross_entropy;
mod dora;
mod dropout;
mod elementwise;
mod embedding;
mod linear;
mod matmul;
mod norm;
mod rows;
mod values;

pub use columns::{gather_columns, join_columns, place_columns, scale_columns, take_columns};
pub use cross_entropy::{HeadAddition, LinearCrossEntropy, LossOutput, linear_cross_entropy};
pub use dora::{AdaptedWeight, NormAxis, dora_gain};
pub use dropout::{Dropout, DropoutRows, dropout};
pub use elementwise::{add, neg_exp, reshape, scale};
pub use embedding::embedding;
pub use linear::{Linear, LowRankInput, linear};
pub use matmul::matmul;
pub use norm::{AddRmsNorm, add_rms_norm};
pub use rows::select_rows;
pub use values::{add_row, mul, scale_rows, scatter, sum_last, tanh, transpose};
