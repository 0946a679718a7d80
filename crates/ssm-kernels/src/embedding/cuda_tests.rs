//! Rows on a device against those of the CPU: every storage type, repeated and missing ids, many rows.

use super::cuda::{self, NO_ROW};
use crate::WeightSlice;
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::runtime::cuda::ElementType;
use crate::testing::{self, assert_close, numbers, reference, widen};

#[test]
fn cuda_gathers_every_storage_type_exactly() {
    let device = testing::cuda();
    for cols in [1, 7, 8, 33, 136, 1030] {
        let (values, ids) = (numbers(11 * cols, 1), [3, 0, 10, 3, 7]);
        for storage in [ElementType::F32, ElementType::Bf16, ElementType::F16] {
            let stored = rounded(&values, storage);
            let mut expected = vec![0.0; ids.len() * cols];
            super::gather_rows(&reference(), &mut expected, WeightSlice::F32(&stored), &ids, cols);
            let (weight, ids) = (upload(&device, &values, storage), device.upload(&ids).unwrap());
            for (act, _) in ACTIVATIONS {
                let y = device.array(act, expected.len()).unwrap();
                cuda::gather_rows(&device, y.view(), weight.view(), ids.view(), 11, cols).unwrap();
                assert_eq!(download(&device, y.view()), rounded(&expected, act), "{storage:?} {act:?} {cols}");
            }
        }
    }
}

#[test]
fn cuda_rows_that_are_not_there() {
    let device = testing::cuda();
    let ids = device.upload(&[1, NO_ROW, 3]).unwrap();
    let (weight, y) = (upload(&device, &numbers(6, 1), ElementType::F32), upload(&device, &[9.0; 6], ElementType::F32));
    cuda::gather_rows(&device, y.view(), weight.view(), ids.view(), 3, 2).unwrap();
    let found = download(&device, y.view());
    assert_eq!(found[..4], [numbers(6, 1)[2], numbers(6, 1)[3], 0.0, 0.0]);
    assert!(found[4].is_nan() && found[5].is_nan());
    cuda::scatter_rows(&device, y.view(), weight.view(), ids.view(), 3, 2).unwrap();
    assert_eq!(download(&device, y.view()), [0.0, 0.0, numbers(6, 1)[0], numbers(6, 1)[1], 0.0, 0.0]);
    cuda::scatter_add_rows(&device, y.view(), weight.view(), ids.view(), 3, 2).unwrap();
    assert_eq!(download(&device, y.view())[2..4], [2.0 * numbers(6, 1)[0], 2.0 * numbers(6, 1)[1]]);
}

#[test]
fn cuda_scatter_adds_repeated_rows() {
    let device = testing::cuda();
    // Tables whose ids have one, two and three digits of eight bits; ids that are all one, all different, mixed.
    for (table, count, cols) in [(1, 1, 1), (1, 500, 3), (7, 1100, 300), (300, 2049, 40), (66_000, 3000, 5)] {
        for mixture in 0..2 {
            let id = |i: usize| if mixture == 0 { i % table } else { i * i * 7919 % table };
            let ids: Vec<u32> = (0..count).map(|i| id(i) as u32).collect();
            for (act, _) in ACTIVATIONS {
                let (start, d_out) = (numbers(table * cols, 1), numbers(count * cols, 2));
                let (on_weight, on_out) = (upload(&device, &start, ElementType::F32), upload(&device, &d_out, act));
                let on_ids = device.upload(&ids).unwrap();
                let mut expected = widen(&start);
                let d_out = widen(&rounded(&d_out, act));
                super::scatter_add_rows(&reference(), &mut expected, &d_out, &ids, cols);
                cuda::scatter_add_rows(&device, on_weight.view(), on_out.view(), on_ids.view(), table, cols).unwrap();
                let name = format!("{table} {count} {cols} {act:?}");
                assert_close(&name, &download(&device, on_weight.view()), &expected, 2e-5);
            }
        }
    }
}
