//! A step of few sequences in four launches a layer: norm and `in_proj`; convolution and `x_proj`; convolution, `dt_proj` and
//! scan; `out_proj`. The head chooses where it multiplies.
//!
//! Bound, at one sequence: every matrix is read once; what is left is the time between two launches of a graph, about a
//! hundred of them for 24 layers.

use statetune_ssm_kernels::decode::cuda as kernel;
use statetune_ssm_kernels::decode::cuda::{Conv, Input, Norm};
use statetune_ssm_kernels::runtime::cuda::{Cuda, View};
use statetune_ssm_kernels::scan::cuda::Strided;
use statetune_tensor::cuda::DeviceTensor;
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
    /// `None` where a linear site is patched by more than another value of its tensor.
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
        if sites.chain([ids.embedding, ids.head]).any(patched) {
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
        }))
    }

    /// Whether so many sequences are few.
    pub fn fits(&self, sequences: usize) -> bool {
        let (act, sizes) = (statetune_tensor::cuda::element_of(self.head.dtype()), self.sizes);
        [sizes.d_model, sizes.d_inner].into_iter().all(|columns| kernel::fits(sequences, columns, act))
    }

    /// Takes the states on by the tokens `ids` `[S]`.
    pub fn take(&self, cuda: &Cuda, ids: View, state: &State, sequences: usize, want: Want<'_>) -> Result<()> {
        let Sizes { d_model, vocab, .. } = self.sizes;
        let sum = || DeviceTensor::unset(cuda, DType::F32, &[sequences, d_model]);
        let sums = [sum()?, sum()?];
        let mut x: Option<DeviceTensor> = None;
        for (i, (layer, state)) in self.layers.iter().zip(state.layers()).enumerate() {
            let input = self.normed(i, x.as_ref(), ids, &sums, &layer.norm);
            x = Some(self.layer(cuda, layer, state, &Input::Norm(input), sequences)?);
        }
        let input = self.normed(self.layers.len(), x.as_ref(), ids, &sums, &self.norm);
        let input = Input::Norm(Norm { sum: None, ..input });
        let weight = self.head.view();
        match want {
            Want::Logits(to) => {
                let to = Some(to.view().range(0..sequences * vocab));
                kernel::project(cuda, to, false, weight, None, &input, sequences, d_model)?;
            }
            Want::Chosen(to) => {
                let best = kernel::project(cuda, None, true, weight, None, &input, sequences, d_model)?;
                best.expect("asked for").choose(cuda, to)?;
            }
        }
        Ok(())
    }

    /// What norm `i` reads: the embedded tokens, or x and the sum before it. Two sums take turns.
    fn normed<'a>(
        &'a self,
        i: usize,
        x: Option<&'a DeviceTensor>,
        ids: View<'a>,
        sums: &'a [DeviceTensor; 2],
        weight: &'a DeviceTensor,
    ) -> Norm<'a> {
        Norm {
            x: x.unwrap_or(&self.embedding).view(),
            ids: x.is_none().then_some(ids),
            residual: (i > 0).then(|| sums[(i + 1) % 2].view()),
            sum: Some(sums[i % 2].view()),
            weight: weight.view(),
            eps: self.eps,
        }
    }

    /// From the input of a layer's norm to the layer's output `[S, d_model]`.
    fn layer(
        &self,
        cuda: &Cuda,
        layer: &Layer,
        state: &LayerState,
        input: &Input,
        sequences: usize,
    ) -> Result<DeviceTensor> {
        let Sizes { d_model, d_inner, d_state, d_conv, rank, .. } = self.sizes;
        let make = |columns: usize| DeviceTensor::unset(cuda, self.head.dtype(), &[sequences, columns]);
        let xz = make(2 * d_inner)?;
        let bias = view(&layer.in_proj_bias);
        kernel::project(cuda, Some(xz.view()), false, layer.in_proj.view(), bias, input, sequences, d_model)?;
        let (x, z) = (xz.columns(0..d_inner), xz.columns(d_inner..2 * d_inner));
        let conv_state = state.conv.on_cuda(cuda)?;
        let conv = Conv {
            x: strided(&x),
            state: (d_conv > 1).then(|| conv_state.view()),
            weight: layer.conv_weight.view(),
            bias: view(&layer.conv_bias),
            width: d_conv,
        };
        let maps = make(rank + 2 * d_state)?;
        let input = Input::Conv(conv);
        kernel::project(cuda, Some(maps.view()), false, layer.x_proj.view(), None, &input, sequences, d_inner)?;
        let [dt, b, c] = [0..rank, rank..rank + d_state, rank + d_state..rank + 2 * d_state].map(|r| maps.columns(r));
        let y = make(d_inner)?;
        let step = kernel::Step {
            inputs: None,
            fused: Some(kernel::Fused { conv, dt: strided(&dt), dt_weight: layer.dt_proj.view() }),
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
        kernel::scan_step(cuda, y.view(), state.ssm.on_cuda(cuda)?.view(), &step)?;
        let (out, input) = (make(d_model)?, Input::Plain(strided(&y)));
        let bias = view(&layer.out_proj_bias);
        kernel::project(cuda, Some(out.view()), false, layer.out_proj.view(), bias, &input, sequences, d_inner)?;
        Ok(out)
    }
}

fn view(tensor: &Option<DeviceTensor>) -> Option<View<'_>> {
    tensor.as_ref().map(DeviceTensor::view)
}

/// A matrix whose rows may lie apart, as kernels take it.
pub(super) fn strided(tensor: &DeviceTensor) -> Strided<'_> {
    Strided { view: tensor.spread(), stride: tensor.stride() }
}
