//! Sums of columns on a device against plain loops.

use super::cuda::column_sums;
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::runtime::cuda::ElementType;
use crate::testing::{self, assert_close, numbers};

#[test]
fn cuda_column_sums() {
    let device = testing::cuda();
    for (rows, cols) in [(1, 1), (1, 300), (16, 7), (17, 7), (300, 33), (2049, 3), (5000, 130), (0, 4)] {
        for (act, _) in ACTIVATIONS {
            let x = numbers(rows * cols, 1);
            let out = upload(&device, &vec![5.0; cols], ElementType::F32);
            column_sums(&device, out.view(), upload(&device, &x, act).view(), rows, cols).unwrap();
            let mut expected = vec![0f64; cols];
            for (i, &x) in rounded(&x, act).iter().enumerate() {
                expected[i % cols] += f64::from(x);
            }
            // Thousands of roundings, of sums far larger than what remains of them.
            assert_close(&format!("[{rows}, {cols}] {act:?}"), &download(&device, out.view()), &expected, 1e-4);
        }
    }
}
