//! The norm in front of a layer, as a launch of a step's chain.

use super::project::{Norm, Rows, check_norm};
use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source =
    Source::new("decode norm", concat!(include_str!("../chain.cuh"), include_str!("../norm.cu"))).chained();

/// The widest row that threads hold in registers.
const WIDEST: usize = 8 << 10;

/// Whether [`norm_step`] takes rows of so many columns.
pub fn norm_fits(columns: usize) -> bool {
    columns <= WIDEST
}

/// y `[S, columns]`, an activation like x: the norm of x + residual, whose sum is written where `norm` says.
///
/// # Errors
/// When the device refuses the launch.
///
/// # Panics
/// When a view does not have its shape, or [`norm_fits`] says no.
#[track_caller]
pub fn norm_step(cuda: &Cuda, y: View, norm: &Norm, sequences: usize, columns: usize) -> Result<(), CudaError> {
    let act = y.element();
    assert!(matches!(act, ElementType::F32 | ElementType::Bf16), "activations are f32 or bf16, not {act:?}");
    assert!(norm_fits(columns), "{columns} columns");
    y.check("y [S, columns]", act, sequences * columns);
    check_norm(norm, act, sequences, columns);
    let none = None::<View>;
    let (x, ids, parts, bias, count) = match norm.x {
        Rows::Given(x) => (Some(x), none, none, none, 0),
        Rows::Looked { table, ids } => (Some(table), Some(ids), none, none, 0),
        Rows::Summed(parts, bias) => (none, none, Some(parts.view()), bias, parts.count()),
    };
    let views = [Some(y), x, parts, bias, norm.residual, norm.sum, Some(norm.weight)];
    let aligned = views.into_iter().flatten().all(|view| view.pointer().is_multiple_of(16));
    let vec = if aligned && columns.is_multiple_of(4) { 4 } else { 1 };
    let threads = columns.div_ceil(vec).next_power_of_two().clamp(32, 512);
    let defines = [
        ("ACT_BF16", act.is_bf16() as i64),
        ("COLS", columns as i64),
        ("PARTS", count as i64),
        ("VEC", vec as i64),
        ("THREADS", threads as i64),
        ("WIDTH", 1),
    ];
    let Norm { residual, sum, weight, eps, .. } = *norm;
    let args = args![y, sum, x, ids, parts, bias, residual, weight, eps as f32];
    cuda.launch(&SOURCE, &defines, "norm_step", [sequences as u32, 1, 1], threads as u32, 0, &args)
}
