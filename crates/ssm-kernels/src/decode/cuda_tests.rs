//! Decoding kernels on a device against the references of whole batches, over odd sizes and types.

use super::cuda::{self, Conv, Delta, Input, LowRank, Norm, Rows, Step};
use crate::conv1d::{Conv1dInputs, conv1d_forward};
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::matmul::matmul_nt;
use crate::norm::add_rms_norm;
use crate::runtime::cuda::{Cuda, CudaError, ElementType, View};
use crate::scan::cuda::Strided;
use crate::scan::{ScanInputs, scan_forward};
use crate::testing::{self, assert_close, numbers, reference, widen};
use crate::{Sequences, Table, WeightSlice};

/// The formula on widened numbers: vectors `[s, k]` times weight `[n, k]`, and a bias.
fn products(x: &[f64], weight: &[f32], bias: Option<&[f32]>, s: usize, n: usize, k: usize) -> Vec<f64> {
    let (mut y, weight, bias) = (vec![0f64; s * n], widen(weight), bias.map(widen));
    matmul_nt(&reference(), &mut y, x, WeightSlice::F64(&weight), bias.as_deref(), 1.0, s, n, k, false);
    y
}

/// As an activation would keep them.
fn kept(values: &[f64], act: ElementType) -> Vec<f64> {
    widen(&rounded(&values.iter().map(|&x| x as f32).collect::<Vec<_>>(), act))
}

/// What `best` chooses, and what is first and largest in y.
fn assert_chosen(device: &Cuda, best: Option<cuda::Best>, y: View, s: usize) {
    let chosen = device.array(ElementType::U32, s).unwrap();
    best.expect("asked for").choose(device, chosen.view()).unwrap();
    let y = download(device, y);
    let first = |row: &[f32]| (0..row.len()).fold(0, |best, j| if row[j] > row[best] { j } else { best }) as u32;
    let expected: Vec<u32> = y.chunks_exact(y.len() / s).map(first).collect();
    assert_eq!(device.download::<u32>(chosen.view()).unwrap(), expected);
}

/// Sequences, rows and columns of the matrix: one row, odd ones, as many as fill a device.
const SIZES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 80, 48), (2, 33, 40), (3, 7, 515), (4, 2100, 64), (1, 4300, 96), (4, 130, 1032)];

#[test]
fn cuda_vectors_are_projected() {
    let device = testing::cuda();
    for (s, n, k) in SIZES {
        for (act, tolerance) in ACTIVATIONS {
            let (x, w, bias) = (numbers(s * (k + 5), 1), numbers(n * k, 2), numbers(n, 3));
            let (on_x, on_w, on_bias) =
                (upload(&device, &x, act), upload(&device, &w, act), device.upload(&bias).unwrap());
            let y = device.array(act, s * n).unwrap();
            let input = Input::Plain(Strided { view: on_x.view(), stride: k + 5 });
            let (weight, bias_view) = (on_w.view(), Some(on_bias.view()));
            let best =
                cuda::project(&device, Some(y.view()), true, weight, bias_view, &input, None, s, k, false).unwrap();
            let rows: Vec<f32> = rounded(&x, act).chunks_exact(k + 5).flat_map(|row| row[..k].to_vec()).collect();
            let expected = products(&widen(&rows), &rounded(&w, act), Some(&bias), s, n, k);
            let name = format!("{s} {n} {k} {act:?}");
            assert_close(&name, &download(&device, y.view()), &expected, tolerance * (k as f64).sqrt());
            assert_chosen(&device, best, y.view(), s);
        }
    }
}

