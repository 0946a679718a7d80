//! One token of every sequence through convolution and scan.

use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};
use crate::scan::cuda::{MAX_STATES, Strided};

use super::Conv;

static SOURCE: Source =
    Source { name: "decode state", text: concat!(include_str!("../../scan/shared.cuh"), include_str!("../state.cu")) };

const THREADS: usize = 128;
const LANES: usize = 4;

/// What makes u and Δ inside [`scan_step`]: the convolution, whose states it moves on, and Δ's two factors.
#[derive(Debug, Clone, Copy)]
pub struct Fused<'a> {
    /// The convolution.
    pub conv: Conv<'a>,
    /// dt `[S, rank]`.
    pub dt: Strided<'a>,
    /// `[D, rank]`, an activation.
    pub dt_weight: View<'a>,
}

/// One step of the scan. Activations are of one type, all else is f32.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// u and delta `[S, D]`, where they are not made inside.
    pub inputs: Option<(Strided<'a>, Strided<'a>)>,
    /// What makes them inside.
    pub fused: Option<Fused<'a>>,
    /// `[S, D]`.
    pub z: Strided<'a>,
    /// `[S, N]`.
    pub b: Strided<'a>,
    /// `[S, N]`.
    pub c: Strided<'a>,
    /// `[D]`, added to delta before the softplus.
    pub delta_bias: Option<View<'a>>,
    /// `[D, N]`, not above zero.
    pub a: View<'a>,
    /// `[D]`.
    pub d_skip: Option<View<'a>>,
    /// `[D, N]`, of all sequences.
    pub state_offset: Option<View<'a>>,
    /// `[D]`, of all sequences.
    pub output_offset: Option<View<'a>>,
    /// S.
    pub sequences: usize,
    /// D.
    pub d_inner: usize,
    /// N.
    pub d_state: usize,
}

/// u `[S, D]` = silu(convolution of states and x), and the states `[S, D, K - 1]` one token on.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn conv_step(cuda: &Cuda, u: View, conv: &Conv, sequences: usize, d_inner: usize) -> Result<(), CudaError> {
    let act = u.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
    u.check("u [S, D]", act, sequences * d_inner);
    conv.check_step(act, sequences, d_inner);
    let defines = [
        ("ACT_BF16", act.is_bf16() as i64),
        ("SOFTPLUS", 1),
        ("N", 16),
        ("FUSED", 0),
        ("WIDTH", conv.width as i64),
        ("VEC", 4),
        ("RANKS", 1),
    ];
    let args = args![
        u,
        conv.state,
        conv.x.view,
        conv.x.stride as i32,
        conv.weight,
        conv.bias,
        sequences as i32,
        d_inner as i32
    ];
    let blocks = (sequences * d_inner).div_ceil(THREADS) as u32;
    cuda.launch(&SOURCE, &defines, "conv_step", [blocks, 1, 1], THREADS as u32, 0, &args)
}

/// out `[S, D]` = y · silu(z) of the scan's next token, with Δ = softplus(delta + `delta_bias`), and the states `[S, D, N]` one
/// token on. See [`crate::scan`].
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape, or u and delta are given and made inside, or neither.
#[track_caller]
pub fn scan_step(cuda: &Cuda, out: View, state: View, step: &Step) -> Result<(), CudaError> {
    let Step { sequences, d_inner, d_state, .. } = *step;
    let act = out.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
    assert!((1..=MAX_STATES).contains(&d_state), "d_state {d_state}");
    assert!(step.inputs.is_some() != step.fused.is_some(), "u and delta are given or made inside");
    out.check("out [S, D]", act, sequences * d_inner);
    state.check("states [S, D, N]", ElementType::F32, sequences * d_inner * d_state);
    step.z.check("z [S, D]", act, sequences, d_inner);
    step.b.check("b [S, N]", act, sequences, d_state);
    step.c.check("c [S, N]", act, sequences, d_state);
    step.a.check("a [D, N]", ElementType::F32, d_inner * d_state);
    let vectors = [
        ("delta_bias [D]", step.delta_bias, d_inner),
        ("d_skip [D]", step.d_skip, d_inner),
        ("state_offset [D, N]", step.state_offset, d_inner * d_state),
        ("output_offset [D]", step.output_offset, d_inner),
    ];
    for (what, view, len) in vectors {
        if let Some(view) = view {
            view.check(what, ElementType::F32, len);
        }
    }
    let (mut width, mut rank, mut ranks) = (1, 0, 1);
    let none = None::<View>;
    let (x, dt, dt_weight, conv_state, conv_weight, conv_bias) = match (step.inputs, step.fused) {
        (Some((u, delta)), _) => {
            u.check("u [S, D]", act, sequences, d_inner);
            delta.check("delta [S, D]", act, sequences, d_inner);
            (u, delta, none, none, none, none)
        }
        (None, Some(Fused { conv, dt, dt_weight })) => {
            conv.check_step(act, sequences, d_inner);
            rank = dt_weight.len() / d_inner;
            dt_weight.check("dt weight [D, rank]", act, d_inner * rank);
            dt.check("dt [S, rank]", act, sequences, rank);
            let widest = 16 / act.bytes();
            let pack = |stride: usize, view: View| {
                stride.is_multiple_of(widest) && view.pointer().is_multiple_of(16) && rank.is_multiple_of(widest)
            };
            if pack(dt.stride, dt.view) && pack(rank, dt_weight) {
                ranks = widest;
            }
            width = conv.width;
            (conv.x, dt, Some(dt_weight), conv.state, Some(conv.weight), conv.bias)
        }
        (None, None) => unreachable!("checked"),
    };
    let vec = if d_state.is_multiple_of(4) { 4 } else { 1 };
    let defines = [
        ("ACT_BF16", act.is_bf16() as i64),
        ("SOFTPLUS", 1),
        ("N", d_state as i64),
        ("FUSED", step.fused.is_some() as i64),
        ("WIDTH", width as i64),
        ("VEC", vec),
        ("RANKS", ranks as i64),
    ];
    let args = args![
        out,
        state,
        conv_state,
        x.view,
        x.stride as i32,
        step.z.view,
        step.z.stride as i32,
        dt.view,
        dt.stride as i32,
        dt_weight,
        rank as i32,
        step.delta_bias,
        step.a,
        step.b.view,
        step.b.stride as i32,
        step.c.view,
        step.c.stride as i32,
        step.d_skip,
        conv_weight,
        conv_bias,
        step.state_offset,
        step.output_offset,
        sequences as i32,
        d_inner as i32
    ];
    let blocks = (sequences * d_inner).div_ceil(THREADS / LANES) as u32;
    cuda.launch(&SOURCE, &defines, "scan_step", [blocks, 1, 1], THREADS as u32, 0, &args)
}
