//! Every level, the reference in f32 among them, against the reference in f64.

use super::case::{Case, NAMES, OPTIONAL};
use super::{ALL, CHUNK};
use crate::testing::{assert_close, assert_same_bits, every_level, reference};

/// Operands of a training step of State-offset Tuning: bias, skip, gate, offset; and with the initial state.
const OFFSET: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 6;
const INITIAL: u32 = OFFSET | 1 << 3;

/// Lengths, D, N.
const SHAPES: [(&[usize], usize, usize); 12] = [
    (&[1], 1, 1),
    (&[5], 3, 16),
    (&[1, 1, 1, 1, 1], 20, 16),
    (&[2 * CHUNK + 3], 16, 16),
    (&[CHUNK, 2 * CHUNK, CHUNK + 1], 17, 3),
    (&[7, 1, 40, 2], 33, 16),
    (&[3, 70], 100, 8),
    (&[90, 1], 7, 17),
    (&[12, 33, 1], 300, 4),
    (&[35], 48, 1),
    (&[3, 1], 5, 100),
    (&[130], 64, 2),
];

/// Forward and backward of every level, within `tolerance` of the largest value of each result.
fn check(case: &Case<f32>) {
    let wide = case.widen();
    let expected = wide.forward(&reference());
    let expected_grads = wide.gradients(&reference(), &expected.boundaries, |_| true);
    let close = |name: &str, found: &[f32], expected: &[f64]| {
        let largest = expected.iter().fold(1.0, |a: f64, x| a.max(x.abs()));
        assert_close(name, found, expected, 5e-6 * largest);
    };
    let present = case.operands.each_ref().map(|o| o.is_some() as u8);
    for cpu in every_level() {
        let lengths: Vec<usize> = case.offsets.windows(2).map(|w| w[1] - w[0]).collect();
        let at = format!("{cpu:?} {lengths:?} D {} N {} {present:?} softplus {}", case.d, case.n, case.softplus);
        let found = case.forward(&cpu);
        close(&format!("out, {at}"), &found.out, &expected.out);
        close(&format!("final state, {at}"), &found.final_state, &expected.final_state);
        close(&format!("boundaries, {at}"), &found.boundaries, &expected.boundaries);
        let grads = case.gradients(&cpu, &found.boundaries, |_| true);
        for i in 0..14 {
            if let (Some(found), Some(expected)) = (&grads[i], &expected_grads[i]) {
                close(&format!("d{}, {at}", NAMES[i]), found, expected);
            }
        }
    }
}

