//! The small functions on a device against plain loops.

use super::cuda;
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::runtime::cuda::ElementType;
use crate::testing::{self, assert_close, numbers, widen};

const SHAPES: [(usize, usize); 6] = [(1, 1), (1, 70), (33, 1), (5, 31), (64, 96), (301, 517)];

#[test]
fn cuda_rows_and_columns() {
    let device = testing::cuda();
    for (rows, columns) in SHAPES {
        for (act, tolerance) in ACTIVATIONS {
            let (x, dy) = (numbers(rows * columns, 1), numbers(rows * columns, 2));
            let (scale, added) = (numbers(rows, 3), numbers(columns, 4));
            let (on_x, on_dy) = (upload(&device, &x, act), upload(&device, &dy, act));
            let on_scale = upload(&device, &scale, ElementType::F32);
            let on_added = upload(&device, &added, ElementType::F32);
            let (x, dy) = (widen(&rounded(&x, act)), widen(&rounded(&dy, act)));
            let y = device.array(act, x.len()).unwrap();
            let sums = device.array(ElementType::F32, rows).unwrap();
            let at = |i: usize| (i / columns, i % columns);
            let whole = |formula: &dyn Fn(usize) -> f64| -> Vec<f64> { (0..x.len()).map(formula).collect() };
            let of_rows = |formula: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..rows).map(|r| (r * columns..(r + 1) * columns).map(formula).sum()).collect()
            };
            let check = |name: &str, expected: Vec<f64>| {
                assert_close(
                    &format!("{name} {rows} {columns} {act:?}"),
                    &download(&device, y.view()),
                    &expected,
                    tolerance,
                );
            };
            cuda::transpose(&device, y.view(), on_x.view(), rows, columns).unwrap();
            check("transpose", whole(&|i| x[i % rows * columns + i / rows]));
            cuda::repeat_last(&device, y.view(), on_scale.view(), rows, columns).unwrap();
            check("repeat_last", whole(&|i| f64::from(scale[at(i).0])));
            cuda::scale_rows(&device, y.view(), on_x.view(), on_scale.view(), rows, columns).unwrap();
            check("scale_rows", whole(&|i| x[i] * f64::from(scale[at(i).0])));
            cuda::add_row(&device, y.view(), on_x.view(), on_added.view(), rows, columns).unwrap();
            check("add_row", whole(&|i| x[i] + f64::from(added[at(i).1])));
            cuda::sum_last(&device, sums.view(), on_x.view(), rows, columns).unwrap();
            assert_close("sum_last", &download(&device, sums.view()), &of_rows(&|i| x[i]), 2e-5);
            cuda::row_dots(&device, sums.view(), on_dy.view(), on_x.view(), rows, columns).unwrap();
            assert_close("row_dots", &download(&device, sums.view()), &of_rows(&|i| x[i] * dy[i]), 2e-5);
        }
    }
}

#[test]
fn cuda_entries_scattered_and_gathered() {
    let device = testing::cuda();
    let size = 1000u32;
    let spread = |n: u32, factor: u32| (0..n).map(|i| i * factor % size).collect::<Vec<u32>>();
    for entries in [vec![5], spread(999, 7), spread(3000, 7), spread(600, 100), vec![3; 700]] {
        let values = numbers(entries.len(), 1);
        let (on_entries, on_values) = (device.upload(&entries).unwrap(), device.upload(&values).unwrap());
        let y = device.zeros(ElementType::F32, size as usize).unwrap();
        cuda::scatter(&device, y.view(), on_values.view(), on_entries.view()).unwrap();
        let mut expected = vec![0f32; size as usize];
        entries.iter().zip(&values).for_each(|(&entry, value)| expected[entry as usize] += value);
        assert_eq!(download(&device, y.view()), expected);
        let back = device.array(ElementType::F32, entries.len()).unwrap();
        cuda::gather(&device, back.view(), y.view(), on_entries.view()).unwrap();
        let expected: Vec<f32> = entries.iter().map(|&entry| expected[entry as usize]).collect();
        assert_eq!(download(&device, back.view()), expected);
    }
}

#[test]
fn cuda_norms_of_an_adapted_weight() {
    let device = testing::cuda();
    for (rows, columns) in SHAPES {
        for rank in [1, 4, 17] {
            let (w, a, b) = (numbers(rows * columns, 1), numbers(rank * columns, 2), numbers(rows * rank, 3));
            let on = [&a, &b].map(|x| upload(&device, x, ElementType::F32));
            for storage in [ElementType::F32, ElementType::Bf16, ElementType::F16] {
                let weight = upload(&device, &w, storage);
                let w = rounded(&w, storage);
                let (mut of_rows, mut of_columns) = (vec![0f64; rows], vec![0f64; columns]);
                for i in 0..rows * columns {
                    let (r, c) = (i / columns, i % columns);
                    let product: f64 =
                        (0..rank).map(|k| f64::from(b[r * rank + k]) * f64::from(a[k * columns + c])).sum();
                    let square = (f64::from(w[i]) + 0.5 * product).powi(2);
                    of_rows[r] += square;
                    of_columns[c] += square;
                }
                for (by_row, squares) in [(true, of_rows), (false, of_columns)] {
                    let norms = device.array(ElementType::F32, squares.len()).unwrap();
                    let (to, w, [a, b]) = (norms.view(), weight.view(), [on[0].view(), on[1].view()]);
                    if by_row {
                        cuda::adapted_row_norms(&device, to, w, a, b, 0.5, rows, columns, rank).unwrap();
                    } else {
                        cuda::adapted_column_norms(&device, to, w, a, b, 0.5, rows, columns, rank).unwrap();
                    }
                    let expected: Vec<f64> = squares.iter().map(|square| square.sqrt()).collect();
                    assert_close(
                        &format!("{rows} {columns} {rank} {storage:?}"),
                        &download(&device, norms.view()),
                        &expected,
                        1e-5,
                    );
                    cuda::divide(&device, norms.view(), norms.view(), norms.view()).unwrap();
                    assert!(download(&device, norms.view()).iter().all(|&x| x == 1.0));
                }
            }
        }
    }
}
