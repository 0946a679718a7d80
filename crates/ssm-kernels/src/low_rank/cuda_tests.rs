//! Low-rank additions on a device against plain loops over the same rounded numbers.

use super::cuda::*;
use crate::elementwise::cuda_tests::{download, rounded, upload};
use crate::runtime::cuda::{Array, Cuda, ElementType};
use crate::scan::cuda::Strided;
use crate::testing::{self, assert_close, numbers};

const BF16: ElementType = ElementType::Bf16;

/// A matrix of bf16 in wider rows, and its numbers.
struct Wide {
    array: Array,
    values: Vec<f64>,
    columns: usize,
    stride: usize,
}

impl Wide {
    fn new(cuda: &Cuda, rows: usize, columns: usize, stride: usize, seed: u64) -> Wide {
        let all = numbers(rows * stride, seed);
        let row = |r: usize| &all[r * stride..r * stride + columns];
        let values = (0..rows).flat_map(|r| rounded(row(r), BF16)).map(f64::from).collect();
        Wide { array: upload(cuda, &all, BF16), values, columns, stride }
    }

    fn columns(&self) -> Columns<'_> {
        let at = Strided { view: self.array.view(), stride: self.stride };
        Columns { at, count: self.columns }
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[row * self.columns + column]
    }
}

fn side_by_side<'a>(first: &'a Wide, second: &'a Option<Wide>) -> Sides<'a> {
    Sides::new(&[Some(first.columns()), second.as_ref().map(Wide::columns)].into_iter().flatten().collect::<Vec<_>>())
}

/// What a row of both has at a column.
fn joined(first: &Wide, second: &Option<Wide>, row: usize, column: usize) -> f64 {
    match second {
        Some(second) if column >= first.columns => second.at(row, column - first.columns),
        _ => first.at(row, column),
    }
}

/// A factor as the passes read it.
struct Factor {
    array: Array,
    width: usize,
    rank: usize,
}

impl Factor {
    /// Of an A `[rank, width]` or a B `[width, rank]`.
    fn new(cuda: &Cuda, values: &[f32], is_a: bool, width: usize, rank: usize) -> Factor {
        let (factor, array) = (upload(cuda, values, ElementType::F32), nines(cuda, Packed::len(width, rank)));
        pack(cuda, &[Unpacked { factor: factor.view(), is_a, width, out: array.view() }], rank).unwrap();
        Factor { array, width, rank }
    }

    fn packed(&self) -> Packed<'_> {
        Packed::new(self.array.view(), self.width, self.rank)
    }
}

fn nines(cuda: &Cuda, len: usize) -> Array {
    upload(cuda, &vec![9.0; len], BF16)
}

#[test]
fn cuda_low_rank_factors_are_packed_by_rank_and_in_pairs() {
    let cuda = testing::cuda();
    for (rank, widths) in
        [(8, vec![8, 24, 3072]), (3, vec![40, 8]), (17, vec![1064]), (32, vec![16, 8, 72]), (1, vec![8; 200])]
    {
        let all: Vec<_> = (widths.iter().zip(0..))
            .map(|(&width, i)| {
                let (values, is_a) = (numbers(width * rank, i), i % 2 == 0);
                (width, is_a, upload(&cuda, &values, ElementType::F32), nines(&cuda, Packed::len(width, rank)), values)
            })
            .collect();
        let factors: Vec<_> = (all.iter())
            .map(|(width, is_a, factor, out, _)| Unpacked {
                factor: factor.view(),
                is_a: *is_a,
                width: *width,
                out: out.view(),
            })
            .collect();
        pack(&cuda, &factors, rank).unwrap();
        let ranks = rank.next_multiple_of(8);
        for (width, is_a, _, out, values) in &all {
            let at = |column: usize, j: usize| match (j < rank, is_a) {
                (false, _) => 0.0,
                (true, true) => values[j * width + column],
                (true, false) => values[column * rank + j],
            };
            let by_rank = (0..ranks * width).map(|i| at(i % width, i / width));
            // Four columns, their eights of ranks, pairs, columns, the two of a pair.
            let in_pairs = (0..ranks * width).map(|i| {
                let (four, eight) = (i / (4 * ranks), i % (4 * ranks) / 32);
                at(4 * four + i % 8 / 2, 8 * eight + i % 32 / 8 * 2 + i % 2)
            });
            let expected = rounded(&by_rank.chain(in_pairs).collect::<Vec<_>>(), BF16);
            assert_eq!(download(&cuda, out.view()), expected, "width {width}, rank {rank}, A {is_a}");
        }
    }
}

