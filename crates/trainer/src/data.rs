//! From packed examples to micro-batches of the model.

use statetune_datasets_eval::{Dataset, PackedBatch};
use statetune_mamba_model::Batch;

use crate::TrainError;
use crate::step::MicroBatch;

/// The examples `indices` of a data set as a micro-batch; with `share_prefix` the tokens that all of them begin with
/// are split off.
///
/// # Errors
/// None for the indices of a data set.
pub fn micro_batch(dataset: &Dataset, indices: &[usize], share_prefix: bool) -> Result<MicroBatch, TrainError> {
    let mut packed = PackedBatch::pack(dataset, indices);
    let mut prefix = None;
    if share_prefix && indices.len() > 1 {
        let tokens = packed.split_common_prefix();
        if !tokens.is_empty() {
            prefix = Some(Batch::new(&[tokens])?);
        }
    }
    let batch = Batch::packed(packed.ids, packed.offsets, &packed.example_ids, &packed.first_positions)?;
    Ok(MicroBatch { prefix, batch, rows: packed.rows, targets: packed.targets })
}
