//! The convolution and the scan as operations of the tape: gradients against finite differences in `f64` with every
//! operand present and absent, need masks, continuation through final states, `f32` at every level.

use statetune_mamba_model::ops::{Conv1d, ScanOperands, Table, conv1d, scan};
use statetune_ssm_kernels::Level;
use statetune_ssm_kernels::random::uniform;
use statetune_tensor::gradient_check::check;
use statetune_tensor::{DType, Device, Result, Staged, Tape, Tensor, Var};

fn reference() -> Device {
    Device::cpu(Level::Reference, 1).unwrap()
}

/// Numbers in (low, high) that `f32` holds, as `f64`.
fn numbers(stream: u64, shape: &[usize], low: f64, high: f64) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    uniform(&mut values, low, high, 31, stream);
    Tensor::from_vec(values, shape).unwrap().cast(DType::F64)
}

/// `[T]`, the sequence of each token.
fn sequence_of(offsets: &[usize]) -> Staged<u32> {
    let lengths = offsets.windows(2).map(|pair| pair[1] - pair[0]);
    lengths.enumerate().flat_map(|(s, len)| std::iter::repeat_n(s as u32, len)).collect()
}

fn offsets(lengths: &[usize]) -> Staged<usize> {
    let ends = lengths.iter().scan(0, |end, len| {
        *end += len;
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

/// Sequences share the rows of tables: 1, 0, 1, 0, ...
fn table_rows(sequences: usize) -> Staged<usize> {
    (0..sequences).map(|s| (s + 1) % 2).collect()
}

/// Which outputs a computation returns.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Used {
    Main,
    Final,
    Both,
}

impl Used {
    fn of(self, (main, last): (Var, Option<Var>)) -> Vec<Var> {
        let keep = |output: Option<Var>, used: bool| output.filter(|_| used);
        keep(Some(main), self != Used::Final).into_iter().chain(keep(last, self != Used::Main)).collect()
    }
}

/// Operands of one of the two operations, absent ones as `None`, in the order of its inputs.
type Operands = Vec<Option<Tensor>>;
type Run = Box<dyn Fn(&Tape, &[Option<Var>]) -> Result<Vec<Var>>>;

struct Case {
    name: String,
    operands: Operands,
    run: Run,
}

impl Case {
    /// The convolution; bit 0 of `present` is the bias, bit 1 the initial state.
    fn conv1d(lengths: &[usize], channels: usize, width: usize, present: u32, used: Used) -> Case {
        let offsets = offsets(lengths);
        let sequences = lengths.len();
        let optional = |bit: u32, shape: &[usize]| {
            (present >> bit & 1 == 1).then(|| numbers(u64::from(bit) + 2, shape, -1.0, 1.0))
        };
        let operands = vec![
            Some(numbers(0, &[*offsets.last().unwrap(), channels], -1.0, 1.0)),
            Some(numbers(1, &[channels, 1, width], -1.0, 1.0)),
            optional(0, &[channels]),
            optional(1, &[2, channels, width - 1]),
        ];
        let name = format!("conv1d {lengths:?}, D {channels}, K {width}, operands {present:02b}, {used:?}");
        let run: Run = Box::new(move |tape, o| {
            let (offsets, initial_row) = (offsets.clone(), table_rows(sequences));
            let op =
                Conv1d { sequence_of: sequence_of(&offsets), offsets, initial_row, final_state: used != Used::Main };
            let (x, weight) = (o[0].as_ref().expect("required"), o[1].as_ref().expect("required"));
            Ok(used.of(conv1d(tape, op, x, weight, o[2].as_ref(), o[3].as_ref())?))
        });
        Case { name, operands, run }
    }

    /// The scan; the bits of `present` are the inputs after the fifth, in order.
    fn scan(lengths: &[usize], d: usize, n: usize, present: u32, used: Used) -> Case {
        let offsets = offsets(lengths);
        let (t, sequences) = (*offsets.last().unwrap(), lengths.len());
        let shapes: [&[usize]; 14] = [
            &[t, d],
            &[t, d],
            &[d, n],
            &[t, n],
            &[t, n],
            &[d],
            &[d],
            &[t, d],
            &[2, d, n],
            &[2, d, n],
            &[2, d, n],
            &[2, d, n],
            &[2, d],
            &[t, n],
        ];
        let operand = |(i, shape): (usize, &&[usize])| {
            let there = i < 5 || present >> (i - 5) & 1 == 1;
            let (low, high) = if i == 2 { (-2.0, -0.1) } else { (-1.0, 1.0) }; // A decays
            there.then(|| numbers(i as u64, shape, low, high))
        };
        let operands = shapes.iter().enumerate().map(operand).collect();
        let name = format!("scan {lengths:?}, D {d}, N {n}, operands {present:09b}, {used:?}");
        let run: Run = Box::new(move |tape, o| {
            let required = |i: usize| o[i].as_ref().expect("required");
            let table = |i: usize| o[i].clone().map(|values| Table { values, row_of: table_rows(sequences) });
            let operands = ScanOperands {
                u: required(0),
                delta: required(1),
                a: required(2),
                b: required(3),
                c: required(4),
                delta_bias: o[5].as_ref(),
                d_skip: o[6].as_ref(),
                z: o[7].as_ref(),
                initial: table(8),
                state_scale: table(9),
                state_extra: table(10),
                state_offset: table(11),
                output_offset: table(12),
                c_previous: o[13].as_ref(),
            };
            Ok(used.of(scan(tape, &offsets, used != Used::Main, &operands)?))
        });
        Case { name, operands, run }
    }

    fn check_gradients(&self) {
        println!("{}", self.name); // shown above the panic of a failed check
        let leaves: Vec<Tensor> = self.operands.iter().flatten().cloned().collect();
        check(&reference(), &leaves, |tape, leaves| {
            let mut leaves = leaves.iter().cloned();
            let vars: Vec<Option<Var>> =
                self.operands.iter().map(|o| o.as_ref().map(|_| leaves.next().expect("one per operand"))).collect();
            (self.run)(tape, &vars)
        })
        .unwrap();
    }

    /// Outputs, then the gradient of every operand; only those in `tracked` are leaves.
    fn differentiate(&self, device: &Device, dtype: DType, tracked: impl Fn(usize) -> bool) -> Vec<Option<Tensor>> {
        let tape = Tape::new(device);
        let var = |(i, o): (usize, &Option<Tensor>)| {
            let value = o.as_ref()?.cast(dtype);
            Some(if tracked(i) { tape.leaf(value) } else { value.into() })
        };
        let vars: Vec<Option<Var>> = self.operands.iter().enumerate().map(var).collect();
        let outputs = (self.run)(&tape, &vars).unwrap();
        let seed = |(i, y): (usize, &Var)| numbers(70 + i as u64, y.shape(), -1.0, 1.0).cast(dtype);
        let seeds: Vec<Tensor> = outputs.iter().enumerate().map(seed).collect();
        let mut gradients = tape.backward_from(&outputs.iter().zip(seeds).collect::<Vec<_>>()).unwrap();
        let mut results: Vec<Option<Tensor>> = outputs.iter().map(|y| Some(y.tensor().clone())).collect();
        results.extend(vars.iter().map(|v| v.as_ref().and_then(|v| gradients.take(v))));
        results
    }

    /// Every operand tracked alone gets the gradient it gets among all, in bits, and nobody else gets one.
    fn check_need_masks(&self, device: &Device, dtype: DType) {
        let all = self.differentiate(device, dtype, |_| true);
        let outputs = all.len() - self.operands.len();
        for only in (0..self.operands.len()).filter(|&i| self.operands[i].is_some()) {
            let alone = self.differentiate(device, dtype, |i| i == only);
            for (i, (alone, all)) in alone.iter().zip(&all).enumerate() {
                let bytes = |t: &Tensor| t.to_le_bytes();
                if i < outputs || i == outputs + only {
                    assert_eq!(alone.as_ref().map(bytes), all.as_ref().map(bytes), "{}, input {only} alone", self.name);
                } else {
                    assert!(alone.is_none(), "{}, input {only} alone gives one to {}", self.name, i - outputs);
                }
            }
        }
    }

    /// `f32` at every level against `f64`.
    fn check_levels(&self) {
        let expected = self.differentiate(&reference(), DType::F64, |_| true);
        for level in Level::available() {
            let found = self.differentiate(&Device::cpu(level, 2).unwrap(), DType::F32, |_| true);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let (Some(found), Some(expected)) = (found, expected) else {
                    assert_eq!(found.is_some(), expected.is_some(), "{}, {level}: result {i}", self.name);
                    continue;
                };
                close(&format!("{}, {level}, result {i}", self.name), found, expected, 5e-6);
            }
        }
    }
}

/// |found - expected| <= tolerance · max(1, largest expected).
#[track_caller]
fn close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.shape(), expected.shape(), "{name}");
    let (found, expected) = (found.to_f64_vec(), expected.to_f64_vec());
    let scale = expected.iter().fold(1f64, |m, x| m.max(x.abs()));
    let error = |i: usize| if found[i].is_finite() { (found[i] - expected[i]).abs() / scale } else { f64::INFINITY };
    let Some(worst) = (0..found.len()).max_by(|&i, &j| error(i).total_cmp(&error(j))) else { return };
    let percent = 100.0 * error(worst) / tolerance;
    let (f, e) = (found[worst], expected[worst]);
    assert!(
        percent <= 100.0,
        "{name}: largest difference at {worst}: {f} instead of {e}, {percent:.0}% of the tolerance"
    );
}