/// (rows, columns of x and of a second one, columns of y, rank).
const SHAPES: [(usize, usize, usize, usize, usize); 8] = [
    (1, 8, 0, 8, 1),
    (16, 32, 0, 64, 8),
    (17, 40, 24, 8, 3),
    (33, 64, 0, 48, 9),
    (40, 1064, 40, 1040, 8),
    (50, 16, 48, 536, 17),
    (130, 72, 72, 96, 32),
    (2200, 8, 0, 72, 8),
];

/// `[ranks, columns]` as `[columns, ranks]`.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let ranks = values.len() / columns.max(1);
    (0..values.len()).map(|i| values[i % ranks * columns + i / ranks]).collect()
}

#[test]
fn cuda_low_rank_rows_add_two_products() {
    let cuda = testing::cuda();
    for (rows, first, second, outputs, rank) in SHAPES {
        let x = Wide::new(&cuda, rows, first, first + 8, 1);
        let x1 = (second > 0).then(|| Wide::new(&cuda, rows, second, second + 16, 2));
        let inputs = first + second;
        let (down, up) = (numbers(rank * inputs, 3), numbers(rank * outputs, 4));
        let (inner, outer) = (0.5, -1.5);
        let factor = |values: &[f32]| rounded(values, BF16).into_iter().map(f64::from).collect::<Vec<_>>();
        let (down_rounded, up_rounded) = (factor(&down), factor(&up));
        let projection = |r: usize, j: usize| -> f64 {
            inner * (0..inputs).map(|c| joined(&x, &x1, r, c) * down_rounded[j * inputs + c]).sum::<f64>()
        };
        let expected: Vec<f64> = (0..rows * rank).map(|i| projection(i / rank, i % rank)).collect();
        for (adds, way) in [(true, Way::Forward), (false, Way::Backward)] {
            let y = Wide::new(&cuda, rows, outputs, outputs + 24, 5);
            // `down` and `up` are [ranks, columns]; B is stored the other way.
            let first = |values: &[f32], columns| Factor::new(&cuda, values, true, columns, rank);
            let last = |values: &[f32], columns| Factor::new(&cuda, &transposed(values, columns), false, columns, rank);
            let (a, b) = match way {
                Way::Forward => (first(&down, inputs), last(&up, outputs)),
                Way::Backward => (first(&up, outputs), last(&down, inputs)),
            };
            let projected = cuda.array(BF16, rows * rank).unwrap();
            let factors = [a.packed(), b.packed()];
            let sides = side_by_side(&x, &x1);
            let before = download(&cuda, y.array.view());
            let pass = Rows {
                from: Projection::Of(sides),
                projected: projected.view(),
                beside: None,
                extended: None,
                into: Some((y.columns(), adds)),
                way,
                factors,
                scales: [inner, outer],
                rank,
                rows,
            };
            pass.run(&cuda).unwrap();
            let name = format!("[{rows}, {inputs}] to {outputs}, rank {rank}, adds {adds}");
            let found = download(&cuda, projected.view());
            assert_close(&format!("{name}: projected"), &found, &expected, 8e-3);
            let after = download(&cuda, y.array.view());
            for r in 0..rows {
                let sum = |c: usize| -> f64 {
                    let product =
                        (0..rank).map(|j| f64::from(found[r * rank + j]) * up_rounded[j * outputs + c]).sum::<f64>();
                    outer * product + if adds { y.at(r, c) } else { 0.0 }
                };
                let row = &after[r * y.stride..(r + 1) * y.stride];
                assert_close(&name, &row[..outputs], &(0..outputs).map(sum).collect::<Vec<_>>(), 5e-3);
                assert_eq!(
                    row[outputs..],
                    before[r * y.stride + outputs..(r + 1) * y.stride],
                    "{name}: beyond the row"
                );
            }
            // Without a y the projection alone.
            let alone = cuda.array(BF16, rows * rank).unwrap();
            Rows { projected: alone.view(), into: None, ..pass }.run(&cuda).unwrap();
            assert_eq!(download(&cuda, alone.view()), found, "{name}");
            // Given as it is, the same y.
            let (again, other) = (upload(&cuda, &before, BF16), cuda.array(BF16, rows * rank).unwrap());
            let given = Columns { at: Strided::packed(projected.view(), rank), count: rank };
            let into = Columns { at: Strided { view: again.view(), stride: y.stride }, count: outputs };
            let taken =
                Rows { from: Projection::Given(given), projected: other.view(), into: Some((into, adds)), ..pass };
            taken.run(&cuda).unwrap();
            assert_eq!(download(&cuda, other.view()), found, "{name}: given");
            assert_eq!(download(&cuda, again.view()), after, "{name}: given");
            if second > 8 {
                let part = |columns: std::ops::Range<usize>| {
                    let x1 = x1.as_ref().expect("a second one");
                    let view = x1.array.view().range(columns.start..x1.array.len());
                    Columns { at: Strided { view, stride: x1.stride }, count: columns.len() }
                };
                let sides = Sides::new(&[x.columns(), part(0..8), part(8..second)]);
                Rows { from: Projection::Of(sides), projected: other.view(), into: None, ..pass }.run(&cuda).unwrap();
                assert_close(&format!("{name}: of three"), &download(&cuda, other.view()), &expected, 8e-3);
            }
            // Beside x, or beside what is there.
            let stride = inputs.next_multiple_of(8) + rank.next_multiple_of(8) + 8;
            for copies in [false, true] {
                if copies && rank % 8 > 0 {
                    continue;
                }
                let wide = upload(&cuda, &vec![7.0; rows * stride], BF16);
                let at = Strided { view: wide.view().range(inputs..wide.len()), stride };
                let beside = Some(Beside { at: Columns { at, count: rank }, copies });
                Rows { projected: other.view(), into: None, beside, ..pass }.run(&cuda).unwrap();
                let wide = download(&cuda, wide.view());
                for (r, row) in wide.chunks(stride).enumerate() {
                    let in_front = |c: usize| if copies { joined(&x, &x1, r, c) as f32 } else { 7.0 };
                    assert_eq!(row[..inputs], (0..inputs).map(in_front).collect::<Vec<_>>(), "{name}: copied");
                    assert_eq!(row[inputs..inputs + rank], found[r * rank..(r + 1) * rank], "{name}: beside");
                    assert_eq!(row[inputs + rank..], vec![7.0; stride - inputs - rank], "{name}: behind it");
                }
            }
        }
    }
}

