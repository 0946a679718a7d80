//! The loss on a device against the reference in double precision, over odd rows, rows without a target and NaNs.

use super::{cuda, reference};
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::runtime::cuda::ElementType;
use crate::testing::{self, assert_close, numbers, widen};

const SHAPES: [(usize, usize); 12] = [
    (1, 1),
    (5, 2),
    (3, 7),
    (4, 8),
    (9, 33),
    (2, 1000),
    (3, 4099),
    (2, 8192),
    (3, 20_011),
    (2, 50_277),
    (2, 50_280),
    (2, 131_077),
];

#[test]
fn cuda_losses_gradients_and_the_most_probable() {
    let device = testing::cuda();
    for (rows, vocab) in SHAPES {
        for (act, tolerance) in ACTIVATIONS {
            let logits: Vec<f32> = numbers(rows * vocab, 1).iter().map(|x| 9.0 * x).collect();
            let mut targets: Vec<u32> = (0..rows).map(|r| (r * 7919 % vocab) as u32).collect();
            targets[0] = vocab as u32 - 1;
            if rows > 2 {
                targets[2] = cuda::IGNORED;
            }
            let on_targets = device.upload(&targets).unwrap();
            let scale = upload(&device, &[0.5], ElementType::F32);
            let rounded = rounded(&logits, act);
            for gradient in [false, true] {
                let on_logits = upload(&device, &logits, act);
                let losses = device.array(ElementType::F32, rows).unwrap();
                let best = device.array(ElementType::U32, rows).unwrap();
                cuda::cross_entropy(
                    &device,
                    on_logits.view(),
                    losses.view(),
                    gradient.then(|| best.view()),
                    on_targets.view(),
                    gradient.then(|| scale.view()),
                    rows,
                    vocab,
                )
                .unwrap();
                let (found_losses, found) = (download(&device, losses.view()), download(&device, on_logits.view()));
                for r in 0..rows {
                    let range = r * vocab..(r + 1) * vocab;
                    let name = format!("row {r} of [{rows}, {vocab}] {act:?}");
                    let mut expected = widen(&rounded[range.clone()]);
                    let mut loss = 0.0;
                    if targets[r] == cuda::IGNORED {
                        expected.fill(if gradient { 0.0 } else { f64::NAN });
                    } else {
                        let scale = gradient.then_some(0.5);
                        loss = reference::softmax_cross_entropy(&mut expected, targets[r] as usize, scale);
                    }
                    assert_close(&name, &found_losses[r..=r], &[loss], 3e-6);
                    if gradient {
                        assert_close(&name, &found[range.clone()], &expected, tolerance);
                    } else {
                        assert_eq!(found[range.clone()], rounded[range.clone()], "{name}: logits moved");
                    }
                }
                if gradient {
                    let expected: Vec<u32> = rounded.chunks_exact(vocab).map(reference::argmax).collect();
                    assert_eq!(device.download::<u32>(best.view()).unwrap(), expected);
                }
            }
        }
    }
}

#[test]
fn cuda_losses_of_rows_with_nan_and_infinities() {
    let device = testing::cuda();
    for vocab in [5, 999, 50_277] {
        let row = |seed| numbers(vocab, seed);
        let mut rows: Vec<Vec<f32>> = (0..5).map(row).collect();
        rows[0][vocab / 2] = f32::NAN;
        rows[1].fill(f32::NAN);
        rows[2][..vocab - 1].fill(f32::NEG_INFINITY);
        rows[3][1] = f32::NEG_INFINITY;
        let equal = rows[4][0].abs() + 1.0;
        rows[4][vocab - 2..].fill(equal);
        for (act, tolerance) in ACTIVATIONS {
            let logits = upload(&device, &rows.concat(), act);
            let losses = device.array(ElementType::F32, 5).unwrap();
            let best = device.array(ElementType::U32, 5).unwrap();
            let targets = device.upload(&[0, 1, vocab as u32 - 1, 2, vocab as u32 - 1]).unwrap();
            let scale = upload(&device, &[1.0], ElementType::F32);
            let (best_view, scale) = (Some(best.view()), Some(scale.view()));
            cuda::cross_entropy(&device, logits.view(), losses.view(), best_view, targets.view(), scale, 5, vocab)
                .unwrap();
            let (losses, found) = (download(&device, losses.view()), download(&device, logits.view()));
            assert!(losses[0].is_nan() && losses[1].is_nan(), "{losses:?}");
            assert!(found[..2 * vocab].iter().all(|x| x.is_nan()), "a loss that is NaN has gradients that are");
            assert!(losses[2].abs() < 1e-6 && losses[3].is_finite() && losses[4].is_finite(), "{losses:?}");
            for (r, target) in [(2, vocab - 1), (3, 2), (4, vocab - 1)] {
                let mut expected = widen(&rounded(&rows[r], act));
                let loss = reference::softmax_cross_entropy(&mut expected, target, Some(1.0));
                assert_close("loss", &losses[r..=r], &[loss], 3e-6);
                assert_close("gradient", &found[r * vocab..(r + 1) * vocab], &expected, tolerance);
            }
            let best = device.download::<u32>(best.view()).unwrap();
            let expected: Vec<u32> = rows.iter().map(|row| reference::argmax(&rounded(row, act))).collect();
            assert_eq!(best, expected, "{vocab} {act:?}");
        }
    }
}

/// Lanes read 16 bytes at a time: the lowest of equals among those, and not only among lanes.
#[test]
fn cuda_the_lowest_of_equal_logits_side_by_side() {
    let device = testing::cuda();
    let vocab = 64;
    for (act, _) in ACTIVATIONS {
        for first in [0, 16, 17, 22, 61] {
            let mut logits = vec![-1.0; vocab];
            logits[first..first + 3].fill(1.0);
            let (logits, losses) = (upload(&device, &logits, act), device.array(ElementType::F32, 1).unwrap());
            let (best, target) = (device.array(ElementType::U32, 1).unwrap(), device.upload(&[5u32]).unwrap());
            let views = [logits.view(), losses.view(), best.view(), target.view()];
            cuda::cross_entropy(&device, views[0], views[1], Some(views[2]), views[3], None, 1, vocab).unwrap();
            assert_eq!(device.download::<u32>(views[2]).unwrap(), [first as u32], "{act:?}");
        }
    }
}

#[test]
fn cuda_sums_of_losses() {
    let device = testing::cuda();
    for rows in [1, 255, 256, 5000] {
        let losses = numbers(rows, 1);
        let (on_losses, scale) =
            (upload(&device, &losses, ElementType::F32), upload(&device, &[0.25], ElementType::F32));
        let out = device.array(ElementType::F32, 1).unwrap();
        cuda::sum_losses(&device, out.view(), on_losses.view(), scale.view(), rows).unwrap();
        let expected = 0.25 * widen(&losses).iter().sum::<f64>();
        assert_close("sum", &download(&device, out.view()), &[expected], 1e-7);
    }
}
