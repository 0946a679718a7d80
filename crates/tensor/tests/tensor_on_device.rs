//! On a GPU: tensors that are made again; gradients of neighbouring columns; gradients of factors that wait for others; and linear
//! layers with a low-rank addition against double precision, where the frozen matrix is taken with the addition's factor at its
//! side and just outside of that. They run where `STATETUNE_TEST_DEVICE` asks for a device (`cargo xtask test --cuda`, or
//! `--cuda-emulated`), and are no tests elsewhere.
#![cfg(feature = "cuda")]

#[path = "../../../tests/support/test_device.rs"]
mod test_device;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use statetune_ssm_kernels::Level;
use statetune_ssm_kernels::random::uniform;
use statetune_ssm_kernels::runtime::cuda::Cuda;
use statetune_tensor::ops::{self, Factor, LowRankInput, as_factors};
use statetune_tensor::{DType, Device, Tape, Tensor, Var, Weight};

/// A layer, and its input.
#[derive(Clone, Copy, Debug)]
struct Layer {
    tokens: usize,
    inputs: usize,
    splits: &'static [usize],
    rank: usize,
    other: Other,
    /// Whether the matrix gets the factor at its side.
    extended: bool,
}

/// Whether x has another use, whose gradient comes before the layer's, which is then added to it, or after.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    None,
    Before,
    After,
}

const NARROW: Layer =
    Layer { tokens: 130, inputs: 64, splits: &[16, 8, 8], rank: 8, other: Other::None, extended: true };
const WIDE: Layer = Layer { tokens: 97, inputs: 24, splits: &[72], rank: 16, other: Other::None, extended: true };
const LAYERS: [Layer; 14] = [
    NARROW,
    Layer { other: Other::Before, ..NARROW },
    Layer { other: Other::After, ..NARROW },
    Layer { splits: &[8, 8, 8, 8], ..NARROW },
    Layer { splits: &[32], ..NARROW },
    Layer { rank: 32, ..NARROW },
    Layer { rank: 12, extended: false, ..NARROW },
    Layer { tokens: 127, extended: false, ..NARROW },
    WIDE,
    Layer { other: Other::Before, ..WIDE },
    Layer { other: Other::After, ..WIDE },
    Layer { splits: &[40, 32], ..WIDE },
    Layer { tokens: 95, extended: false, ..WIDE },
    // Only the forward: the matrix is not worth keeping.
    Layer { tokens: 2080, inputs: 520, splits: &[520, 520], rank: 8, other: Other::None, extended: true },
];

/// Numbers that bf16 holds.
fn numbers(seed: u64, shape: &[usize]) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    uniform(&mut values, -1.0, 1.0, 31, seed);
    Tensor::from_vec(values, shape).unwrap().cast(DType::Bf16)
}

/// The kernels that some work launches, and how often.
fn launches(cuda: &Cuda, work: impl FnOnce()) -> Vec<(String, usize)> {
    let profiled = cuda.profile(|| {
        work();
        Ok::<_, Infallible>(())
    });
    let mut launches: Vec<_> = profiled.unwrap().iter().map(|(kernel, time)| (kernel.clone(), time.launches)).collect();
    launches.sort_unstable();
    launches
}