#[test]
fn cuda_normed_vectors_are_projected() {
    let device = testing::cuda();
    for (s, n, k) in SIZES {
        for (act, tolerance) in ACTIVATIONS {
            for lookup in [false, true] {
                let table = if lookup { 9 } else { s };
                let ids: Vec<u32> = (0..s as u32).map(|i| (i * 5 + 2) % table as u32).collect();
                let (x, w, residual, norm) =
                    (numbers(table * k, 1), numbers(n * k, 2), numbers(s * k, 3), numbers(k, 4));
                let on = |values: &[f32]| device.upload(values).unwrap();
                let (on_x, on_w) = (upload(&device, &x, act), upload(&device, &w, act));
                let (on_residual, on_norm, on_ids) = (on(&residual), on(&norm), device.upload(&ids).unwrap());
                let (y, sum) = (device.array(act, s * n).unwrap(), device.array(ElementType::F32, s * k).unwrap());
                let input = Input::Norm(Norm {
                    x: match lookup {
                        true => Rows::Looked { table: on_x.view(), ids: on_ids.view() },
                        false => Rows::Given(on_x.view()),
                    },
                    residual: (!lookup).then(|| on_residual.view()),
                    sum: Some(sum.view()),
                    weight: on_norm.view(),
                    eps: 1e-5,
                });
                cuda::project(&device, Some(y.view()), false, on_w.view(), None, &input, None, s, k, false).unwrap();
                let x = widen(&rounded(&x, act));
                let row = |i: usize| if lookup { ids[i] as usize } else { i };
                let x: Vec<f64> = (0..s).flat_map(|i| x[row(i) * k..][..k].to_vec()).collect();
                let (mut normed, mut expected_sum) = (vec![0f64; s * k], vec![0f64; s * k]);
                let residual = (!lookup).then(|| widen(&residual));
                let (residual, norm) = (residual.as_deref(), widen(&norm));
                let cpu = reference();
                add_rms_norm(&cpu, &mut normed, Some(&mut expected_sum), None, &x, residual, &norm, 1e-5, s, k);
                let expected = products(&kept(&normed, act), &rounded(&w, act), None, s, n, k);
                let name = format!("{s} {n} {k} {act:?} {lookup}");
                // The vectors are rounded where the kernel's differ in the last place of f32.
                let bound = 2.0 * tolerance * (k as f64).sqrt();
                assert_close(&name, &download(&device, y.view()), &expected, bound);
                assert_close(&name, &download(&device, sum.view()), &expected_sum, 1e-6);
            }
        }
    }
}

/// A product of many sequences.
type Project = fn(&Cuda, View, View, Option<View>, Strided, Option<&Conv>, usize, usize) -> Result<(), CudaError>;

/// Sequences, rows and columns: one of each, odd ones, rows that fill a device, vectors that do not fit into shared memory.
const MANY: [(usize, usize, usize); 7] =
    [(1, 1, 8), (5, 33, 40), (9, 80, 1096), (64, 17, 264), (3, 40, 6152), (20, 2120, 200), (66, 40, 776)];

#[test]
fn cuda_vectors_of_many_sequences_are_projected() {
    let device = testing::cuda();
    let act = ElementType::Bf16;
    for (s, n, k) in MANY {
        let (x, w, bias) = (numbers(s * (k + 8), 1), numbers(n * k, 2), numbers(n, 3));
        let (on_x, on_w, on_bias) = (upload(&device, &x, act), upload(&device, &w, act), device.upload(&bias).unwrap());
        let vectors = Strided { view: on_x.view(), stride: k + 8 };
        let rows: Vec<f32> = rounded(&x, act).chunks_exact(k + 8).flat_map(|row| row[..k].to_vec()).collect();
        let expected = products(&widen(&rows), &rounded(&w, act), Some(&bias), s, n, k);
        let tolerance = ACTIVATIONS.iter().find(|(of, _)| of.is_bf16()).expect("one of them").1;
        for (name, project) in [("many", cuda::project_many as Project), ("wide", cuda::project_wide)] {
            let y = device.array(act, s * n).unwrap();
            project(&device, y.view(), on_w.view(), Some(on_bias.view()), vectors, None, s, k).unwrap();
            let name = format!("{name} {s} {n} {k}");
            assert_close(&name, &download(&device, y.view()), &expected, tolerance * (k as f64).sqrt());
        }
    }
}

