//! From examples to packed batches: which examples share a step (`plan`) and how their tokens lie end to end (`batch`).
//! Nothing is padded. Lengths count the packed positions of an example, as [`Dataset::lengths`](crate::Dataset::lengths)
//! does: its tokens but the last, which is only a target.

mod batch;
mod plan;
mod shuffle;

pub use batch::PackedBatch;
pub use plan::{PackingPlan, evaluation_batches};
