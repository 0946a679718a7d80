//! The optimiser on a device against the processor's step: one tensor, several, clipped, skipped, in micro-batches.

use super::cuda::{self, Constants, Optimizer, Outcome, Trained};
use super::{AdamWStep, adamw};
use crate::elementwise::cuda_tests::{download, upload};
use crate::runtime::cuda::{Array, Cuda, ElementType};
use crate::testing::{self, assert_close, numbers, reference, widen};

const CONSTANTS: Constants = Constants { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

fn step(lr: f64, step: u64, decays: bool, grad_scale: f64) -> AdamWStep {
    let Constants { beta1, beta2, eps, weight_decay } = CONSTANTS;
    AdamWStep { lr, beta1, beta2, eps, weight_decay: if decays { weight_decay } else { 0.0 }, step, grad_scale }
}

#[test]
fn cuda_adamw_of_one_tensor() {
    let device = testing::cuda();
    for len in [1, 7, 256, 4096, 4097, 10_001] {
        let (mut p, mut m, mut v) = (widen(&numbers(len, 1)), vec![0.0; len], vec![0.0; len]);
        let on_p = upload(&device, &numbers(len, 1), ElementType::F32);
        let [on_m, on_v] = [(); 2].map(|()| device.zeros(ElementType::F32, len).unwrap());
        for count in 1..=4 {
            let s = step(3e-3, count, true, if count == 2 { 1.0 } else { 0.7 });
            let gradient = numbers(len, 1 + count);
            adamw(&reference(), &mut p, &mut m, &mut v, &widen(&gradient), &s);
            let gradient = upload(&device, &gradient, ElementType::F32);
            cuda::adamw(&device, on_p.view(), on_m.view(), on_v.view(), gradient.view(), &s).unwrap();
        }
        for (name, array, expected) in [("p", &on_p, &p), ("m", &on_m, &m), ("v", &on_v, &v)] {
            assert_close(&format!("{name} {len}"), &download(&device, array.view()), expected, 1e-6);
        }
    }
}

/// A tensor on both sides.
struct Tensor {
    arrays: [Array; 4],
    p: Vec<f64>,
    m: Vec<f64>,
    v: Vec<f64>,
    decays: bool,
    rate: f32,
}

impl Tensor {
    fn new(device: &Cuda, i: usize, len: usize) -> Tensor {
        let p = numbers(len, 100 + i as u64);
        let zeros = || device.zeros(ElementType::F32, len).unwrap();
        let arrays = [upload(device, &p, ElementType::F32), zeros(), zeros(), zeros()];
        let rate = [1.0, 0.5, 16.0][i % 3];
        Tensor { arrays, p: widen(&p), m: vec![0.0; len], v: vec![0.0; len], decays: i.is_multiple_of(2), rate }
    }
}

#[test]
fn cuda_optimizer_over_several_tensors() {
    let device = testing::cuda();
    let lengths = [5, 4096, 1, 9000, 130];
    let mut tensors: Vec<Tensor> = lengths.iter().enumerate().map(|(i, &len)| Tensor::new(&device, i, len)).collect();
    let trained: Vec<Trained> = tensors
        .iter()
        .map(|t| {
            let [parameter, m, v, gradient] = [0, 1, 2, 3].map(|i| t.arrays[i].view());
            Trained { parameter, m, v, gradient, decays: t.decays, rate: t.rate }
        })
        .collect();
    let optimizer = Optimizer::new(&device, &trained, CONSTANTS, 0).unwrap();
    let parts = optimizer.parts().unwrap();
    // Two micro-batches a step, of which the second has no gradient for tensor 1; the third step is not finite, by its
    // gradient, and the fifth by its loss.
    let mut updates = 0;
    for count in 1..=6u64 {
        let (lr, clip) = (1e-3 * count as f64, if count % 2 == 0 { 2.0 } else { 0.0 });
        let mut sums: Vec<Vec<f64>> = lengths.iter().map(|&len| vec![0.0; len]).collect();
        let mut loss = 0f32;
        for micro in 0..2u64 {
            let mut values: Vec<Vec<f32>> = lengths
                .iter()
                .enumerate()
                .map(|(i, &len)| numbers(len, 1000 * count + 10 * micro + i as u64))
                .collect();
            if count == 3 && micro == 1 {
                values[3][8999] = f32::NAN;
            }
            let there = |i: usize| micro == 0 || i != 1;
            let arrays: Vec<Array> = values.iter().map(|x| upload(&device, x, ElementType::F32)).collect();
            let views: Vec<_> = arrays.iter().enumerate().map(|(i, a)| there(i).then(|| a.view())).collect();
            optimizer.place(&parts, &views).unwrap();
            let part = if count == 5 { f32::INFINITY } else { 0.5 + micro as f32 };
            loss += part;
            let part = upload(&device, &[part], ElementType::F32);
            optimizer.take(&parts, part.view(), micro == 0).unwrap();
            for (i, sum) in sums.iter_mut().enumerate().filter(|(i, _)| there(*i)) {
                sum.iter_mut().zip(&values[i]).for_each(|(sum, &x)| *sum += f64::from(x));
            }
        }
        for (tensor, sum) in tensors.iter().zip(&sums).filter(|_| count != 3) {
            assert_close("gradient", &download(&device, tensor.arrays[3].view()), sum, 1e-6);
        }
        optimizer.set(lr, clip).unwrap();
        optimizer.update().unwrap();
        let norm = sums.iter().flatten().map(|x| x * x).sum::<f64>().sqrt();
        let finite = norm.is_finite() && loss.is_finite();
        if finite {
            updates += 1;
            let grad_scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
            for (t, sum) in tensors.iter_mut().zip(&sums) {
                let s = step(lr * f64::from(t.rate), updates, t.decays, grad_scale);
                adamw(&reference(), &mut t.p, &mut t.m, &mut t.v, sum, &s);
            }
        }
        let outcome = Outcome::of(&device.download::<u64>(optimizer.record()).unwrap());
        assert_eq!((outcome.finite, outcome.updates, outcome.steps), (finite, updates, count));
        assert!(
            outcome.loss == loss && (!finite || (f64::from(outcome.norm) - norm).abs() < 1e-4 * norm),
            "{outcome:?}"
        );
        for (i, t) in tensors.iter().enumerate() {
            for (name, array, expected) in [("p", 0, &t.p), ("m", 1, &t.m), ("v", 2, &t.v)] {
                // The update's size is the learning rate's: errors of m and v show in proportion to it.
                let found = download(&device, t.arrays[array].view());
                assert_close(&format!("{name} of {i} after {count}"), &found, expected, 5e-6);
            }
        }
    }
    assert_eq!(updates, 4);
}