const USES: [Used; 3] = [Used::Main, Used::Final, Used::Both];
const ALL: u32 = (1 << 9) - 1;

#[test]
fn conv1d_gradients_match_differences() {
    for width in 1..=5 {
        for present in 0..4 {
            // With K = 1 there is no final state to differentiate.
            for used in USES.into_iter().filter(|&used| width > 1 || used == Used::Main) {
                Case::conv1d(&[1, 2, 6, 3], 2, width, present, used).check_gradients();
            }
        }
    }
}

#[test]
fn scan_gradients_match_differences() {
    let mut sets = vec![0, ALL];
    sets.extend((0..9).flat_map(|bit| [1 << bit, ALL & !(1 << bit)]));
    for present in sets {
        Case::scan(&[1, 5, 2], 2, 3, present, Used::Both).check_gradients();
    }
    for present in [0, ALL] {
        for used in USES {
            Case::scan(&[3, 1], 3, 1, present, used).check_gradients();
        }
    }
}

/// Two chunk borders inside one sequence, and one exactly at its end.
#[test]
fn scan_gradients_match_differences_across_chunks() {
    Case::scan(&[70, 32], 1, 2, ALL, Used::Both).check_gradients();
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    let best = Device::cpu(Level::best(), 2).unwrap();
    for (device, dtype) in [(&reference(), DType::F64), (&best, DType::F32)] {
        Case::conv1d(&[1, 9, 4], 9, 4, 0b11, Used::Both).check_need_masks(device, dtype);
        Case::scan(&[1, 35, 4], 9, 3, ALL, Used::Both).check_need_masks(device, dtype);
    }
}