/// Outputs and gradients, by name; of factors that are the device's own before, or that the layer makes so.
fn run(layer: Layer, device: &Device, compute: DType, factors_before: bool) -> Vec<(String, Tensor)> {
    let Layer { tokens, inputs, splits, rank, .. } = layer;
    let outputs: usize = splits.iter().sum();
    let tape = Tape::new(device);
    let put = |seed, shape: &[usize], dtype| numbers(seed, shape).cast(dtype).to(device).unwrap();
    let trained = Device::trained_type(compute);
    let (a, b) = (put(2, &[rank, inputs], trained), put(3, &[outputs, rank], trained));
    let [a, b] = match factors_before {
        true => as_factors(device, compute, vec![(a, Factor::A), (b, Factor::B)]).unwrap().try_into().unwrap(),
        false => [a, b],
    };
    let leaves = [put(1, &[tokens, inputs], compute), a, b].map(|value| tape.leaf(value));
    let [x, a, b] = &leaves;
    let stored = if compute == DType::F64 { DType::F64 } else { DType::Bf16 };
    let weight = Weight::new(put(4, &[outputs, inputs], stored)).unwrap();
    let part = LowRankInput { rows: 0..outputs, scale: -1.5, x: None, a: Some(a), b };
    let other = || ops::scale(&tape, x, 0.5).unwrap();
    let first = (layer.other == Other::After).then(other);
    let forward = || ops::linear(&tape, x, &weight, None, None, splits, &[part]).unwrap();
    let mut ys: Vec<Var> = match (device, compute) {
        (Device::Cuda(cuda), DType::Bf16) => {
            let mut ys = Vec::new();
            let found = launches(cuda, || ys = forward());
            // The product, of a matrix with the factor below or beside it, or of neither; the addition; and what extends the
            // matrix, where the launch of the addition does not.
            let below = outputs < inputs;
            let sides = match (layer.extended, below) {
                (false, _) => [outputs, inputs],
                (true, true) => [outputs + rank, inputs],
                (true, false) => [outputs, inputs + rank],
            };
            let product = format!("product {tokens}x{}x{}", sides[0], sides[1]);
            let mut expected = vec![("low_rank/low_rank_rows", 1), (product.as_str(), 1)];
            if layer.extended && below {
                expected.insert(0, ("low_rank/low_rank_extended", 1));
            }
            if !factors_before {
                expected.push(("low_rank/low_rank_pack", 1));
                expected.sort_unstable();
            }
            let found: Vec<_> = found.iter().map(|(kernel, count)| (kernel.as_str(), *count)).collect();
            assert_eq!(found, expected, "{layer:?}");
            ys
        }
        _ => forward(),
    };
    ys.extend(first);
    ys.extend((layer.other == Other::Before).then(other));
    let seeds = ys.iter().enumerate().map(|(i, y)| (y, put(5 + i as u64, y.shape(), compute))).collect::<Vec<_>>();
    let mut gradients = tape.backward_from(&seeds).unwrap();
    let mut found: Vec<(String, Tensor)> =
        ys.iter().enumerate().map(|(i, y)| (format!("output {i}"), y.tensor().to_host().unwrap())).collect();
    for (name, leaf) in ["x", "A", "B"].iter().zip(&leaves) {
        let gradient = gradients.take(leaf).expect("a gradient").to_host().unwrap();
        found.push((format!("gradient of {name}"), gradient));
    }
    found
}

#[test]
fn a_tensor_that_somebody_keeps_is_not_made_again() {
    let Some((label, device, compute)) = test_device::asked_for() else { return };
    let Device::Cuda(cuda) = &device else { unreachable!("{label} is a GPU") };
    let made = Arc::new(AtomicUsize::new(0));
    let values = numbers(1, &[3, 8]).cast(compute).to(&device).unwrap();
    let (counted, source) = (made.clone(), values.on_cuda(cuda).unwrap().clone());
    let tensor = source.copied().unwrap().with_recipe(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        source.copied()
    });
    let (recipe, kept) = (tensor.recipe().expect("it has one").clone(), tensor.columns(2..4));
    drop(tensor);
    let same = recipe.make().unwrap();
    assert_eq!(
        (same.view().pointer(), made.load(Ordering::Relaxed)),
        (kept.spread().pointer() - 2 * size_of(compute), 0)
    );
    drop((same, kept));
    assert_eq!(recipe.make().unwrap().to_host().unwrap().to_f64_vec(), values.to_host().unwrap().to_f64_vec());
    assert_eq!(made.load(Ordering::Relaxed), 1, "nobody kept it");
}

/// Bytes of a number.
fn size_of(compute: DType) -> u64 {
    if compute == DType::Bf16 { 2 } else { 4 }
}

#[test]
fn a_matrix_taken_with_its_addition_gives_what_both_give() {
    let Some((label, device, compute)) = test_device::asked_for() else { return };
    let reference = Device::cpu(Level::Reference, 1).unwrap();
    // Of the largest number: an activation in bf16 is rounded to 0.4 %, x Aᵀ too.
    let tolerance = if compute == DType::Bf16 { 1e-2 } else { 1e-5 };
    for layer in LAYERS {
        let (found, expected) = (run(layer, &device, compute, true), run(layer, &reference, DType::F64, false));
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            assert_eq!(found.shape(), expected.shape(), "{label}, {layer:?}, {name}");
            let (found, expected) = (found.to_f64_vec(), expected.to_f64_vec());
            let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let error = (found - expected).abs() / largest;
                assert!(error <= tolerance, "{label}, {layer:?}, {name} at {at}: {found} instead of {expected}");
            }
        }
    }
}

