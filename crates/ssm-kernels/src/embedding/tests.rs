//! Lookup of every storage type and the order of the scattered sums.

use super::*;
use crate::testing::{Stored, assert_same_bits, every_level, numbers};

#[test]
fn gathers_every_storage_type_exactly() {
    for cols in [1, 7, 8, 33, 130] {
        let stored = Stored::new(&numbers(11 * cols, 1));
        let ids = [3, 0, 10, 3, 7];
        for (storage, weight) in stored.slices() {
            for cpu in every_level() {
                let mut out = vec![f32::NAN; ids.len() * cols];
                gather_rows(&cpu, &mut out, weight, &ids, cols);
                for (i, &id) in ids.iter().enumerate() {
                    for j in 0..cols {
                        let expected: f32 = weight.get(id as usize * cols + j);
                        assert_eq!(out[i * cols + j].to_bits(), expected.to_bits(), "{cpu:?} {storage} {cols}");
                    }
                }
            }
        }
    }
}

#[test]
fn scatter_adds_repeated_rows() {
    for cols in [1, 5, 64, 100] {
        let (start, d_out) = (numbers(4 * cols, 1), numbers(6 * cols, 2));
        let ids = [2, 0, 2, 2, 3, 0];
        let mut expected = start.clone();
        for (i, &id) in ids.iter().enumerate() {
            for j in 0..cols {
                expected[id as usize * cols + j] += d_out[i * cols + j];
            }
        }
        for cpu in every_level() {
            let mut d_weight = start.clone();
            scatter_add_rows(&cpu, &mut d_weight, &d_out, &ids, cols);
            assert_eq!(d_weight, expected, "{cpu:?} {cols}");
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    let ids: Vec<u32> = (0..200).map(|i| i * i % 7).collect();
    let d_out = numbers(200 * 150, 3);
    assert_same_bits("scatter", |cpu| {
        let mut d_weight = vec![0.0; 7 * 150];
        scatter_add_rows(cpu, &mut d_weight, &d_out, &ids, 150);
        d_weight
    });
}

#[test]
#[should_panic(expected = "an id passes the table's 2 rows")]
fn an_id_beyond_the_table_panics() {
    gather_rows(&crate::testing::reference(), &mut [0.0; 3], WeightSlice::F64(&[0.0; 6]), &[2], 3);
}
