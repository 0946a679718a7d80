//! The convolution: gradients of the reference against differences, continuation, packed against alone, and every
//! level against the reference in double precision.

use super::*;
use crate::testing::{assert_close, assert_same_bits, every_level, numbers, reference};

const NAMES: [&str; 4] = ["x", "weight", "bias", "init"];

/// A problem that owns its operands: x, weight, bias, init, in the order of [`Conv1dGrads`].
#[derive(Clone)]
struct Case<T> {
    offsets: Vec<usize>,
    channels: usize,
    width: usize,
    silu: bool,
    row_of: Vec<usize>,
    operands: [Option<Vec<T>>; 4],
    dy: Vec<T>,
    d_final: Option<Vec<T>>,
}

impl Case<f32> {
    fn new(lengths: &[usize], channels: usize, width: usize, bias: bool, init: bool, silu: bool) -> Self {
        let mut offsets = vec![0];
        offsets.extend(lengths.iter().scan(0, |end, len| {
            *end += len;
            Some(*end)
        }));
        let (t, s) = (offsets[lengths.len()], lengths.len());
        // Two rows for the first three sequences, and one more for those after: 0, 1, 0, 2, 2, ...
        let row_of: Vec<usize> = (0..s).map(|s| if s < 3 { s % 2 } else { 2 }).collect();
        let state = channels * (width - 1);
        let rows = row_of.iter().max().unwrap() + 1;
        let operands = [
            Some(numbers(t * channels, 0)),
            Some(numbers(channels * width, 1)),
            bias.then(|| numbers(channels, 2)),
            init.then(|| numbers(rows * state, 3)),
        ];
        let (dy, d_final) = (numbers(t * channels, 4), Some(numbers(s * state, 5)));
        Case { offsets, channels, width, silu, row_of, operands, dy, d_final }
    }

    fn widen(&self) -> Case<f64> {
        let wide = |x: &Vec<f32>| x.iter().map(|&x| f64::from(x)).collect();
        Case {
            offsets: self.offsets.clone(),
            channels: self.channels,
            width: self.width,
            silu: self.silu,
            row_of: self.row_of.clone(),
            operands: self.operands.each_ref().map(|o| o.as_ref().map(wide)),
            dy: wide(&self.dy),
            d_final: self.d_final.as_ref().map(wide),
        }
    }

    /// Forward and backward of every level against double precision.
    fn check(&self) {
        let wide = self.widen();
        let (y, state) = wide.forward(&reference());
        let grads = wide.gradients(&reference(), |_| true);
        let lengths: Vec<usize> = self.offsets.windows(2).map(|w| w[1] - w[0]).collect();
        for cpu in every_level() {
            let at = format!("{cpu:?} {lengths:?} D {} K {} silu {}", self.channels, self.width, self.silu);
            let found = self.forward(&cpu);
            assert_close(&format!("y, {at}"), &found.0, &y, 2e-6);
            assert_close(&format!("final state, {at}"), &found.1, &state, 0.0);
            let found = self.gradients(&cpu, |_| true);
            for i in 0..4 {
                if let (Some(found), Some(expected)) = (&found[i], &grads[i]) {
                    assert_close(&format!("d{}, {at}", NAMES[i]), found, expected, 1e-5);
                }
            }
        }
    }
}