#[test]
fn factors_made_before_give_what_those_made_by_the_layer_give() {
    let Some((label, device, compute)) = test_device::asked_for() else { return };
    for layer in LAYERS {
        let (before, within) = (run(layer, &device, compute, true), run(layer, &device, compute, false));
        for ((name, before), (_, within)) in before.iter().zip(&within) {
            assert_eq!(before.to_f64_vec(), within.to_f64_vec(), "{label}, {layer:?}, {name}");
        }
    }
}

#[test]
fn factors_are_made_once_and_only_those_that_the_kernels_are_written_for() {
    let Some((label, device, compute)) = test_device::asked_for() else { return };
    let Device::Cuda(cuda) = &device else { unreachable!("{label} is a GPU") };
    let put = |shape: &[usize]| numbers(1, shape).cast(DType::F32).to(&device).unwrap();
    // Two ranks, an A whose width is not in eights, and a rank that is too large.
    let (fits, not) = ([[8, 24], [8, 64], [3, 16]], [[8, 20], [40, 64]]);
    let all = fits.iter().chain(&not).map(|shape| (put(shape), Factor::A)).collect::<Vec<_>>();
    let b = (put(&[16, 8]), Factor::B);
    let mut made = Vec::new();
    let first = launches(cuda, || made = as_factors(&device, compute, [all, vec![b]].concat()).unwrap());
    let packed = if compute == DType::Bf16 { vec![("low_rank/low_rank_pack".to_owned(), 2)] } else { vec![] };
    assert_eq!(first, packed, "{label}: a launch for each rank");
    for tensor in &made {
        assert_eq!(tensor.to_host().unwrap().to_f64_vec(), put(tensor.shape()).to_host().unwrap().to_f64_vec());
    }
    let which = |tensor: Tensor| if tensor.shape()[0] == 16 { (tensor, Factor::B) } else { (tensor, Factor::A) };
    let again = made.into_iter().map(which).collect();
    assert_eq!(launches(cuda, || drop(as_factors(&device, compute, again).unwrap())), []);
    // A square one that was an A is not taken for a B.
    let as_the = |factor, of| as_factors(&device, compute, vec![(of, factor)]).unwrap().remove(0);
    let square = as_the(Factor::A, put(&[8, 8]));
    let other = launches(cuda, || drop(as_the(Factor::B, square)));
    assert_eq!(other.len(), usize::from(compute == DType::Bf16), "{label}");
}

/// The gradient of the input of a layer whose outputs are cut in three, each of which a further layer takes; the first one's two
/// gradients, if it has two uses, are made before and after the others'. And how many launches the backward took.
fn of_columns(device: &Device, compute: DType, two_uses: bool) -> (Vec<f64>, usize) {
    let tape = Tape::new(device);
    let put = |seed, shape: &[usize], dtype| numbers(seed, shape).cast(dtype).to(device).unwrap();
    let stored = if compute == DType::F64 { DType::F64 } else { DType::Bf16 };
    let layer = |seed, x: &Var, shape: [usize; 2], splits: &[usize]| {
        let weight = Weight::new(put(seed, &shape, stored)).unwrap();
        ops::linear(&tape, x, &weight, None, None, splits, &[]).unwrap()
    };
    let x = tape.leaf(put(1, &[33, 24], compute));
    // Too wide to be copied together.
    let parts = layer(2, &x, [1024, 24], &[480, 32, 512]);
    let mut ys = layer(3, &parts[0], [16, 480], &[16]);
    ys.extend(layer(4, &parts[1], [8, 32], &[8]));
    ys.extend(layer(5, &parts[2], [24, 512], &[24]));
    if two_uses {
        ys.extend(layer(6, &parts[0], [8, 480], &[8]));
    }
    let seeds = ys.iter().enumerate().map(|(i, y)| (y, put(7 + i as u64, y.shape(), compute))).collect::<Vec<_>>();
    let launches = || match device {
        Device::Cuda(cuda) => cuda.launches(),
        _ => 0,
    };
    let before = launches();
    let mut gradients = tape.backward_from(&seeds).unwrap();
    let taken = launches() - before;
    (gradients.take(&x).expect("a gradient").to_host().unwrap().to_f64_vec(), taken)
}

