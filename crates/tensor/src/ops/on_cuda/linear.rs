//! Dense products on a device: linear layers with all that is patched onto them, and the product of two matrices.

use std::ops::Range;

use super::extended::{Part, Taken};
use super::*;
use crate::cuda::GradientPlace;
use crate::ops::linear::{BIAS, LOW_RANK, Linear, Saved, SavedLowRank, W, X, covers};

/// Up to this many columns, the gradients of several outputs that do not lie side by side are copied for one product; wider ones
/// are multiplied one by one.
const JOINED: usize = 512;

/// x in the type that a product with `like` needs.
fn as_type(x: &DeviceTensor, like: &DeviceTensor) -> Result<DeviceTensor> {
    x.cast(like.dtype())
}

pub fn linear(cuda: &Cuda, op: &Linear, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Saved)> {
    let x = input(cuda, inputs, X)?;
    let weight = match &op.frozen {
        Some(weight) => weight.values(),
        None => inputs.required(W)?,
    };
    let (out_features, in_features) = weight.matrix_shape("linear", "weight")?;
    op.check(inputs, out_features, in_features)?;
    let weight = as_type(weight.on_cuda(cuda)?, x)?;
    let tokens = x.shape()[0];
    let low_rank_inputs = |i: usize| -> Result<_> {
        let at = LOW_RANK + 3 * i;
        let a = inputs.optional(at + 1).map(|a| a.on_cuda(cuda)).transpose()?;
        low_rank::factors(cuda, a, input(cuda, inputs, at + 2)?, x.dtype())
    };
    let factors = (0..op.low_rank.len()).map(low_rank_inputs).collect::<Result<Vec<_>>>()?;
    let extended = match &factors[..] {
        [(Some(a), b)] if inputs.optional(LOW_RANK).is_none() => Extended::of(cuda, op, [a, b], x, &weight)?,
        _ => None,
    };
    let (y, taken) = match &extended {
        Some(extended) => {
            let (y, projected) = extended.forward(cuda, x, &weight)?;
            (y, Some(projected))
        }
        None => {
            let y = DeviceTensor::unset(cuda, x.dtype(), &[tokens, out_features])?;
            multiply(cuda, &y, x.matrix(), weight.matrix().t(), in_features, 1.0, false)?;
            (y, None)
        }
    };
    let mut kept = Vec::with_capacity(op.low_rank.len());
    for (i, ((rows, scale), (a, b))) in op.low_rank.iter().zip(factors).enumerate() {
        let at = LOW_RANK + 3 * i;
        let xi = inputs.optional(at).map_or(Ok(x), |own| own.on_cuda(cuda))?;
        let projected = match &taken {
            Some(projected) => projected.clone(),
            None => low_rank::add(cuda, &y.columns(rows.clone()), xi, a.as_ref(), &b, *scale)?,
        };
        kept.push(SavedLowRank {
            own_input: inputs.optional(at).is_some(),
            x: need.input(at + 1).then(|| xi.clone().into()),
            projected: need.input(at + 2).then(|| projected.into()),
            a: a.map(Tensor::from),
            b: b.into(),
        });
    }
    let y = match inputs.optional(BIAS) {
        Some(bias) => {
            let (biased, y) = (DeviceTensor::unset(cuda, y.dtype(), y.shape())?, y.dense()?);
            let bias = bias.on_cuda(cuda)?;
            statetune_ssm_kernels::values::cuda::add_row(
                cuda,
                biased.view(),
                y.view(),
                bias.view(),
                tokens,
                out_features,
            )?;
            biased
        }
        None => y,
    };
    // A wide result of few inputs is cheaper made again than kept: Δ.
    let cheap = op.frozen.is_some() && op.low_rank.is_empty() && in_features * 8 <= out_features;
    let outputs = if need.any() && cheap && op.splits.len() == 1 && inputs.optional(BIAS).is_none() {
        let (cuda, x, weight) = (cuda.clone(), x.clone(), weight.clone());
        let again = move || -> Result<DeviceTensor> {
            let y = DeviceTensor::unset(&cuda, x.dtype(), &[tokens, out_features])?;
            multiply(&cuda, &y, x.matrix(), weight.matrix().t(), in_features, 1.0, false)?;
            Ok(y)
        };
        vec![y.with_recipe(again).into()]
    } else {
        let y = if op.splits.len() > 1 { y.with_siblings() } else { y };
        op.ranges().map(|range| y.columns(range).into()).collect()
    };
    let saved = Saved {
        x: need.input(W).then(|| x.clone().into()),
        weight: (op.frozen.is_none() && need.input(X)).then(|| weight.into()),
        in_features,
        low_rank: kept,
        dx: need.input(X).then(|| x.gradient_place()),
        extended: extended.filter(|extended| need.input(X) && extended.serves_backward()),
    };
    Ok((outputs, saved))
}

