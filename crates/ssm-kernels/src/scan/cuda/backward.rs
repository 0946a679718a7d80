//! The launches of the scan's backward: the carries of segments, the gradients, and the sums of what blocks leave.

use super::forward::GENERAL;
use super::{CHUNK, ScanViews, Strided, bytes, row_of, stride, values, view};
use crate::args;
use crate::runtime::cuda::{Array, Cuda, CudaError, ElementType, Source, View, two_ints};

const TEXT: &str = concat!(
    include_str!("../shared.cuh"),
    include_str!("../carries.cu"),
    include_str!("../sums.cuh"),
    include_str!("../backward.cu"),
);
pub(crate) static FAST: Source = Source::new("scan backward", TEXT);
/// The same where `scan_backward` begins while `scan_carries` runs: of what that one writes, it reads nothing until it has
/// waited, and all else was there before that one.
static EARLY: Source = Source::new("scan backward", TEXT).chained();
pub(crate) static SUMS: Source = Source::new("scan sums", include_str!("../reduce.cu"));

/// The gradients asked for; each is overwritten. Those of activations have their type and may be columns of a wider
/// matrix; those of parameters and tables are f32. Gradients of tables are summed over the sequences that use a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanGradViews<'a> {
    /// Of `u`, `[T, D]`.
    pub du: Option<Strided<'a>>,
    /// Of `delta`, `[T, D]`.
    pub ddelta: Option<Strided<'a>>,
    /// Of `delta_bias`, `[D]`.
    pub ddelta_bias: Option<View<'a>>,
    /// Of `a`, `[D, N]`.
    pub da: Option<View<'a>>,
    /// Of `b`, `[T, N]`.
    pub db: Option<Strided<'a>>,
    /// Of `c`, `[T, N]`.
    pub dc: Option<Strided<'a>>,
    /// Of `d_skip`, `[D]`.
    pub dd_skip: Option<View<'a>>,
    /// Of `z`, `[T, D]`.
    pub dz: Option<Strided<'a>>,
    /// Of `initial`, its rows `[D, N]`.
    pub dinitial: Option<View<'a>>,
    /// Of `state_scale`, its rows `[D, N]`.
    pub dstate_scale: Option<View<'a>>,
    /// Of `state_extra`, its rows `[D, N]`.
    pub dstate_extra: Option<View<'a>>,
    /// Of `state_offset`, its rows `[D, N]`.
    pub dstate_offset: Option<View<'a>>,
    /// Of `c_previous`, `[T, N]`.
    pub dc_previous: Option<Strided<'a>>,
    /// Of `output_offset`, its rows `[D]`.
    pub doutput_offset: Option<View<'a>>,
}

impl ScanGradViews<'_> {
    #[track_caller]
    fn check(&self, x: &ScanViews) {
        let (d, n) = (x.d_inner, x.d_state);
        let activations = [
            ("du [T, D]", self.du, true, d),
            ("ddelta [T, D]", self.ddelta, true, d),
            ("db [T, N]", self.db, true, n),
            ("dc [T, N]", self.dc, true, n),
            ("dz [T, D]", self.dz, x.z.is_some(), d),
            ("dc_previous [T, N]", self.dc_previous, x.c_previous.is_some(), n),
        ];
        for (name, grad, operand, width) in activations {
            if let Some(grad) = grad {
                assert!(operand, "scan: {name} asked for, but its operand is absent");
                grad.check(name, x.act(), x.tokens, width);
            }
        }
        let others = [
            ("ddelta_bias", self.ddelta_bias, x.delta_bias),
            ("da", self.da, Some(x.a)),
            ("dd_skip", self.dd_skip, x.d_skip),
            ("dinitial", self.dinitial, values(x.initial)),
            ("dstate_scale", self.dstate_scale, values(x.state_scale)),
            ("dstate_extra", self.dstate_extra, values(x.state_extra)),
            ("dstate_offset", self.dstate_offset, values(x.state_offset)),
            ("doutput_offset", self.doutput_offset, values(x.output_offset)),
        ];
        for (name, grad, operand) in others {
            if let Some(grad) = grad {
                let operand = operand.unwrap_or_else(|| panic!("scan: {name} asked for, but its operand is absent"));
                grad.check(name, ElementType::F32, operand.len());
            }
        }
    }
}

