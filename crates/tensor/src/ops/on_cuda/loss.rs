//! The language-model head and the cross-entropy on a device, a block of rows at a time.

use statetune_ssm_kernels::cross_entropy::cuda as kernel;
use statetune_ssm_kernels::runtime::cuda::{Array, ElementType};

use super::*;
use crate::ops::cross_entropy::{Details, LinearCrossEntropy};

/// Rows whose logits exist at once, at least. Every block reads the whole head, so fewer rows cost time.
const ROWS_PER_BLOCK: usize = 512;
/// And at most. Where the head is trained always: each block reads and writes the whole gradient `[V, d_model]`.
const MOST_ROWS_PER_BLOCK: usize = 2048;
/// Between the two an eighth of the rows, so that logits stay small beside what the layers keep of as many tokens; but no more
/// than the product over the vocabulary needs to fill a device, which is so many numbers of x's gradient.
const BLOCKS: usize = 8;
const NUMBERS_PER_BLOCK: usize = 1 << 20;

fn rows_per_block(rows: usize, d_model: usize, trained: bool) -> usize {
    if trained {
        return MOST_ROWS_PER_BLOCK;
    }
    let most = (NUMBERS_PER_BLOCK / d_model.max(1)).clamp(ROWS_PER_BLOCK, MOST_ROWS_PER_BLOCK);
    let rows = (rows / BLOCKS).clamp(ROWS_PER_BLOCK, most);
    rows / ROWS_PER_BLOCK * ROWS_PER_BLOCK
}

/// The losses of the rows and the most probable tokens, on the device.
pub struct DeviceDetails {
    pub losses: DeviceTensor,
    pub argmax: Array,
}

pub fn linear_cross_entropy(
    cuda: &Cuda,
    op: &LinearCrossEntropy,
    inputs: &Inputs<'_>,
    need: &Need,
) -> Result<(Vec<Tensor>, Vec<Option<Tensor>>)> {
    let x = input(cuda, inputs, 0)?.dense()?;
    let weight = match &op.frozen {
        Some(weight) => weight.values(),
        None => inputs.required(1)?,
    };
    let weight = weight.on_cuda(cuda)?.cast(x.dtype())?;
    let (rows, k, vocab, act) = (x.shape()[0], x.shape()[1], weight.shape()[0], x.dtype());
    let losses = DeviceTensor::unset(cuda, DType::F32, &[rows])?;
    let argmax = cuda.array(ElementType::U32, rows)?;
    let (targets, inverse) = (op.targets.on(cuda)?, op.divisor.inverse().on(cuda)?);
    let wanted = |i: usize, dtype, shape: &[usize]| -> Result<Option<DeviceTensor>> {
        need.input(i).then(|| DeviceTensor::zeros(cuda, dtype, shape)).transpose()
    };
    let dx = need.input(0).then(|| DeviceTensor::unset(cuda, act, x.shape())).transpose()?;
    let dw = if op.frozen.is_none() { wanted(1, DType::F32, &[vocab, k])? } else { None };
    // (projected, B, its gradient, B's gradient) of each addition.
    let mut additions = Vec::new();
    for i in 0..op.scales.len() {
        let (projected, b) = (input(cuda, inputs, 2 + 2 * i)?, input(cuda, inputs, 3 + 2 * i)?);
        let rank = b.shape()[1];
        if projected.shape() != [rows, rank] || b.shape()[0] != vocab {
            let expected = format!("[{rows}, {rank}] beside a B [{vocab}, {rank}]");
            return Err(TensorError::shape("linear_cross_entropy", "addition", expected, projected.shape()));
        }
        let d_projected = wanted(2 + 2 * i, act, &[rows, rank])?;
        let db = wanted(3 + 2 * i, DType::F32, &[vocab, rank])?;
        additions.push((projected.cast(act)?.dense()?, b.cast(act)?, d_projected, db));
    }
    let per_block = rows_per_block(rows, k, dw.is_some());
    for start in (0..rows).step_by(per_block) {
        let block = start..rows.min(start + per_block);
        let count = block.len();
        let logits = DeviceTensor::unset(cuda, act, &[count, vocab])?;
        multiply(cuda, &logits, x.rows(block.clone()).matrix(), weight.matrix().t(), k, 1.0, false)?;
        for ((projected, b, ..), scale) in additions.iter().zip(&op.scales) {
            let (projected, rank) = (projected.rows(block.clone()), b.shape()[1]);
            multiply(cuda, &logits, projected.matrix(), b.matrix().t(), rank, *scale as f32, true)?;
        }
        let scale = need.any().then_some(inverse);
        kernel::cross_entropy(
            cuda,
            logits.view(),
            losses.view().range(block.clone()),
            Some(argmax.view().range(block.clone())),
            targets.range(block.clone()),
            scale,
            count,
            vocab,
        )?;
        // The logits are now their gradients.
        if let Some(dx) = &dx {
            multiply(cuda, &dx.rows(block.clone()), logits.matrix(), weight.matrix(), vocab, 1.0, false)?;
        }
        if let Some(dw) = &dw {
            cuda.count_weight_gradient(vocab * k * count);
            multiply(cuda, dw, logits.matrix().t(), x.rows(block.clone()).matrix(), count, 1.0, true)?;
        }
        for ((projected, b, d_projected, db), scale) in additions.iter().zip(&op.scales) {
            let scale = *scale as f32;
            if let Some(d_projected) = d_projected {
                multiply(cuda, &d_projected.rows(block.clone()), logits.matrix(), b.matrix(), vocab, scale, false)?;
            }
            if let Some(db) = db {
                cuda.count_weight_gradient(vocab * b.shape()[1] * count);
                let projected = projected.rows(block.clone());
                multiply(cuda, db, logits.matrix().t(), projected.matrix(), count, scale, true)?;
            }
        }
    }
    let loss = DeviceTensor::unset(cuda, DType::F32, &[])?;
    kernel::sum_losses(cuda, loss.view(), losses.view(), inverse, rows)?;
    *op.details.borrow_mut() = Details::Cuda(DeviceDetails { losses, argmax });
    let mut gradients = vec![dx.map(Tensor::from), dw.map(Tensor::from)];
    for (_, _, d_projected, db) in additions {
        gradients.extend([d_projected.map(Tensor::from), db.map(Tensor::from)]);
    }
    Ok((vec![loss.into()], gradients))
}

#[cfg(test)]
mod tests {
    use super::rows_per_block;

    #[test]
    fn blocks_of_logits_grow_with_the_rows_up_to_what_fills_a_device() {
        let (few, many) = (8192, 1 << 20);
        let cases =
            [(1, 768, 512), (2048, 768, 512), (few, 768, 1024), (few, 2048, 512), (many, 768, 1024), (many, 64, 2048)];
        for (rows, d_model, expected) in cases {
            assert_eq!(rows_per_block(rows, d_model, false), expected, "{rows} rows, d_model {d_model}");
            assert_eq!(rows_per_block(rows, d_model, true), 2048, "{rows} rows of a trained head");
        }
    }
}
