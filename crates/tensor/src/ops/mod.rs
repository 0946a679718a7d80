//! The general operations. Each file holds one [`Op`](crate::Op) and a function that applies it to a tape.

mod cross_entropy;
mod dropout;
mod elementwise;
mod embedding;
mod linear;
mod matmul;
mod norm;
mod rows;

pub use cross_entropy::{LinearCrossEntropy, LossOutput, linear_cross_entropy};
pub use dropout::{Dropout, DropoutRows, dropout};
pub use elementwise::{add, neg_exp, reshape, scale};
pub use embedding::embedding;
pub use linear::{Linear, LowRankInput, linear};
pub use matmul::matmul;
pub use norm::{AddRmsNorm, add_rms_norm};
pub use rows::select_rows;