#[test]
fn cuda_parts_of_columns_are_added_up_by_the_norm() {
    let device = testing::cuda();
    let act = ElementType::Bf16;
    for (s, n, k) in [(1, 1, 8), (5, 33, 40), (9, 80, 1096), (70, 130, 520), (64, 520, 96)] {
        let (x, w, bias) = (rounded(&numbers(s * k, 1), act), rounded(&numbers(n * k, 2), act), numbers(n, 3));
        let (residual, weight) = (numbers(s * n, 4), numbers(n, 5));
        let (on_x, on_w) = (upload(&device, &x, act), upload(&device, &w, act));
        let [on_bias, on_residual, on_weight] = [&bias, &residual, &weight].map(|x| device.upload(x).unwrap());
        let parts = cuda::project_parts(&device, on_w.view(), Strided::packed(on_x.view(), k), s, k).unwrap();
        let (y, sum) = (device.array(act, s * n).unwrap(), device.array(ElementType::F32, s * n).unwrap());
        let norm = Norm {
            x: Rows::Summed(&parts, Some(on_bias.view())),
            residual: Some(on_residual.view()),
            sum: Some(sum.view()),
            weight: on_weight.view(),
            eps: 1e-5,
        };
        cuda::norm_step(&device, y.view(), &norm, s, n).unwrap();
        let products = kept(&products(&widen(&x), &w, Some(&bias), s, n, k), act);
        let (mut normed, mut total) = (vec![0f64; s * n], vec![0f64; s * n]);
        let (cpu, residual, weight) = (reference(), widen(&residual), widen(&weight));
        add_rms_norm(&cpu, &mut normed, Some(&mut total), None, &products, Some(&residual), &weight, 1e-5, s, n);
        let bound = 2.0 * ACTIVATIONS.iter().find(|(of, _)| of.is_bf16()).expect("one of them").1;
        assert_close(&format!("{s} {n} {k}"), &download(&device, sum.view()), &total, bound * (k as f64).sqrt());
        assert_close(&format!("{s} {n} {k}"), &download(&device, y.view()), &normed, bound * (k as f64).sqrt());
    }
}

#[test]
fn cuda_products_of_many_sequences_are_bf16_and_aligned() {
    let device = testing::cuda();
    let suits = |act: ElementType, from: usize, stride: usize, rows: usize, columns: usize| {
        let (weight, x) = (device.array(act, rows * columns).unwrap(), device.array(act, 4096).unwrap());
        let x = Strided { view: x.view().range(from..4096), stride };
        [cuda::suits_many(weight.view(), x, columns), cuda::suits_wide(&device, weight.view(), x, columns)]
    };
    let bf16 = ElementType::Bf16;
    assert_eq!(suits(bf16, 0, 48, 40, 40), [true, false], "few rows");
    assert_eq!(suits(bf16, 8, 40, 1000, 40), [true, true]);
    assert_eq!(suits(bf16, 0, 1024, 2048, 1024), [false, true], "a large matrix");
    for [from, stride, columns] in [[4, 48, 40], [0, 44, 40], [0, 48, 36]] {
        assert_eq!(suits(bf16, from, stride, 1000, columns), [false, false], "from {from}, {stride} apart, {columns}");
    }
    assert_eq!(suits(ElementType::F32, 0, 48, 1000, 40), [false, false]);
}

#[test]
fn cuda_a_step_is_normed() {
    let device = testing::cuda();
    for (s, k) in [(1, 1), (3, 40), (5, 515), (9, 768)] {
        for (act, tolerance) in ACTIVATIONS {
            for lookup in [false, true] {
                let (table, name) = (if lookup { 7 } else { s }, format!("{s} {k} {act:?} {lookup}"));
                let ids: Vec<u32> = (0..s as u32).map(|i| (i * 5 + 2) % table as u32).collect();
                let (x, residual, weight) = (rounded(&numbers(table * k, 1), act), numbers(s * k, 2), numbers(k, 3));
                let on = |values: &[f32]| device.upload(values).unwrap();
                let (on_x, on_ids) = (upload(&device, &x, act), device.upload(&ids).unwrap());
                let (on_residual, on_weight) = (on(&residual), on(&weight));
                let (y, sum) = (device.array(act, s * k).unwrap(), device.array(ElementType::F32, s * k).unwrap());
                let norm = Norm {
                    x: match lookup {
                        true => Rows::Looked { table: on_x.view(), ids: on_ids.view() },
                        false => Rows::Given(on_x.view()),
                    },
                    residual: (!lookup).then(|| on_residual.view()),
                    sum: Some(sum.view()),
                    weight: on_weight.view(),
                    eps: 1e-5,
                };
                cuda::norm_step(&device, y.view(), &norm, s, k).unwrap();
                let x = widen(&x);
                let row = |i: usize| if lookup { ids[i] as usize } else { i };
                let x: Vec<f64> = (0..s).flat_map(|i| x[row(i) * k..][..k].to_vec()).collect();
                let (residual, weight) = ((!lookup).then(|| widen(&residual)), widen(&weight));
                let (mut normed, mut total) = (vec![0f64; s * k], vec![0f64; s * k]);
                let (cpu, residual) = (reference(), residual.as_deref());
                add_rms_norm(&cpu, &mut normed, Some(&mut total), None, &x, residual, &weight, 1e-5, s, k);
                assert_close(&name, &download(&device, y.view()), &normed, tolerance);
                assert_close(&name, &download(&device, sum.view()), &total, 1e-6);
            }
        }
    }
}