#[test]
fn gradients_of_neighbouring_columns_lie_side_by_side() {
    let Some((label, device, compute)) = test_device::asked_for() else { return };
    let reference = Device::cpu(Level::Reference, 1).unwrap();
    let tolerance = if compute == DType::Bf16 { 1e-2 } else { 1e-5 };
    for two_uses in [false, true] {
        let ((found, launches), (expected, _)) =
            (of_columns(&device, compute, two_uses), of_columns(&reference, DType::F64, two_uses));
        let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
        for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs() / largest;
            assert!(error <= tolerance, "{label}, {two_uses}, at {at}: {found} instead of {expected}");
        }
        if compute == DType::Bf16 && !two_uses {
            assert_eq!(launches, 4, "a product for each layer, and one for all they share");
        }
    }
}

/// Layers one behind the other, each with factors of its own but for the last, which takes the first's A again, or what a scale
/// makes of it; the gradients of the factors by name, and how many launches the backward took.
fn of_a_chain(device: &Device, compute: DType, layers: u64, shares: Shares) -> (Vec<(String, Vec<f64>)>, usize) {
    let tape = Tape::new(device);
    let put = |seed, shape: &[usize], dtype| numbers(seed, shape).cast(dtype).to(device).unwrap();
    let (trained, width, rank) = (Device::trained_type(compute), 64, 8);
    let stored = if compute == DType::F64 { DType::F64 } else { DType::Bf16 };
    let factors: Vec<[Var; 2]> = (0..layers)
        .map(|i| {
            [[rank, width], [width, rank]].map(|shape| tape.leaf(put(10 + 2 * i + shape[0] as u64, &shape, trained)))
        })
        .collect();
    let mut x = tape.leaf(put(1, &[33, width], compute));
    for i in 0..layers {
        let weight = Weight::new(put(90 + i, &[width, width], stored)).unwrap();
        let [own, b] = &factors[i as usize];
        let a = match shares {
            Shares::Leaf if i + 1 == layers => factors[0][0].clone(),
            Shares::Scaled if i + 1 == layers => ops::scale(&tape, &factors[0][0], 0.5).unwrap(),
            _ => own.clone(),
        };
        let part = LowRankInput { rows: 0..width, scale: 0.25, x: None, a: Some(&a), b };
        x = ops::scale(&tape, &ops::linear(&tape, &x, &weight, None, None, &[width], &[part]).unwrap()[0], 0.125)
            .unwrap();
    }
    let launches = || match device {
        Device::Cuda(cuda) => cuda.launches(),
        _ => 0,
    };
    let before = launches();
    let mut gradients = tape.backward_from(&[(&x, put(2, &[33, width], compute))]).unwrap();
    let taken = launches() - before;
    let mut found = Vec::new();
    for (i, pair) in factors.iter().enumerate() {
        for (name, leaf) in ["A", "B"].iter().zip(pair) {
            let gradient = gradients.take(leaf).map(|gradient| gradient.to_host().unwrap().to_f64_vec());
            found.push((format!("{name} of layer {i}"), gradient.unwrap_or_default()));
        }
    }
    (found, taken)
}

/// What the last layer of a chain has for an A.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shares {
    Nothing,
    Leaf,
    Scaled,
}

#[test]
fn gradients_of_factors_that_may_wait_are_those_that_may_not() {
    let Some((label, device, compute)) = test_device::asked_for() else { return };
    let reference = Device::cpu(Level::Reference, 1).unwrap();
    let tolerance = if compute == DType::Bf16 { 3e-2 } else { 1e-5 };
    let nothing = [1, 6, 18].map(|layers| (layers, Shares::Nothing));
    for (layers, shares) in nothing.into_iter().chain([(6, Shares::Leaf), (6, Shares::Scaled)]) {
        let ((found, launches), (expected, _)) =
            (of_a_chain(&device, compute, layers, shares), of_a_chain(&reference, DType::F64, layers, shares));
        for ((name, found), (_, expected)) in found.iter().zip(&expected) {
            assert_eq!(found.len(), expected.len(), "{label}, {layers} layers, {shares:?}, {name}");
            let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (found - expected).abs() / largest;
                assert!(
                    error <= tolerance,
                    "{label}, {layers} layers, {shares:?}, {name} at {at}: {found}, not {expected}"
                );
            }
        }
        if compute == DType::Bf16 && shares == Shares::Nothing {
            // Of each layer a scale, a product and the pass through the factors; of up to sixteen together the factors' gradients.
            assert_eq!(launches as u64, 3 * layers + layers.div_ceil(16), "{layers} layers");
        }
    }
}
