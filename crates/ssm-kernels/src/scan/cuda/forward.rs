//! The launch of the scan's forward.

use super::{ScanViews, Strided, bytes, row_of, stride, values, view};
use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};

pub(crate) static FAST: Source =
    Source::new("scan forward", concat!(include_str!("../shared.cuh"), include_str!("../forward.cu")));
pub(crate) static GENERAL: Source =
    Source::new("scan general", concat!(include_str!("../shared.cuh"), include_str!("../general.cu")));

/// Writes out `[T, D]` and, if asked, every sequence's final state `[S, D, N]` (that of an empty sequence is its
/// initial one) and what [`scan_backward`](super::scan_backward) starts from ([`boundaries_len`](super::boundaries_len)).
///
/// # Errors
/// When the driver refuses the launch.
///
/// # Panics
/// When a length or a type does not fit.
#[track_caller]
pub fn scan_forward(
    cuda: &Cuda,
    out: Strided,
    final_state: Option<View>,
    boundaries: Option<View>,
    x: &ScanViews,
) -> Result<(), CudaError> {
    x.check();
    out.check("out [T, D]", x.act(), x.tokens, x.d_inner);
    if let Some(state) = final_state {
        state.check("scan: final_state [S, D, N]", ElementType::F32, x.states_len());
    }
    if let Some(boundaries) = boundaries {
        boundaries.check("scan: boundaries", ElementType::F32, x.boundaries_len());
    }
    let (sequences, d) = (x.sequences(), x.d_inner);
    if sequences == 0 {
        return Ok(());
    }
    let grid = |channels: usize| {
        let blocks = u32::try_from(d.div_ceil(channels) * sequences).expect("scan: more blocks than a launch can have");
        [blocks, 1, 1]
    };
    if x.is_fast([Some(out), Some(x.b), Some(x.c)], [final_state, boundaries]) {
        let lanes = lanes(cuda.multiprocessors() as usize, d, sequences);
        let defines = [
            ("ACT_BF16", i64::from(x.act().is_bf16())),
            ("LANES", lanes as i64),
            ("HAS_Z", i64::from(x.z.is_some())),
            ("SOFTPLUS", i64::from(x.delta_softplus)),
            ("HAS_STATE_OFFSET", i64::from(x.state_offset.is_some())),
        ];
        #[rustfmt::skip]
        let args = args![
            out.view, final_state, boundaries, x.u.view, x.delta.view, x.delta_bias, x.a, x.b.view, x.c.view, x.d_skip,
            view(x.z), values(x.initial), row_of(x.initial), values(x.state_offset), row_of(x.state_offset),
            values(x.output_offset), row_of(x.output_offset), x.offsets, d as i32, bytes(Some(out)), bytes(Some(x.u)),
            bytes(Some(x.delta)), bytes(Some(x.b)), bytes(Some(x.c)), bytes(x.z),
        ];
        return cuda.launch(&FAST, &defines, "scan_forward", grid(THREADS / lanes), THREADS as u32, 0, &args);
    }
    let defines = [
        ("ACT_BF16", i64::from(x.act().is_bf16())),
        ("N", x.d_state as i64),
        ("SOFTPLUS", i64::from(x.delta_softplus)),
    ];
    #[rustfmt::skip]
    let args = args![
        out.view, final_state, boundaries, x.u.view, x.delta.view, x.delta_bias, x.a, x.b.view, x.c.view, x.d_skip,
        view(x.z), values(x.initial), row_of(x.initial), values(x.state_scale), row_of(x.state_scale),
        values(x.state_extra), row_of(x.state_extra), values(x.state_offset), row_of(x.state_offset),
        view(x.c_previous), values(x.output_offset), row_of(x.output_offset), x.offsets, d as i32, stride(Some(out)),
        stride(Some(x.u)), stride(Some(x.delta)), stride(Some(x.b)), stride(Some(x.c)), stride(x.c_previous), stride(x.z),
    ];
    cuda.launch(&GENERAL, &defines, "scan_forward_general", grid(4), 128, 0, &args)
}

/// Threads of a block.
const THREADS: usize = 128;

/// How many lanes share a channel. A block's time per token falls nearly as its channels do, so with little to do more
/// lanes are better; with many blocks per multiprocessor, fewer lose less to what all lanes repeat. The times are those
/// of a multiprocessor of an H100 per token and block, in nanoseconds, as measured at D = 1536 and 4096 with 1 to 8
/// sequences; 0.55 blocks stand for the waiting that few cannot hide.
fn lanes(multiprocessors: usize, d_inner: usize, sequences: usize) -> usize {
    #[cfg(test)]
    if let Some(lanes) = FORCED_LANES.get() {
        return lanes;
    }
    let time = |&(lanes, each): &(usize, f64)| {
        let blocks = d_inner.div_ceil(THREADS / lanes) * sequences;
        each * (blocks.div_ceil(multiprocessors.max(1)) as f64 + 0.55)
    };
    let ways = [(2, 53.0), (4, 33.0), (8, 19.3)];
    ways.into_iter().min_by(|a, b| time(a).total_cmp(&time(b))).expect("three ways").0
}

#[cfg(test)]
thread_local! {
    /// The lanes to a channel that this thread's launches take instead.
    pub(crate) static FORCED_LANES: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::lanes;

    #[test]
    fn few_channels_are_spread_over_more_lanes() {
        assert_eq!(lanes(132, 1536, 4), 8);
        assert_eq!(lanes(132, 4096, 1), 8);
        assert_eq!(lanes(132, 4096, 4), 2);
        assert_eq!(lanes(132, 4096, 8), 2);
    }
}