/// Writes the gradients asked for, given `dout` `[T, D]`, the boundaries that
/// [`scan_forward`](super::scan_forward) saved and, if the final states were used, their gradient `d_final` `[S, D, N]`.
/// The sums are made in an order that depends on the sizes alone.
///
/// # Errors
/// When memory for partial sums does not suffice, or the driver refuses a launch.
///
/// # Panics
/// When a length or a type does not fit, or a gradient is asked for an operand that is absent.
#[track_caller]
pub fn scan_backward(
    cuda: &Cuda,
    grads: ScanGradViews,
    dout: Strided,
    d_final: Option<View>,
    boundaries: View,
    x: &ScanViews,
) -> Result<(), CudaError> {
    x.check();
    grads.check(x);
    dout.check("dout [T, D]", x.act(), x.tokens, x.d_inner);
    boundaries.check("scan: boundaries", ElementType::F32, x.boundaries_len());
    if let Some(d_final) = d_final {
        d_final.check("scan: d_final [S, D, N]", ElementType::F32, x.states_len());
    }
    let states = [Some(boundaries), d_final, grads.da, grads.dinitial, grads.dstate_offset];
    if x.is_fast([Some(dout), grads.du, grads.ddelta, grads.dz], states) {
        fast(cuda, &grads, dout, d_final, boundaries, x)
    } else {
        general(cuda, &grads, dout, d_final, boundaries, x)
    }
}

/// Where blocks leave their parts of a gradient, and how the parts are added.
struct Partial<'a> {
    grad: Option<View<'a>>,
    parts: Option<Array>,
    /// Parts; and, of a table of several rows, how many each sequence has.
    count: usize,
    each: usize,
    row_of: Option<View<'a>>,
    width: usize,
}

impl<'a> Partial<'a> {
    /// Of a gradient without rows: one part for each of `blocks`. A single part is the gradient itself.
    fn whole(cuda: &Cuda, grad: Option<View<'a>>, blocks: usize, width: usize) -> Result<Partial<'a>, CudaError> {
        let wanted = grad.is_some() && blocks != 1;
        let parts = if wanted { Some(cuda.array(ElementType::F32, blocks * width)?) } else { None };
        Ok(Partial { grad, parts, count: blocks, each: 1, row_of: None, width })
    }

    /// Of a table: with a single row as [`Partial::whole`], with several `each` parts per sequence.
    fn table(
        cuda: &Cuda,
        grad: Option<View<'a>>,
        row_of: Option<View<'a>>,
        width: usize,
        blocks: usize,
        each: usize,
    ) -> Result<Partial<'a>, CudaError> {
        match (grad, row_of) {
            (Some(view), Some(row_of)) if view.len() > width => {
                let count = row_of.len() * each;
                let parts = Some(cuda.array(ElementType::F32, count * width)?);
                Ok(Partial { grad, parts, count, each, row_of: Some(row_of), width })
            }
            _ => Partial::whole(cuda, grad, blocks, width),
        }
    }

    /// What the kernel writes to.
    fn view(&self) -> Option<View<'_>> {
        self.parts.as_ref().map(Array::view).or(self.grad)
    }

    /// The kernel's `Table`, whose blocks begin at `first_block`, and how many they are.
    fn words(&self, grad: View, parts: &Array, first_block: usize) -> ([u64; TABLE_WORDS], usize) {
        let (columns, rows) = (self.width.div_ceil(32), grad.len() / self.width);
        let words = [
            grad.pointer(),
            parts.view().pointer(),
            self.row_of.map_or(0, |row_of| row_of.pointer()),
            two_ints(self.count as u32, self.each as u32),
            two_ints(self.width as u32, columns as u32),
            two_ints(first_block as u32, 0),
        ];
        (words, columns * rows)
    }
}

/// Words of the kernel's structures, and tables of a launch.
const TABLE_WORDS: usize = 6;
const MAPS_WORDS: usize = 8;
const MOST_TABLES: usize = 8;

