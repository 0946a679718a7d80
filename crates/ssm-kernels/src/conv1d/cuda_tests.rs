//! The convolution on a device against the reference in double precision: every width, every set of operands, empty
//! sequences and several rows of initial states.

use super::cuda::{self, Conv1dGradViews, Conv1dViews};
use super::{Conv1dGrads, Conv1dInputs};
use crate::elementwise::cuda_tests::{ACTIVATIONS, download, rounded, upload};
use crate::runtime::cuda::{Cuda, ElementType};
use crate::testing::{self, assert_close, numbers, reference, widen};
use crate::{Sequences, Table};

/// One convolution: lengths of its sequences (0 is allowed), sizes, operands, and how far apart rows lie.
struct Case {
    lengths: &'static [usize],
    channels: usize,
    width: usize,
    bias: bool,
    init: bool,
    silu: bool,
    /// Elements between the end of a row of x and dx and the next.
    gap: usize,
}

/// Matrix rows `cols` wide, spread with something else between them.
fn spread(x: &[f32], cols: usize, gap: usize) -> Vec<f32> {
    x.chunks_exact(cols).flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(77.0, gap))).collect()
}

fn check(device: &Cuda, case: &Case, act: ElementType, tolerance: f64) {
    let &Case { lengths, channels: d, width: k, gap, silu, .. } = case;
    let name = format!("{lengths:?} D {d} K {k} bias {} init {} silu {silu} gap {gap} {act:?}", case.bias, case.init);
    let init = case.init && k > 1;
    let (tokens, sequences, rows) = (lengths.iter().sum::<usize>(), lengths.len(), 3);
    let (x, dy) = (rounded(&numbers(tokens * d, 1), act), rounded(&numbers(tokens * d, 2), act));
    let (weight, bias) = (numbers(d * k, 3), numbers(d, 4));
    let (states, d_final) = (numbers(rows * d * (k - 1), 5), numbers(sequences * d * (k - 1), 6));
    let row_of: Vec<usize> = (0..sequences).map(|s| [2, 0, 2][s % 3]).collect();
    let mut offsets = vec![0usize];
    lengths.iter().for_each(|len| offsets.push(offsets.last().unwrap() + len));

    // The reference knows no empty sequence: it gets the others, and the empty ones pass their states on here.
    let full: Vec<usize> = (0..sequences).filter(|&s| lengths[s] > 0).collect();
    let row = d * (k - 1);
    let mut full_offsets: Vec<usize> = vec![0];
    full.iter().for_each(|&s| full_offsets.push(offsets[s + 1]));
    let full_rows: Vec<usize> = full.iter().map(|&s| row_of[s]).collect();
    let full_d_final: Vec<f64> = full.iter().flat_map(|&s| widen(&d_final[s * row..(s + 1) * row])).collect();
    let (x64, w64, b64, states64) = (widen(&x), widen(&weight), widen(&bias), widen(&states));
    let inputs = Conv1dInputs {
        x: &x64,
        weight: &w64,
        bias: case.bias.then_some(&b64[..]),
        init: init.then_some(Table { values: &states64, row_of: &full_rows }),
        silu,
        sequences: Sequences::new(&full_offsets),
        channels: d,
        width: k,
    };
    let cpu = reference();
    let mut y = vec![0.0; tokens * d];
    let mut full_final = vec![0.0; full.len() * row];
    super::conv1d_forward(&cpu, &mut y, Some(&mut full_final), &inputs);
    let mut expected_final: Vec<f64> = (0..sequences)
        .flat_map(|s| if init { states64[row_of[s] * row..][..row].to_vec() } else { vec![0.0; row] })
        .collect();
    full.iter().enumerate().for_each(|(i, &s)| {
        expected_final[s * row..(s + 1) * row].copy_from_slice(&full_final[i * row..(i + 1) * row]);
    });

    let on_x = upload(device, &spread(&x, d, gap), act);
    let on_dy = upload(device, &dy, act);
    let parameters = [&weight, &bias, &states, &d_final].map(|x| upload(device, x, ElementType::F32));
    let [on_weight, on_bias, on_states, on_d_final] = &parameters;
    let words = |values: &[usize]| device.upload(&values.iter().map(|&x| x as u32).collect::<Vec<_>>()).unwrap();
    let sequence_of: Vec<usize> = (0..sequences).flat_map(|s| std::iter::repeat_n(s, lengths[s])).collect();
    let [on_offsets, on_rows, on_sequences] = [words(&offsets), words(&row_of), words(&sequence_of)];
    let views = Conv1dViews {
        x: on_x.view(),
        x_stride: d + gap,
        weight: on_weight.view(),
        bias: case.bias.then(|| on_bias.view()),
        init: init.then(|| on_states.view()),
        init_row_of: on_rows.view(),
        offsets: on_offsets.view(),
        sequence_of: on_sequences.view(),
        silu,
        tokens,
        channels: d,
        width: k,
    };
    let on_y = device.array(act, tokens * d).unwrap();
    let on_final = device.array(ElementType::F32, sequences * row).unwrap();
    cuda::conv1d_forward(device, on_y.view(), Some(on_final.view()), &views).unwrap();
    assert_close(&format!("y {name}"), &download(device, on_y.view()), &y, tolerance);
    assert_close(&format!("final {name}"), &download(device, on_final.view()), &expected_final, 0.0);

    for with_final in [false, true] {
        let (mut dx, mut dweight, mut dbias) = (vec![0.0; tokens * d], vec![0.0; d * k], vec![0.0; d]);
        let mut dinit = vec![0.0; rows * row];
        let grads = Conv1dGrads {
            dx: Some(&mut dx),
            dweight: Some(&mut dweight),
            dbias: case.bias.then_some(&mut dbias[..]),
            dinit: init.then_some(&mut dinit[..]),
        };
        super::conv1d_backward(&cpu, grads, &widen(&dy), with_final.then_some(&full_d_final[..]), &inputs);
        if with_final {
            for s in (0..sequences).filter(|&s| lengths[s] == 0) {
                for i in 0..row {
                    dinit[row_of[s] * row + i] += f64::from(d_final[s * row + i]);
                }
            }
        }
        let d_final = with_final.then(|| on_d_final.view());
        for asked in [0b1111, 0b0001, 0b0010, 0b1100] {
            let on_dx = upload(device, &vec![9.0; tokens * (d + gap)], act);
            let sums = [d * k, d, rows * row].map(|len| device.array(ElementType::F32, len).unwrap());
            let [on_dweight, on_dbias, on_dinit] = &sums;
            let wanted = |bit: usize, there: bool| asked >> bit & 1 == 1 && there;
            let grads = Conv1dGradViews {
                dx: wanted(0, true).then(|| on_dx.view()),
                dx_stride: d + gap,
                dweight: wanted(1, true).then(|| on_dweight.view()),
                dbias: wanted(2, case.bias).then(|| on_dbias.view()),
                dinit: wanted(3, init).then(|| on_dinit.view()),
            };
            cuda::conv1d_backward(device, grads, on_dy.view(), d_final, &views).unwrap();
            let sum_tolerance = 1e-5;
            if grads.dx.is_some() {
                let found = download(device, on_dx.view());
                let inner: Vec<f32> = found.chunks_exact(d + gap).flat_map(|row| &row[..d]).copied().collect();
                assert!(found.chunks_exact(d + gap).all(|row| row[d..].iter().all(|&x| x == 9.0)), "gap {name}");
                assert_close(&format!("dx {name}"), &inner, &dx, tolerance);
            }
            for (what, view, expected) in
                [("dweight", grads.dweight, &dweight), ("dbias", grads.dbias, &dbias), ("dinit", grads.dinit, &dinit)]
            {
                if let Some(view) = view {
                    assert_close(&format!("{what} {name}"), &download(device, view), expected, sum_tolerance);
                }
            }
        }
    }
}