impl<T: Real> Case<T> {
    fn inputs(&self) -> Conv1dInputs<'_, T> {
        let [x, weight, bias, init] = self.operands.each_ref().map(|o| o.as_deref());
        Conv1dInputs {
            x: x.unwrap(),
            weight: weight.unwrap(),
            bias,
            init: init.map(|values| Table { values, row_of: &self.row_of }),
            silu: self.silu,
            sequences: Sequences::new(&self.offsets),
            channels: self.channels,
            width: self.width,
        }
    }

    fn forward(&self, cpu: &Cpu) -> (Vec<T>, Vec<T>) {
        let mut y = vec![T::ONE; self.dy.len()];
        let mut state = vec![T::ONE; (self.offsets.len() - 1) * self.channels * (self.width - 1)];
        conv1d_forward(cpu, &mut y, Some(&mut state), &self.inputs());
        (y, state)
    }

    fn gradients(&self, cpu: &Cpu, wanted: impl Fn(usize) -> bool) -> [Option<Vec<T>>; 4] {
        // Not zero, to see that gradients are overwritten.
        let mut grads: [Option<Vec<T>>; 4] = std::array::from_fn(|i| {
            self.operands[i].as_ref().filter(|_| wanted(i)).map(|o| vec![T::from_f64(7.0); o.len()])
        });
        let [dx, dweight, dbias, dinit] = grads.each_mut().map(|g| g.as_deref_mut());
        let asked = Conv1dGrads { dx, dweight, dbias, dinit };
        conv1d_backward(cpu, asked, &self.dy, self.d_final.as_deref(), &self.inputs());
        grads
    }

    fn loss(&self, cpu: &Cpu) -> T {
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(&a, &b)| a * b).sum::<T>();
        let (y, state) = self.forward(cpu);
        dot(&self.dy, &y) + self.d_final.as_ref().map_or(T::ZERO, |d| dot(d, &state))
    }
}

#[test]
fn gradients_match_differences() {
    let cpu = reference();
    for width in 1..=5 {
        for (bias, init, silu, d_final) in [
            (false, false, false, false),
            (true, false, true, true),
            (false, true, true, true),
            (true, true, false, true),
            (true, true, true, false),
        ] {
            let mut case = Case::new(&[1, 2, 7, 3, 1], 3, width, bias, init, silu).widen();
            case.d_final = case.d_final.filter(|_| d_final);
            for (i, grad) in case.gradients(&cpu, |_| true).into_iter().enumerate() {
                assert_eq!(grad.is_some(), case.operands[i].is_some());
                for (j, grad) in grad.into_iter().flatten().enumerate() {
                    let at = case.operands[i].as_ref().unwrap()[j];
                    let mut loss_at = |x: f64| {
                        case.operands[i].as_mut().unwrap()[j] = x;
                        case.loss(&cpu)
                    };
                    let numeric = (loss_at(at + 1e-5) - loss_at(at - 1e-5)) / 2e-5;
                    loss_at(at);
                    assert!((numeric - grad).abs() < 1e-8, "K {width}: d{}[{j}] {grad} is {numeric}", NAMES[i]);
                }
            }
        }
    }
}

#[test]
fn a_window_by_hand() {
    let mut case = Case::new(&[2], 1, 3, true, true, false).widen();
    case.operands = [vec![5.0, 7.0], vec![1.0, 10.0, 100.0], vec![0.5], vec![2.0, 3.0]].map(Some);
    assert_eq!(case.forward(&reference()), (vec![532.5, 753.5], vec![5.0, 7.0]));
}

