//! Convolution and scan on a CUDA device: activations may be columns of a wider matrix, parameters and states are f32.

use statetune_ssm_kernels::conv1d::cuda as conv_kernel;
use statetune_ssm_kernels::runtime::cuda::{Cuda, View};
use statetune_ssm_kernels::scan::cuda as scan_kernel;
use statetune_tensor::cuda::DeviceTensor;
use statetune_tensor::{DType, Inputs, Need, Result, Tensor, TensorError};

use super::conv1d::{Conv1d, Saved as ConvSaved};
use super::scan::{FIRST_TABLE, SCAN_INPUTS, Saved as ScanSaved, Scan, check};

type Gradients = Vec<Option<Tensor>>;

fn on<'a>(cuda: &Cuda, tensor: Option<&'a Tensor>) -> Result<Option<&'a DeviceTensor>> {
    tensor.map(|tensor| tensor.on_cuda(cuda)).transpose()
}

fn view(tensor: &Option<DeviceTensor>) -> Option<View<'_>> {
    tensor.as_ref().map(DeviceTensor::view)
}

fn give(tensor: Option<DeviceTensor>) -> Option<Tensor> {
    tensor.map(Tensor::from)
}

/// The sizes of a convolution: tokens, channels, width.
fn conv_sizes(saved: &ConvSaved) -> Result<[usize; 3]> {
    let (tokens, channels) = saved.x.matrix_shape("conv1d", "x")?;
    let width = saved.weight.len() / channels.max(1);
    if saved.weight.shape() != [channels, 1, width] || width == 0 {
        return Err(TensorError::shape("conv1d", "weight", format!("[{channels}, 1, K]"), saved.weight.shape()));
    }
    if let Some(bias) = saved.bias.as_ref().filter(|bias| bias.shape() != [channels]) {
        return Err(TensorError::shape("conv1d", "bias", format!("[{channels}]"), bias.shape()));
    }
    if let Some(initial) = saved.initial.as_ref().filter(|i| i.shape().get(1..) != Some(&[channels, width - 1])) {
        let expected = format!("[rows, {channels}, {}]", width - 1);
        return Err(TensorError::shape("conv1d", "initial state", expected, initial.shape()));
    }
    Ok([tokens, channels, width])
}

fn conv_views<'a>(cuda: &Cuda, op: &'a Conv1d, saved: &'a ConvSaved) -> Result<conv_kernel::Conv1dViews<'a>> {
    let [_, channels, width] = conv_sizes(saved)?;
    let x = saved.x.on_cuda(cuda)?;
    let initial = on(cuda, saved.initial.as_ref())?.filter(|_| width > 1);
    Ok(conv_kernel::Conv1dViews {
        x: x.spread(),
        x_stride: x.stride(),
        weight: saved.weight.on_cuda(cuda)?.view(),
        bias: on(cuda, saved.bias.as_ref())?.map(DeviceTensor::view),
        init: initial.map(DeviceTensor::view),
        init_row_of: op.initial_row.on(cuda)?,
        offsets: op.offsets.on(cuda)?,
        sequence_of: op.sequence_of.on(cuda)?,
        silu: true,
        tokens: x.shape()[0],
        channels,
        width,
    })
}

pub fn conv1d(cuda: &Cuda, op: &Conv1d, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Option<ConvSaved>)> {
    let saved = ConvSaved {
        x: inputs.required(0)?.clone(),
        weight: inputs.required(1)?.clone(),
        bias: inputs.optional(2).cloned(),
        initial: inputs.optional(3).cloned(),
    };
    let [tokens, channels, width] = conv_sizes(&saved)?;
    let y = DeviceTensor::unset(cuda, saved.x.dtype(), &[tokens, channels])?;
    let shape = [op.offsets.len() - 1, channels, width - 1];
    let state = op.final_state.then(|| DeviceTensor::unset(cuda, DType::F32, &shape)).transpose()?;
    conv_kernel::conv1d_forward(cuda, y.view(), view(&state), &conv_views(cuda, op, &saved)?)?;
    let y = match need.any() {
        // What is kept for the backward makes y again.
        true => {
            let (cuda, op, saved) = (cuda.clone(), op.clone(), saved.clone());
            y.with_recipe(move || {
                let y = DeviceTensor::unset(&cuda, saved.x.dtype(), &[tokens, channels])?;
                conv_kernel::conv1d_forward(&cuda, y.view(), None, &conv_views(&cuda, &op, &saved)?)?;
                Ok(y)
            })
        }
        false => y,
    };
    let mut outputs = vec![Tensor::from(y)];
    outputs.extend(give(state));
    Ok((outputs, need.any().then_some(saved)))
}