/// Adds what the kernels left: the parts `[blocks, T, maps, N]` of db, dc and dc_previous, if there are such, and those of tables.
fn add_up(
    cuda: &Cuda,
    grads: &ScanGradViews,
    maps: Option<(&Array, usize, usize)>,
    partials: &[Partial],
    x: &ScanViews,
) -> Result<(), CudaError> {
    let (mut of_maps, mut blocks) = ([0; MAPS_WORDS], 0);
    if let Some((parts, left, maps)) = maps {
        blocks = (x.tokens * maps * x.d_state).div_ceil(256);
        let [db, dc, dc_previous] = [grads.db, grads.dc, grads.dc_previous];
        let strides = [db, dc, dc_previous].map(|grad| stride(grad) as u32);
        let pointer = |grad: Option<Strided>| grad.map_or(0, |grad| grad.view.pointer());
        of_maps = [
            pointer(db),
            pointer(dc),
            pointer(dc_previous),
            parts.view().pointer(),
            two_ints(strides[0], strides[1]),
            two_ints(strides[2], left as u32),
            two_ints(x.tokens as u32, maps as u32),
            two_ints(x.d_state as u32, blocks as u32),
        ];
    }
    let (mut words, mut tables) = (Vec::new(), 0);
    for partial in partials {
        let (Some(grad), Some(parts)) = (partial.grad, &partial.parts) else { continue };
        let (table, its_blocks) = partial.words(grad, parts, blocks);
        words.extend(table);
        (tables, blocks) = (tables + 1, blocks + its_blocks);
    }
    if blocks == 0 {
        return Ok(());
    }
    assert!(tables <= MOST_TABLES, "{tables} tables");
    words.resize(MOST_TABLES * TABLE_WORDS, 0);
    let args = args![&of_maps[..], &words[..], tables as i32];
    let defines = [("ACT_BF16", i64::from(x.act().is_bf16()))];
    cuda.launch(&SUMS, &defines, "scan_sums", [blocks as u32, 1, 1], 256, 0, &args)
}

/// Channels of a warp, and tokens whose states a lane holds, as in backward.cu.
const WIDTH: usize = 32;
const PART: usize = 4;

/// Warps of a block: as many as shared memory takes.
fn warps(cuda: &Cuda) -> usize {
    if cuda.has_little_shared_memory() { 2 } else { 4 }
}

/// Bytes of `BlockMemory`; `offset` says whether a state offset is read.
fn shared_bytes(warps: usize, offset: bool) -> usize {
    let states = 4 * 32 * 16;
    let rows = CHUNK / PART - 2 + usize::from(offset);
    let vectors = (2 * CHUNK + PART) * WIDTH * 4;
    let shares = 2 * PART * 4 * 36 * 4;
    warps * (rows * states + vectors + shares) + CHUNK * 32 * 4
}

/// How many chunks a segment has at most, on average, where blocks begin before they can go on.
const EARLY_CHUNKS: usize = 4;

/// Blocks that a multiprocessor holds.
const RESIDENT: usize = 2;

