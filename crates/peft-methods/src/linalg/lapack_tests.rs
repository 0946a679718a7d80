//! Decompositions against what defines them: products, orthonormal sides, small cases known by hand.

use statetune_ssm_kernels::random::normal;
use statetune_ssm_kernels::runtime::openblas_on_one_thread;

use super::*;

/// Tall, wide, square, single rows and columns.
const SHAPES: [(usize, usize); 8] = [(1, 1), (7, 3), (3, 7), (8, 8), (1, 6), (6, 1), (130, 17), (33, 96)];

fn random(rows: usize, cols: usize) -> Vec<f64> {
    let mut values = vec![0f64; rows * cols];
    normal(&mut values, 0.0, 1.0, 5, (rows * 1000 + cols) as u64);
    values
}

/// B `[m, p]` times A `[p, n]`.
fn product(b: &[f64], a: &[f64], p: usize, n: usize) -> Vec<f64> {
    let row = |row: &[f64]| (0..n).map(|j| (0..p).map(|k| row[k] * a[k * n + j]).sum()).collect::<Vec<f64>>();
    b.chunks(p).flat_map(row).collect()
}

fn transposed(values: &[f64], cols: usize) -> Vec<f64> {
    (0..cols).flat_map(|j| values.iter().skip(j).step_by(cols).copied()).collect()
}

#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let worst = found.iter().zip(expected).fold(0f64, |worst, (f, e)| worst.max((f - e).abs()));
    assert!(worst <= 1e-12, "{what}: differs by {worst:e}");
}

/// Whether the columns of `[m, p]` are orthonormal and the largest entry of each is positive.
#[track_caller]
fn orthonormal_columns(what: &str, q: &[f64], p: usize) {
    let turned = transposed(q, p);
    let identity: Vec<f64> = (0..p * p).map(|i| if i % (p + 1) == 0 { 1.0 } else { 0.0 }).collect();
    close(what, &product(&turned, q, q.len() / p, p), &identity);
}

#[track_caller]
fn signs(what: &str, left: &[f64], p: usize) {
    for column in transposed(left, p).chunks(left.len() / p) {
        let largest = column.iter().copied().reduce(|a, b| if b.abs() > a.abs() { b } else { a }).unwrap();
        assert!(largest > 0.0, "{what}: {column:?}");
    }
}

#[test]
fn singular_values_give_the_matrix_back() {
    for (m, n) in SHAPES {
        let (w, p, what) = (random(m, n), m.min(n), format!("[{m}, {n}]"));
        let Svd { u, s, vt } = svd(m, n, &w).unwrap();
        assert_eq!((u.len(), s.len(), vt.len()), (m * p, p, p * n), "{what}");
        assert!(s.is_sorted_by(|a, b| a >= b) && s[p - 1] >= 0.0, "{what}: {s:?}");
        orthonormal_columns(&what, &u, p);
        orthonormal_columns(&what, &transposed(&vt, n), p);
        signs(&what, &u, p);
        let scaled: Vec<f64> = u.chunks(p).flat_map(|row| row.iter().zip(&s).map(|(u, s)| u * s)).collect();
        close(&what, &product(&scaled, &vt, p, n), &w);
    }
}

#[test]
fn q_and_r_give_the_matrix_back() {
    for (m, n) in SHAPES {
        let (w, p, what) = (random(m, n), m.min(n), format!("[{m}, {n}]"));
        let Qr { q, r } = qr(m, n, &w).unwrap();
        assert_eq!((q.len(), r.len()), (m * p, p * n), "{what}");
        orthonormal_columns(&what, &q, p);
        signs(&what, &q, p);
        assert!((0..p).all(|i| r[i * n..][..i].iter().all(|&x| x == 0.0)), "{what}: R has entries below the diagonal");
        close(&what, &product(&q, &r, p, n), &w);
    }
}

#[test]
fn small_cases_known_by_hand() {
    let found = svd(2, 2, &[0.0, 6.0, -5.0, 0.0]).unwrap();
    close("s", &found.s, &[6.0, 5.0]);
    close("u", &found.u, &[1.0, 0.0, 0.0, 1.0]);
    close("vt", &found.vt, &[0.0, 1.0, -1.0, 0.0]);
    let found = svd(2, 1, &[-3.0, -4.0]).unwrap();
    close("column", &[&found.u[..], &found.s, &found.vt].concat(), &[0.6, 0.8, 5.0, -1.0]);
    let found = qr(2, 2, &[3.0, 1.0, 4.0, 2.0]).unwrap();
    close("q", &found.q, &[0.6, 0.8, 0.8, -0.6]);
    close("r", &found.r, &[5.0, 2.2, 0.0, -0.4]);
}