pub fn conv1d_backward(
    cuda: &Cuda,
    op: &Conv1d,
    saved: Option<ConvSaved>,
    gradients: &[Option<Tensor>],
    need: &Need,
) -> Result<Gradients> {
    let saved = saved.expect("saved, since an input is tracked");
    let [tokens, channels, width] = conv_sizes(&saved)?;
    let act = saved.x.dtype();
    let buffer = |i: usize, dtype: DType, like: Option<&Tensor>| match like {
        Some(like) if need.input(i) => DeviceTensor::unset(cuda, dtype, like.shape()).map(Some),
        _ => Ok(None),
    };
    let x = saved.x.on_cuda(cuda)?;
    let dx = need.input(0).then(|| x.gradient_place().unset()).transpose()?;
    let dweight = buffer(1, DType::F32, Some(&saved.weight))?;
    let dbias = buffer(2, DType::F32, saved.bias.as_ref())?;
    let dinit = buffer(3, DType::F32, saved.initial.as_ref().filter(|_| width > 1))?;
    let dy = match on(cuda, gradients[0].as_ref())? {
        Some(dy) => dy.dense()?,
        None => DeviceTensor::zeros(cuda, act, &[tokens, channels])?,
    };
    let d_final = on(cuda, gradients.get(1).and_then(Option::as_ref))?.map(DeviceTensor::view);
    let grads = conv_kernel::Conv1dGradViews {
        dx: dx.as_ref().map(DeviceTensor::spread),
        dx_stride: dx.as_ref().map_or(channels, DeviceTensor::stride),
        dweight: view(&dweight),
        dbias: view(&dbias),
        dinit: view(&dinit),
    };
    conv_kernel::conv1d_backward(cuda, grads, dy.view(), d_final, &conv_views(cuda, op, &saved)?)?;
    Ok(vec![give(dx), give(dweight), give(dbias), give(dinit)])
}

fn scan_views<'a>(cuda: &Cuda, op: &'a Scan, inputs: &'a [Option<Tensor>]) -> Result<scan_kernel::ScanViews<'a>> {
    let (d_inner, d_state) = check(inputs)?;
    let strided = |i: usize| -> Result<Option<scan_kernel::Strided<'a>>> {
        let tensor = on(cuda, inputs[i].as_ref())?;
        Ok(tensor.map(|tensor| scan_kernel::Strided { view: tensor.spread(), stride: tensor.stride() }))
    };
    let required = |i: usize| strided(i)?.ok_or(TensorError::MissingInput { op: "scan", index: i });
    let parameter =
        |i: usize| -> Result<Option<View<'a>>> { Ok(on(cuda, inputs[i].as_ref())?.map(DeviceTensor::view)) };
    let table = |i: usize| -> Result<Option<scan_kernel::TableView<'a>>> {
        let Some(values) = parameter(i)? else { return Ok(None) };
        let row_of = op.rows[i - FIRST_TABLE].as_ref().ok_or(TensorError::MissingInput { op: "scan", index: i })?;
        Ok(Some(scan_kernel::TableView { values, row_of: row_of.on(cuda)? }))
    };
    Ok(scan_kernel::ScanViews {
        u: required(0)?,
        delta: required(1)?,
        a: parameter(2)?.ok_or(TensorError::MissingInput { op: "scan", index: 2 })?,
        b: required(3)?,
        c: required(4)?,
        delta_bias: parameter(5)?,
        delta_softplus: true,
        d_skip: parameter(6)?,
        z: strided(7)?,
        initial: table(8)?,
        state_scale: table(9)?,
        state_extra: table(10)?,
        state_offset: table(11)?,
        output_offset: table(12)?,
        c_previous: strided(13)?,
        offsets: op.offsets.on(cuda)?,
        tokens: inputs[0].as_ref().map_or(0, |u| u.shape()[0]),
        d_inner,
        d_state,
    })
}