/// Frozen: the weight and the bias of the convolution; A, the bias of Δ and D of the scan. The tape would not have a buffer
/// for their gradients, and they have none.
#[test]
fn frozen_parameters_get_no_gradient_where_every_activation_has_one() {
    let (conv, scan) = ([0, 3], [0, 1, 3, 4, 7, 8, 11, 12]);
    for level in Level::available() {
        let device = Device::cpu(level, 2).unwrap();
        let check = |case: Case, outputs: usize, trained: &[usize]| {
            let found = case.differentiate(&device, DType::F32, |i| trained.contains(&i));
            for (i, gradient) in found[outputs..].iter().enumerate() {
                assert_eq!(gradient.is_some(), trained.contains(&i), "{} at {level}: operand {i}", case.name);
            }
        };
        check(Case::conv1d(&[1, 9, 4], 9, 4, 0b11, Used::Both), 2, &conv);
        check(Case::scan(&[1, 35, 4], 9, 3, ALL, Used::Both), 2, &scan);
    }
}

#[test]
fn f32_at_every_level_matches_f64() {
    for (lengths, channels, width) in [(&[1usize, 40, 2][..], 19, 4), (&[3], 8, 1), (&[2, 70], 33, 2), (&[1, 1], 1, 5)]
    {
        for used in USES.into_iter().filter(|&used| width > 1 || used == Used::Main) {
            Case::conv1d(lengths, channels, width, 0b11, used).check_levels();
        }
    }
    for (lengths, d, n) in [(&[1usize, 40, 2][..], 19, 16), (&[70, 33], 8, 3), (&[1, 1, 1], 16, 16), (&[5], 1, 1)] {
        for present in [0, 0b0100_0111, ALL] {
            Case::scan(lengths, d, n, present, Used::Both).check_levels();
        }
    }
}

