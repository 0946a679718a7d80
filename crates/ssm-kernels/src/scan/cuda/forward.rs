//! The launch of the scan's forward.

use super::{ScanViews, Strided, bytes, row_of, stride, values, view};
use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, Define, ElementType, Source, View};

pub(crate) static FAST: Source = Source::new(
    "scan forward",
    concat!(
        include_str!("../../runtime/cuda/copies.cuh"),
        include_str!("../shared.cuh"),
        include_str!("../forward.cu")
    ),
);
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
        let room = Room { multiprocessors: cuda.multiprocessors() as usize, shared: cuda.shared_memory() };
        let way = way(room, x.act(), d, sequences);
        let [channels, lanes, helpers, tile] = way.defines();
        let defines = [
            ("ACT_BF16", i64::from(x.act().is_bf16())),
            channels,
            lanes,
            helpers,
            tile,
            ("COPY", copy_bytes(x) as i64),
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
        let (grid, threads, shared) = (grid(way.channels), way.threads() as u32, way.shared_bytes(x.act()) as u32);
        return cuda.launch(&FAST, &defines, "scan_forward", grid, threads, shared, &args);
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

/// How the fast kernel's blocks are laid out, as in forward.cu.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Way {
    /// Channels of a block, and the lanes that share one.
    pub channels: usize,
    pub lanes: usize,
    /// Warps that stage; as many finish.
    pub helpers: usize,
    /// Tokens of a tile.
    pub tile: usize,
    /// Nanoseconds that a multiprocessor of an H100 takes per token and block.
    time: f64,
}

pub(crate) const WAYS: [Way; 4] = [
    Way { channels: 16, lanes: 8, helpers: 2, tile: 32, time: 18.7 },
    Way { channels: 32, lanes: 4, helpers: 4, tile: 32, time: 30.2 },
    Way { channels: 48, lanes: 4, helpers: 3, tile: 32, time: 44.0 },
    Way { channels: 64, lanes: 2, helpers: 2, tile: 16, time: 49.8 },
];

impl Way {
    pub(crate) fn defines(&self) -> [Define; 4] {
        [("CHANNELS", self.channels), ("LANES", self.lanes), ("HELPERS", self.helpers), ("TILE", self.tile)]
            .map(|(name, number)| (name, number as i64))
    }

    fn threads(&self) -> usize {
        self.channels * self.lanes + 2 * 32 * self.helpers
    }

    /// Two slots of numbers of sixteen bytes: steps of two tokens, B and C, sums of four tokens. And four tiles of
    /// activations: delta, u, z, B and C.
    fn shared_bytes(&self, act: ElementType) -> usize {
        let (steps, maps, sums) =
            (self.tile / 2 * (self.channels + 8), self.tile * 8, self.tile / 4 * self.channels * self.lanes);
        2 * 16 * (steps + maps + sums) + 4 * self.tile * (3 * self.channels + 32) * act.bytes()
    }
}

/// What a device has of what blocks share: multiprocessors, and bytes of shared memory of a block.
#[derive(Clone, Copy)]
struct Room {
    multiprocessors: usize,
    shared: usize,
}

/// The way that takes least time. Many lanes to a channel repeat more, few leave multiprocessors idle where channels and
/// sequences are few: the slowest multiprocessor has as many blocks as fall to one, rounded up. The ways' times are
/// of D = 1536 and 4096 with one and four sequences (docs/src/performance.md).
fn way(room: Room, act: ElementType, d_inner: usize, sequences: usize) -> Way {
    let fits = |way: &Way| way.shared_bytes(act) <= room.shared;
    #[cfg(test)]
    if let Some(way) = FORCED.get().filter(fits) {
        return way;
    }
    let time = |way: &Way| {
        let blocks = d_inner.div_ceil(way.channels) * sequences;
        way.time * blocks.div_ceil(room.multiprocessors.max(1)) as f64
    };
    WAYS.into_iter().filter(fits).min_by(|a, b| time(a).total_cmp(&time(b))).expect("the smallest way fits in 96 KiB")
}

/// How many bytes of a row are copied at once: sixteen, or a pair of activations where some row does not begin at a whole
/// sixteen.
fn copy_bytes(x: &ScanViews) -> usize {
    let size = x.act().bytes();
    let matrices = [Some(x.u), Some(x.delta), Some(x.b), Some(x.c), x.z];
    let all =
        (x.d_inner * size).is_multiple_of(16) && matrices.into_iter().flatten().all(|matrix| matrix.begins_at(16));
    if all { 16 } else { 2 * size }
}

#[cfg(test)]
thread_local! {
    /// The way that this thread's launches take instead, where it fits.
    pub(crate) static FORCED: std::cell::Cell<Option<Way>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use super::{Room, WAYS, way};
    use crate::runtime::cuda::ElementType::{Bf16, F32};

    #[test]
    fn blocks_are_such_that_multiprocessors_have_equal_shares() {
        let channels =
            |d, sequences| way(Room { multiprocessors: 132, shared: 227 << 10 }, Bf16, d, sequences).channels;
        assert_eq!(channels(1536, 1), 16);
        assert_eq!(channels(4096, 1), 32);
        assert_eq!(channels(1536, 4), 48);
        assert_eq!(channels(4096, 4), 64);
        assert_eq!(channels(4096, 8), 64);
    }

    #[test]
    fn blocks_fit_in_the_shared_memory_of_every_device() {
        for (shared, act) in [(99, F32), (99, Bf16), (163, F32), (163, Bf16)] {
            for (d, sequences) in [(1536, 1), (4096, 1), (1536, 4), (4096, 8)] {
                let room = Room { multiprocessors: 84, shared: shared << 10 };
                assert!(way(room, act, d, sequences).shared_bytes(act) <= shared << 10);
            }
        }
        assert!(WAYS.iter().all(|way| way.shared_bytes(F32) <= 227 << 10));
    }
}