#[test]
fn cuda_conv1d_at_every_width() {
    let device = testing::cuda();
    for width in 1..=cuda::WIDEST {
        for (act, tolerance) in ACTIVATIONS {
            let case =
                Case { lengths: &[5, 0, 1, 30, 2], channels: 9, width, bias: true, init: true, silu: true, gap: 0 };
            check(&device, &case, act, 2.0 * tolerance);
            check(&device, &Case { channels: 16, gap: 8, silu: false, ..case }, act, 2.0 * tolerance);
        }
    }
}

#[test]
fn cuda_conv1d_with_and_without_each_operand() {
    let device = testing::cuda();
    for (act, tolerance) in ACTIVATIONS {
        for operands in 0..8 {
            let [bias, init, silu] = [0, 1, 2].map(|bit| operands >> bit & 1 == 1);
            let case = Case { lengths: &[1, 2, 0, 40, 0, 17], channels: 24, width: 4, bias, init, silu, gap: 3 };
            check(&device, &case, act, 2.0 * tolerance);
        }
    }
}

#[test]
fn cuda_conv1d_over_rows_that_lie_anyhow() {
    let device = testing::cuda();
    for (channels, gap) in [(1, 0), (2, 2), (4, 4), (8, 0), (8, 2), (16, 24), (130, 0), (1032, 8)] {
        for lengths in [&[1usize] as &'static [usize], &[70, 9], &[3, 3, 3, 3, 3, 3, 0, 90]] {
            for (act, tolerance) in ACTIVATIONS {
                let case = Case { lengths, channels, width: 4, bias: true, init: true, silu: true, gap };
                check(&device, &case, act, 2.0 * tolerance);
            }
        }
    }
}

/// Most tiles lie in one sequence and are walked without looking for others, where a block has all its channels: as the first of
/// two blocks here.
#[test]
fn cuda_conv1d_wherever_a_sequence_begins() {
    let device = testing::cuda();
    for begin in 1..27 {
        let lengths = vec![begin, 28 - begin, 12].leak();
        for (act, tolerance) in ACTIVATIONS {
            let case = Case { lengths, channels: 136, width: 4, bias: true, init: true, silu: true, gap: 0 };
            check(&device, &case, act, 2.0 * tolerance);
        }
    }
}

/// Sums over tokens are of several blocks, and of a block whose last warps have none.
#[test]
fn cuda_conv1d_over_several_blocks() {
    let device = testing::cuda();
    for (channels, lengths) in [(140, &[300usize, 0, 43] as &'static [usize]), (1030, &[100, 0, 30])] {
        for (act, tolerance) in ACTIVATIONS {
            let case = Case { lengths, channels, width: 4, bias: true, init: true, silu: true, gap: 0 };
            check(&device, &case, act, 2.0 * tolerance);
        }
    }
}