/// x as two parts, `cut` tokens of every sequence first; the second starts from the first one's final states. Outputs and
/// gradients are those of the whole, the gradient flowing back through the states.
#[test]
fn conv1d_continues_through_its_final_state() {
    let (lengths, channels) = ([4, 7], 3);
    for width in 1..=5 {
        let run = |tape: &Tape, x: &Var, lengths: &[usize], state: Option<&Var>| {
            let op = Conv1d {
                offsets: offsets(lengths),
                sequence_of: sequence_of(&offsets(lengths)),
                initial_row: [0, 1].into(),
                final_state: true,
            };
            let weight = numbers(8, &[channels, 1, width], -1.0, 1.0).into();
            conv1d(tape, op, x, &weight, None, state).unwrap()
        };
        let whole = Pieces::run(&lengths, &[], channels, run);
        for cuts in [&[1usize][..], &[2], &[3], &[1, 2, 3]] {
            let parts = Pieces::run(&lengths, cuts, channels, run);
            parts.assert_close(&whole, &format!("conv1d K {width} cut at {cuts:?}"));
        }
    }
}

#[test]
fn scan_continues_through_its_final_state() {
    let (lengths, d, n) = ([75, 70], 2, 3);
    let run = |tape: &Tape, x: &Var, lengths: &[usize], state: Option<&Var>| {
        let maps = |stream: u64| -> Var {
            // The same map at every token, so that parts and whole need no cutting of it.
            let row = numbers(stream, &[1, n], -1.0, 1.0).to_f64_vec();
            Tensor::from_vec(row.repeat(x.shape()[0]), &[x.shape()[0], n]).unwrap().into()
        };
        let (a, b, c) = (numbers(9, &[d, n], -2.0, -0.1).into(), maps(10), maps(11));
        let skip = numbers(12, &[d], -1.0, 1.0).into();
        let operands = ScanOperands {
            u: x,
            delta: x,
            a: &a,
            b: &b,
            c: &c,
            delta_bias: None,
            d_skip: Some(&skip),
            z: Some(x),
            initial: state.map(|values| Table { values: values.clone(), row_of: Staged::from([0, 1]) }),
            state_scale: None,
            state_extra: None,
            state_offset: None,
            output_offset: None,
            c_previous: Some(&c),
        };
        scan(tape, &offsets(lengths), true, &operands).unwrap()
    };
    let whole = Pieces::run(&lengths, &[], d, run);
    for cuts in [&[1usize][..], &[31], &[32], &[33], &[64, 68], &[3, 5, 40]] {
        Pieces::run(&lengths, cuts, d, run).assert_close(&whole, &format!("scan cut at {cuts:?}"));
    }
}

/// Two sequences computed in one or more parts: outputs, final state and the gradient of x, each by sequence.
struct Pieces {
    outputs: Vec<Vec<f64>>,
    state: Tensor,
    gradients: Vec<Vec<f64>>,
}

