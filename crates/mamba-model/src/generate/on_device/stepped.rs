//! A step whose projections go through the patched layers, while convolution and scan change their states in place.

use statetune_ssm_kernels::decode::cuda as kernel;
use statetune_ssm_kernels::decode::cuda::{Conv, Delta};
use statetune_ssm_kernels::runtime::cuda::Cuda;
use statetune_tensor::cuda::DeviceTensor;
use statetune_tensor::ops;
use statetune_tensor::{Tape, Tensor, TensorError, Var};

use super::fused::strided;
use crate::batch::Batch;
use crate::block::Context;
use crate::bound::Bound;
use crate::site::Operand;
use crate::state::{LayerState, State};
use crate::{Mamba, ModelError};

/// The hidden states `[S, d_model]` after the batch's tokens, one of each sequence.
pub(super) fn hidden(
    cuda: &Cuda,
    model: &Mamba,
    tape: &Tape,
    bound: &Bound,
    batch: &Batch,
    state: &State,
) -> Result<Var, ModelError> {
    let context = Context { tape, model, bound, batch };
    let mut hidden = model.embed(&context)?;
    let mut residual: Option<Var> = None;
    let (ids, eps) = (model.ids(), model.config().layer_norm_epsilon);
    for (layer, own) in state.layers().iter().enumerate() {
        let weight = context.value(ids.layers[layer].norm);
        let (normed, sum) = ops::add_rms_norm(tape, &hidden, residual.as_ref(), &weight, eps)?;
        hidden = mixer(cuda, &context, layer, &normed, own)?;
        residual = Some(sum);
    }
    let weight = context.value(ids.norm_f);
    Ok(ops::add_rms_norm(tape, &hidden, residual.as_ref(), &weight, eps)?.0)
}

fn mixer(cuda: &Cuda, context: &Context<'_>, layer: usize, x: &Var, own: &LayerState) -> Result<Var, ModelError> {
    let (config, ids) = (context.model.config(), &context.model.ids().layers[layer]);
    let (d_inner, d_state, sequences) = (config.d_inner, config.d_state, context.batch.sequences());
    let on = |var: &Var| -> Result<DeviceTensor, TensorError> { Ok(var.tensor().on_cuda(cuda)?.clone()) };
    let dense = |var: &Var| -> Result<DeviceTensor, TensorError> { var.tensor().on_cuda(cuda)?.dense() };
    let operand = |operand| context.bound.operand(layer, operand).map(dense).transpose();
    // Made first: the steps of convolution and scan fetch these before they wait for the launch in front of them.
    let (taps, conv_bias) = (dense(&context.value(ids.conv_weight))?, context.conv_bias(layer)?);
    let conv_bias = conv_bias.as_ref().map(dense).transpose()?;
    let a = match context.bound.trained(ids.a_log) {
        Some(a_log) => ops::neg_exp(context.tape, a_log)?,
        None => context.model.a(layer).clone().into(),
    };
    let (a, delta_bias, d_skip) = (dense(&a)?, dense(&context.value(ids.dt_bias))?, dense(&context.value(ids.d))?);
    let (state_offset, output_offset) = (operand(Operand::StateOffset)?, operand(Operand::OutputOffset)?);
    let mut xz = context.linear(ids.in_proj, ids.in_proj_bias, x, &[d_inner, d_inner])?.into_iter();
    let (x, z) = (on(&xz.next().expect("split in two"))?, on(&xz.next().expect("split in two"))?);

    let conv_state = own.conv.on_cuda(cuda)?;
    let conv = Conv {
        state: (config.d_conv > 1).then(|| conv_state.view()),
        weight: taps.view(),
        bias: conv_bias.as_ref().map(DeviceTensor::view),
        width: config.d_conv,
    };
    let u = DeviceTensor::unset(cuda, x.dtype(), &[sequences, d_inner])?;
    kernel::conv_step(cuda, u.view(), strided(&x), &conv, sequences)?;

    let maps =
        context.linear(ids.x_proj, None, &Tensor::from(u.clone()).into(), &[config.dt_rank, d_state, d_state])?;
    let delta = on(&context.linear(ids.dt_proj, None, &maps[0], &[d_inner])?[0])?;
    let (b, c) = (on(&maps[1])?, on(&maps[2])?);
    let step = kernel::Step {
        u: strided(&u),
        delta: Delta::Given(strided(&delta)),
        z: strided(&z),
        b: strided(&b),
        c: strided(&c),
        delta_bias: Some(delta_bias.view()),
        a: a.view(),
        d_skip: Some(d_skip.view()),
        state_offset: state_offset.as_ref().map(DeviceTensor::view),
        output_offset: output_offset.as_ref().map(DeviceTensor::view),
        sequences,
        d_inner,
        d_state,
    };
    let y = DeviceTensor::unset(cuda, u.dtype(), &[sequences, d_inner])?;
    kernel::scan_step(cuda, y.view(), own.ssm.on_cuda(cuda)?.view(), &step)?;
    let y = Tensor::from(y).into();
    Ok(context.linear(ids.out_proj, ids.out_proj_bias, &y, &[config.d_model])?.remove(0))
}