fn fast(
    cuda: &Cuda,
    grads: &ScanGradViews,
    dout: Strided,
    d_final: Option<View>,
    boundaries: View,
    x: &ScanViews,
) -> Result<(), CudaError> {
    let (tokens, sequences, d, n) = (x.tokens, x.sequences(), x.d_inner, x.d_state);
    if sequences == 0 {
        return clear_tables(cuda, grads);
    }
    let warps = warps(cuda);
    let columns = d.div_ceil(WIDTH * warps);
    let room = RESIDENT * cuda.multiprocessors() as usize;
    let (segments, parts) = segments(room, columns, sequences, tokens);
    // Several rounds of blocks even out sequences of different lengths; more would only mean more partial sums.
    let walkers = if segments > 1 { sequences } else { sequences.min((4 * room).div_ceil(columns)) };
    let blocks = walkers * segments;

    let bias = Partial::whole(cuda, grads.ddelta_bias, blocks, d)?;
    let da = Partial::whole(cuda, grads.da, blocks, d * n)?;
    let skip = Partial::whole(cuda, grads.dd_skip, blocks, d)?;
    // The gradient of an initial state is no sum over tokens: a part for each sequence.
    let initial = Partial::table(cuda, grads.dinitial, row_of(x.initial), d * n, sequences, 1)?;
    let offset = Partial::table(cuda, grads.dstate_offset, row_of(x.state_offset), d * n, blocks, segments)?;
    let output = Partial::table(cuda, grads.doutput_offset, row_of(x.output_offset), d, blocks, segments)?;
    let wants_maps = grads.db.is_some() || grads.dc.is_some();
    let maps = if wants_maps { Some(cuda.array(ElementType::F32, columns * tokens * 2 * n)?) } else { None };

    let defines = [
        ("ACT_BF16", x.act().is_bf16()),
        ("HAS_Z", x.z.is_some()),
        ("SOFTPLUS", x.delta_softplus),
        ("HAS_STATE_OFFSET", x.state_offset.is_some()),
        ("DZ", grads.dz.is_some()),
        ("DC", grads.dc.is_some()),
        ("DB", grads.db.is_some()),
        ("DU", grads.du.is_some()),
        ("DDELTA", grads.ddelta.is_some()),
        ("DBIAS", grads.ddelta_bias.is_some()),
        ("DSTATE_OFFSET", grads.dstate_offset.is_some()),
        ("DA", grads.da.is_some()),
        ("DINITIAL", grads.dinitial.is_some()),
    ]
    .map(|(name, on)| (name, i64::from(on)));
    let early = segments > 1 && chunks(sequences, tokens).div_ceil(segments) <= EARLY_CHUNKS;
    let defines: Vec<_> = defines.into_iter().chain([("EARLY", i64::from(early)), ("WARPS", warps as i64)]).collect();

    let mut carries = None;
    if segments > 1 {
        let states = cuda.array(ElementType::F32, sequences * segments * parts * d * n)?;
        let steps = cuda.array(ElementType::F32, sequences * segments * parts * d)?;
        #[rustfmt::skip]
        let args = args![
            states.view(), steps.view(), dout.view, x.delta.view, x.delta_bias, x.a, x.c.view, view(x.z), x.offsets,
            d as i32, segments as i32, parts as i32, bytes(Some(dout)), bytes(Some(x.delta)), bytes(Some(x.c)),
            bytes(x.z),
        ];
        let grid = [columns as u32, sequences as u32, ((segments - 1) * parts) as u32];
        cuda.launch(&FAST, &defines, "scan_carries", grid, 32 * warps as u32, 0, &args)?;
        carries = Some((states, steps));
    }
    #[rustfmt::skip]
    let args = args![
        view(grads.du), view(grads.ddelta), view(grads.dz), maps.as_ref().map(Array::view), bias.view(), da.view(),
        skip.view(), initial.view(), offset.view(), output.view(), dout.view, d_final, boundaries, x.u.view,
        x.delta.view, x.delta_bias, x.a, x.b.view, x.c.view, x.d_skip, view(x.z), values(x.state_offset),
        row_of(x.state_offset), values(x.output_offset), row_of(x.output_offset),
        carries.as_ref().map(|c| c.0.view()), carries.as_ref().map(|c| c.1.view()), x.offsets, tokens as i32,
        sequences as i32, d as i32, segments as i32, parts as i32, rows(x.state_offset, d * n), rows(x.output_offset, d),
        bytes(grads.du), bytes(grads.ddelta), bytes(grads.dz), bytes(Some(dout)), bytes(Some(x.u)),
        bytes(Some(x.delta)), bytes(Some(x.b)), bytes(Some(x.c)), bytes(x.z),
    ];
    let reads_offset = x.state_offset.is_some() && (grads.dc.is_some() || grads.dz.is_some());
    let shared = shared_bytes(warps, reads_offset);
    let grid = [columns as u32, walkers as u32, segments as u32];
    let source = if early { &EARLY } else { &FAST };
    cuda.launch(source, &defines, "scan_backward", grid, 32 * warps as u32, shared as u32, &args)?;

    let maps = maps.as_ref().map(|maps| (maps, columns, 2));
    add_up(cuda, grads, maps, &[bias, da, skip, initial, offset, output], x)
}