/// The convolution's outputs and states after one token, by the reference.
fn convolved(x: &[f32], state: &[f32], w: &[f32], bias: &[f32], s: usize, d: usize, k: usize) -> (Vec<f64>, Vec<f64>) {
    let (x, state, w, bias) = (widen(x), widen(state), widen(w), widen(bias));
    let (offsets, own): (Vec<usize>, Vec<usize>) = ((0..=s).collect(), (0..s).collect());
    let inputs = Conv1dInputs {
        x: &x,
        weight: &w,
        bias: Some(&bias),
        init: Some(Table { values: &state, row_of: &own }).filter(|_| k > 1),
        silu: true,
        sequences: Sequences::new(&offsets),
        channels: d,
        width: k,
    };
    let (mut u, mut after) = (vec![0f64; s * d], vec![0f64; state.len()]);
    conv1d_forward(&reference(), &mut u, Some(&mut after), &inputs);
    (u, after)
}

/// Sequences, rows, channels (the first of the rows), columns, width of the convolution.
const CONVOLVED: [[usize; 5]; 6] =
    [[1, 5, 1, 8, 1], [2, 33, 20, 40, 2], [1, 80, 40, 130, 4], [4, 34, 17, 64, 3], [3, 9, 9, 24, 8], [4, 24, 0, 16, 1]];

#[test]
fn cuda_products_are_convolved_and_the_states_move_on() {
    let device = testing::cuda();
    for sizes in CONVOLVED {
        for (act, tolerance) in ACTIVATIONS {
            products_are_convolved(&device, sizes, act, tolerance, None);
        }
    }
    // Sequences, rows, channels, columns, width.
    for sizes in [[5, 40, 17, 64, 4], [9, 33, 33, 40, 2], [16, 24, 0, 16, 1], [30, 2112, 1050, 24, 3], [2, 9, 5, 8, 8]]
    {
        let (act, tolerance) = ACTIVATIONS.into_iter().find(|(act, _)| act.is_bf16()).expect("one of them");
        for project in [cuda::project_many as Project, cuda::project_wide] {
            products_are_convolved(&device, sizes, act, tolerance, Some(project));
        }
    }
}

fn products_are_convolved(
    device: &Cuda,
    [s, n, d, k, width]: [usize; 5],
    act: ElementType,
    tolerance: f64,
    many: Option<Project>,
) {
    let (x, w, bias) = (rounded(&numbers(s * (k + 8), 1), act), rounded(&numbers(n * k, 2), act), numbers(n, 6));
    let (taps, conv_bias, state) = (numbers(d * width, 3), numbers(d, 4), numbers(s * d * (width - 1), 5));
    let on = |values: &[f32]| device.upload(values).unwrap();
    let (on_x, on_w, on_bias) = (upload(device, &x, act), upload(device, &w, act), on(&bias));
    let (on_taps, on_conv_bias, on_state) = (on(&taps), on(&conv_bias), on(&state));
    let conv = Conv {
        state: (width > 1).then(|| on_state.view()),
        weight: on_taps.view(),
        bias: Some(on_conv_bias.view()),
        width,
    };
    let conv = Some(&conv).filter(|_| d > 0);
    let y = device.array(act, s * n).unwrap();
    let vectors = Strided { view: on_x.view(), stride: k + 8 };
    let (weight, bias_view) = (on_w.view(), Some(on_bias.view()));
    match many {
        Some(project) => project(device, y.view(), weight, bias_view, vectors, conv, s, k).unwrap(),
        None => {
            let input = Input::Plain(vectors);
            cuda::project(device, Some(y.view()), false, weight, bias_view, &input, conv, s, k, false).unwrap();
        }
    }
    let name = format!("{s} {n} {d} {k} {width} {act:?} many {}", many.is_some());
    let rows: Vec<f32> = x.chunks_exact(k + 8).flat_map(|row| row[..k].to_vec()).collect();
    let mut expected = kept(&products(&widen(&rows), &w, Some(&bias), s, n, k), act);
    let bound = 2.0 * tolerance * (k as f64).sqrt();
    if d > 0 {
        let newest: Vec<f32> = expected.chunks_exact(n).flat_map(|row| &row[..d]).map(|&x| x as f32).collect();
        let (u, after) = convolved(&newest, &state, &taps, &conv_bias, s, d, width);
        for (row, u) in expected.chunks_exact_mut(n).zip(u.chunks_exact(d)) {
            row[..d].copy_from_slice(u);
        }
        // An input may be rounded otherwise in its last place.
        assert_close(&name, &download(device, on_state.view()), &after, bound);
    }
    assert_close(&name, &download(device, y.view()), &expected, bound);
}