/// Neighbouring parts as one matrix where they lie so, or are narrow.
fn joined(cuda: &Cuda, parts: &[Part<'_>]) -> Result<Vec<(Range<usize>, DeviceTensor)>> {
    let mut whole: Vec<(Range<usize>, DeviceTensor)> = Vec::new();
    for (rows, dy) in parts {
        let left = whole.last().filter(|(left, _)| left.end == rows.start).and_then(|(_, left)| left.with_right(dy));
        match (left, whole.last_mut()) {
            (Some(both), Some(last)) => *last = (last.0.start..rows.end, both),
            _ => whole.push((rows.clone(), (*dy).clone())),
        }
    }
    let neighbours = whole.windows(2).all(|pair| pair[0].0.end == pair[1].0.start);
    let width: usize = whole.iter().map(|(rows, _)| rows.len()).sum();
    if whole.len() < 2 || !neighbours || width > JOINED {
        return Ok(whole);
    }
    let (first, tokens) = (whole[0].0.start, whole[0].1.shape()[0]);
    let copy = DeviceTensor::unset(cuda, whole[0].1.dtype(), &[tokens, width])?;
    let sides: Vec<_> = whole.iter().map(|(rows, dy)| (dy.spread(), dy.stride(), rows.len())).collect();
    statetune_ssm_kernels::columns::cuda::join_columns(cuda, copy.view(), tokens, width, &sides)?;
    Ok(vec![(first..first + width, copy)])
}

pub fn linear_backward(
    cuda: &Cuda,
    op: &Linear,
    saved: Saved,
    gradients: &[Option<Tensor>],
    need: &Need,
    onto: &mut [Option<Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    let mut result: Vec<Option<Tensor>> = vec![None; LOW_RANK + 3 * op.low_rank.len()];
    let mut parts: Vec<Part<'_>> = Vec::new();
    for (rows, dy) in op.ranges().zip(gradients) {
        if let Some(dy) = dy {
            parts.push((rows, dy.on_cuda(cuda)?));
        }
    }
    let Some((_, first)) = parts.first() else { return Ok(result) };
    let (tokens, act, in_features) = (first.shape()[0], first.dtype(), saved.in_features);
    let out_features: usize = op.splits.iter().sum();
    // A product adds to a gradient that is there already, if nobody else holds it.
    let present = match onto.get_mut(X) {
        Some(slot) if need.input(X) => match slot.take() {
            Some(gradient) if gradient.on_cuda(cuda)?.is_alone() => Some(gradient.on_cuda(cuda)?.clone()),
            other => {
                *slot = other;
                None
            }
        },
        _ => None,
    };
    let adds = present.is_some();
    let taken = match &saved.extended {
        Some(extended) if need.input(X) => extended.backward(cuda, &parts, present.as_ref())?,
        _ => None,
    };
    let (whole, dx, d_projected) = match (taken, present) {
        (Some(Taken { dx, d_projected, dy }), _) => (vec![(0..out_features, dy)], Some(dx), Some(d_projected)),
        (None, Some(present)) => (joined(cuda, &parts)?, Some(present), None),
        (None, None) => {
            let dx = saved.dx.as_ref().map(GradientPlace::unset).transpose()?;
            (joined(cuda, &parts)?, dx, None)
        }
    };
    if let (Some(dx), None) = (&dx, &d_projected) {
        let weight = match (&op.frozen, &saved.weight) {
            (Some(weight), _) => weight.values().on_cuda(cuda)?.cast(act)?,
            (None, Some(weight)) => weight.on_cuda(cuda)?.clone(),
            (None, None) => unreachable!("the trained weight is saved when x needs a gradient"),
        };
        for (i, (rows, dy)) in whole.iter().enumerate() {
            multiply(cuda, dx, dy.matrix(), weight.rows(rows.clone()).matrix(), rows.len(), 1.0, adds || i > 0)?;
        }
    }
    if need.input(W) {
        let x = saved.x.as_ref().expect("x is saved when the weight is trained").on_cuda(cuda)?;
        let covered: usize = whole.iter().map(|(rows, _)| rows.len()).sum();
        let shape = [out_features, in_features];
        let dw = if covered == out_features {
            DeviceTensor::unset(cuda, DType::F32, &shape)?
        } else {
            DeviceTensor::zeros(cuda, DType::F32, &shape)?
        };
        for (rows, dy) in &whole {
            cuda.count_weight_gradient(rows.len() * in_features * tokens);
            multiply(cuda, &dw.rows(rows.clone()), dy.matrix().t(), x.matrix(), tokens, 1.0, false)?;
        }
        result[W] = Some(dw.into());
    }
    if need.input(BIAS) {
        let db = DeviceTensor::zeros(cuda, DType::F32, &[out_features])?;
        for (rows, dy) in &whole {
            let (dy, at) = (dy.dense()?, db.view().range(rows.clone()));
            statetune_ssm_kernels::reduce::cuda::column_sums(cuda, at, dy.view(), tokens, rows.len())?;
        }
        result[BIAS] = Some(db.into());
    }
    // As joined above where that leaves an addition's outputs whole, or as they came.
    let separate: Vec<_> = parts.iter().map(|(rows, dy)| (rows.clone(), (*dy).clone())).collect();
    for (i, ((rows, scale), kept)) in op.low_rank.iter().zip(&saved.low_rank).enumerate() {
        let at = LOW_RANK + 3 * i;
        let wanted = low_rank::Wanted {
            own_input: need.input(at),
            a: need.input(at + 1),
            b: need.input(at + 2),
            x: need.input(X) && !kept.own_input,
        };
        let parts = if whole.iter().all(|(joined, _)| covers(rows, joined)) { &whole } else { &separate };
        let onto = dx.as_ref().filter(|_| d_projected.is_none());
        let late = need.late(&[at + 1, at + 2]);
        let found = low_rank::backward(cuda, parts, rows, *scale, kept, onto, d_projected.as_ref(), wanted, late)?;
        (result[at], result[at + 1], result[at + 2]) = (found.own_input, found.a, found.b);
    }
    if let Some(dx) = dx {
        result[X] = Some(dx.into());
    }
    Ok(result)
}

pub fn matmul(cuda: &Cuda, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, crate::ops::matmul::Saved)> {
    let (a, b) = (input(cuda, inputs, 0)?, input(cuda, inputs, 1)?);
    let (&[m, k], &[inner, n]) = (a.shape(), b.shape()) else {
        return Err(TensorError::shape("matmul", "factors", "two matrices", b.shape()));
    };
    if inner != k {
        return Err(TensorError::shape("matmul", "second factor", format!("[{k}, n]"), b.shape()));
    }
    let y = DeviceTensor::unset(cuda, a.dtype(), &[m, n])?;
    multiply(cuda, &y, a.matrix(), as_type(b, a)?.matrix(), k, 1.0, false)?;
    // Both are kept: a gradient takes its factor's type.
    let saved = crate::ops::matmul::Saved {
        a: need.input(1).then(|| a.clone().into()),
        b: need.input(0).then(|| b.clone().into()),
        sizes: [m, k, n],
    };
    Ok((vec![y.into()], saved))
}

pub fn matmul_backward(
    cuda: &Cuda,
    a: Option<Tensor>,
    b: Option<Tensor>,
    gradients: &[Option<Tensor>],
) -> Result<Vec<Option<Tensor>>> {
    let Some(dy) = gradient(cuda, gradients)? else { return Ok(vec![None, None]) };
    let (m, n) = (dy.shape()[0], dy.shape()[1]);
    let da = b.map(|b| -> Result<Tensor> {
        let b = as_type(b.on_cuda(cuda)?, dy)?;
        let da = DeviceTensor::unset(cuda, dy.dtype(), &[m, b.shape()[0]])?;
        multiply(cuda, &da, dy.matrix(), b.matrix().t(), n, 1.0, false)?;
        Ok(da.into())
    });
    let db = a.map(|a| -> Result<Tensor> {
        let a = a.on_cuda(cuda)?;
        let k = a.shape()[1];
        let db = DeviceTensor::unset(cuda, DType::F32, &[k, n])?;
        cuda.count_weight_gradient(m * k * n);
        multiply(cuda, &db, a.matrix().t(), dy.matrix(), m, 1.0, false)?;
        Ok(db.into())
    });
    Ok(vec![da.transpose()?, db.transpose()?])
}
