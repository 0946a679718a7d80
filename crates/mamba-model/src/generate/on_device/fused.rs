//! A step of few sequences in four launches a layer: norm, `in_proj` and convolution; `x_proj`; `dt_proj` and scan; `out_proj`.
//! The head chooses where it multiplies. Of many sequences five or six: the norm, which adds up what `out_proj` left in parts;
//! `in_proj` and convolution; `x_proj`; `dt_proj`, where it is too much for the scan; scan; `out_proj`. Where our own products do
//! not fit (f32, odd sizes, devices without warpgroups) they are the library's, and convolution and sums launches of their own.
//!
//! Bound, at one sequence: every matrix is read once; what is left is the time between two launches of a graph, about a
//! hundred of them for 24 layers. At many, the scan's states in f32 are read and written beside.

use statetune_ssm_kernels::decode::cuda as kernel;
use statetune_ssm_kernels::decode::cuda::{Conv, Delta, Input, LowRank, Norm, Parts, Rows};
use statetune_ssm_kernels::runtime::cuda::{Cuda, Matrix, Product, View};
use statetune_ssm_kernels::scan::cuda::Strided;
use statetune_ssm_kernels::values::cuda::add_row;
use statetune_tensor::cuda::{DeviceTensor, element_of};
use statetune_tensor::ops;
use statetune_tensor::{DType, Result, Tape, Tensor};

use super::Want;
use crate::bound::Bound;
use crate::parameters::Id;
use crate::site::Operand;
use crate::state::{LayerState, State};
use crate::{Mamba, ModelError};

/// The tensors of a model, as kernels take them.
pub(super) struct Fused {
    embedding: DeviceTensor,
    layers: Vec<Layer>,
    norm: DeviceTensor,
    head: DeviceTensor,
    sizes: Sizes,
    eps: f64,
    /// The most sequences that take the way of few.
    few: usize,
}

/// The shapes of a model.
#[derive(Clone, Copy)]
struct Sizes {
    d_model: usize,
    d_inner: usize,
    d_state: usize,
    d_conv: usize,
    rank: usize,
    vocab: usize,
}

struct Layer {
    norm: DeviceTensor,
    in_proj: DeviceTensor,
    in_proj_bias: Option<DeviceTensor>,
    conv_weight: DeviceTensor,
    conv_bias: Option<DeviceTensor>,
    x_proj: DeviceTensor,
    dt_proj: DeviceTensor,
    dt_bias: DeviceTensor,
    a: DeviceTensor,
    d_skip: DeviceTensor,
    out_proj: DeviceTensor,
    out_proj_bias: Option<DeviceTensor>,
    state_offset: Option<DeviceTensor>,
    output_offset: Option<DeviceTensor>,
}

