//! A frozen matrix with the factor of its low-rank addition at its side, so that one product does both: `[W; A]` makes x Aᵀ beside
//! y, and of dy with dy B beside it the gradient of x; `[W | s B]` the other way round. That saves a pass over the wide side of a
//! matrix, and is worth copying the matrix where that is small beside the activations: `x_proj` and `dt_proj`, and `in_proj`
//! where tokens are many.

use std::ops::Range;

use statetune_ssm_kernels::low_rank::cuda::{Beside, ExtendedMatrix, Extension, Projection, Rows, Sides, Way};
use statetune_ssm_kernels::scan::cuda::Strided;

use super::low_rank::columns;
use super::*;
use crate::ops::linear::{Factor, Linear};

/// How many times a matrix' narrow side the tokens are at least. With twice, writing the matrix costs what the pass saves.
const TOKENS: usize = 4;
/// What rows of `[W | s B]`, and of x with x Aᵀ beside it, lie apart is a multiple of so many elements: products read whole lines
/// of memory.
const LINE: usize = 64;
/// The narrow side of matrices that are extended in the backward too.
const NARROW: usize = 512;

/// The gradient of some outputs: their rows of W, and it.
pub(super) type Part<'a> = (Range<usize>, &'a DeviceTensor);

/// What the backward has made.
pub(super) struct Taken {
    pub dx: DeviceTensor,          // [T, I]
    pub d_projected: DeviceTensor, // [T, r]
    pub dy: DeviceTensor,          // [T, O]
}

/// A matrix whose rows begin at whole lines.
fn lined(cuda: &Cuda, rows: usize, columns: usize) -> Result<DeviceTensor> {
    Ok(DeviceTensor::unset(cuda, DType::Bf16, &[rows, columns.next_multiple_of(LINE)])?.columns(0..columns))
}

/// The matrix, and its one addition.
pub(in crate::ops) struct Extended {
    weight: DeviceTensor, // [O + r, I] or, in lines, [O, I + r], bf16; written by the forward
    extension: Extension,
    a: DeviceTensor,
    b: DeviceTensor,
    scale: f64,
    sizes: [usize; 2], // O, I
    rank: usize,
}

impl Extended {
    /// The matrix of a layer whose only addition has these factors, is to all of its outputs and of the layer's own input, if
    /// sizes make it worth the copy.
    pub fn of(
        cuda: &Cuda,
        op: &Linear,
        [a, b]: [&DeviceTensor; 2],
        x: &DeviceTensor,
        weight: &DeviceTensor,
    ) -> Result<Option<Extended>> {
        let ([(over, scale)], [outputs, width]) = (&op.low_rank[..], [weight.shape()[0], weight.shape()[1]]) else {
            return Ok(None);
        };
        let rank = b.shape()[1];
        let extension = if outputs < width { Extension::Below } else { Extension::Beside };
        let (narrow, wide) = (outputs.min(width), outputs.max(width));
        let worth = x.shape()[0] >= TOKENS * narrow && wide >= 2 * narrow;
        // What follows a wide matrix wants its rows end to end.
        let worth = worth && (extension == Extension::Beside || outputs <= NARROW);
        let whole = rank.is_multiple_of(8) && a.packed(Factor::A).is_some() && b.packed(Factor::B).is_some();
        let fits = op.frozen.is_some() && *over == (0..outputs) && weight.is_dense() && columns(weight).fit();
        if !worth || !whole || !fits || !columns(x).fit() {
            return Ok(None);
        }
        let out = match extension {
            Extension::Below => DeviceTensor::unset(cuda, DType::Bf16, &[outputs + rank, width])?,
            Extension::Beside => lined(cuda, outputs, width + rank)?,
        };
        let (a, b, sizes) = (a.clone(), b.clone(), [outputs, width]);
        Ok(Some(Extended { weight: out, extension, a, b, scale: *scale, sizes, rank }))
    }

    /// The matrix, which the forward writes.
    fn matrix<'a>(&'a self, weight: &'a DeviceTensor) -> ExtendedMatrix<'a> {
        let (factor, scale) = match self.extension {
            Extension::Below => (self.a.view(), 1.0),
            Extension::Beside => (self.b.view(), self.scale),
        };
        let out = Strided { view: self.weight.spread(), stride: self.weight.stride() };
        let (w, sizes, rank) = (weight.view(), self.sizes, self.rank);
        ExtendedMatrix { out, w, sizes, factor, scale, rank, extension: self.extension }
    }