#[test]
fn cuda_convolution_takes_one_step() {
    let device = testing::cuda();
    for (s, d, k) in [(1, 1, 1), (2, 40, 2), (5, 130, 4), (3, 24, 8)] {
        for (act, tolerance) in ACTIVATIONS {
            let x = rounded(&numbers(s * d, 1), act);
            let (taps, bias, state) = (numbers(d * k, 3), numbers(d, 4), numbers(s * d * (k - 1), 5));
            let on = |values: &[f32]| device.upload(values).unwrap();
            let (on_x, on_taps, on_bias, on_state) = (upload(&device, &x, act), on(&taps), on(&bias), on(&state));
            let state_view = (k > 1).then(|| on_state.view());
            let conv = Conv { state: state_view, weight: on_taps.view(), bias: Some(on_bias.view()), width: k };
            let (expected, after) = convolved(&x, &state, &taps, &bias, s, d, k);
            let u = device.array(act, s * d).unwrap();
            cuda::conv_step(&device, u.view(), Strided::packed(on_x.view(), d), &conv, s).unwrap();
            let name = format!("{s} {d} {k} {act:?}");
            assert_close(&name, &download(&device, u.view()), &expected, 2.0 * tolerance);
            assert_close(&name, &download(&device, on_state.view()), &after, 0.0);
        }
    }
}

#[test]
fn cuda_the_scan_takes_one_step() {
    let device = testing::cuda();
    for sizes in
        [[1, 1, 1, 1], [2, 33, 16, 5], [1, 96, 16, 24], [3, 40, 5, 3], [5, 8, 24, 8], [2, 9, 256, 2], [18, 40, 16, 8]]
    {
        for (act, tolerance) in ACTIVATIONS {
            for low_rank in [false, true] {
                for offsets in [false, true] {
                    step_agrees(&device, sizes, act, tolerance, low_rank, offsets);
                }
            }
        }
    }
}