#[test]
fn all_levels_match_double_precision() {
    // The last two are cut into several tasks, within a sequence and at its borders.
    let shapes: [(&[usize], usize); 9] = [
        (&[1], 1),
        (&[1, 1, 1, 1], 16),
        (&[5], 7),
        (&[2, 40, 1], 33),
        (&[100, 3], 17),
        (&[70], 300),
        (&[9, 1], 64),
        (&[70, 1, 200], 300),
        (&[62, 2, 3, 70], 1030),
    ];
    for (lengths, channels) in shapes {
        for width in [1, 2, 3, 4, 5, 9] {
            for (bias, init, silu) in [(true, true, true), (false, false, true), (true, true, false)] {
                Case::new(lengths, channels, width, bias, init, silu).check();
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    #[test]
    fn random_shapes_match(
        lengths in proptest::collection::vec(1usize..60, 1..6), channels in 1usize..70, width in 1usize..7,
        bias: bool, init: bool, silu: bool,
    ) {
        Case::new(&lengths, channels, width, bias, init, silu).check();
    }
}

/// Each gradient asked for alone has the bits it has among the others.
#[test]
fn gradients_do_not_depend_on_what_else_is_asked() {
    let case = Case::new(&[2, 70, 1], 37, 4, true, true, true);
    for cpu in every_level() {
        let all = case.gradients(&cpu, |_| true);
        for i in 0..4 {
            assert_eq!(case.gradients(&cpu, |j| j == i)[i], all[i], "d{} at {cpu:?}", NAMES[i]);
        }
    }
}

/// Tokens `tokens` of one sequence as a problem of their own.
fn part(case: &Case<f32>, s: usize, tokens: std::ops::Range<usize>, init: Option<Vec<f32>>) -> Case<f32> {
    let (d, state) = (case.channels, case.channels * (case.width - 1));
    let mut part = case.clone();
    part.operands[0] = case.operands[0].as_ref().map(|x| x[tokens.start * d..tokens.end * d].to_vec());
    part.operands[3] = init.or(part.operands[3].take());
    part.row_of = vec![if case.operands[3] == part.operands[3] { case.row_of[s] } else { 0 }];
    part.dy = case.dy[tokens.start * d..tokens.end * d].to_vec();
    part.d_final = case.d_final.as_ref().map(|f| f[s * state..][..state].to_vec());
    part.offsets = vec![0, tokens.len()];
    part
}

/// The final state of a prefix, given to the rest as its initial state, continues the sequence.
#[test]
fn a_prefix_and_the_rest_equal_one_pass() {
    for width in [1, 2, 4, 5] {
        for init in [false, true] {
            let whole = Case::new(&[45], 18, width, true, init, true);
            for cpu in every_level() {
                let expected = whole.forward(&cpu);
                for cut in [1, 2, 3, 17, 44] {
                    let first = part(&whole, 0, 0..cut, None).forward(&cpu);
                    let rest = part(&whole, 0, cut..45, Some(first.1)).forward(&cpu);
                    assert_eq!([first.0, rest.0].concat(), expected.0, "{cpu:?} K {width} cut at {cut}");
                    assert_eq!(rest.1, expected.1, "{cpu:?} K {width} cut at {cut}");
                }
            }
        }
    }
}

/// A sequence in a batch has the bits it has alone.
#[test]
fn packed_equals_alone() {
    let packed = Case::new(&[3, 1, 70, 1, 9], 37, 4, true, true, true);
    for cpu in every_level() {
        let (y, state) = packed.forward(&cpu);
        let dx = packed.gradients(&cpu, |i| i == 0)[0].clone().unwrap();
        for s in 0..5 {
            let tokens = packed.offsets[s]..packed.offsets[s + 1];
            let elements = tokens.start * 37..tokens.end * 37;
            let alone = part(&packed, s, tokens, None);
            let found = alone.forward(&cpu);
            assert_eq!(found.0, y[elements.clone()], "{cpu:?} sequence {s}");
            assert_eq!(found.1, state[s * 37 * 3..][..37 * 3], "{cpu:?} sequence {s}");
            assert_eq!(alone.gradients(&cpu, |i| i == 0)[0].as_ref().unwrap()[..], dx[elements], "{cpu:?}");
        }
    }
}

#[test]
fn threads_do_not_change_bits() {
    for (lengths, channels) in [(&[70, 1, 200][..], 300), (&[1; 40], 70)] {
        let case = Case::new(lengths, channels, 4, true, true, true);
        assert_same_bits("conv1d", |cpu| {
            let (y, state) = case.forward(cpu);
            let grads = case.gradients(cpu, |_| true).into_iter().flatten().collect::<Vec<_>>().concat();
            [y, state, grads].concat()
        });
    }
}

#[test]
fn nan_reaches_the_output() {
    for length in [1, 9] {
        for cpu in every_level() {
            for i in 0..4 {
                let mut case = Case::new(&[length], 21, 4, true, true, true);
                case.operands[i].as_mut().unwrap()[0] = f32::NAN;
                let (y, _) = case.forward(&cpu);
                assert!(y[0].is_nan() && !y[20].is_nan(), "{} at {cpu:?}", NAMES[i]);
            }
        }
    }
}
