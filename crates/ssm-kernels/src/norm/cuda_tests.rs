//! The norm on a device against the reference in double precision: widths from one to the widest kernels', every set of
//! operands and results.

use super::cuda;
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::runtime::cuda::ElementType;
use crate::testing::{self, assert_close, numbers, reference, widen};

const SHAPES: [(usize, usize); 14] = [
    (1, 1),
    (3, 2),
    (5, 7),
    (9, 8),
    (2, 31),
    (130, 64),
    (7, 100),
    (6, 257),
    (5, 768),
    (3, 1028),
    (2, 1536),
    (2, 2049),
    (3, 4100),
    (1, 20_480),
];

const EPS: f64 = 1e-5;

#[test]
fn cuda_norm_and_its_gradients() {
    let device = testing::cuda();
    for (rows, cols) in SHAPES {
        for (act, tolerance) in ACTIVATIONS {
            let size = rows * cols;
            let (x, d_normed) = (numbers(size, 1), numbers(size, 2));
            let (residual, weight, d_sum_in) = (numbers(size, 3), numbers(cols, 4), numbers(size, 5));
            let (on_x, on_d_normed) = (upload(&device, &x, act), upload(&device, &d_normed, act));
            let [on_residual, on_weight, on_d_sum_in] =
                [&residual, &weight, &d_sum_in].map(|x| upload(&device, x, ElementType::F32));
            let (x, d_normed) = (widen(&rounded(&x, act)), widen(&rounded(&d_normed, act)));
            let (residual, weight, d_sum_in) = (widen(&residual), widen(&weight), widen(&d_sum_in));
            for with_residual in [false, true] {
                let name = format!("[{rows}, {cols}] {act:?} residual {with_residual}");
                let residual = with_residual.then_some(&residual[..]);
                let (mut normed, mut sum, mut rstd) = (vec![0.0; size], vec![0.0; size], vec![0.0; rows]);
                super::add_rms_norm(
                    &reference(),
                    &mut normed,
                    Some(&mut sum),
                    Some(&mut rstd),
                    &x,
                    residual,
                    &weight,
                    EPS,
                    rows,
                    cols,
                );
                let [on_normed, on_kept] = [0, 1].map(|_| device.array(act, size).unwrap());
                let [on_sum, on_rstd] = [size, rows].map(|len| device.array(ElementType::F32, len).unwrap());
                for kept in [false, true] {
                    cuda::add_rms_norm(
                        &device,
                        on_normed.view(),
                        kept.then(|| on_sum.view()),
                        kept.then(|| on_kept.view()),
                        kept.then(|| on_rstd.view()),
                        on_x.view(),
                        with_residual.then(|| on_residual.view()),
                        on_weight.view(),
                        EPS,
                        rows,
                        cols,
                    )
                    .unwrap();
                    assert_close(&name, &download(&device, on_normed.view()), &normed, 2.0 * tolerance);
                }
                assert_close(&format!("sum {name}"), &download(&device, on_sum.view()), &sum, 1e-7);
                assert_close(&format!("kept {name}"), &download(&device, on_kept.view()), &sum, tolerance);
                assert_close(&format!("rstd {name}"), &download(&device, on_rstd.view()), &rstd, 2e-6);
                let sum = widen(&download(&device, on_kept.view()));

                for asked in 0..16 {
                    let [d_x, d_residual, d_weight, others] = [0, 1, 2, 3].map(|bit| asked >> bit & 1 == 1);
                    let (mut d_sum, mut expected_weight) = (vec![0.0; size], vec![0.0; cols]);
                    super::rms_norm_backward(
                        &reference(),
                        Some(&mut d_sum),
                        Some(&mut expected_weight),
                        &d_normed,
                        others.then_some(&d_sum_in[..]),
                        &sum,
                        &rstd,
                        &weight,
                        rows,
                        cols,
                    );
                    let on_d_x = device.array(act, size).unwrap();
                    let sums = [size, cols].map(|len| device.array(ElementType::F32, len).unwrap());
                    cuda::rms_norm_backward(
                        &device,
                        d_x.then(|| on_d_x.view()),
                        d_residual.then(|| sums[0].view()),
                        d_weight.then(|| sums[1].view()),
                        on_d_normed.view(),
                        others.then(|| on_d_sum_in.view()),
                        on_kept.view(),
                        on_rstd.view(),
                        on_weight.view(),
                        rows,
                        cols,
                    )
                    .unwrap();
                    // A row of one number has a large rstd where the number is small.
                    let scale = rstd.iter().fold(1.0, |a: f64, &b| a.max(b));
                    if d_x {
                        assert_close(&name, &download(&device, on_d_x.view()), &d_sum, tolerance + 2e-6 * scale);
                    }
                    if d_residual {
                        assert_close(&name, &download(&device, sums[0].view()), &d_sum, 4e-6 * scale);
                    }
                    if d_weight {
                        assert_close(&name, &download(&device, sums[1].view()), &expected_weight, 1e-5);
                    }
                }
            }
        }
    }
}