    /// y `[T, O]` and x Aᵀ `[T, r]`, of the layer's `weight`.
    pub fn forward(
        &self,
        cuda: &Cuda,
        x: &DeviceTensor,
        weight: &DeviceTensor,
    ) -> Result<(DeviceTensor, DeviceTensor)> {
        let ([outputs, inputs], rank, tokens) = (self.sizes, self.rank, x.shape()[0]);
        let projected = DeviceTensor::unset(cuda, DType::Bf16, &[tokens, rank])?;
        let matrix = self.matrix(weight);
        if self.extension == Extension::Below {
            matrix.write(cuda)?;
            let both = DeviceTensor::unset(cuda, DType::Bf16, &[tokens, outputs + rank])?;
            multiply(cuda, &both, x.matrix(), self.weight.matrix().t(), inputs, 1.0, false)?;
            let (y, given) = (both.columns(0..outputs), both.columns(outputs..outputs + rank));
            let pass = self.pass(Projection::Given(columns(&given)), &projected, Way::Forward);
            Rows { into: Some((columns(&y), true)), ..pass }.run(cuda)?;
            return Ok((y, projected));
        }
        let both = lined(cuda, tokens, inputs + rank)?;
        let beside = both.columns(inputs..inputs + rank);
        let beside = Beside { at: columns(&beside), copies: true };
        let pass = self.pass(Projection::Of(Sides::new(&[columns(x)])), &projected, Way::Forward);
        Rows { beside: Some(beside), extended: Some(matrix), ..pass }.run(cuda)?;
        let y = DeviceTensor::unset(cuda, DType::Bf16, &[tokens, outputs])?;
        multiply(cuda, &y, both.matrix(), self.weight.matrix().t(), inputs + rank, 1.0, false)?;
        Ok((y, projected))
    }

    /// Whether it is worth keeping for the backward.
    pub fn serves_backward(&self) -> bool {
        self.sizes.iter().any(|&side| side <= NARROW)
    }

    /// The gradients of x `[T, I]`, added to what `onto` holds, and of x Aᵀ `[T, r]`, with y's as one matrix; of the gradients of
    /// the outputs, if all of them have one. Nothing where the kernels are not written for it.
    pub(super) fn backward(
        &self,
        cuda: &Cuda,
        parts: &[Part<'_>],
        onto: Option<&DeviceTensor>,
    ) -> Result<Option<Taken>> {
        let ([outputs, inputs], rank) = (self.sizes, self.rank);
        let covered: usize = parts.iter().map(|(rows, _)| rows.len()).sum();
        let fit = |(_, dy): &Part<'_>| dy.dtype() == DType::Bf16 && columns(dy).fit();
        let takes = match self.extension {
            Extension::Below => parts.len() <= 3,
            Extension::Beside => parts.len() == 1 && onto.is_none(),
        };
        let Some((_, first)) = parts.first().filter(|_| takes && covered == outputs && parts.iter().all(fit)) else {
            return Ok(None);
        };
        let tokens = first.shape()[0];
        let d_projected = DeviceTensor::unset(cuda, DType::Bf16, &[tokens, rank])?;
        if self.extension == Extension::Below {
            let both = DeviceTensor::unset(cuda, DType::Bf16, &[tokens, outputs + rank])?;
            let sides = Sides::new(&parts.iter().map(|(_, dy)| columns(dy)).collect::<Vec<_>>());
            let beside = both.columns(outputs..outputs + rank);
            let beside = Beside { at: columns(&beside), copies: true };
            let pass = self.pass(Projection::Of(sides), &d_projected, Way::Backward);
            Rows { beside: Some(beside), ..pass }.run(cuda)?;
            let dx = match onto {
                Some(onto) => onto.clone(),
                None => DeviceTensor::unset(cuda, DType::Bf16, &[tokens, inputs])?,
            };
            multiply(cuda, &dx, both.matrix(), self.weight.matrix(), outputs + rank, 1.0, onto.is_some())?;
            return Ok(Some(Taken { dx, d_projected, dy: both.columns(0..outputs) }));
        }
        let both = DeviceTensor::unset(cuda, DType::Bf16, &[tokens, inputs + rank])?;
        multiply(cuda, &both, first.matrix(), self.weight.matrix(), outputs, 1.0, false)?;
        let (dx, given) = (both.columns(0..inputs), both.columns(inputs..inputs + rank));
        let pass = self.pass(Projection::Given(columns(&given)), &d_projected, Way::Backward);
        Rows { into: Some((columns(&dx), true)), ..pass }.run(cuda)?;
        Ok(Some(Taken { dx, d_projected, dy: (*first).clone() }))
    }

    /// Through the factors.
    fn pass<'a>(&'a self, from: Projection<'a>, projected: &'a DeviceTensor, way: Way) -> Rows<'a> {
        let scales = match way {
            Way::Forward => [1.0, self.scale],
            Way::Backward => [self.scale, 1.0],
        };
        Rows {
            from,
            projected: projected.view(),
            beside: None,
            extended: None,
            into: None,
            way,
            factors: [self.a.packed(Factor::A), self.b.packed(Factor::B)]
                .map(|factor| factor.expect("the matrix is of packed factors")),
            scales,
            rank: self.rank,
            rows: projected.shape()[0],
        }
    }
}