#[test]
fn cuda_low_rank_gradients_are_sums_over_rows() {
    let cuda = testing::cuda();
    let long = [(9000, 64, 0, 8, 8), (8200, 8, 72, 16, 2)];
    for (rows, first, second, inputs, rank) in SHAPES.into_iter().chain(long) {
        let dy = Wide::new(&cuda, rows, first, first, 1);
        let dy1 = (second > 0).then(|| Wide::new(&cuda, rows, second, second + 8, 2));
        let x = Wide::new(&cuda, rows, inputs, inputs + 8, 3);
        let (p, q) = (Wide::new(&cuda, rows, rank, rank, 4), Wide::new(&cuda, rows, rank, rank, 5));
        let outputs = first + second;
        let (d_up, d_down) = (numbers(outputs * rank, 6), numbers(rank * inputs, 7));
        let sum = |f: &dyn Fn(usize) -> f64| (0..rows).map(f).sum::<f64>();
        let expected_up: Vec<f64> =
            (0..outputs * rank).map(|i| 0.25 * sum(&|r| joined(&dy, &dy1, r, i / rank) * p.at(r, i % rank))).collect();
        let expected_down: Vec<f64> =
            (0..rank * inputs).map(|i| sum(&|r| q.at(r, i / inputs) * x.at(r, i % inputs))).collect();
        // Sums of thousands of numbers, of which much cancels.
        let tolerance = 2e-6 * (rows as f64).sqrt().max(4.0);
        for which in [[true, true], [true, false], [false, true]] {
            let (up, down) = (upload(&cuda, &d_up, ElementType::F32), upload(&cuda, &d_down, ElementType::F32));
            let of_b = Outer { gradient: up.view(), x: side_by_side(&dy, &dy1), projected: p.array.view() };
            let of_a = Outer { gradient: down.view(), x: side_by_side(&x, &None), projected: q.array.view() };
            let factors = Factors { up: which[0].then_some(of_b), down: which[1].then_some(of_a), scale: 0.25 };
            gradients(&cuda, &[factors], rank, rows).unwrap();
            let name = format!("{rows} rows, {outputs} and {inputs}, rank {rank}, {which:?}");
            let (up, down) = (download(&cuda, up.view()), download(&cuda, down.view()));
            match which[0] {
                true => assert_close(&format!("{name}: of B"), &up, &expected_up, tolerance),
                false => assert_eq!(up, d_up, "{name}"),
            }
            match which[1] {
                true => assert_close(&format!("{name}: of A"), &down, &expected_down, tolerance),
                false => assert_eq!(down, d_down, "{name}"),
            }
        }
    }
}