impl Fused {
    /// `None` where a linear site is patched by more than another value of its tensor, or a norm is wider than its kernel.
    pub fn of(
        cuda: &Cuda,
        model: &Mamba,
        tape: &Tape,
        bound: &Bound,
    ) -> std::result::Result<Option<Fused>, ModelError> {
        let (config, ids) = (model.config(), model.ids());
        let sites = ids
            .layers
            .iter()
            .flat_map(|layer| [layer.in_proj, layer.conv_weight, layer.x_proj, layer.dt_proj, layer.out_proj]);
        let patched =
            |id: Id| !bound.low_rank(id).is_empty() || !bound.columns(id).is_empty() || !bound.biases(id).is_empty();
        if sites.chain([ids.embedding, ids.head]).any(patched) || !kernel::norm_fits(config.d_model) {
            return Ok(None);
        }
        let on = |tensor: &Tensor| -> Result<DeviceTensor> { tensor.on_cuda(cuda)?.dense() };
        let value = |id: Id| on(bound.trained(id).map_or(model.value(id), |var| var.tensor()));
        let matrix = |id: Id| value(id)?.cast(model.compute());
        let operand =
            |layer: usize, operand: Operand| bound.operand(layer, operand).map(|var| on(var.tensor())).transpose();
        let mut layers = Vec::new();
        for (i, layer) in ids.layers.iter().enumerate() {
            let a = match bound.trained(layer.a_log) {
                Some(a_log) => ops::neg_exp(tape, a_log)?.tensor().clone(),
                None => model.a(i).clone(),
            };
            layers.push(Layer {
                norm: value(layer.norm)?,
                in_proj: matrix(layer.in_proj)?,
                in_proj_bias: layer.in_proj_bias.map(value).transpose()?,
                conv_weight: value(layer.conv_weight)?,
                conv_bias: layer.conv_bias.map(value).transpose()?,
                x_proj: matrix(layer.x_proj)?,
                dt_proj: matrix(layer.dt_proj)?,
                dt_bias: value(layer.dt_bias)?,
                a: on(&a)?,
                d_skip: value(layer.d)?,
                out_proj: matrix(layer.out_proj)?,
                out_proj_bias: layer.out_proj_bias.map(value).transpose()?,
                state_offset: operand(i, Operand::StateOffset)?,
                output_offset: operand(i, Operand::OutputOffset)?,
            });
        }
        let head = bound.trained_head(model).map_or(model.value(ids.head), |var| var.tensor());
        // Where two sequences have a product of their own, it is faster than the one of few.
        let vectors = DeviceTensor::unset(cuda, model.compute(), &[1, config.d_model])?;
        let suits = |layer: &Layer| kernel::suits_wide(cuda, layer.in_proj.view(), strided(&vectors), config.d_model);
        let few = if layers.first().is_some_and(suits) { 1 } else { kernel::MOST_SEQUENCES };
        Ok(Some(Fused {
            embedding: matrix(ids.embedding)?,
            layers,
            norm: value(ids.norm_f)?,
            head: on(head)?.cast(model.compute())?,
            sizes: Sizes {
                d_model: config.d_model,
                d_inner: config.d_inner,
                d_state: config.d_state,
                d_conv: config.d_conv,
                rank: config.dt_rank,
                vocab: config.vocab_size,
            },
            eps: config.layer_norm_epsilon,
            few,
        }))
    }

    /// Takes the states on by the tokens `ids` `[S]`.
    pub fn take(&self, cuda: &Cuda, ids: View, state: &State, sequences: usize, want: Want<'_>) -> Result<()> {
        let Sizes { d_model, vocab, .. } = self.sizes;
        let sum = || DeviceTensor::unset(cuda, DType::F32, &[sequences, d_model]);
        let few = self.is_few(sequences);
        let step = Step { cuda, sequences, act: self.head.dtype(), few, sums: [sum()?, sum()?] };
        // Tokens are looked up as they are normed.
        let mut x = None;
        for (i, (layer, state)) in self.layers.iter().zip(state.layers()).enumerate() {
            let norm = self.normed(&step, i, x.as_ref(), ids, &layer.norm);
            x = Some(self.layer(&step, layer, state, norm)?);
        }
        let norm = Norm { sum: None, ..self.normed(&step, self.layers.len(), x.as_ref(), ids, &self.norm) };
        let weight = self.head.view();
        if few {
            let (input, chooses) = (Input::Norm(norm), matches!(want, Want::Chosen(_)));
            let to = match want {
                Want::Logits(to) => Some(to.view()),
                Want::Chosen(_) => None,
            };
            let best = kernel::project(cuda, to, chooses, weight, None, &input, None, sequences, d_model, false)?;
            if let (Want::Chosen(to), Some(best)) = (want, best) {
                best.choose(cuda, to)?;
            }
            return Ok(());
        }
        let normed = step.apart(norm, d_model)?;
        match want {
            Want::Logits(to) => step.product(to, weight, None, &normed, false),
            Want::Chosen(to) => {
                let logits = step.make(vocab)?;
                step.product(&logits, weight, None, &normed, false)?;
                Ok(kernel::argmax(cuda, to, logits.view(), sequences, vocab)?)
            }
        }
    }