pub fn scan(cuda: &Cuda, op: &Scan, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Option<ScanSaved>)> {
    let tensors: Vec<Option<Tensor>> = (0..SCAN_INPUTS.len()).map(|i| inputs.optional(i).cloned()).collect();
    let views = scan_views(cuda, op, &tensors)?;
    let u = inputs.required(0)?;
    let (sequences, d, n) = (op.offsets.len() - 1, views.d_inner, views.d_state);
    let out = DeviceTensor::unset(cuda, u.dtype(), u.shape())?;
    let state = op.final_state.then(|| DeviceTensor::unset(cuda, DType::F32, &[sequences, d, n])).transpose()?;
    let len = scan_kernel::boundaries_len(views.tokens, sequences, d, n);
    let boundaries = need.any().then(|| DeviceTensor::unset(cuda, DType::F32, &[len])).transpose()?;
    scan_kernel::scan_forward(
        cuda,
        scan_kernel::Strided::packed(out.view(), d),
        view(&state),
        view(&boundaries),
        &views,
    )?;
    let mut outputs = vec![Tensor::from(out)];
    outputs.extend(give(state));
    // u and Δ are as large as all else together, and made again from what is kept anyway.
    let (mut inputs, mut again) = (tensors, Vec::new());
    if cuda.recomputes() {
        for (i, slot) in inputs.iter_mut().enumerate().take(2) {
            if let Some(recipe) = on(cuda, slot.as_ref())?.and_then(DeviceTensor::recipe).cloned() {
                again.push((i, recipe));
                *slot = None;
            }
        }
    }
    Ok((outputs, boundaries.map(|boundaries| ScanSaved { inputs, again, boundaries: boundaries.into() })))
}

pub fn scan_backward(
    cuda: &Cuda,
    op: &Scan,
    saved: Option<ScanSaved>,
    gradients: &[Option<Tensor>],
    need: &Need,
) -> Result<Gradients> {
    let ScanSaved { mut inputs, again, boundaries } = saved.expect("saved, since an input is tracked");
    for (i, recipe) in again {
        inputs[i] = Some(recipe.make()?.into());
    }
    let views = scan_views(cuda, op, &inputs)?;
    let u = inputs[0].as_ref().expect("checked");
    let buffers = inputs.iter().enumerate().map(|(i, tensor)| match tensor {
        Some(like) if need.input(i) => like.on_cuda(cuda)?.gradient_place().unset().map(Some),
        _ => Ok(None),
    });
    let buffers = buffers.collect::<Result<Vec<_>>>()?;
    let strided = |i: usize| buffers[i].as_ref().map(|t| scan_kernel::Strided { view: t.spread(), stride: t.stride() });
    let parameter = |i: usize| view(&buffers[i]);
    let dout = match on(cuda, gradients[0].as_ref())? {
        Some(dout) => dout.clone(),
        None => DeviceTensor::zeros(cuda, u.dtype(), u.shape())?,
    };
    let d_final = on(cuda, gradients.get(1).and_then(Option::as_ref))?.map(DeviceTensor::view);
    let grads = scan_kernel::ScanGradViews {
        du: strided(0),
        ddelta: strided(1),
        da: parameter(2),
        db: strided(3),
        dc: strided(4),
        ddelta_bias: parameter(5),
        dd_skip: parameter(6),
        dz: strided(7),
        dinitial: parameter(8),
        dstate_scale: parameter(9),
        dstate_extra: parameter(10),
        dstate_offset: parameter(11),
        doutput_offset: parameter(12),
        dc_previous: strided(13),
    };
    let dout = scan_kernel::Strided { view: dout.spread(), stride: dout.stride() };
    scan_kernel::scan_backward(cuda, grads, dout, d_final, boundaries.on_cuda(cuda)?.view(), &views)?;
    Ok(buffers.into_iter().map(give).collect())
}