/// Of rows that are one part and of rows that are several, where the sums of one addition alone may be in another order.
#[test]
fn cuda_low_rank_gradients_together_are_those_alone() {
    let cuda = testing::cuda();
    for (rows, rank, count) in [(50, 8, MOST_TOGETHER), (333, 17, 4), (9000, 8, 4)] {
        let sizes = [(40, 24, 64), (8, 0, 1064), (136, 0, 16), (264, 8, 8)];
        let sizes: Vec<_> = sizes.into_iter().cycle().take(count).collect();
        let wide = |columns: usize, seed: usize| Wide::new(&cuda, rows, columns, columns + 8, seed as u64);
        let inputs: Vec<_> = (sizes.iter().zip(0..))
            .map(|(&(first, second, x), i)| {
                let dy1 = (second > 0).then(|| wide(second, 100 + i));
                (wide(first, i), dy1, wide(x, 200 + i), [300, 400].map(|seed| numbers(rows * rank, (seed + i) as u64)))
            })
            .collect();
        let run = |together: bool| -> Vec<Vec<f32>> {
            let on_device: Vec<_> = (inputs.iter().zip(&sizes))
                .map(|((_, _, _, projected), &(first, second, x))| {
                    let [p, q] = projected.each_ref().map(|values| upload(&cuda, values, BF16));
                    let out =
                        [(first + second) * rank, rank * x].map(|len| upload(&cuda, &vec![9.0; len], ElementType::F32));
                    (p, q, out)
                })
                .collect();
            let all: Vec<Factors> = (inputs.iter().zip(&on_device).zip(0..))
                .map(|(((dy, dy1, x, _), (p, q, [up, down])), i)| Factors {
                    up: Some(Outer { gradient: up.view(), x: side_by_side(dy, dy1), projected: p.view() }),
                    down: Some(Outer { gradient: down.view(), x: side_by_side(x, &None), projected: q.view() }),
                    scale: 0.5 + f64::from(i),
                })
                .collect();
            let each = if together { all.len() } else { 1 };
            all.chunks(each).for_each(|all| gradients(&cuda, all, rank, rows).unwrap());
            on_device.iter().flat_map(|(_, _, out)| out.each_ref().map(|out| download(&cuda, out.view()))).collect()
        };
        for (i, (together, alone)) in run(true).iter().zip(run(false)).enumerate() {
            let alone: Vec<f64> = alone.into_iter().map(f64::from).collect();
            assert_close(
                &format!("{rows} rows, rank {rank}, gradient {i}"),
                together,
                &alone,
                2e-6 * (rows as f64).sqrt(),
            );
        }
    }
}

