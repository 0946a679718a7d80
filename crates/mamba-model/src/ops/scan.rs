//! The selective scan of a packed batch with the whole readout that a fine-tuning method may bring.

#[cfg(feature = "cuda")]
use super::on_cuda;
use statetune_ssm_kernels::{Sequences, Table as KernelTable, scan as kernel};
use statetune_tensor::{
    Device, Float, Inputs, Need, Op, Result, Staged, Tape, Tensor, TensorError, Var, cpu_or, with_float,
};

/// h_t = exp(Δ_t A) ∘ h_{t-1} + Δ_t u_t B_tᵀ and its readout, gated by silu(z); see [`kernel`] for the equations.
///
/// Inputs in the order of [`SCAN_INPUTS`]; each but the first five may be absent. Outputs: out `[T, D]` and, if
/// `final_state` is set, the final states `[S, D, N]`.
pub struct Scan {
    /// `[S + 1]`, where the sequences start.
    pub offsets: Staged<usize>,
    /// `[S]` per operand that is a table, the row each sequence uses: initial, S, E, O, y'.
    pub rows: [Option<Staged<usize>>; 5],
    /// Whether to return the final states.
    pub final_state: bool,
}

/// The names of the inputs, in order.
pub const SCAN_INPUTS: [&str; 14] = [
    "u",
    "delta",
    "a",
    "b",
    "c",
    "delta_bias",
    "d_skip",
    "z",
    "initial",
    "state_scale",
    "state_extra",
    "state_offset",
    "output_offset",
    "c_previous",
];

pub(super) const FIRST_TABLE: usize = 8;

/// The inputs and the states at the chunk borders, kept for backward.
pub struct Saved {
    pub(super) inputs: Vec<Option<Tensor>>,
    /// On a device: inputs that are not among those, and how to make them again.
    #[cfg(feature = "cuda")]
    pub(super) again: Vec<(usize, statetune_tensor::cuda::Recipe)>,
    pub(super) boundaries: Tensor,
}

/// Checks the shapes; returns D and N.
pub(super) fn check(inputs: &[Option<Tensor>]) -> Result<(usize, usize)> {
    let need = |i: usize| inputs[i].as_ref().ok_or(TensorError::MissingInput { op: "scan", index: i });
    let (tokens, d_inner) = need(0)?.matrix_shape("scan", "u")?;
    let d_state = need(2)?.matrix_shape("scan", "a")?.1;
    let (full, states) = (vec![tokens, d_inner], vec![tokens, d_state]);
    let expected = |i: usize| match i {
        0 | 1 | 7 => full.clone(),
        2 => vec![d_inner, d_state],
        3 | 4 | 13 => states.clone(),
        5 | 6 => vec![d_inner],
        12 => vec![0, d_inner],
        _ => vec![0, d_inner, d_state],
    };
    for (i, tensor) in inputs.iter().enumerate() {
        let (Some(tensor), mut expected) = (tensor, expected(i)) else { continue };
        if expected[0] == 0 {
            // A table: any number of rows.
            expected[0] = tensor.shape().first().copied().unwrap_or(0);
        }
        if tensor.shape() != expected {
            return Err(TensorError::shape("scan", SCAN_INPUTS[i], format!("{expected:?}"), tensor.shape()));
        }
    }
    Ok((d_inner, d_state))
}

/// Checks the shapes and lends the inputs to the kernel. Δ gets its bias and softplus inside.
fn kernel_inputs<'a, T: Float>(op: &'a Scan, inputs: &'a [Option<Tensor>]) -> Result<kernel::ScanInputs<'a, T>> {
    let (d_inner, d_state) = check(inputs)?;
    let need = |i: usize| inputs[i].as_ref().ok_or(TensorError::MissingInput { op: "scan", index: i });
    let slice = |i: usize| inputs[i].as_ref().map(|t| t.as_slice::<T>()).transpose();
    let table = |i: usize| -> Result<Option<KernelTable<'a, T>>> {
        let Some(values) = inputs[i].as_ref() else { return Ok(None) };
        let row_of = op.rows[i - FIRST_TABLE].as_ref().ok_or(TensorError::MissingInput { op: "scan", index: i })?;
        Ok(Some(KernelTable { values: values.as_slice::<T>()?, row_of }))
    };
    Ok(kernel::ScanInputs {
        u: need(0)?.as_slice::<T>()?,
        delta: need(1)?.as_slice::<T>()?,
        delta_bias: slice(5)?,
        delta_softplus: true,
        a: need(2)?.as_slice::<T>()?,
        b: need(3)?.as_slice::<T>()?,
        c: need(4)?.as_slice::<T>()?,
        d_skip: slice(6)?,
        z: slice(7)?,
        initial: table(8)?,
        state_scale: table(9)?,
        state_extra: table(10)?,
        state_offset: table(11)?,
        output_offset: table(12)?,
        c_previous: slice(13)?,
        sequences: Sequences::new(&op.offsets),
        d_inner,
        d_state,
    })
}

impl Op for Scan {
    type Saved = Option<Saved>;

