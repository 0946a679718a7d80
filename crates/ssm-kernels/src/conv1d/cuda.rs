//! Launches of `conv1d.cu`.

use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, Define, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("conv1d", include_str!("conv1d.cu"));

/// The widest convolution.
pub const WIDEST: usize = 8;

/// Tokens of a warp, as the source has them.
const TILE: usize = 8;

/// Threads of a block of the other kernels.
const WIDE_BLOCK: usize = 128;

/// What the convolution reads: see [`super::Conv1dInputs`]. x is an activation, all numbers beside it are f32; a sequence
/// may be empty.
#[derive(Debug, Clone, Copy)]
pub struct Conv1dViews<'a> {
    /// `[T, D]`, rows `x_stride` apart.
    pub x: View<'a>,
    /// Elements from one row of x to the next.
    pub x_stride: usize,
    /// `[D, K]`.
    pub weight: View<'a>,
    /// `[D]`.
    pub bias: Option<View<'a>>,
    /// The inputs before the first token, rows `[D, K - 1]`; zeros when absent.
    pub init: Option<View<'a>>,
    /// `[S]` (u32), the row of each sequence.
    pub init_row_of: View<'a>,
    /// `[S + 1]` (u32).
    pub offsets: View<'a>,
    /// `[T]` (u32), the sequence of each token.
    pub sequence_of: View<'a>,
    /// Whether SiLU follows.
    pub silu: bool,
    /// T.
    pub tokens: usize,
    /// D.
    pub channels: usize,
    /// K.
    pub width: usize,
}

/// The gradients asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conv1dGradViews<'a> {
    /// Of x, `[T, D]`, rows `dx_stride` apart.
    pub dx: Option<View<'a>>,
    /// Elements from one row of dx to the next.
    pub dx_stride: usize,
    /// Of the weight, `[D, K]`.
    pub dweight: Option<View<'a>>,
    /// Of the bias, `[D]`.
    pub dbias: Option<View<'a>>,
    /// Of the rows of the initial state.
    pub dinit: Option<View<'a>>,
}

impl Conv1dViews<'_> {
    fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    #[track_caller]
    fn check(&self) -> ElementType {
        let (act, d, k) = (self.x.element(), self.channels, self.width);
        assert!(
            matches!(act, ElementType::F32 | ElementType::Bf16),
            "conv1d: activations are f32 or bf16, not {act:?}"
        );
        assert!((1..=WIDEST).contains(&k), "conv1d: a width of {k} is not in 1..={WIDEST}");
        spread("conv1d: x [T, D]", self.x, self.tokens, self.x_stride, d);
        self.weight.check("conv1d: weight [D, K]", ElementType::F32, d * k);
        if let Some(bias) = self.bias {
            bias.check("conv1d: bias [D]", ElementType::F32, d);
        }
        assert!(!self.offsets.is_empty(), "conv1d: offsets are [S + 1]");
        self.offsets.check("conv1d: offsets [S + 1]", ElementType::U32, self.offsets.len());
        self.sequence_of.check("conv1d: sequence_of [T]", ElementType::U32, self.tokens);
        if let Some(init) = self.init {
            assert_eq!(init.element(), ElementType::F32, "conv1d: init");
            assert!(k > 1 && init.len().is_multiple_of(d * (k - 1)), "conv1d: init is not rows [D, K - 1]");
            self.init_row_of.check("conv1d: init_row_of [S]", ElementType::U32, self.sequences());
        }
        act
    }

    /// Four channels per thread where everything is aligned for it; the rest is by the sizes alone, so that sums over tokens
    /// do not depend on the device.
    fn layout(&self, act: ElementType, sums: bool, others: &[(View, usize)]) -> Layout {
        let d = self.channels;
        let fits = |vec: usize| {
            let whole = |&(view, stride): &(View, usize)| {
                stride.is_multiple_of(vec) && view.pointer().is_multiple_of((vec * view.element().bytes()) as u64)
            };
            d.is_multiple_of(vec) && whole(&(self.x, self.x_stride)) && others.iter().all(whole)
        };
        let vec = [4, 2].into_iter().find(|&vec| fits(vec)).unwrap_or(1);
        // As the source has them; more where their sums are written.
        let tiles = if sums { 8 } else { 4 };
        let defines = [
            ("ACT_BF16", act.is_bf16() as i64),
            ("K", self.width as i64),
            ("SILU", self.silu as i64),
            ("VEC", vec as i64),
            ("SUMS", sums as i64),
        ];
        let blocks = [d.div_ceil(32 * vec) as u32, self.tokens.div_ceil(TILE * tiles) as u32, 1];
        Layout { defines, blocks, threads: 32 * tiles as u32 }
    }
}

/// How channels and tokens are spread over blocks.
struct Layout {
    defines: [Define; 5],
    blocks: [u32; 3],
    threads: u32,
}

#[track_caller]
fn spread(what: &str, view: View, rows: usize, stride: usize, cols: usize) {
    assert!(stride >= cols, "{what}: rows of {cols} lie {stride} apart");
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + cols };
    assert!(view.len() >= needed, "{what}: {} elements, {needed} needed", view.len());
}

