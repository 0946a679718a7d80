//! The low-rank additions of a linear layer on a device: fused where the kernels are written for it (bf16, ranks to 32, columns in
//! groups of eight), by plain products elsewhere.

use std::ops::Range;

use statetune_ssm_kernels::low_rank::cuda::{Columns, Projection, Rows, Sides, Way};
use statetune_ssm_kernels::scan::cuda::Strided;

use super::late::{LateFactor, LateFactors, LateGradients, make};
use super::*;
use crate::cuda::packed_factors;
use crate::ops::linear::{Factor, SavedLowRank};

/// What a backward is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// The gradient of what A multiplies, where that is not the layer's input.
    pub own_input: bool,
    pub a: bool,
    pub b: bool,
    /// Whether the layer's input has a gradient, which A multiplies.
    pub x: bool,
}

/// What it found.
#[derive(Default)]
pub(super) struct Gradients {
    pub own_input: Option<Tensor>,
    pub a: Option<Tensor>,
    pub b: Option<Tensor>,
}

/// The columns of a matrix.
pub(super) fn columns(x: &DeviceTensor) -> Columns<'_> {
    Columns { at: Strided { view: x.spread(), stride: x.stride() }, count: x.shape()[1] }
}

/// A and B of an addition to a layer that computes in `act`, packed if the kernels are written for them.
pub(super) fn factors(
    cuda: &Cuda,
    a: Option<&DeviceTensor>,
    b: &DeviceTensor,
    act: DType,
) -> Result<(Option<DeviceTensor>, DeviceTensor)> {
    let Some(a) = a.filter(|_| act == DType::Bf16) else { return Ok((a.cloned(), b.clone())) };
    let mut both = packed_factors(cuda, &[(a, Factor::A), (b, Factor::B)])?;
    let b = both.remove(1);
    Ok((Some(both.remove(0)), b))
}

/// y `[T, rows of B]` += scale · (x Aᵀ) Bᵀ; returns x Aᵀ.
pub(super) fn add(
    cuda: &Cuda,
    y: &DeviceTensor,
    x: &DeviceTensor,
    a: Option<&DeviceTensor>,
    b: &DeviceTensor,
    scale: f64,
) -> Result<DeviceTensor> {
    let (tokens, rank) = (x.shape()[0], b.shape()[1]);
    let Some(a) = a else {
        add_product(cuda, y, x, b, scale)?;
        return Ok(x.clone());
    };
    let projected = DeviceTensor::unset(cuda, x.dtype(), &[tokens, rank])?;
    if let (true, Some(down), Some(up)) =
        (columns(x).fit() && columns(y).fit(), a.packed(Factor::A), b.packed(Factor::B))
    {
        let pass = Rows {
            from: Projection::Of(Sides::new(&[columns(x)])),
            projected: projected.view(),
            beside: None,
            extended: None,
            into: Some((columns(y), true)),
            way: Way::Forward,
            factors: [down, up],
            scales: [1.0, scale],
            rank,
            rows: tokens,
        };
        pass.run(cuda)?;
        return Ok(projected);
    }
    multiply(cuda, &projected, x.matrix(), a.cast(x.dtype())?.matrix().t(), a.shape()[1], 1.0, false)?;
    add_product(cuda, y, &projected, b, scale)?;
    Ok(projected)
}

/// y += scale · projected · bᵀ.
fn add_product(cuda: &Cuda, y: &DeviceTensor, projected: &DeviceTensor, b: &DeviceTensor, scale: f64) -> Result<()> {
    let factor = b.cast(projected.dtype())?;
    multiply(cuda, y, projected.matrix(), factor.matrix().t(), b.shape()[1], scale as f32, true)
}