impl Pieces {
    /// `cuts` are where both sequences are cut; `part` computes one part from the states before it.
    fn run(
        lengths: &[usize; 2],
        cuts: &[usize],
        width: usize,
        part: impl Fn(&Tape, &Var, &[usize], Option<&Var>) -> (Var, Option<Var>),
    ) -> Pieces {
        let tape = Tape::new(&reference());
        let values: Vec<Vec<f64>> =
            (0..2).map(|s| numbers(s, &[lengths[s as usize], width], -1.0, 1.0).to_f64_vec()).collect();
        let seeds: Vec<Vec<f64>> =
            (0..2).map(|s| numbers(40 + s, &[lengths[s as usize], width], -1.0, 1.0).to_f64_vec()).collect();
        let mut state: Option<Var> = None;
        let (mut leaves, mut ends) = (Vec::new(), Vec::new());
        let mut outputs = vec![Vec::new(); 2];
        let borders: Vec<usize> = std::iter::once(0).chain(cuts.iter().copied()).collect();
        for (i, &start) in borders.iter().enumerate() {
            let range = |s: usize| start * width..borders.get(i + 1).map_or(lengths[s], |&end| end) * width;
            let pack = |values: &[Vec<f64>]| {
                let packed = [&values[0][range(0)], &values[1][range(1)]].concat();
                let tokens = packed.len() / width;
                Tensor::from_vec(packed, &[tokens, width]).unwrap()
            };
            let part_lengths = [range(0).len() / width, range(1).len() / width];
            let x = tape.leaf(pack(&values));
            let (y, last) = part(&tape, &x, &part_lengths, state.as_ref());
            let found = y.tensor().to_f64_vec();
            outputs[0].extend(&found[..range(0).len()]);
            outputs[1].extend(&found[range(0).len()..]);
            leaves.push((x, range(0).len()));
            ends.push((y, pack(&seeds)));
            state = last;
        }
        let last = state.unwrap();
        let seed = numbers(50, last.shape(), -1.0, 1.0);
        let mut all: Vec<(&Var, Tensor)> = ends.iter().map(|(y, seed)| (y, seed.clone())).collect();
        all.push((&last, seed));
        let mut found = tape.backward_from(&all).unwrap();
        let mut gradients = vec![Vec::new(); 2];
        for (x, first) in &leaves {
            let gradient = found.take(x).unwrap().to_f64_vec();
            gradients[0].extend(&gradient[..*first]);
            gradients[1].extend(&gradient[*first..]);
        }
        Pieces { outputs, state: last.tensor().clone(), gradients }
    }

    fn assert_close(&self, whole: &Pieces, name: &str) {
        let tensor = |rows: &[Vec<f64>]| {
            let all = rows.concat();
            let len = all.len();
            Tensor::from_vec(all, &[len]).unwrap()
        };
        close(&format!("{name}: output"), &tensor(&self.outputs), &tensor(&whole.outputs), 1e-13);
        close(&format!("{name}: final state"), &self.state, &whole.state, 1e-13);
        close(&format!("{name}: gradient"), &tensor(&self.gradients), &tensor(&whole.gradients), 1e-12);
    }
}

#[test]
fn operands_that_do_not_fit_are_refused_by_name() {
    let tape = Tape::new(&reference());
    let zeros = |shape: &[usize]| Var::from(Tensor::zeros(DType::F32, shape));
    let op = || Conv1d {
        offsets: offsets(&[3]),
        sequence_of: vec![0; 3].into(),
        initial_row: [0].into(),
        final_state: true,
    };
    let (x, w) = (zeros(&[3, 4]), zeros(&[4, 1, 3]));
    let conv = |weight: &Var, bias: Option<&Var>, initial: Option<&Var>| {
        conv1d(&tape, op(), &x, weight, bias, initial).map(drop).unwrap_err().to_string()
    };
    for (message, parts) in [
        (conv(&zeros(&[3, 1, 4]), None, None), ["conv1d", "weight", "[3, 1, 4]"]),
        (conv(&w, Some(&zeros(&[3])), None), ["conv1d", "bias", "[3]"]),
        (conv(&w, None, Some(&zeros(&[1, 4, 3]))), ["conv1d", "[rows, 4, 2]", "[1, 4, 3]"]),
        (conv(&w, None, Some(&zeros(&[]))), ["conv1d", "[rows, 4, 2]", "[]"]),
        (conv(&zeros(&[4, 1, 0]), None, None), ["conv1d", "weight", "[4, 1, 0]"]),
    ] {
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let mut case = Case::scan(&[3], 4, 2, ALL, Used::Both);
    for i in 0..case.operands.len() {
        let good = case.operands[i].take();
        let mut shape = good.as_ref().unwrap().shape().to_vec();
        *shape.last_mut().unwrap() += 1;
        case.operands[i] = Some(Tensor::zeros(DType::F64, &shape));
        let vars: Vec<Option<Var>> = case.operands.iter().map(|o| o.clone().map(Var::from)).collect();
        let message = (case.run)(&tape, &vars).unwrap_err().to_string();
        // A wider u or a makes the others look wrong.
        let named = message.contains(statetune_mamba_model::ops::SCAN_INPUTS[i]) || i == 0 || i == 2;
        assert!(message.starts_with("scan: ") && named, "{i}: {message}");
        case.operands[i] = good;
    }
}