    /// Whether so many sequences take the way of few: their vectors lie in shared memory.
    fn is_few(&self, sequences: usize) -> bool {
        let (act, Sizes { d_model, d_inner, .. }) = (element_of(self.head.dtype()), self.sizes);
        sequences <= self.few && [d_model, d_inner].into_iter().all(|columns| kernel::fits(sequences, columns, act))
    }

    /// What norm `i` reads: the embedded tokens, or x and the sum before it. Two sums take turns.
    fn normed<'a>(
        &'a self,
        step: &'a Step<'_>,
        i: usize,
        x: Option<&'a Out<'_>>,
        ids: View<'a>,
        weight: &'a DeviceTensor,
    ) -> Norm<'a> {
        Norm {
            x: match x {
                None => Rows::Looked { table: self.embedding.view(), ids },
                Some(Out::Whole(x)) => Rows::Given(x.view()),
                Some(Out::Parts(parts, bias)) => Rows::Summed(parts, *bias),
            },
            residual: (i > 0).then(|| step.sums[(i + 1) % 2].view()),
            sum: Some(step.sums[i % 2].view()),
            weight: weight.view(),
            eps: self.eps,
        }
    }

    /// From the input of a layer's norm to the layer's output `[S, d_model]`.
    fn layer<'a>(&self, step: &Step<'_>, layer: &'a Layer, state: &LayerState, norm: Norm<'_>) -> Result<Out<'a>> {
        let Sizes { d_model, d_inner, d_state, d_conv, rank, .. } = self.sizes;
        let (cuda, sequences) = (step.cuda, step.sequences);
        let conv_state = state.conv.on_cuda(cuda)?;
        let conv = Conv {
            state: (d_conv > 1).then(|| conv_state.view()),
            weight: layer.conv_weight.view(),
            bias: view(&layer.conv_bias),
            width: d_conv,
        };
        let uz = step.make(2 * d_inner)?;
        let (weight, bias) = (layer.in_proj.view(), view(&layer.in_proj_bias));
        let z = uz.columns(d_inner..2 * d_inner);
        let u = if step.few {
            let (to, input) = (Some(uz.view()), Input::Norm(norm));
            kernel::project(cuda, to, false, weight, bias, &input, Some(&conv), sequences, d_model, false)?;
            uz.columns(0..d_inner)
        } else {
            let normed = step.apart(norm, d_model)?;
            let (to, x) = (uz.view(), strided(&normed));
            if kernel::suits_wide(cuda, weight, x, d_model) {
                kernel::project_wide(cuda, to, weight, bias, x, Some(&conv), sequences, d_model)?;
                uz.columns(0..d_inner)
            } else if kernel::suits_many(weight, x, d_model) {
                kernel::project_many(cuda, to, weight, bias, x, Some(&conv), sequences, d_model)?;
                uz.columns(0..d_inner)
            } else {
                let u = step.make(d_inner)?;
                step.product(&uz, weight, bias, &normed, false)?;
                kernel::conv_step(cuda, u.view(), strided(&uz.columns(0..d_inner)), &conv, sequences)?;
                u
            }
        };
        let maps = step.make(rank + 2 * d_state)?;
        step.product(&maps, layer.x_proj.view(), None, &u, true)?;
        let [dt, b, c] = [0..rank, rank..rank + d_state, rank + d_state..rank + 2 * d_state].map(|r| maps.columns(r));
        // The matrix of dt_proj is read again for every sequence: from caches, where it is small.
        let delta = match sequences * rank > MOST_RANKS {
            true => {
                let delta = step.make(d_inner)?;
                step.product(&delta, layer.dt_proj.view(), None, &dt, true)?;
                Some(delta)
            }
            false => None,
        };
        let y = step.make(d_inner)?;
        let scan = kernel::Step {
            u: strided(&u),
            delta: match &delta {
                Some(delta) => Delta::Given(strided(delta)),
                None => Delta::LowRank(LowRank { dt: strided(&dt), weight: layer.dt_proj.view() }),
            },
            z: strided(&z),
            b: strided(&b),
            c: strided(&c),
            delta_bias: Some(layer.dt_bias.view()),
            a: layer.a.view(),
            d_skip: Some(layer.d_skip.view()),
            state_offset: view(&layer.state_offset),
            output_offset: view(&layer.output_offset),
            sequences,
            d_inner,
            d_state,
        };
        kernel::scan_step(cuda, y.view(), state.ssm.on_cuda(cuda)?.view(), &scan)?;
        let (weight, bias) = (layer.out_proj.view(), view(&layer.out_proj_bias));
        if !step.few && kernel::suits_wide(cuda, weight, strided(&y), d_inner) {
            return Ok(Out::Parts(kernel::project_parts(cuda, weight, strided(&y), sequences, d_inner)?, bias));
        }
        let out = step.make(d_model)?;
        step.product(&out, weight, bias, &y, false)?;
        Ok(Out::Whole(out))
    }
}

