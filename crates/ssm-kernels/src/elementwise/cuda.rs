//! Launches of `elementwise.cu`: maps and zips of arrays on a device.
//!
//! Inputs and outputs may each be f32, bf16 or f16, in any mixture; arithmetic is f32. The output may be the same
//! array as an input of its type. The reductions of the CPU's file are not here.

use crate::args;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, Source, View};

pub(crate) static SOURCE: Source = Source::new("elementwise", include_str!("elementwise.cu"));

/// Threads of a block, as the source has them.
const BLOCK: usize = 256;

/// The functions, by their numbers in the source.
#[derive(Clone, Copy)]
enum Op {
    Scale = 0,
    NegExp = 1,
    Tanh = 2,
    Silu = 3,
    Softplus = 4,
    Add = 10,
    Mul = 11,
    TanhBackward = 12,
    SiluBackward = 13,
    SoftplusBackward = 14,
    Axpy = 20,
    Fill = 21,
}

/// y = a, in the type of y.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn cast(cuda: &Cuda, y: View, a: View) -> Result<(), CudaError> {
    if y.element() == a.element() {
        return cuda.copy(y, a);
    }
    map(cuda, y, a, Op::Scale, 1.0, None)
}

/// y = s · a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn scale(cuda: &Cuda, y: View, a: View, s: f32) -> Result<(), CudaError> {
    map(cuda, y, a, Op::Scale, s, None)
}

/// y = s · a, s `[1]` f32 on the device.
///
/// # Panics
/// When the lengths differ or s is not one number.
#[track_caller]
pub fn scale_by(cuda: &Cuda, y: View, a: View, s: View) -> Result<(), CudaError> {
    map(cuda, y, a, Op::Scale, 1.0, Some(s))
}

/// y = -e^a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn neg_exp(cuda: &Cuda, y: View, a: View) -> Result<(), CudaError> {
    map(cuda, y, a, Op::NegExp, 1.0, None)
}

/// y = tanh(a).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn tanh(cuda: &Cuda, y: View, a: View) -> Result<(), CudaError> {
    map(cuda, y, a, Op::Tanh, 1.0, None)
}

/// dx = dy · (1 - y²), y being the tanh.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn tanh_backward(cuda: &Cuda, dx: View, dy: View, y: View) -> Result<(), CudaError> {
    zip(cuda, dx, dy, y, Op::TanhBackward)
}

/// y = x · sigmoid(x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn silu(cuda: &Cuda, y: View, x: View) -> Result<(), CudaError> {
    map(cuda, y, x, Op::Silu, 1.0, None)
}

/// dx = dy · d silu(x) / dx.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn silu_backward(cuda: &Cuda, dx: View, dy: View, x: View) -> Result<(), CudaError> {
    zip(cuda, dx, dy, x, Op::SiluBackward)
}

/// y = ln(1 + e^x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn softplus(cuda: &Cuda, y: View, x: View) -> Result<(), CudaError> {
    map(cuda, y, x, Op::Softplus, 1.0, None)
}

/// dx = dy · sigmoid(x).
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn softplus_backward(cuda: &Cuda, dx: View, dy: View, x: View) -> Result<(), CudaError> {
    zip(cuda, dx, dy, x, Op::SoftplusBackward)
}

/// y = a + b.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn add(cuda: &Cuda, y: View, a: View, b: View) -> Result<(), CudaError> {
    zip(cuda, y, a, b, Op::Add)
}

/// y = a · b, element by element.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn mul(cuda: &Cuda, y: View, a: View, b: View) -> Result<(), CudaError> {
    zip(cuda, y, a, b, Op::Mul)
}

/// y += a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn add_assign(cuda: &Cuda, y: View, a: View) -> Result<(), CudaError> {
    axpy(cuda, y, 1.0, a)
}

/// y += alpha · a.
///
/// # Panics
/// When the lengths differ.
#[track_caller]
pub fn axpy(cuda: &Cuda, y: View, alpha: f32, a: View) -> Result<(), CudaError> {
    launch_axpy(cuda, y, alpha, None, a)
}

/// y += alpha · a, alpha `[1]` f32 on the device.
///
/// # Panics
/// When the lengths differ or alpha is not one number.
#[track_caller]
pub fn axpy_by(cuda: &Cuda, y: View, alpha: View, a: View) -> Result<(), CudaError> {
    launch_axpy(cuda, y, 1.0, Some(alpha), a)
}

/// y = s everywhere.
#[track_caller]
pub fn fill(cuda: &Cuda, y: View, s: f32) -> Result<(), CudaError> {
    if y.is_empty() {
        return Ok(());
    }
    let args = args![y, s, y.len() as i64];
    cuda.launch(&SOURCE, &defines(Op::Fill, y, y, y), "fill", grid(cuda, y.len()), BLOCK as u32, 0, &args)
}

#[track_caller]
fn launch_axpy(cuda: &Cuda, y: View, s: f32, factor: Option<View>, a: View) -> Result<(), CudaError> {
    let n = same(y, a);
    check_factor(factor);
    if n == 0 {
        return Ok(());
    }
    let args = args![y, a, factor, s, n as i64];
    cuda.launch(&SOURCE, &defines(Op::Axpy, y, a, a), "axpy", grid(cuda, n), BLOCK as u32, 0, &args)
}

#[track_caller]
fn map(cuda: &Cuda, y: View, a: View, op: Op, s: f32, factor: Option<View>) -> Result<(), CudaError> {
    let n = same(y, a);
    check_factor(factor);
    if n == 0 {
        return Ok(());
    }
    let args = args![y, a, factor, s, n as i64];
    cuda.launch(&SOURCE, &defines(op, y, a, a), "map", grid(cuda, n), BLOCK as u32, 0, &args)
}

#[track_caller]
fn zip(cuda: &Cuda, y: View, a: View, b: View, op: Op) -> Result<(), CudaError> {
    let n = same(y, a);
    same(y, b);
    if n == 0 {
        return Ok(());
    }
    let args = args![y, a, b, n as i64];
    cuda.launch(&SOURCE, &defines(op, y, a, b), "zip", grid(cuda, n), BLOCK as u32, 0, &args)
}

#[track_caller]
fn same(output: View, input: View) -> usize {
    assert_eq!(output.len(), input.len(), "output and input lengths differ");
    output.len()
}

#[track_caller]
fn check_factor(factor: Option<View>) {
    if let Some(factor) = factor {
        factor.check("the factor", ElementType::F32, 1);
    }
}

#[track_caller]
fn defines(op: Op, y: View, a: View, b: View) -> [(&'static str, i64); 4] {
    let [y, a, b] = [y, a, b].map(|view| type_number(view.element()));
    [("OP", op as i64), ("Y_TYPE", y), ("A_TYPE", a), ("B_TYPE", b)]
}

/// The number by which the sources here know a storage type.
///
/// # Panics
/// When it is none of f32, bf16 and f16.
#[track_caller]
pub(crate) fn type_number(element: ElementType) -> i64 {
    match element {
        ElementType::F32 => 0,
        ElementType::Bf16 => 1,
        ElementType::F16 => 2,
        other => panic!("{other:?} is neither f32 nor bf16 nor f16"),
    }
}

/// Blocks enough to fill the device with threads of four elements, never more than there is work for.
fn grid(cuda: &Cuda, n: usize) -> [u32; 3] {
    [(n.div_ceil(4 * BLOCK)).min(cuda.multiprocessors() as usize * 16) as u32, 1, 1]
}