    fn name(&self) -> &'static str {
        "scan"
    }

    fn forward(&self, device: &Device, inputs: &Inputs<'_>, need: &Need) -> Result<(Vec<Tensor>, Option<Saved>)> {
        let cpu = cpu_or!(device, cuda => on_cuda::scan(cuda, self, inputs, need));
        let tensors: Vec<Option<Tensor>> = (0..SCAN_INPUTS.len()).map(|i| inputs.optional(i).cloned()).collect();
        let (outputs, boundaries) = with_float!(inputs.required(0)?.dtype(), "scan", T => {
            let lent = kernel_inputs::<T>(self, &tensors)?;
            let (d_inner, d_state, sequences) = (lent.d_inner, lent.d_state, lent.sequences);
            let mut out = vec![0.0 as T; lent.u.len()];
            let mut state = self.final_state.then(|| vec![0.0 as T; sequences.len() * d_inner * d_state]);
            let mut boundaries =
                need.any().then(|| vec![0.0 as T; kernel::scan_boundaries_len(&sequences, d_inner, d_state)]);
            kernel::scan_forward(cpu, &mut out, state.as_deref_mut(), boundaries.as_deref_mut(), &lent);
            let mut outputs = vec![Tensor::from_vec(out, inputs.required(0)?.shape())?];
            if let Some(state) = state {
                outputs.push(Tensor::from_vec(state, &[sequences.len(), d_inner, d_state])?);
            }
            let boundaries = boundaries.map(|b| { let len = b.len(); Tensor::from_vec(b, &[len]) }).transpose()?;
            Ok((outputs, boundaries))
        })?;
        Ok((
            outputs,
            boundaries.map(|boundaries| Saved {
                inputs: tensors,
                #[cfg(feature = "cuda")]
                again: Vec::new(),
                boundaries,
            }),
        ))
    }

    fn backward(
        &self,
        device: &Device,
        saved: Option<Saved>,
        gradients: Vec<Option<Tensor>>,
        need: &Need,
    ) -> Result<Vec<Option<Tensor>>> {
        let cpu = cpu_or!(device, cuda => on_cuda::scan_backward(cuda, self, saved, &gradients, need));
        let Saved { inputs, boundaries, .. } = saved.expect("saved, since an input is tracked");
        with_float!(boundaries.dtype(), "scan", T => {
            let lent = kernel_inputs::<T>(self, &inputs)?;
            let mut buffers: Vec<Option<Vec<T>>> = inputs
                .iter()
                .enumerate()
                .map(|(i, tensor)| tensor.as_ref().filter(|_| need.input(i)).map(|t| vec![0.0 as T; t.len()]))
                .collect();
            let zeros;
            let dout = match &gradients[0] {
                Some(dout) => dout.as_slice::<T>()?,
                None => {
                    zeros = vec![0.0 as T; lent.u.len()];
                    &zeros
                }
            };
            let d_final = gradients.get(1).and_then(Option::as_ref).map(|d| d.as_slice::<T>()).transpose()?;
            let mut each = buffers.iter_mut().map(|buffer| buffer.as_deref_mut());
            let mut next = || each.next().expect("one buffer per input");
            // Fields are evaluated in the order written: that of SCAN_INPUTS.
            let grads = kernel::ScanGrads {
                du: next(),
                ddelta: next(),
                da: next(),
                db: next(),
                dc: next(),
                ddelta_bias: next(),
                dd_skip: next(),
                dz: next(),
                dinitial: next(),
                dstate_scale: next(),
                dstate_extra: next(),
                dstate_offset: next(),
                doutput_offset: next(),
                dc_previous: next(),
            };
            kernel::scan_backward(cpu, grads, dout, d_final, boundaries.as_slice::<T>()?, &lent);
            buffers
                .into_iter()
                .zip(&inputs)
                .map(|(gradient, like)| {
                    gradient.zip(like.as_ref()).map(|(g, like)| Tensor::from_vec(g, like.shape())).transpose()
                })
                .collect()
        })
    }
}

/// Values looked up per sequence: sequence `s` uses row `row_of[s]`.
#[derive(Debug, Clone)]
pub struct Table {
    /// `[rows, ...]`.
    pub values: Var,
    /// `[S]`.
    pub row_of: Staged<usize>,
}

/// The operands of a [`scan`].
pub struct ScanOperands<'a> {
    /// `[T, D]`.
    pub u: &'a Var,
    /// `[T, D]`, before bias and softplus.
    pub delta: &'a Var,
    /// `[D, N]`, -exp(`A_log`).
    pub a: &'a Var,
    /// `[T, N]`.
    pub b: &'a Var,
    /// `[T, N]`.
    pub c: &'a Var,
    /// `[D]`.
    pub delta_bias: Option<&'a Var>,
    /// `[D]`.
    pub d_skip: Option<&'a Var>,
    /// `[T, D]`.
    pub z: Option<&'a Var>,
    /// h_0, rows `[D, N]`; zeros when absent.
    pub initial: Option<Table>,
    /// S, rows `[D, N]`.
    pub state_scale: Option<Table>,
    /// E, rows `[D, N]`.
    pub state_extra: Option<Table>,
    /// O, rows `[D, N]`.
    pub state_offset: Option<Table>,
    /// y', rows `[D]`.
    pub output_offset: Option<Table>,
    /// C', `[T, N]`.
    pub c_previous: Option<&'a Var>,
}

/// Applies [`Scan`]; returns the gated output and, if asked for, the final states.
///
/// # Errors
/// When shapes or element types do not fit.
pub fn scan(
    tape: &Tape,
    offsets: &Staged<usize>,
    final_state: bool,
    operands: &ScanOperands<'_>,
) -> Result<(Var, Option<Var>)> {
    let o = operands;
    let tables = [&o.initial, &o.state_scale, &o.state_extra, &o.state_offset, &o.output_offset].map(Option::as_ref);
    let op = Scan { offsets: offsets.clone(), rows: tables.map(|t| t.map(|t| t.row_of.clone())), final_state };
    let mut inputs = vec![Some(o.u), Some(o.delta), Some(o.a), Some(o.b), Some(o.c), o.delta_bias, o.d_skip, o.z];
    inputs.extend(tables.map(|table| table.map(|t| &t.values)));
    inputs.push(o.c_previous);
    let mut outputs = tape.apply(op, &inputs)?;
    let out = outputs.remove(0);
    Ok((out, outputs.pop()))
}
