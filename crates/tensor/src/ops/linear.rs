//! The linear layer with everything fine-tuning hangs on it: a frozen or trained weight, a bias, low-rank additions.
//!
//! A low-rank addition stays low-rank: y += s · (x Aᵀ) Bᵀ, never W + sBA, which would bring back the gradient of the
//! full weight (Hu et al. 2021, LoRA).

use std::ops::Range;

use statetune_ssm_kernels::{Cpu, WeightSlice, matmul as kernel};

#[cfg(feature = "cuda")]
use super::on_cuda;
use crate::{
    DType, Device, Float, Inputs, Need, Op, Result, Tape, Tensor, TensorError, Var, Weight, cpu_or, with_float,
};

/// One low-rank addition: rows `rows` of the output gain `scale` · (x Aᵀ) Bᵀ, or `scale` · x Bᵀ without an A.
pub struct LowRankInput<'a> {
    /// The output rows that B covers; they must be whole outputs of the layer's split.
    pub rows: Range<usize>,
    /// s.
    pub scale: f64,
    /// What A multiplies when it is not the layer's own input (x after dropout), `[T, I]`; without an A, what B
    /// multiplies (some columns of x), `[T, r]`.
    pub x: Option<&'a Var>,
    /// A `[r, I]`.
    pub a: Option<&'a Var>,
    /// B `[rows, r]`.
    pub b: &'a Var,
}

/// Which factor of a low-rank addition a matrix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factor {
    /// A `[r, I]`.
    A,
    /// B `[rows, r]`.
    B,
}

/// These matrices, as factors of low-rank additions to layers that compute in `act`. On a device that reads factors in an order
/// of its own they have that with them, all of them made in one launch where each layer would make its own otherwise; on
/// others they are as they came.
///
/// # Errors
/// When the device fails, or a matrix is on another one.
pub fn as_factors(device: &Device, act: DType, factors: Vec<(Tensor, Factor)>) -> Result<Vec<Tensor>> {
    let as_they_came = |factors: Vec<(Tensor, Factor)>| Ok(factors.into_iter().map(|(factor, _)| factor).collect());
    if act != DType::Bf16 {
        return as_they_came(factors);
    }
    match device {
        Device::Cpu(_) => as_they_came(factors),
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let on_device = |(factor, which): &(Tensor, Factor)| Ok((factor.on_cuda(cuda)?.clone(), *which));
            let on_device = factors.iter().map(on_device).collect::<Result<Vec<_>>>()?;
            let on_device: Vec<_> = on_device.iter().map(|(factor, which)| (factor, *which)).collect();
            Ok(crate::cuda::packed_factors(cuda, &on_device)?.into_iter().map(Tensor::from).collect())
        }
    }
}

/// y_s = x W_sᵀ + bias_s + low-rank additions, one output per entry of `splits` (rows of W in order).
///
/// Inputs: x `[T, I]`, W `[O, I]` (absent when frozen), bias `[O]` (optional), then (x_i, A_i, B_i) for each low-rank
/// addition, of which x_i or A_i may be absent.
pub struct Linear {
    /// The weight when it is frozen.
    pub frozen: Option<Weight>,
    /// The sizes of the outputs; they sum to O.
    pub splits: Vec<usize>,
    /// Rows and scale of each low-rank addition.
    pub low_rank: Vec<(Range<usize>, f64)>,
}

/// Kept for backward, each only if a gradient will need it.
pub struct Saved {
    pub(super) x: Option<Tensor>,
    pub(super) weight: Option<Tensor>,
    pub(super) in_features: usize,
    pub(super) low_rank: Vec<SavedLowRank>,
    #[cfg(feature = "cuda")]
    pub(super) dx: Option<crate::cuda::GradientPlace>, // where the gradient of x is written
    #[cfg(feature = "cuda")]
    pub(super) extended: Option<on_cuda::Extended>, // the weight with an addition's factor, where it serves the backward
}

pub(super) struct SavedLowRank {
    pub(super) own_input: bool,           // A multiplied its own input, not the layer's
    pub(super) x: Option<Tensor>,         // what A multiplied, if A is trained
    pub(super) projected: Option<Tensor>, // x Aᵀ [T, r], if B is trained
    pub(super) a: Option<Tensor>,
    pub(super) b: Tensor,
}

pub(super) const X: usize = 0;
pub(super) const W: usize = 1;
pub(super) const BIAS: usize = 2;
pub(super) const LOW_RANK: usize = 3; // then three per addition: x_i, A_i, B_i