#[test]
fn cuda_low_rank_extended_matrices_have_a_factor_at_their_side() {
    let cuda = testing::cuda();
    for (outputs, inputs, rank) in [(8, 8, 8), (24, 40, 16), (3, 264, 8), (70, 16, 32)] {
        let w = rounded(&numbers(outputs * inputs, 1), BF16);
        let (a, b) = (numbers(rank * inputs, 2), numbers(outputs * rank, 3));
        let weight = upload(&cuda, &w, BF16);
        let of = |factor: &[f32], extension, [rows, columns]: [usize; 2], apart: usize| {
            let unpacked = upload(&cuda, factor, ElementType::F32);
            let out = upload(&cuda, &vec![9.0; rows * (columns + apart)], BF16);
            let (factor, w, sizes) = (unpacked.view(), weight.view(), [outputs, inputs]);
            let place = Strided { view: out.view(), stride: columns + apart };
            let matrix = ExtendedMatrix { out: place, w, sizes, factor, scale: -0.75, rank, extension };
            matrix.write(&cuda).unwrap();
            let written = download(&cuda, out.view());
            let between = written.chunks(columns + apart).flat_map(|row| &row[columns..]);
            assert!(between.clone().count() == rows * apart && between.clone().all(|&x| x == 9.0), "between rows");
            // In a launch that copies something as well, which comes out the same.
            for rows in [0, 5, 40] {
                cuda.write(out.view(), &vec![half::bf16::from_f32(9.0); out.len()]).unwrap();
                let x = Wide::new(&cuda, rows, 24, 24, 4);
                let a = Factor::new(&cuda, &numbers(rank * 24, 5), true, 24, rank);
                let stride = 24 + rank.next_multiple_of(8);
                let wide = [7.0, 8.0].map(|fill| upload(&cuda, &vec![fill; rows * stride], BF16));
                let projected = cuda.array(BF16, rows * rank).unwrap();
                for (wide, extended) in wide.iter().zip([None, Some(matrix)]) {
                    let view = wide.view().range(24.min(wide.len())..wide.len());
                    let at = Columns { at: Strided { view, stride }, count: rank };
                    Rows {
                        from: Projection::Of(Sides::new(&[x.columns()])),
                        projected: projected.view(),
                        beside: Some(Beside { at, copies: true }),
                        extended,
                        into: None,
                        way: Way::Forward,
                        factors: [a.packed(); 2],
                        scales: [1.0, 1.0],
                        rank,
                        rows,
                    }
                    .run(&cuda)
                    .unwrap();
                }
                assert_eq!(download(&cuda, out.view()), written, "beside {rows} rows");
                let [alone, with] = wide.map(|wide| download(&cuda, wide.view()));
                let differ = |r: usize, c: usize| alone[r * stride + c] != with[r * stride + c];
                assert!((0..rows).all(|r| (0..24 + rank).all(|c| !differ(r, c))), "of {rows} rows");
            }
            written.chunks(columns + apart).flat_map(|row| row[..columns].to_vec()).collect::<Vec<_>>()
        };
        let scaled = |factor: &[f32]| rounded(&factor.iter().map(|x| -0.75 * x).collect::<Vec<_>>(), BF16);
        let below = of(&a, Extension::Below, [outputs + rank, inputs], 0);
        assert_eq!(below, [w.clone(), scaled(&a)].concat(), "[{outputs}, {inputs}], rank {rank}");
        let rows = w.chunks(inputs).zip(scaled(&b).chunks(rank)).flat_map(|(w, b)| [w, b].concat()).collect::<Vec<_>>();
        for apart in [0, 8, 64] {
            let beside = of(&b, Extension::Beside, [outputs, inputs + rank], apart);
            assert_eq!(beside, rows, "[{outputs}, {inputs}], rank {rank}, {apart} between rows");
        }
    }
}

#[test]
fn cuda_low_rank_of_no_rows_is_zero() {
    let cuda = testing::cuda();
    let x = Wide::new(&cuda, 0, 16, 16, 1);
    let empty = cuda.array(BF16, 0).unwrap();
    let gradient = upload(&cuda, &numbers(32, 1), ElementType::F32);
    let of_b = Outer { gradient: gradient.view(), x: side_by_side(&x, &None), projected: empty.view() };
    gradients(&cuda, &[Factors { up: Some(of_b), down: None, scale: 1.0 }], 2, 0).unwrap();
    assert_eq!(download(&cuda, gradient.view()), [0.0; 32]);
}

#[test]
fn cuda_columns_that_are_not_whole_eights_do_not_fit() {
    let cuda = testing::cuda();
    let array = upload(&cuda, &numbers(256, 1), BF16);
    let columns = |start: usize, stride: usize, count: usize| {
        let view = array.view().range(start..256);
        Columns { at: Strided { view, stride }, count }.fit()
    };
    assert!(columns(0, 16, 8) && columns(8, 24, 16));
    assert!(!columns(1, 16, 8) && !columns(0, 12, 8) && !columns(0, 16, 4));
    let single = upload(&cuda, &numbers(64, 1), ElementType::F32);
    assert!(!Columns { at: Strided::packed(single.view(), 8), count: 8 }.fit());
}