/// The gradients of one addition to the outputs `over`, where `parts` are the gradients of some of them by their place in the
/// layer's output; adds to `dx` what A passes on to the layer's input, unless the gradient of x Aᵀ is `given`: then that has
/// been done.
pub(super) fn backward(
    cuda: &Cuda,
    parts: &[(Range<usize>, DeviceTensor)],
    over: &Range<usize>,
    scale: f64,
    saved: &SavedLowRank,
    dx: Option<&DeviceTensor>,
    given: Option<&DeviceTensor>,
    wanted: Wanted,
    late: Option<&LateGradients>,
) -> Result<Gradients> {
    let within = |split: &Range<usize>| over.start <= split.start && split.end <= over.end;
    let covered: Vec<_> = parts.iter().filter(|(split, _)| within(split)).collect();
    let Some((_, first)) = covered.first() else { return Ok(Gradients::default()) };
    let (tokens, act) = (first.shape()[0], first.dtype());
    let b = saved.b.on_cuda(cuda)?;
    let rank = b.shape()[1];
    for (split, _) in &covered {
        if wanted.b {
            cuda.count_weight_gradient(split.len() * rank * tokens);
        }
    }
    if let Some(a) = saved.a.as_ref().filter(|_| wanted.a) {
        cuda.count_weight_gradient(rank * a.shape()[1] * tokens);
    }
    let all = covered.len() <= 2 && covered.iter().map(|(split, _)| split.len()).sum::<usize>() == over.len();
    if let (true, Some(a)) = (all && act == DType::Bf16, &saved.a) {
        let dy = covered.iter().map(|(_, dy)| dy).collect();
        let addition = Addition { dy, a: a.on_cuda(cuda)?, b, saved, scale, rank, tokens };
        if let Some(found) = addition.fused(cuda, dx, given, wanted, late)? {
            return Ok(found);
        }
    }
    assert!(given.is_none(), "an addition that was taken with the matrix is one that the kernels are written for");
    let mut found = Gradients::default();
    if wanted.b {
        let projected = saved.projected.as_ref().expect("saved when B is trained").on_cuda(cuda)?;
        let db = DeviceTensor::zeros(cuda, DType::F32, &[over.len(), rank])?;
        for (split, dy) in &covered {
            let db = db.rows(split.start - over.start..split.end - over.start);
            multiply(cuda, &db, dy.matrix().t(), projected.matrix(), tokens, scale as f32, false)?;
        }
        found.b = Some(db.into());
    }
    if !(wanted.own_input || wanted.a || wanted.x) {
        return Ok(found);
    }
    // The gradient of x Aᵀ.
    let d_projected = DeviceTensor::unset(cuda, act, &[tokens, rank])?;
    let as_factor = b.cast(act)?;
    for (j, (split, dy)) in covered.iter().enumerate() {
        let b = as_factor.rows(split.start - over.start..split.end - over.start);
        multiply(cuda, &d_projected, dy.matrix(), b.matrix(), split.len(), scale as f32, j > 0)?;
    }
    if wanted.a {
        let x = saved.x.as_ref().expect("saved when A is trained").on_cuda(cuda)?;
        let da = DeviceTensor::unset(cuda, DType::F32, &[rank, x.shape()[1]])?;
        multiply(cuda, &da, d_projected.matrix().t(), x.matrix(), tokens, 1.0, false)?;
        found.a = Some(da.into());
    }
    let Some(a) = &saved.a else {
        found.own_input = wanted.own_input.then(|| d_projected.into());
        return Ok(found);
    };
    let a = a.on_cuda(cuda)?.cast(act)?;
    if wanted.own_input {
        let dxi = DeviceTensor::unset(cuda, act, &[tokens, a.shape()[1]])?;
        multiply(cuda, &dxi, d_projected.matrix(), a.matrix(), rank, 1.0, false)?;
        found.own_input = Some(dxi.into());
    } else if let Some(dx) = dx.filter(|_| wanted.x) {
        multiply(cuda, dx, d_projected.matrix(), a.matrix(), rank, 1.0, true)?;
    }
    Ok(found)
}

/// An addition whose outputs all have gradients, in at most two matrices.
struct Addition<'a> {
    dy: Vec<&'a DeviceTensor>,
    a: &'a DeviceTensor,
    b: &'a DeviceTensor,
    saved: &'a SavedLowRank,
    scale: f64,
    rank: usize,
    tokens: usize,
}

impl Addition<'_> {
    /// Nothing where the kernels are not written for it.
    fn fused(
        &self,
        cuda: &Cuda,
        dx: Option<&DeviceTensor>,
        given: Option<&DeviceTensor>,
        wanted: Wanted,
        late: Option<&LateGradients>,
    ) -> Result<Option<Gradients>> {
        let dy = Sides::new(&self.dy.iter().map(|dy| columns(dy)).collect::<Vec<_>>());
        let (rank, tokens, inputs) = (self.rank, self.tokens, self.a.shape()[1]);
        let x = self.saved.x.as_ref().map(|x| x.on_cuda(cuda)).transpose()?;
        let projected = self.saved.projected.as_ref().map(|p| p.on_cuda(cuda)).transpose()?;
        let fits = |x: &Option<&DeviceTensor>| x.is_none_or(|x| columns(x).fit());
        let (Some(a), Some(b)) = (self.a.packed(Factor::A), self.b.packed(Factor::B)) else { return Ok(None) };
        let rounded = projected.is_none_or(|p| p.dtype() == DType::Bf16 && p.is_dense());
        if !dy.fit() || !fits(&x) || !fits(&dx) || !rounded {
            return Ok(None);
        }
        let own = match wanted.own_input {
            true => Some(DeviceTensor::unset(cuda, DType::Bf16, &[tokens, inputs])?),
            false => None,
        };
        let into = own.as_ref().or(dx.filter(|_| wanted.x));
        let d_projected = match (given, wanted.a || into.is_some()) {
            (Some(given), _) => Some(given.clone()),
            (None, false) => None,
            (None, true) => {
                let d_projected = DeviceTensor::unset(cuda, DType::Bf16, &[tokens, rank])?;
                let pass = Rows {
                    from: Projection::Of(dy),
                    projected: d_projected.view(),
                    beside: None,
                    extended: None,
                    into: into.map(|into| (columns(into), own.is_none())),
                    way: Way::Backward,
                    factors: [a, b],
                    scales: [self.scale, 1.0],
                    rank,
                    rows: tokens,
                };
                pass.run(cuda)?;
                Some(d_projected)
            }
        };
        let gradient = |wanted: bool, shape: [usize; 2]| -> Result<Option<DeviceTensor>> {
            wanted.then(|| DeviceTensor::unset(cuda, DType::F32, &shape)).transpose()
        };
        let (db, da) = (gradient(wanted.b, [dy.count(), rank])?, gradient(wanted.a, [rank, inputs])?);
        let up = db.as_ref().map(|db| LateFactor {
            gradient: db.clone(),
            x: self.dy.iter().map(|&dy| dy.clone()).collect(),
            projected: projected.expect("saved when B is trained").clone(),
        });
        let down = da.as_ref().map(|da| LateFactor {
            gradient: da.clone(),
            x: vec![x.expect("saved when A is trained").clone()],
            projected: d_projected.expect("made for A's gradient"),
        });
        let factors = LateFactors { up, down, scale: self.scale, rank, tokens };
        match late {
            Some(late) => late.push(cuda, factors)?,
            None => make(cuda, &[factors])?,
        }
        Ok(Some(Gradients { own_input: own.map(Into::into), a: da.map(Into::into), b: db.map(Into::into) }))
    }
}