#[test]
fn all_levels_match_double_precision() {
    for (lengths, d, n) in SHAPES {
        for present in [0, OFFSET, INITIAL, ALL] {
            check(&Case::new(lengths, d, n, present, true));
        }
    }
    for bit in 0..OPTIONAL.len() {
        check(&Case::new(&[3, 41, 1], 19, 5, 1 << bit, true));
        check(&Case::new(&[3, 41, 1], 19, 5, ALL & !(1 << bit), false));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn random_shapes_match(
        lengths in proptest::collection::vec(1usize..80, 1..5), d in 1usize..70, n in 1usize..20,
        present in 0..=ALL, softplus: bool,
    ) {
        check(&Case::new(&lengths, d, n, present, softplus));
    }
}

/// What is asked for alone equals what is asked for with everything else, in bits; so does a forward that saves nothing.
#[test]
fn gradients_do_not_depend_on_what_else_is_asked() {
    for present in [INITIAL, ALL] {
        let case = Case::new(&[3, 2 * CHUNK + 1, 1], 21, 6, present, true);
        for cpu in every_level() {
            let outputs = case.forward(&cpu);
            let all = case.gradients(&cpu, &outputs.boundaries, |_| true);
            for i in 0..14 {
                let alone = case.gradients(&cpu, &outputs.boundaries, |j| j == i);
                assert_eq!(alone[i], all[i], "d{} at {cpu:?}", NAMES[i]);
            }
            // State-offset Tuning freezes these.
            let some = case.gradients(&cpu, &outputs.boundaries, |j| ![2, 3, 6].contains(&j));
            for i in (0..14).filter(|j| ![2, 3, 6].contains(j)) {
                assert_eq!(some[i], all[i], "d{} at {cpu:?}", NAMES[i]);
            }
            let mut out = vec![0.0; case.dout.len()];
            super::scan_forward(&cpu, &mut out, None, None, &case.inputs());
            assert_eq!(out, outputs.out, "{cpu:?}");
        }
    }
}

/// The final state of a prefix, given to the rest as its initial state, continues the sequence.
#[test]
fn a_prefix_and_the_rest_equal_one_pass() {
    let (length, d, n) = (2 * CHUNK + 5, 18, 5);
    for present in [OFFSET, INITIAL, ALL] {
        let whole = Case::new(&[length], d, n, present, true);
        let part = |tokens: std::ops::Range<usize>, initial: Option<Vec<f32>>| {
            let mut part = whole.clone();
            for (i, width) in [(0, d), (1, d), (4, n), (5, n), (7, d), (12, n)] {
                let cut = part.operands[i].take().map(|x| x[tokens.start * width..tokens.end * width].to_vec());
                part.operands[i] = cut;
            }
            part.offsets = vec![0, tokens.len()];
            part.dout = vec![0.0; tokens.len() * d];
            part.operands[8] = initial.or(part.operands[8].take());
            part
        };
        for cpu in every_level() {
            let expected = whole.forward(&cpu);
            for cut in [1, 7, CHUNK, length - 1] {
                let first = part(0..cut, None).forward(&cpu);
                let rest = part(cut..length, Some(first.final_state)).forward(&cpu);
                let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                let name = format!("{cpu:?} cut at {cut}");
                assert_close(&name, &[first.out, rest.out].concat(), &wide(&expected.out), 1e-5);
                assert_close(&name, &rest.final_state, &wide(&expected.final_state), 1e-5);
            }
        }
    }
}

/// A sequence in a batch has the bits it has alone.
#[test]
fn packed_equals_alone() {
    let (lengths, d, n) = ([3, 1, 2 * CHUNK + 2, 1, 9], 37, 6);
    for present in [OFFSET, ALL] {
        let packed = Case::new(&lengths, d, n, present, true);
        for cpu in every_level() {
            let outputs = packed.forward(&cpu);
            let grads = packed.gradients(&cpu, &outputs.boundaries, |_| true);
            for s in 0..lengths.len() {
                let tokens = packed.offsets[s]..packed.offsets[s + 1];
                let mut alone = packed.clone();
                for (i, width) in [(0, d), (1, d), (4, n), (5, n), (7, d), (12, n)] {
                    let cut = alone.operands[i].take().map(|x| x[tokens.start * width..tokens.end * width].to_vec());
                    alone.operands[i] = cut;
                }
                alone.offsets = vec![0, tokens.len()];
                alone.row_of = vec![packed.row_of[s]];
                alone.dout = packed.dout[tokens.start * d..tokens.end * d].to_vec();
                alone.d_final = packed.d_final.as_ref().map(|f| f[s * d * n..][..d * n].to_vec());
                let found = alone.forward(&cpu);
                assert_eq!(found.out, outputs.out[tokens.start * d..tokens.end * d], "{cpu:?} sequence {s}");
                assert_eq!(found.final_state, outputs.final_state[s * d * n..][..d * n], "{cpu:?} sequence {s}");
                let alone_grads = alone.gradients(&cpu, &found.boundaries, |_| true);
                for (i, width) in [(0, d), (1, d), (4, n), (5, n), (7, d), (12, n)] {
                    if let (Some(alone), Some(packed)) = (&alone_grads[i], &grads[i]) {
                        assert_eq!(alone[..], packed[tokens.start * width..tokens.end * width], "d{}", NAMES[i]);
                    }
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    for (lengths, d, n) in [(&[70, 1, 33][..], 300, 16), (&[1; 40], 70, 5)] {
        let case = Case::new(lengths, d, n, ALL, true);
        assert_same_bits("scan", |cpu| {
            let outputs = case.forward(cpu);
            let grads = case.gradients(cpu, &outputs.boundaries, |_| true);
            let grads = grads.into_iter().flatten().collect::<Vec<_>>().concat();
            [outputs.out, outputs.final_state, outputs.boundaries, grads].concat()
        });
    }
}

/// A NaN in any operand reaches the output it belongs to, and only that channel's where channels are apart.
#[test]
fn nan_reaches_the_output() {
    for length in [1, CHUNK + 9] {
        let case = Case::new(&[length], 21, 5, ALL, true);
        for cpu in every_level() {
            for i in 0..14 {
                let mut case = case.clone();
                case.operands[i].as_mut().unwrap()[0] = f32::NAN;
                let out = case.forward(&cpu).out;
                assert!(out[0].is_nan(), "{} at {cpu:?}, length {length}", NAMES[i]);
                if ![4, 5, 12].contains(&i) {
                    assert!(!out[20].is_nan(), "{} leaks to another channel at {cpu:?}", NAMES[i]);
                }
            }
        }
    }
}

/// Steps so long that nothing of the state is left, and steps of zero that leave all of it.
#[test]
fn long_and_zero_steps() {
    let mut case = Case::new(&[40], 18, 4, 1 << 3, false);
    for (delta, left) in [(1e4f32, 0.0f32), (0.0, 1.0)] {
        case.operands[1].as_mut().unwrap().fill(delta);
        case.operands[0].as_mut().unwrap().fill(0.0);
        let initial = case.operands[8].clone().unwrap();
        for cpu in every_level() {
            let found = case.forward(&cpu).final_state;
            assert!(found.iter().zip(&initial).all(|(&h, &h0)| (h - left * h0).abs() < 1e-30), "{cpu:?} {delta}");
        }
    }
}