/// What a layer adds `[S, d_model]`.
enum Out<'a> {
    Whole(DeviceTensor),
    /// With a bias, to be added up by the norm behind it.
    Parts(Parts, Option<View<'a>>),
}

/// Sequences times ranks up to which Δ is made inside the scan.
const MOST_RANKS: usize = 64 * 64;

/// What the launches of a step share.
struct Step<'a> {
    cuda: &'a Cuda,
    sequences: usize,
    act: DType,
    /// Whether it takes the way of few sequences.
    few: bool,
    sums: [DeviceTensor; 2],
}

impl Step<'_> {
    /// Activations `[S, columns]`.
    fn make(&self, columns: usize) -> Result<DeviceTensor> {
        DeviceTensor::unset(self.cuda, self.act, &[self.sequences, columns])
    }

    /// A norm in a launch of its own.
    fn apart(&self, norm: Norm<'_>, columns: usize) -> Result<DeviceTensor> {
        let normed = self.make(columns)?;
        kernel::norm_step(self.cuda, normed.view(), &norm, self.sequences, columns)?;
        Ok(normed)
    }

    /// y = x · weightᵀ + bias; of few sequences it may let the next launch begin `early`.
    fn product(&self, y: &DeviceTensor, weight: View, bias: Option<View>, x: &DeviceTensor, early: bool) -> Result<()> {
        let (cuda, m, [n, k]) = (self.cuda, self.sequences, [y.shape()[1], x.shape()[1]]);
        if self.few && kernel::fits(m, k, element_of(self.act)) {
            let input = Input::Plain(strided(x));
            kernel::project(cuda, Some(y.view()), false, weight, bias, &input, None, m, k, early)?;
            return Ok(());
        }
        if kernel::suits_many(weight, strided(x), k) {
            kernel::project_many(cuda, y.view(), weight, bias, strided(x), None, m, k)?;
            return Ok(());
        }
        let plain = |y: &DeviceTensor| {
            let product = Product { m, n, k, alpha: 1.0, beta: 0.0 };
            cuda.product(y.matrix(), x.matrix(), Matrix::new(weight, k).t(), product)
        };
        let Some(bias) = bias else { return Ok(plain(y)?) };
        let bare = self.make(n)?;
        plain(&bare)?;
        Ok(add_row(cuda, y.view(), bare.view(), bias, m, n)?)
    }
}

fn view(tensor: &Option<DeviceTensor>) -> Option<View<'_>> {
    tensor.as_ref().map(DeviceTensor::view)
}

/// A matrix whose rows may lie apart, as kernels take it.
pub(super) fn strided(tensor: &DeviceTensor) -> Strided<'_> {
    Strided { view: tensor.spread(), stride: tensor.stride() }
}
