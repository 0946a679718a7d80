//! Launches of `cross_entropy.cu`.

use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("cross_entropy", include_str!("cross_entropy.cu"));

/// The target of a row that has none: its loss and its gradient are zero.
pub const IGNORED: u32 = u32::MAX;

/// The losses `[rows]` of logits `[rows, vocab]` against `targets` `[rows]` (u32) and, if asked for, the most probable tokens
/// (u32; the lowest of equals). With `scale` `[1]` (f32, on the device) the logits are overwritten by scale · (softmax -
/// one-hot), their gradients.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn cross_entropy(
    cuda: &Cuda,
    logits: View,
    losses: View,
    argmax: Option<View>,
    targets: View,
    scale: Option<View>,
    rows: usize,
    vocab: usize,
) -> Result<(), CudaError> {
    let act = logits.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "logits are f32 or bf16, not {act:?}");
    logits.check("logits [rows, vocab]", act, rows * vocab);
    losses.check("losses [rows]", ElementType::F32, rows);
    targets.check("targets [rows]", ElementType::U32, rows);
    if let Some(argmax) = argmax {
        argmax.check("argmax [rows]", ElementType::U32, rows);
    }
    if let Some(scale) = scale {
        scale.check("scale", ElementType::F32, 1);
    }
    let defines = [("ACT_BF16", act.is_bf16() as i64), ("GRADIENT", scale.is_some() as i64)];
    let args = args![logits, losses, argmax, targets, scale, vocab as i32];
    cuda.launch(&SOURCE, &defines, "cross_entropy", [rows as u32, 1, 1], 1024, 0, &args)
}

/// out `[1]` = scale · Σ losses, scale `[1]` on the device.
///
/// # Panics
/// When a view does not have its shape.
#[track_caller]
pub fn sum_losses(cuda: &Cuda, out: View, losses: View, scale: View, rows: usize) -> Result<(), CudaError> {
    out.check("out", ElementType::F32, 1);
    losses.check("losses [rows]", ElementType::F32, rows);
    scale.check("scale", ElementType::F32, 1);
    let args = args![out, losses, scale, rows as i32];
    cuda.launch(&SOURCE, &[("ACT_BF16", 0), ("GRADIENT", 0)], "sum_losses", [1, 1, 1], 256, 0, &args)
}