fn step_agrees(
    device: &Cuda,
    [s, d, n, rank]: [usize; 4],
    act: ElementType,
    tolerance: f64,
    low_rank: bool,
    offsets: bool,
) {
    let activation = |len: usize, stream: u64| rounded(&numbers(len, stream), act);
    let (x, z) = (activation(s * d, 1), activation(s * d, 2));
    // dt, B and C are columns of one matrix, as x_proj makes them.
    let width = rank + 2 * n;
    let maps = activation(s * width, 3);
    let part = |from: usize, len: usize| -> Vec<f32> {
        maps.chunks_exact(width).flat_map(|row| row[from..from + len].to_vec()).collect()
    };
    let (dt_weight, delta_bias, d_skip) = (activation(d * rank, 4), numbers(d, 5), numbers(d, 6));
    let a: Vec<f32> = numbers(d * n, 7).iter().map(|x| -2.0 * x.abs()).collect();
    let (state, offset, added) = (numbers(s * d * n, 8), numbers(d * n, 9), numbers(d, 10));
    let u = widen(&x);
    let delta = kept(&products(&widen(&part(0, rank)), &dt_weight, None, s, d, rank), act);
    let wide =
        [&part(rank, n), &part(rank + n, n), &a, &delta_bias, &d_skip, &z, &state, &offset, &added].map(|x| widen(x));
    let [b, c, a_wide, bias_wide, skip_wide, z_wide, state_wide, offset_wide, added_wide] = &wide;
    let (starts, own, shared): (Vec<usize>, Vec<usize>, Vec<usize>) = ((0..=s).collect(), (0..s).collect(), vec![0; s]);
    let inputs = ScanInputs {
        u: &u,
        delta: &delta,
        delta_bias: Some(bias_wide),
        delta_softplus: true,
        a: a_wide,
        b,
        c,
        d_skip: Some(skip_wide),
        z: Some(z_wide),
        initial: Some(Table { values: state_wide, row_of: &own }),
        state_scale: None,
        state_extra: None,
        state_offset: offsets.then_some(Table { values: offset_wide, row_of: &shared }),
        c_previous: None,
        output_offset: offsets.then_some(Table { values: added_wide, row_of: &shared }),
        sequences: Sequences::new(&starts),
        d_inner: d,
        d_state: n,
    };
    let (mut expected, mut after) = (vec![0f64; s * d], vec![0f64; s * d * n]);
    scan_forward(&reference(), &mut expected, Some(&mut after), None, &inputs);

    let on = |values: &[f32]| device.upload(values).unwrap();
    let [on_x, on_z, on_maps, on_dt_weight] = [&x, &z, &maps, &dt_weight].map(|values| upload(device, values, act));
    let [on_bias, on_skip, on_a, on_state, on_offset, on_added] =
        [&delta_bias, &d_skip, &a, &state, &offset, &added].map(|values| on(values));
    let delta: Vec<f32> = delta.iter().map(|&x| x as f32).collect();
    let on_delta = upload(device, &delta, act);
    let columns = |from: usize| Strided { view: on_maps.view().range(from..maps.len()), stride: width };
    let step = Step {
        u: Strided::packed(on_x.view(), d),
        delta: match low_rank {
            true => Delta::LowRank(LowRank { dt: columns(0), weight: on_dt_weight.view() }),
            false => Delta::Given(Strided::packed(on_delta.view(), d)),
        },
        z: Strided::packed(on_z.view(), d),
        b: columns(rank),
        c: columns(rank + n),
        delta_bias: Some(on_bias.view()),
        a: on_a.view(),
        d_skip: Some(on_skip.view()),
        state_offset: offsets.then(|| on_offset.view()),
        output_offset: offsets.then(|| on_added.view()),
        sequences: s,
        d_inner: d,
        d_state: n,
    };
    let out = device.array(act, s * d).unwrap();
    cuda::scan_step(device, out.view(), on_state.view(), &step).unwrap();
    let name = format!("{s} {d} {n} {rank} {act:?} low rank {low_rank} offsets {offsets}");
    // Δ may be rounded otherwise in its last place.
    let bound = if low_rank { 2.0 * tolerance } else { tolerance };
    assert_close(&name, &download(device, out.view()), &expected, bound * (n as f64).sqrt().max(2.0));
    assert_close(&name, &download(device, on_state.view()), &after, if low_rank { bound } else { 4e-6 });
}

#[test]
fn cuda_the_largest_is_the_first_and_never_nan() {
    let device = testing::cuda();
    for columns in [1, 31, 256, 1000, 4096, 9001] {
        let mut x = numbers(6 * columns, 1);
        x[columns..2 * columns].fill(f32::NAN);
        x[2 * columns..3 * columns].fill(f32::NEG_INFINITY);
        x[3 * columns..4 * columns].fill(0.5);
        x[3 * columns] = if columns > 1 { f32::NAN } else { 0.5 };
        x[4 * columns..5 * columns].fill(f32::NAN);
        x[5 * columns - 1] = f32::NEG_INFINITY;
        for (act, _) in ACTIVATIONS {
            let best = device.array(ElementType::U32, 6).unwrap();
            cuda::argmax(&device, best.view(), upload(&device, &x, act).view(), 6, columns).unwrap();
            let expected: Vec<u32> = rounded(&x, act)
                .chunks_exact(columns)
                .map(|row| {
                    let better = |best: usize, j: usize| row[j] > row[best] || row[best].is_nan() && !row[j].is_nan();
                    (0..columns).fold(0, |best, j| if better(best, j) { j } else { best }) as u32
                })
                .collect();
            assert_eq!(device.download::<u32>(best.view()).unwrap(), expected, "{columns} {act:?}");
        }
    }
}