impl Linear {
    /// The row ranges of the outputs.
    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        self.splits.iter().scan(0, |start, &size| {
            let range = *start..*start + size;
            *start += size;
            Some(range)
        })
    }

    pub(super) fn check(&self, inputs: &Inputs<'_>, out_features: usize, in_features: usize) -> Result<()> {
        let x = inputs.required(X)?;
        if x.matrix_shape("linear", "x")?.1 != in_features {
            return Err(TensorError::shape("linear", "x", format!("[T, {in_features}]"), x.shape()));
        }
        if self.splits.iter().sum::<usize>() != out_features {
            return Err(TensorError::shape("linear", "splits", format!("summing to {out_features}"), &self.splits));
        }
        if let Some(bias) = inputs.optional(BIAS).filter(|b| b.shape() != [out_features]) {
            return Err(TensorError::shape("linear", "bias", format!("[{out_features}]"), bias.shape()));
        }
        for (i, (rows, _)) in self.low_rank.iter().enumerate() {
            let at = LOW_RANK + 3 * i;
            let (a, b) = (inputs.optional(at + 1), inputs.required(at + 2)?);
            let rank = match a {
                Some(a) => a.matrix_shape("linear", "low-rank A")?.0,
                None => inputs.required(at)?.matrix_shape("linear", "low-rank input")?.1,
            };
            if let Some(a) = a.filter(|a| a.shape()[1] != in_features) {
                return Err(TensorError::shape("linear", "low-rank A", format!("[r, {in_features}]"), a.shape()));
            }
            let own = [x.shape()[0], if a.is_some() { in_features } else { rank }];
            if let Some(found) = inputs.optional(at).filter(|found| found.shape() != own) {
                return Err(TensorError::shape("linear", "low-rank input", format!("{own:?}"), found.shape()));
            }
            if b.shape() != [rows.len(), rank] {
                return Err(TensorError::shape("linear", "low-rank B", format!("[{}, {rank}]", rows.len()), b.shape()));
            }
            let whole = |split: Range<usize>| {
                let apart = split.end <= rows.start || rows.end <= split.start;
                apart || (rows.start <= split.start && split.end <= rows.end)
            };
            if rows.end > out_features || !self.ranges().all(whole) {
                let expected = format!("whole outputs of the split {:?}", self.splits);
                return Err(TensorError::shape("linear", "low-rank rows", expected, &[rows.start, rows.end]));
            }
        }
        Ok(())
    }

    fn forward_typed<T: Float>(&self, cpu: &Cpu, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Saved)> {
        let x = inputs.required(X)?;
        let weight = match &self.frozen {
            Some(weight) => weight.values(),
            None => inputs.required(W)?,
        };
        let (out_features, in_features) = weight.matrix_shape("linear", "weight")?;
        self.check(inputs, out_features, in_features)?;
        TensorError::check_trained(inputs.optional(W), x.dtype())?;
        let tokens = x.shape()[0];
        let xs = x.as_slice::<T>()?;
        let w = crate::weight::weight_slice(weight);
        let bias = inputs.optional(BIAS).map(|b| b.as_slice::<T>()).transpose()?;
        let mut outputs: Vec<Vec<T>> = Vec::with_capacity(self.splits.len());
        for rows in self.ranges() {
            let mut y = vec![T::ZERO; tokens * rows.len()];
            let (bias, w) = (bias.map(|b| &b[rows.clone()]), w.rows(rows.clone(), in_features));
            kernel::matmul_nt(cpu, &mut y, xs, w, bias, T::ONE, tokens, rows.len(), in_features, false);
            outputs.push(y);
        }
        let mut low_rank = Vec::with_capacity(self.low_rank.len());
        for (i, (rows, scale)) in self.low_rank.iter().enumerate() {
            let at = LOW_RANK + 3 * i;
            let (xi, a, b) = (inputs.optional(at).unwrap_or(x), inputs.optional(at + 1), inputs.required(at + 2)?);
            let projected = match a {
                Some(a) => {
                    let rank = a.shape()[0];
                    let mut y = vec![T::ZERO; tokens * rank];
                    let a = WeightSlice::of(a.as_slice::<T>()?);
                    let xi = xi.as_slice::<T>()?;
                    kernel::matmul_nt(cpu, &mut y, xi, a, None, T::ONE, tokens, rank, in_features, false);
                    Tensor::from_vec(y, &[tokens, rank])?
                }
                None => xi.clone(),
            };
            let rank = projected.shape()[1];
            for (split, y) in self.ranges().zip(&mut outputs).filter(|(s, _)| covers(rows, s)) {
                let b = b_rows::<T>(b, rows, &split, rank)?;
                let s = <T as crate::Element>::from_f64(*scale);
                let projected = projected.as_slice::<T>()?;
                kernel::matmul_nt(cpu, y, projected, b, None, s, tokens, split.len(), rank, true);
            }
            low_rank.push(SavedLowRank {
                own_input: inputs.optional(at).is_some(),
                x: need.input(at + 1).then(|| xi.clone()),
                projected: need.input(at + 2).then_some(projected),
                a: a.cloned(),
                b: b.clone(),
            });
        }
        let outputs = outputs
            .into_iter()
            .zip(&self.splits)
            .map(|(y, &size)| Tensor::from_vec(y, &[tokens, size]))
            .collect::<Result<Vec<_>>>()?;
        let saved = Saved {
            x: need.input(W).then(|| x.clone()),
            weight: (self.frozen.is_none() && need.input(X)).then(|| weight.clone()),
            in_features,
            low_rank,
            #[cfg(feature = "cuda")]
            dx: None,
            #[cfg(feature = "cuda")]
            extended: None,
        };
        Ok((outputs, saved))
    }

    fn backward_typed<T: Float>(
        &self,
        cpu: &Cpu,
        saved: Saved,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(tokens) = gradients.iter().flatten().next().map(|dy| dy.shape()[0]) else {
            return Ok(vec![None; LOW_RANK + 3 * self.low_rank.len()]);
        };
        let in_features = saved.in_features;
        // The outputs that have a gradient.
        let mut parts: Vec<(Range<usize>, &[T])> = Vec::new();
        for (rows, dy) in self.ranges().zip(&gradients) {
            if let Some(dy) = dy {
                parts.push((rows, dy.as_slice::<T>()?));
            }
        }
        let mut result = vec![None; LOW_RANK + 3 * self.low_rank.len()];
        let mut dx = need.input(X).then(|| vec![T::ZERO; tokens * in_features]);
        if let Some(dx) = &mut dx {
            let trained = saved.weight.as_ref().map(crate::weight::weight_slice);
            for (i, (rows, dy)) in parts.iter().enumerate() {
                let w = match (&self.frozen, trained) {
                    (Some(weight), _) => weight.slice(rows.clone()),
                    (None, Some(w)) => w.rows(rows.clone(), in_features),
                    (None, None) => unreachable!("the trained weight is saved when x needs a gradient"),
                };
                kernel::matmul_nn(cpu, dx, dy, w, T::ONE, tokens, in_features, rows.len(), i > 0);
            }
        }
        if need.input(W) {
            let x = saved.x.as_ref().expect("x is saved when the weight is trained").as_slice::<T>()?;
            let mut dw = vec![T::ZERO; self.splits.iter().sum::<usize>() * in_features];
            for (rows, dy) in &parts {
                let dw = &mut dw[rows.start * in_features..rows.end * in_features];
                kernel::matmul_tn(cpu, dw, dy, x, T::ONE, rows.len(), in_features, tokens, false);
            }
            result[W] = Some(Tensor::from_vec(dw, &[self.splits.iter().sum(), in_features])?);
        }
        if need.input(BIAS) {
            let mut db = vec![T::ZERO; self.splits.iter().sum()];
            for (rows, dy) in &parts {
                kernel::column_sums(cpu, &mut db[rows.clone()], dy, tokens, rows.len(), false);
            }
            let size = db.len();
            result[BIAS] = Some(Tensor::from_vec(db, &[size])?);
        }
        for (i, ((rows, scale), kept)) in self.low_rank.iter().zip(saved.low_rank).enumerate() {
            let at = LOW_RANK + 3 * i;
            let (rank, s) = (kept.b.shape()[1], <T as crate::Element>::from_f64(*scale));
            let covered: Vec<_> = parts.iter().filter(|(split, _)| covers(rows, split)).collect();
            if covered.is_empty() {
                continue;
            }
            if need.input(at + 2) {
                let projected = kept.projected.as_ref().expect("saved when B is trained").as_slice::<T>()?;
                let mut db = vec![T::ZERO; rows.len() * rank];
                for (split, dy) in &covered {
                    let db = &mut db[(split.start - rows.start) * rank..(split.end - rows.start) * rank];
                    kernel::matmul_tn(cpu, db, dy, projected, s, split.len(), rank, tokens, false);
                }
                result[at + 2] = Some(Tensor::from_vec(db, &[rows.len(), rank])?);
            }
            let into_x = need.input(X) && !kept.own_input;
            if !(need.input(at) || need.input(at + 1) || into_x) {
                continue;
            }
            // The gradient of x Aᵀ.
            let mut d_projected = vec![T::ZERO; tokens * rank];
            for (j, (split, dy)) in covered.iter().enumerate() {
                let b = b_rows::<T>(&kept.b, rows, split, rank)?;
                kernel::matmul_nn(cpu, &mut d_projected, dy, b, s, tokens, rank, split.len(), j > 0);
            }
            if need.input(at + 1) {
                let x = kept.x.as_ref().expect("saved when A is trained").as_slice::<T>()?;
                let mut da = vec![T::ZERO; rank * in_features];
                kernel::matmul_tn(cpu, &mut da, &d_projected, x, T::ONE, rank, in_features, tokens, false);
                result[at + 1] = Some(Tensor::from_vec(da, &[rank, in_features])?);
            }
            let Some(a) = &kept.a else {
                result[at] = Some(Tensor::from_vec(d_projected, &[tokens, rank])?);
                continue;
            };
            let a = WeightSlice::of(a.as_slice::<T>()?);
            if need.input(at) {
                let mut dxi = vec![T::ZERO; tokens * in_features];
                kernel::matmul_nn(cpu, &mut dxi, &d_projected, a, T::ONE, tokens, in_features, rank, false);
                result[at] = Some(Tensor::from_vec(dxi, &[tokens, in_features])?);
            } else if let Some(dx) = dx.as_mut().filter(|_| into_x) {
                kernel::matmul_nn(cpu, dx, &d_projected, a, T::ONE, tokens, in_features, rank, true);
            }
        }
        result[X] = dx.map(|dx| Tensor::from_vec(dx, &[tokens, in_features])).transpose()?;
        Ok(result)
    }
}