#[test]
fn the_principal_part_is_split_evenly() {
    for (m, n) in SHAPES {
        let (w, p) = (random(m, n), m.min(n));
        for (rank, scale) in [(1, 1.0), (p.div_ceil(2), 2.0), (p, 0.25)] {
            let what = format!("[{m}, {n}] rank {rank} scale {scale}");
            let (a, b) = principal(&w, m, n, rank, scale).unwrap();
            assert_eq!((a.len(), b.len()), (rank * n, m * rank), "{what}");
            let Svd { u, s, vt } = svd(m, n, &w).unwrap();
            let kept: Vec<f64> = u.chunks(p).flat_map(|row| (0..rank).map(|i| row[i] * s[i])).collect();
            let expected = product(&kept, &vt[..rank * n], rank, n);
            let found: Vec<f64> = product(&b, &a, rank, n).iter().map(|x| scale * x).collect();
            close(&what, &found, &expected);
            for i in 0..rank {
                let norm = |values: Vec<f64>| values.iter().map(|x| x * x).sum::<f64>();
                let (row, column) = (a[i * n..][..n].to_vec(), b.iter().skip(i).step_by(rank).copied().collect());
                close(&what, &[norm(row), norm(column)], &[s[i] / scale, s[i] / scale]);
            }
        }
    }
}

#[test]
fn the_orthonormal_start_is_the_first_part_of_q_and_r() {
    for (m, n) in SHAPES {
        let (w, p) = (random(m, n), m.min(n));
        let (a, b) = orthonormal(&w, m, n, p).unwrap();
        close("whole", &product(&b, &a, p, n), &w);
        let rank = p.div_ceil(2);
        let (a, b) = orthonormal(&w, m, n, rank).unwrap();
        orthonormal_columns("part", &b, rank);
        // The first columns of W need no later ones.
        let found = transposed(&transposed(&product(&b, &a, rank, n), n)[..rank * m], m);
        close("first columns", &found, &transposed(&transposed(&w, n)[..rank * m], m));
    }
}

#[test]
fn ranks_by_number_and_by_energy() {
    // Singular values 4, 2, 1 in rotated coordinates: squares 16, 4, 1 of 21.
    let q = qr(9, 3, &random(9, 3)).unwrap().q;
    let v = qr(5, 3, &random(5, 3)).unwrap().q;
    let scaled: Vec<f64> = q.chunks(3).flat_map(|row| [4.0 * row[0], 2.0 * row[1], row[2]]).collect();
    let w = product(&scaled, &transposed(&v, 3), 3, 5);
    let of = |rank| low_rank_of(&w, 9, 5, rank).unwrap();
    for (rank, expected) in [
        (Rank::Fixed(1), 1),
        (Rank::Fixed(3), 3),
        (Rank::Fixed(5), 3), // there are only three directions
        (Rank::Energy(0.5), 1),
        (Rank::Energy(0.9), 2),
        (Rank::Energy(0.96), 3),
        (Rank::Energy(1.0), 3),
    ] {
        let found = of(rank);
        assert_eq!((found.rank, found.a.len(), found.b.len()), (expected, expected * 5, 9 * expected), "{rank:?}");
        let left: Vec<f64> = product(&found.b, &found.a, expected, 5).iter().zip(&w).map(|(x, w)| w - x).collect();
        let left = left.iter().map(|x| x * x).sum::<f64>();
        close("error", &[found.error, found.energy, found.norm], &[left.sqrt(), 1.0 - left / 21.0, 21f64.sqrt()]);
    }
    let zeros = low_rank_of(&[0.0; 6], 2, 3, Rank::Energy(0.9)).unwrap();
    assert_eq!((zeros.rank, zeros.energy, zeros.error), (0, 1.0, 0.0));
}

#[test]
fn the_same_bits_on_every_thread() {
    assert!(openblas_on_one_thread(), "OpenBLAS is linked, but its number of threads cannot be set");
    let w = random(130, 70);
    let first = (svd(130, 70, &w).unwrap(), qr(130, 70, &w).unwrap());
    std::thread::scope(|scope| {
        for thread in (0..4).map(|_| scope.spawn(|| (svd(130, 70, &w).unwrap(), qr(130, 70, &w).unwrap()))) {
            assert!(thread.join().unwrap() == first);
        }
    });
}
