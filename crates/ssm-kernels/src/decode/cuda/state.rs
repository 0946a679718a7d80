//! One token of every sequence through the scan.

use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};
use crate::scan::cuda::{MAX_STATES, Strided};

pub(crate) static SOURCE: Source = Source::new(
    "decode state",
    concat!(include_str!("../chain.cuh"), include_str!("../../scan/shared.cuh"), include_str!("../state.cu")),
)
.chained();

const THREADS: usize = 128;
const LANES: usize = 4;

/// Sequences of a thread, where they are not fewer than [`MANY`].
const EACH: usize = 2;
const MANY: usize = 16;

/// States of a channel up to which a thread has registers for more than one sequence.
const LIGHT: usize = 32;

/// Δ before its bias as it is, or by its factors.
#[derive(Debug, Clone, Copy)]
pub enum Delta<'a> {
    /// `[S, D]`.
    Given(Strided<'a>),
    /// dt `[S, rank]` and the weight `[D, rank]`, an activation.
    LowRank(LowRank<'a>),
}

/// The factors of Δ.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a> {
    /// `[S, rank]`.
    pub dt: Strided<'a>,
    /// `[D, rank]`, an activation.
    pub weight: View<'a>,
}

/// One step of the scan. Activations are of one type, all else is f32.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// `[S, D]`.
    pub u: Strided<'a>,
    /// `[S, D]`.
    pub delta: Delta<'a>,
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

/// out `[S, D]` = y · silu(z) of the scan's next token, with Δ = softplus(delta + `delta_bias`), and the states `[S, D, N]` one
/// token on. See [`crate::scan`].
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn scan_step(cuda: &Cuda, out: View, state: View, step: &Step) -> Result<(), CudaError> {
    let Step { sequences, d_inner, d_state, .. } = *step;
    let act = out.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
    assert!((1..=MAX_STATES).contains(&d_state), "d_state {d_state}");
    out.check("out [S, D]", act, sequences * d_inner);
    state.check("states [S, D, N]", ElementType::F32, sequences * d_inner * d_state);
    step.u.check("u [S, D]", act, sequences, d_inner);
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
    let (mut rank, mut ranks) = (0, 1);
    let (dt, dt_weight) = match step.delta {
        Delta::Given(delta) => {
            delta.check("delta [S, D]", act, sequences, d_inner);
            (delta, None)
        }
        Delta::LowRank(LowRank { dt, weight }) => {
            rank = weight.len() / d_inner;
            weight.check("dt weight [D, rank]", act, d_inner * rank);
            dt.check("dt [S, rank]", act, sequences, rank);
            let widest = 16 / act.bytes();
            let aligned = [dt.view, weight].iter().all(|view| view.pointer().is_multiple_of(16));
            if aligned && dt.stride.is_multiple_of(widest) && rank.is_multiple_of(widest) {
                ranks = widest;
            }
            (dt, Some(weight))
        }
    };
    let vec = if d_state.is_multiple_of(4) { 4 } else { 1 };
    let together =
        |x: Strided| x.stride.is_multiple_of(vec) && x.view.pointer().is_multiple_of((vec * act.bytes()) as u64);
    let maps = if together(step.b) && together(step.c) { vec } else { 1 };
    let each = if d_state > LIGHT || sequences < MANY { 1 } else { EACH };
    let defines = [
        ("ACT_BF16", act.is_bf16() as i64),
        ("SOFTPLUS", 1),
        ("N", d_state as i64),
        ("LOW_RANK", dt_weight.is_some() as i64),
        ("WIDTH", 1),
        ("VEC", vec as i64),
        ("MAPS", maps as i64),
        ("RANKS", ranks as i64),
        ("MOST_RANK", rank.next_multiple_of(64) as i64),
        ("EACH", each as i64),
    ];
    let args = args![
        out,
        state,
        step.u.view,
        step.u.stride as i32,
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
        step.state_offset,
        step.output_offset,
        sequences as i32,
        d_inner as i32
    ];
    let grid = [d_inner.div_ceil(THREADS / LANES) as u32, sequences.div_ceil(each) as u32, 1];
    cuda.launch(&SOURCE, &defines, "scan_step", grid, THREADS as u32, 0, &args)
}