/// Whether the output rows `split` belong to the addition on `rows`.
pub(super) fn covers(rows: &Range<usize>, split: &Range<usize>) -> bool {
    rows.start <= split.start && split.end <= rows.end
}

/// The rows of B that write the output `split`.
fn b_rows<'a, T: Float>(
    b: &'a Tensor,
    rows: &Range<usize>,
    split: &Range<usize>,
    rank: usize,
) -> Result<WeightSlice<'a>> {
    let b = WeightSlice::of(b.as_slice::<T>()?);
    Ok(b.rows(split.start - rows.start..split.end - rows.start, rank))
}

impl Op for Linear {
    type Saved = Saved;

    fn name(&self) -> &'static str {
        "linear"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Saved)> {
        let cpu = cpu_or!(device, cuda => on_cuda::linear(cuda, self, inputs, need));
        with_float!(inputs.required(X)?.dtype(), "linear", T => self.forward_typed::<T>(cpu, inputs, need))
    }

    fn backward(
        &self,
        device: &Device,
        saved: Saved,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::linear_backward(cuda, self, saved, &gradients, need, &mut []));
        let Some(dtype) = gradients.iter().flatten().next().map(Tensor::dtype) else {
            return Ok(vec![None; LOW_RANK + 3 * self.low_rank.len()]);
        };
        with_float!(dtype, "linear", T => self.backward_typed::<T>(cpu, saved, gradients, need))
    }

    fn backward_onto(
        &self,
        device: &Device,
        saved: Saved,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
        onto: &mut [Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device {
            return on_cuda::linear_backward(cuda, self, saved, &gradients, need, onto);
        }
        let _ = onto;
        self.backward(device, saved, gradients, need)
    }
}

/// Applies [`Linear`]: the weight is `frozen`, or, when `trained` is given, that variable (in the compute type).
///
/// # Errors
/// When shapes do not fit, or low-rank rows cut an output of the split in two.
pub fn linear(
    tape: &Tape,
    x: &Var,
    frozen: &Weight,
    trained: Option<&Var>,
    bias: Option<&Var>,
    splits: &[usize],
    low_rank: &[LowRankInput<'_>],
) -> Result<Vec<Var>> {
    let mut inputs = vec![Some(x), trained, bias];
    for part in low_rank {
        inputs.extend([part.x, part.a, Some(part.b)]);
    }
    let op = Linear {
        frozen: if trained.is_some() { None } else { Some(frozen.clone()) },
        splits: splits.to_vec(),
        low_rank: low_rank.iter().map(|part| (part.rows.clone(), part.scale)).collect(),
    };
    tape.apply(op, &inputs)
}
