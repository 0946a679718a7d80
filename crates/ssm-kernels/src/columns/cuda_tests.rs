//! Columns on a device against those of the CPU.

use super::cuda;
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::runtime::cuda::ElementType;
use crate::testing::{self, assert_close, numbers, reference, widen};

#[test]
fn cuda_columns_are_put_and_taken_between_rows_that_lie_apart() {
    let device = testing::cuda();
    for (rows, width, at, part) in [(1, 1, 0, 1), (5, 9, 2, 7), (300, 48, 16, 32), (77, 1030, 5, 1024), (3, 16, 8, 8)] {
        for (from, _) in ACTIVATIONS {
            for (to, _) in ACTIVATIONS {
                let (start, x) = (numbers(rows * width, 1), numbers(rows * (part + 8), 2));
                let (whole, apart) = (upload(&device, &start, to), upload(&device, &x, from));
                let spread = apart.view().range(0..(rows - 1) * (part + 8) + part);
                cuda::put_columns(&device, whole.view(), rows, width, at, spread, part + 8, part).unwrap();
                let rows_of_x = x.chunks_exact(part + 8).flat_map(|row| &row[..part]).copied().collect::<Vec<f32>>();
                let x = rounded(&rounded(&rows_of_x, from), to);
                let mut expected = rounded(&start, to);
                super::put_columns(&reference(), &mut expected, width, &x, at, part);
                assert_eq!(download(&device, whole.view()), expected, "put {rows} {width} {from:?} {to:?}");
                let back = device.array(ElementType::F32, rows * part).unwrap();
                cuda::take_columns(&device, back.view(), whole.view(), rows, width, at, part).unwrap();
                assert_eq!(download(&device, back.view()), x, "take {rows} {width} {from:?} {to:?}");
            }
        }
    }
}

#[test]
fn cuda_columns_are_joined() {
    let device = testing::cuda();
    for (rows, widths) in [(1, &[1][..]), (70, &[48, 16, 16]), (9, &[8, 16]), (33, &[5, 0, 7, 8, 3])] {
        for (act, _) in ACTIVATIONS {
            let width: usize = widths.iter().sum();
            let numbers: Vec<Vec<f32>> = (0..).zip(widths).map(|(i, w)| numbers(rows * (w + 8), i)).collect();
            let arrays: Vec<_> = numbers.iter().map(|x| upload(&device, x, act)).collect();
            let parts: Vec<_> = arrays.iter().zip(widths).map(|(array, &w)| (array.view(), w + 8, w)).collect();
            let whole = device.array(act, rows * width).unwrap();
            cuda::join_columns(&device, whole.view(), rows, width, &parts).unwrap();
            let row = |r: usize| numbers.iter().zip(widths).flat_map(move |(x, w)| &x[r * (w + 8)..r * (w + 8) + w]);
            let expected: Vec<f32> = (0..rows).flat_map(row).copied().collect();
            assert_eq!(download(&device, whole.view()), rounded(&expected, act), "{widths:?} {act:?}");
        }
    }
}

#[test]
fn cuda_picked_columns_and_their_gradient() {
    let device = testing::cuda();
    for (rows, width) in [(1, 8), (70, 33), (700, 300)] {
        let columns: Vec<u32> = (0..width as u32 + 3).map(|i| i * i % 7 + i % 2 * (width as u32 - 7)).collect();
        let on_columns = device.upload(&columns).unwrap();
        for (act, tolerance) in ACTIVATIONS {
            let (x, dy) = (numbers(rows * width, 1), numbers(rows * columns.len(), 2));
            let (on_x, on_dy) = (upload(&device, &x, act), upload(&device, &dy, act));
            let (x, dy) = (rounded(&x, act), rounded(&dy, act));
            let y = device.array(act, dy.len()).unwrap();
            cuda::gather_columns(&device, y.view(), on_x.view(), width, rows, width, on_columns.view()).unwrap();
            let mut expected = vec![0.0; dy.len()];
            super::gather_columns(&reference(), &mut expected, &x, width, &columns);
            assert_eq!(download(&device, y.view()), expected);
            // On top of x.
            cuda::scatter_add_columns(&device, on_x.view(), rows, width, on_dy.view(), on_columns.view()).unwrap();
            let mut expected = widen(&x);
            super::scatter_add_columns(&reference(), &mut expected, &widen(&dy), width, &columns);
            let name = format!("scatter {rows} {width} {act:?}");
            assert_close(&name, &download(&device, on_x.view()), &expected, 4.0 * tolerance);
        }
    }
}

#[test]
fn cuda_scaled_columns_and_their_gradient() {
    let device = testing::cuda();
    for (rows, width) in [(1, 1), (5, 7), (333, 130), (5000, 72)] {
        for (act, tolerance) in ACTIVATIONS {
            let (x, dy, gain) = (numbers(rows * width, 1), numbers(rows * width, 2), numbers(width, 3));
            let (on_x, on_dy) = (upload(&device, &x, act), upload(&device, &dy, act));
            let on_gain = upload(&device, &gain, ElementType::F32);
            let (x, dy) = (rounded(&x, act), rounded(&dy, act));
            let y = device.array(act, x.len()).unwrap();
            cuda::scale_columns(&device, y.view(), on_x.view(), on_gain.view(), rows, width).unwrap();
            let mut expected = vec![0.0; x.len()];
            super::scale_columns(&reference(), &mut expected, &widen(&x), &widen(&gain));
            assert_close("scale", &download(&device, y.view()), &expected, tolerance);
            let dgain = device.array(ElementType::F32, width).unwrap();
            cuda::scale_columns_gain_gradient(&device, dgain.view(), on_dy.view(), on_x.view(), rows, width).unwrap();
            let mut expected = vec![0.0; width];
            super::scale_columns_gain_gradient(&reference(), &mut expected, &widen(&dy), &widen(&x));
            assert_close("gain gradient", &download(&device, dgain.view()), &expected, 2e-5);
        }
    }
}