/// y `[T, D]` = silu(convolution + bias) and, if asked for, every sequence's final state `[S, D, K - 1]`.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn conv1d_forward(cuda: &Cuda, y: View, final_state: Option<View>, inputs: &Conv1dViews) -> Result<(), CudaError> {
    let act = inputs.check();
    let (tokens, d, sequences) = (inputs.tokens, inputs.channels, inputs.sequences());
    y.check("conv1d: y [T, D]", act, tokens * d);
    let Layout { defines, blocks, threads } = inputs.layout(act, false, &[(y, d)]);
    let Conv1dViews { x, weight, bias, init, init_row_of: row_of, offsets, sequence_of, .. } = *inputs;
    let stride = inputs.x_stride as i64;
    if tokens > 0 {
        let args = args![y, x, stride, weight, bias, init, row_of, sequence_of, tokens as i32, d as i32];
        cuda.launch(&SOURCE, &defines, "conv1d_forward", blocks, threads, 0, &args)?;
    }
    if let Some(state) = final_state {
        state.check("conv1d: final_state [S, D, K - 1]", ElementType::F32, sequences * d * (inputs.width - 1));
        if !state.is_empty() {
            let args = args![state, x, stride, init, row_of, offsets, sequences as i32, d as i32];
            let grid = [(sequences * d).div_ceil(WIDE_BLOCK) as u32, 1, 1];
            cuda.launch(&SOURCE, &defines, "conv1d_final_state", grid, WIDE_BLOCK as u32, 0, &args)?;
        }
    }
    Ok(())
}

/// The gradients asked for, and nothing else, given dy `[T, D]` and, if the final states were used, their gradient
/// `[S, D, K - 1]`.
///
/// # Panics
/// When a view does not have its shape, or a gradient is asked for an operand that is absent.
#[track_caller]
pub fn conv1d_backward(
    cuda: &Cuda,
    grads: Conv1dGradViews,
    dy: View,
    d_final: Option<View>,
    inputs: &Conv1dViews,
) -> Result<(), CudaError> {
    let act = inputs.check();
    let (tokens, d, k, sequences) = (inputs.tokens, inputs.channels, inputs.width, inputs.sequences());
    dy.check("conv1d: dy [T, D]", act, tokens * d);
    let d_final = d_final.filter(|_| k > 1);
    if let Some(d_final) = d_final {
        d_final.check("conv1d: d_final [S, D, K - 1]", ElementType::F32, sequences * d * (k - 1));
    }
    let mut written = vec![(dy, d)];
    if let Some(dx) = grads.dx {
        assert_eq!(dx.element(), act, "conv1d: dx");
        spread("conv1d: dx [T, D]", dx, tokens, grads.dx_stride, d);
        written.push((dx, grads.dx_stride));
    }
    if let Some(dweight) = grads.dweight {
        dweight.check("conv1d: dweight [D, K]", ElementType::F32, d * k);
    }
    if let Some(dbias) = grads.dbias {
        assert!(inputs.bias.is_some(), "conv1d: dbias asked for, but there is no bias");
        dbias.check("conv1d: dbias [D]", ElementType::F32, d);
    }
    let sums = grads.dweight.is_some() || grads.dbias.is_some();
    let Layout { defines, blocks, threads } = inputs.layout(act, sums, &written);
    let Conv1dViews { x, weight, bias, init, init_row_of: row_of, offsets, sequence_of, .. } = *inputs;
    let stride = inputs.x_stride as i64;
    let tiles = blocks[1] as usize;
    let partial = sums.then(|| cuda.array(ElementType::F32, tiles * d * (k + 1))).transpose()?;
    let partial_view = partial.as_ref().map(|partial| partial.view());
    if tokens > 0 && (sums || grads.dx.is_some()) {
        let args = args![
            grads.dx,
            grads.dx_stride as i64,
            partial_view,
            dy,
            d_final,
            x,
            stride,
            weight,
            bias,
            init,
            row_of,
            offsets,
            sequence_of,
            tokens as i32,
            d as i32,
        ];
        cuda.launch(&SOURCE, &defines, "conv1d_backward", blocks, threads, 0, &args)?;
    }
    if let Some(partial) = partial_view {
        let args = args![grads.dweight, grads.dbias, partial, tiles as i32, d as i32];
        let grid = [(d * (k + 1)).div_ceil(32) as u32, 1, 1];
        cuda.launch(&SOURCE, &defines, "conv1d_add_tiles", grid, 256, 0, &args)?;
    }
    if let Some(dinit) = grads.dinit {
        let init = inputs.init.expect("conv1d: dinit asked for, but there is no initial state");
        dinit.check("conv1d: dinit", ElementType::F32, init.len());
        let rows = init.len() / (d * (k - 1));
        let args = args![
            dinit,
            dy,
            d_final,
            x,
            stride,
            weight,
            bias,
            init,
            row_of,
            offsets,
            sequences as i32,
            d as i32,
            rows as i32,
        ];
        let grid = [d.div_ceil(WIDE_BLOCK) as u32, rows as u32, 1];
        cuda.launch(&SOURCE, &defines, "conv1d_initial", grid, WIDE_BLOCK as u32, 0, &args)?;
    }
    Ok(())
}
