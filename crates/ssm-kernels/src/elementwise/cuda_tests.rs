//! Elementwise kernels on a device against the formulas of the CPU, over types, odd lengths and arrays that start
//! anywhere.

use half::{bf16, f16};

use super::cuda::*;
use crate::Real;
use crate::runtime::cuda::{Array, Cuda, CudaError, ElementType, View};
use crate::testing::{self, assert_close, numbers};

/// The types of activations, with the precision that one rounding to them has.
pub(crate) const ACTIVATIONS: [(ElementType, f64); 2] = [(ElementType::F32, 2e-6), (ElementType::Bf16, 4e-3)];

/// These numbers on the device, rounded to a type.
pub(crate) fn upload(cuda: &Cuda, values: &[f32], element: ElementType) -> Array {
    let array = match element {
        ElementType::F32 => cuda.upload(values),
        ElementType::Bf16 => cuda.upload(&values.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()),
        ElementType::F16 => cuda.upload(&values.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>()),
        other => panic!("no numbers of type {other:?}"),
    };
    array.unwrap()
}

/// What is on the device, widened.
pub(crate) fn download(cuda: &Cuda, view: View) -> Vec<f32> {
    match view.element() {
        ElementType::F32 => cuda.download(view).unwrap(),
        ElementType::Bf16 => cuda.download::<bf16>(view).unwrap().into_iter().map(f32::from).collect(),
        ElementType::F16 => cuda.download::<f16>(view).unwrap().into_iter().map(f32::from).collect(),
        other => panic!("no numbers of type {other:?}"),
    }
}

/// These numbers rounded to a type and widened again.
pub(crate) fn rounded(values: &[f32], element: ElementType) -> Vec<f32> {
    match element {
        ElementType::Bf16 => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        ElementType::F16 => values.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        _ => values.to_vec(),
    }
}

/// Lengths, and the element at which the array starts.
const SHAPES: [(usize, usize); 6] = [(1, 0), (7, 1), (8, 0), (1000, 0), (1003, 8), (5001, 3)];