fn rows(table: Option<super::TableView>, width: usize) -> i32 {
    table.map_or(1, |table| table.rows(width) as i32)
}

/// Without a sequence every sum is empty.
fn clear_tables(cuda: &Cuda, grads: &ScanGradViews) -> Result<(), CudaError> {
    let sums = [
        grads.ddelta_bias,
        grads.da,
        grads.dd_skip,
        grads.dinitial,
        grads.dstate_scale,
        grads.dstate_extra,
        grads.dstate_offset,
        grads.doutput_offset,
    ];
    sums.into_iter().flatten().try_for_each(|grad| cuda.clear(grad))
}

/// Chunks of a sequence, on average.
fn chunks(sequences: usize, tokens: usize) -> usize {
    tokens.div_ceil(sequences).div_ceil(CHUNK).max(1)
}

/// Into how many segments each sequence is cut, for `room` blocks at a time, and into how many parts each of them for the
/// carries. Times are in those of a chunk, by measurement on an H100: a block takes its chunks' and 0.4 more, and 0.014 for
/// each part of a segment, from half of which on average carries enter. The carries are a pass over all segments but one, of
/// which a chunk takes 0.14 for every block on a multiprocessor, and 0.046 more.
fn segments(room: usize, columns: usize, sequences: usize, tokens: usize) -> (usize, usize) {
    #[cfg(test)]
    if let Some(cut) = CUT.get() {
        return cut;
    }
    let chunks = chunks(sequences, tokens);
    let time = |&(segments, parts): &(usize, usize)| {
        let each = chunks.div_ceil(segments);
        let block = |chunks: usize| chunks as f64 + 0.4 + 0.014 * (segments * parts) as f64;
        let (whole, rest) = (chunks / each * columns * sequences, chunks % each);
        let short = if rest > 0 { columns * sequences } else { 0 };
        let carries = (RESIDENT * columns * sequences * (segments - 1) * parts).div_ceil(room);
        let carried = if segments > 1 { (0.14 * carries as f64 + 0.046) * each.div_ceil(parts) as f64 } else { 0.0 };
        in_turn(room, (whole, block(each)), (short, block(rest))) + carried
    };
    let most = chunks.min(32).min(65_535 / MOST_PARTS / sequences.min(65_535 / MOST_PARTS)).max(1);
    let ways = (1..=most).flat_map(|segments| {
        let parts = if segments > 1 { MOST_PARTS.min(chunks.div_ceil(segments)) } else { 1 };
        (1..=parts).map(move |parts| (segments, parts))
    });
    ways.min_by(|a, b| time(a).total_cmp(&time(b))).expect("at least one")
}

#[cfg(test)]
thread_local! {
    /// The segments, and the parts of each, that this thread's launches take instead.
    pub(crate) static CUT: std::cell::Cell<Option<(usize, usize)>> = const { std::cell::Cell::new(None) };
}

/// Parts of a segment.
const MOST_PARTS: usize = 4;

/// When the last block ends of so many of one length and then so many of another, not longer, if `room` run at a time.
fn in_turn(room: usize, (whole, long): (usize, f64), (rest, short): (usize, f64)) -> f64 {
    let (rounds, running) = (whole / room, whole % room);
    let free = room - running;
    let until = if running > 0 { long } else { 0.0 };
    // Beside the last round's whole blocks.
    let beside = free * (until / short) as usize;
    let after = rest.saturating_sub(beside).div_ceil(if running > 0 { room } else { free });
    rounds as f64 * long + until + after as f64 * short
}

/// Bytes of the partial sums of db, dc and dc_previous that the general kernel may use.
const MAP_BYTES: usize = 64 << 20;

