//! The convolution of the newest inputs, as it follows a product or stands alone.

use super::state::SOURCE;
use crate::args;
use crate::conv1d::cuda::WIDEST;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, View};
use crate::scan::cuda::Strided;

const THREADS: usize = 128;

/// What turns the newest inputs x into u = silu(convolution), and moves its states on by one token. All is f32.
#[derive(Debug, Clone, Copy)]
pub struct Conv<'a> {
    /// `[S, D, K - 1]`, changed in place; `None` where K is 1.
    pub state: Option<View<'a>>,
    /// `[D, K]`.
    pub weight: View<'a>,
    /// `[D]`.
    pub bias: Option<View<'a>>,
    /// K.
    pub width: usize,
}

impl Conv<'_> {
    /// D, once all is checked to fit so many sequences.
    #[track_caller]
    pub(super) fn channels(&self, sequences: usize) -> usize {
        assert!((1..=WIDEST).contains(&self.width), "a convolution of width {}", self.width);
        let channels = self.weight.len() / self.width;
        self.weight.check("conv weight [D, K]", ElementType::F32, channels * self.width);
        if self.width > 1 {
            let state = self.state.expect("a convolution wider than 1 has states");
            state.check("conv states [S, D, K - 1]", ElementType::F32, sequences * channels * (self.width - 1));
        }
        if let Some(bias) = self.bias {
            bias.check("conv bias [D]", ElementType::F32, channels);
        }
        channels
    }
}

/// u `[S, D]` of the newest inputs x `[S, D]`, an activation like u.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn conv_step(cuda: &Cuda, u: View, x: Strided, conv: &Conv, sequences: usize) -> Result<(), CudaError> {
    let (act, channels) = (u.element(), conv.channels(sequences));
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
    u.check("u [S, D]", act, sequences * channels);
    x.check("x [S, D]", act, sequences, channels);
    let defines = [
        ("ACT_BF16", act.is_bf16() as i64),
        ("SOFTPLUS", 1),
        ("N", 16),
        ("LOW_RANK", 0),
        ("WIDTH", conv.width as i64),
        ("VEC", 4),
        ("MAPS", 1),
        ("RANKS", 1),
        ("MOST_RANK", 0),
        ("EACH", 1),
    ];
    let (x, stride) = (x.view, x.stride as i32);
    let args = args![u, x, stride, conv.state, conv.weight, conv.bias, sequences as i32, channels as i32];
    let blocks = (sequences * channels).div_ceil(THREADS) as u32;
    cuda.launch(&SOURCE, &defines, "conv_step", [blocks, 1, 1], THREADS as u32, 0, &args)
}