type Unary = (&'static str, fn(&Cuda, View, View) -> Result<(), CudaError>, fn(f64) -> f64);
type Binary = (&'static str, fn(&Cuda, View, View, View) -> Result<(), CudaError>, fn(f64, f64) -> f64);

#[test]
fn cuda_maps_match_their_formulas() {
    let cuda = testing::cuda();
    let maps: [Unary; 6] = [
        ("cast", cast, |a| a),
        ("scale", |cuda, y, a| scale(cuda, y, a, 0.3), |a| f64::from(0.3f32) * a),
        ("neg_exp", neg_exp, |a| -a.exp()),
        ("tanh", tanh, |a| a.tanh()),
        ("silu", silu, |a| a.silu()),
        ("softplus", softplus, |a| a.softplus()),
    ];
    for (from, _) in ACTIVATIONS {
        for (to, tolerance) in ACTIVATIONS {
            for (n, start) in SHAPES {
                let a: Vec<f32> = numbers(n + start, 1).iter().map(|x| 4.0 * x).collect();
                let (on_device, y) = (upload(&cuda, &a, from), upload(&cuda, &vec![9.0; n + start], to));
                let a = rounded(&a[start..], from);
                for (name, launch, formula) in &maps {
                    let view = y.view().range(start..n + start);
                    launch(&cuda, view, on_device.view().range(start..n + start)).unwrap();
                    let expected: Vec<f64> = a.iter().map(|&a| formula(f64::from(a))).collect();
                    let name = format!("{name} {from:?} to {to:?} {n}");
                    assert_close(&name, &download(&cuda, view), &expected, tolerance);
                    assert!(download(&cuda, y.view())[..start].iter().all(|&y| y == 9.0), "{name}: before the start");
                }
            }
        }
    }
}

#[test]
fn cuda_zips_match_their_formulas() {
    let cuda = testing::cuda();
    let zips: [Binary; 5] = [
        ("add", add, |a, b| a + b),
        ("mul", mul, |a, b| a * b),
        ("tanh_backward", tanh_backward, |dy, y| dy * (1.0 - y * y)),
        ("silu_backward", silu_backward, |dy, x| dy * x.silu_derivative()),
        ("softplus_backward", softplus_backward, |dy, x| dy * x.sigmoid()),
    ];
    let (f32, bf16) = (ElementType::F32, ElementType::Bf16);
    for [ty, ta, tb] in [[f32; 3], [bf16; 3], [f32, bf16, f32], [bf16, f32, bf16]] {
        let tolerance = if ty == bf16 { 4e-3 } else { 2e-6 };
        for (n, start) in SHAPES {
            let (a, b) = (numbers(n, 1), numbers(n + start, 2));
            let (on_a, on_b) = (upload(&cuda, &a, ta), upload(&cuda, &b, tb));
            let y = cuda.array(ty, n).unwrap();
            let (a, b) = (rounded(&a, ta), rounded(&b[start..], tb));
            for (name, launch, formula) in &zips {
                launch(&cuda, y.view(), on_a.view(), on_b.view().range(start..n + start)).unwrap();
                let expected: Vec<f64> = a.iter().zip(&b).map(|(&a, &b)| formula(f64::from(a), f64::from(b))).collect();
                assert_close(&format!("{name} {n}"), &download(&cuda, y.view()), &expected, tolerance);
            }
        }
    }
}

#[test]
fn cuda_sums_in_place_factors_on_the_device_and_fills() {
    let cuda = testing::cuda();
    for (ty, tolerance) in ACTIVATIONS {
        for (ta, _) in ACTIVATIONS {
            let (start, a) = (numbers(1003, 1), numbers(1003, 2));
            let (y, on_device, factor) =
                (upload(&cuda, &start, ty), upload(&cuda, &a, ta), upload(&cuda, &[2.5], ElementType::F32));
            let (start, a) = (rounded(&start, ty), rounded(&a, ta));
            let sum = |factor: f64| -> Vec<f64> {
                start.iter().zip(&a).map(|(&y, &a)| f64::from(y) + factor * f64::from(a)).collect()
            };
            add_assign(&cuda, y.view(), on_device.view()).unwrap();
            assert_close("add_assign", &download(&cuda, y.view()), &sum(1.0), tolerance);
            cast(&cuda, y.view(), upload(&cuda, &start, ty).view()).unwrap();
            axpy(&cuda, y.view(), -0.5, on_device.view()).unwrap();
            assert_close("axpy", &download(&cuda, y.view()), &sum(-0.5), tolerance);
            cast(&cuda, y.view(), upload(&cuda, &start, ty).view()).unwrap();
            axpy_by(&cuda, y.view(), factor.view(), on_device.view()).unwrap();
            assert_close("axpy_by", &download(&cuda, y.view()), &sum(2.5), tolerance);
            scale_by(&cuda, y.view(), y.view(), factor.view()).unwrap();
            let scaled: Vec<f64> = rounded(&sum(2.5).iter().map(|&x| x as f32).collect::<Vec<_>>(), ty)
                .iter()
                .map(|&x| 2.5 * f64::from(x))
                .collect();
            assert_close("scale_by", &download(&cuda, y.view()), &scaled, 3.0 * tolerance);
            fill(&cuda, y.view(), 0.75).unwrap();
            assert!(download(&cuda, y.view()).iter().all(|&y| y == 0.75));
        }
    }
}

#[test]
fn cuda_half_precision_casts_as_the_cpu_rounds() {
    let cuda = testing::cuda();
    let every: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    let wide = cuda.array(ElementType::F32, every.len()).unwrap();
    cast(&cuda, wide.view(), cuda.upload(&every).unwrap().view()).unwrap();
    let found = cuda.download::<f32>(wide.view()).unwrap();
    for (half, wide) in every.iter().zip(found) {
        assert!(half.to_f32() == wide || half.is_nan() && wide.is_nan(), "{half:?}: {wide}");
    }
    // Every exponent, near and at the ties of rounding.
    let values: Vec<f32> =
        (0..1u32 << 16).map(|i| f32::from_bits((i << 16) | ((i * 0x0f35) & 0xf000) | (i & 1))).collect();
    let narrow = cuda.array(ElementType::F16, values.len()).unwrap();
    cast(&cuda, narrow.view(), cuda.upload(&values).unwrap().view()).unwrap();
    for (value, half) in values.iter().zip(cuda.download::<f16>(narrow.view()).unwrap()) {
        let expected = f16::from_f32(*value);
        assert!(expected.to_bits() == half.to_bits() || value.is_nan() && half.is_nan(), "{value}: {half}");
    }
}