fn general(
    cuda: &Cuda,
    grads: &ScanGradViews,
    dout: Strided,
    d_final: Option<View>,
    boundaries: View,
    x: &ScanViews,
) -> Result<(), CudaError> {
    let (tokens, sequences, d, n) = (x.tokens, x.sequences(), x.d_inner, x.d_state);
    if sequences == 0 {
        return clear_tables(cuda, grads);
    }
    let wants_maps = grads.db.is_some() || grads.dc.is_some() || grads.dc_previous.is_some();
    let most = if wants_maps { (MAP_BYTES / (12 * tokens.max(1) * n)).max(1) } else { d };
    let each = d.div_ceil(most);
    let columns = d.div_ceil(each);
    let walkers = sequences.min(4096usize.div_ceil(columns));

    let bias = Partial::whole(cuda, grads.ddelta_bias, walkers, d)?;
    let da = Partial::whole(cuda, grads.da, walkers, d * n)?;
    let skip = Partial::whole(cuda, grads.dd_skip, walkers, d)?;
    let initial = Partial::table(cuda, grads.dinitial, row_of(x.initial), d * n, sequences, 1)?;
    let table = |grad, of| Partial::table(cuda, grad, row_of(of), d * n, walkers, 1);
    let scale = table(grads.dstate_scale, x.state_scale)?;
    let extra = table(grads.dstate_extra, x.state_extra)?;
    let offset = table(grads.dstate_offset, x.state_offset)?;
    let output = Partial::table(cuda, grads.doutput_offset, row_of(x.output_offset), d, walkers, 1)?;
    let maps = if wants_maps { Some(cuda.array(ElementType::F32, columns * tokens * 3 * n)?) } else { None };

    #[rustfmt::skip]
    let args = args![
        view(grads.du), view(grads.ddelta), view(grads.dz), maps.as_ref().map(Array::view), bias.view(), da.view(),
        skip.view(), initial.view(), scale.view(), extra.view(), offset.view(), output.view(), dout.view, d_final,
        boundaries, x.u.view, x.delta.view, x.delta_bias, x.a, x.b.view, x.c.view, x.d_skip, view(x.z),
        values(x.state_scale), row_of(x.state_scale), values(x.state_extra), row_of(x.state_extra),
        values(x.state_offset), row_of(x.state_offset), view(x.c_previous), values(x.output_offset),
        row_of(x.output_offset), x.offsets, tokens as i32, sequences as i32, d as i32, each as i32,
        rows(x.state_scale, d * n), rows(x.state_extra, d * n), rows(x.state_offset, d * n),
        rows(x.output_offset, d), stride(grads.du), stride(grads.ddelta), stride(grads.dz), stride(Some(dout)),
        stride(Some(x.u)), stride(Some(x.delta)), stride(Some(x.b)), stride(Some(x.c)), stride(x.c_previous),
        stride(x.z),
    ];
    let defines =
        [("ACT_BF16", i64::from(x.act().is_bf16())), ("N", n as i64), ("SOFTPLUS", i64::from(x.delta_softplus))];
    let grid = [columns as u32, walkers as u32, 1];
    cuda.launch(&GENERAL, &defines, "scan_backward_general", grid, 32, (4 * CHUNK * n) as u32, &args)?;
    let maps = maps.as_ref().map(|maps| (maps, columns, 3));
    add_up(cuda, grads, maps, &[bias, da, skip, initial, scale, extra, offset, output], x)
}

#[cfg(test)]
mod tests {
    use super::{in_turn, segments};

    #[test]
    fn sequences_are_cut_where_they_do_not_fill_the_device() {
        assert_eq!(segments(264, 32, 8, 8 * 1024), (1, 1));
        assert!(segments(264, 12, 4, 4 * 2048).0 > 2);
        assert_eq!(segments(264, 6, 64, 2048), (1, 1));
    }

    #[test]
    fn carries_are_cut_further_where_they_do_not_fill_the_device() {
        // One segment of each sequence would be 128 blocks.
        assert_eq!(segments(264, 32, 4, 4 * 2048), (2, 4));
    }

    #[test]
    fn a_short_last_segment_runs_beside_the_others() {
        // Five segments of three chunks and one of one: 288 blocks end with the first 240.
        assert_eq!(segments(264, 12, 4, 4 * 512).0, 6);
        assert_eq!(in_turn(264, (240, 3.0), (48, 1.0)), 3.0);
        assert_eq!(in_turn(264, (240, 3.0), (73, 1.0)), 4.0);
        assert_eq!(in_turn(264, (264, 3.0), (1, 1.0)), 4.0);
        assert_eq!(in_turn(264, (265, 3.0), (0, 1.0)), 6.0);
    }
}
