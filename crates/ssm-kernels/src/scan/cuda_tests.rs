//! The scan on a CUDA device against the reference in double precision: both types of activations, rows of wider
//! matrices, empty sequences between the others, every operand there and not.

use half::bf16;

use super::cuda::{
    CUT, FORCED, ScanGradViews, ScanViews, Strided, TableView, WAYS, boundaries_len, scan_backward, scan_forward,
};
use super::tests::case::{Case, NAMES, OPTIONAL};
use crate::args;
use crate::runtime::Cuda;
use crate::runtime::cuda::{Array, ElementType, Source, View};
use crate::testing::{assert_close, cuda, reference};

/// All optional operands; those of a training step of State-offset Tuning; those and the initial state; and all that the
/// fast kernels know.
const ALL: u32 = (1 << OPTIONAL.len()) - 1;
const OFFSET: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 6;
const INITIAL: u32 = OFFSET | 1 << 3;
const FAST: u32 = INITIAL | 1 << 8;
/// Of them the state offset.
const OFFSETS: u32 = 1 << 6;

/// Which operands are activations `[T, D]` or `[T, N]`: u, delta, b, c, z, c_previous.
fn is_act(i: usize) -> bool {
    [0, 1, 4, 5, 7, 12].contains(&i)
}

/// How a case is laid out on the device.
#[derive(Debug, Clone, Copy)]
struct Layout {
    act: ElementType,
    /// Elements between the rows of an activation beyond its width.
    gap: usize,
    /// An empty sequence before each of the case's.
    empty: bool,
}

const PLAIN: Layout = Layout { act: ElementType::F32, gap: 0, empty: false };
const LAYOUTS: [Layout; 3] = [
    PLAIN,
    Layout { act: ElementType::F32, gap: 6, empty: true },
    Layout { act: ElementType::Bf16, gap: 2, empty: true },
];

impl Layout {
    fn round(self, x: f32) -> f32 {
        if self.act.is_bf16() { bf16::from_f32(x).to_f32() } else { x }
    }

    /// An activation of rows of `width`; sevens between the rows.
    fn upload(self, cuda: &Cuda, values: &[f32], width: usize) -> Array {
        let spread: Vec<f32> = values.chunks(width).flat_map(|row| [row, &vec![7.0; self.gap]].concat()).collect();
        if self.act.is_bf16() {
            cuda.upload(&spread.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()).unwrap()
        } else {
            cuda.upload(&spread).unwrap()
        }
    }

    /// The rows; what lies between them must still be sevens.
    fn download(self, cuda: &Cuda, array: &Array, width: usize, name: &str) -> Vec<f32> {
        let spread: Vec<f32> = if self.act.is_bf16() {
            cuda.download::<bf16>(array.view()).unwrap().into_iter().map(bf16::to_f32).collect()
        } else {
            cuda.download(array.view()).unwrap()
        };
        let rows = spread.chunks(width + self.gap);
        assert!(rows.clone().all(|row| row[width..].iter().all(|&x| x == 7.0)), "{name}: written between rows");
        rows.flat_map(|row| row[..width].to_vec()).collect()
    }

    fn strided(self, array: &Array, width: usize) -> Strided<'_> {
        Strided { view: array.view(), stride: width + self.gap }
    }
}

/// What a run of a case on the device gives: out, the final states of the case's sequences, and its gradients.
#[derive(PartialEq, Debug)]
struct Run {
    out: Vec<f32>,
    final_state: Vec<f32>,
    grads: [Option<Vec<f32>>; 14],
}

fn width(case: &Case<f32>, i: usize) -> usize {
    if [4, 5, 12].contains(&i) { case.n } else { case.d }
}

fn run(cuda: &Cuda, case: &Case<f32>, layout: Layout, wanted: impl Fn(usize) -> bool) -> Run {
    let (d, n, lengths) = (case.d, case.n, case.offsets.len() - 1);
    let (each, states) = (1 + usize::from(layout.empty), d * n);
    let (sequences, tokens) = (lengths * each, case.offsets[lengths]);
    // With empty sequences, sequence s of the case is sequence 2 s + 1 of the device.
    let mut offsets = vec![0];
    let mut row_of = vec![];
    let mut d_final = vec![];
    for s in 0..lengths {
        if layout.empty {
            offsets.push(case.offsets[s] as u32);
            row_of.push(0u32);
            d_final.extend(vec![0.0; states]);
        }
        offsets.push(case.offsets[s + 1] as u32);
        row_of.push(case.row_of[s] as u32);
        d_final.extend(case.d_final.as_ref().map_or(vec![0.0; states], |f| f[s * states..][..states].to_vec()));
    }
    let (offsets, row_of) = (cuda.upload(&offsets).unwrap(), cuda.upload(&row_of).unwrap());
    let d_final = case.d_final.as_ref().map(|_| cuda.upload(&d_final).unwrap());
    let dout = layout.upload(cuda, &case.dout, d);
    let operands: [Option<Array>; 14] = std::array::from_fn(|i| {
        let values = case.operands[i].as_ref()?;
        Some(if is_act(i) { layout.upload(cuda, values, width(case, i)) } else { cuda.upload(values).unwrap() })
    });
    let array = |i: usize| operands[i].as_ref();
    let view = |i: usize| array(i).map(Array::view);
    let strided = |i: usize| array(i).map(|array| layout.strided(array, width(case, i)));
    let table = |i: usize| view(i).map(|values| TableView { values, row_of: row_of.view() });
    let views = ScanViews {
        u: strided(0).unwrap(),
        delta: strided(1).unwrap(),
        delta_bias: view(2),
        delta_softplus: case.softplus,
        a: view(3).unwrap(),
        b: strided(4).unwrap(),
        c: strided(5).unwrap(),
        d_skip: view(6),
        z: strided(7),
        initial: table(8),
        state_scale: table(9),
        state_extra: table(10),
        state_offset: table(11),
        c_previous: strided(12),
        output_offset: table(13),
        offsets: offsets.view(),
        tokens,
        d_inner: d,
        d_state: n,
    };
    let out = layout.upload(cuda, &vec![1.0; tokens * d], d);
    let final_state = cuda.upload(&vec![7.0f32; sequences * states]).unwrap();
    let boundaries = cuda.array(ElementType::F32, boundaries_len(tokens, sequences, d, n)).unwrap();
    scan_forward(cuda, layout.strided(&out, d), Some(final_state.view()), Some(boundaries.view()), &views).unwrap();

    // Not zero, to see that gradients are overwritten.
    let grads: [Option<Array>; 14] = std::array::from_fn(|i| {
        let values = case.operands[i].as_ref().filter(|_| wanted(i))?;
        let sevens = vec![7.0f32; values.len()];
        Some(if is_act(i) { layout.upload(cuda, &sevens, width(case, i)) } else { cuda.upload(&sevens).unwrap() })
    });
    let view = |i: usize| grads[i].as_ref().map(Array::view);
    let strided = |i: usize| grads[i].as_ref().map(|array| layout.strided(array, width(case, i)));
    let asked = ScanGradViews {
        du: strided(0),
        ddelta: strided(1),
        ddelta_bias: view(2),
        da: view(3),
        db: strided(4),
        dc: strided(5),
        dd_skip: view(6),
        dz: strided(7),
        dinitial: view(8),
        dstate_scale: view(9),
        dstate_extra: view(10),
        dstate_offset: view(11),
        dc_previous: strided(12),
        doutput_offset: view(13),
    };
    let d_final: Option<View> = d_final.as_ref().map(Array::view);
    scan_backward(cuda, asked, layout.strided(&dout, d), d_final, boundaries.view(), &views).unwrap();

    let final_state: Vec<f32> = cuda.download(final_state.view()).unwrap();
    let kept = final_state.chunks(states).skip(each - 1).step_by(each).flatten().copied().collect();
    let grads = std::array::from_fn(|i| {
        let grad = grads[i].as_ref()?;
        Some(if is_act(i) {
            layout.download(cuda, grad, width(case, i), NAMES[i])
        } else {
            cuda.download(grad.view()).unwrap()
        })
    });
    Run { out: layout.download(cuda, &out, d, "out"), final_state: kept, grads }
}

/// Forward and backward within the tolerance of the type, times the largest value of each result.
fn check(case: &Case<f32>) {
    for mut layout in LAYOUTS {
        // Then rows begin at whole sixteens of bytes.
        if layout.gap > 0 && case.d.is_multiple_of(8) {
            layout.gap = 8;
        }
        let mut case = case.clone();
        let acts = case.operands.iter_mut().enumerate().filter(|(i, _)| is_act(*i)).filter_map(|(_, o)| o.as_mut());
        for values in acts.chain([&mut case.dout]) {
            values.iter_mut().for_each(|x| *x = layout.round(*x));
        }
        let wide = case.widen();
        let expected = wide.forward(&reference());
        let expected_grads = wide.gradients(&reference(), &expected.boundaries, |_| true);
        let close = |name: &str, found: &[f32], expected: &[f64], act: bool| {
            let largest = expected.iter().fold(1.0, |a: f64, x| a.max(x.abs()));
            let tolerance = if act && layout.act.is_bf16() { 4e-3 } else { 1e-5 };
            assert_close(name, found, expected, tolerance * largest);
        };
        let present = case.operands.each_ref().map(|o| u8::from(o.is_some()));
        let lengths: Vec<usize> = case.offsets.windows(2).map(|w| w[1] - w[0]).take(8).collect();
        let at = format!("{layout:?} {lengths:?} D {} N {} {present:?} softplus {}", case.d, case.n, case.softplus);
        let found = run(&cuda(), &case, layout, |_| true);
        close(&format!("out, {at}"), &found.out, &expected.out, true);
        close(&format!("final state, {at}"), &found.final_state, &expected.final_state, false);
        for i in 0..14 {
            assert_eq!(found.grads[i].is_some(), expected_grads[i].is_some());
            if let (Some(found), Some(expected)) = (&found.grads[i], &expected_grads[i]) {
                close(&format!("d{}, {at}", NAMES[i]), found, expected, is_act(i));
            }
        }
    }
}

#[test]
fn cuda_scan_matches_double_precision_with_sixteen_states() {
    let shapes: [(&[usize], usize); 8] = [
        (&[1], 2),
        (&[5], 3),
        (&[1, 1, 1, 1, 1], 20),
        (&[67], 16),
        (&[32, 64, 33], 34),
        (&[7, 1, 40, 2], 130),
        (&[200], 258),
        (&[16, 4, 31, 333], 64),
    ];
    for (lengths, d) in shapes {
        for present in [0, OFFSET, INITIAL, FAST, ALL] {
            check(&Case::new(lengths, d, 16, present, true));
        }
        check(&Case::new(lengths, d, 16, FAST, false));
    }
    for bit in 0..OPTIONAL.len() {
        check(&Case::new(&[3, 70, 1], 38, 16, 1 << bit, true));
        check(&Case::new(&[3, 70, 1], 38, 16, FAST & !(1 << bit), true));
    }
    let mut without_final = Case::new(&[40, 3], 66, 16, FAST, true);
    without_final.d_final = None;
    check(&without_final);
}

/// Forgets what is forced, also when a check fails: the tests behind it may run in the same thread.
struct Free;

impl Drop for Free {
    fn drop(&mut self) {
        FORCED.set(None);
        CUT.set(None);
    }
}

/// Sequences cut in segments, and these in parts, of which some are short or empty.
#[test]
fn cuda_scan_matches_double_precision_however_sequences_are_cut() {
    let _free = Free;
    for cut in [(1, 1), (2, 1), (2, 3), (3, 2), (5, 4)] {
        CUT.set(Some(cut));
        check(&Case::new(&[205, 1, 96, 33], 38, 16, FAST, true));
    }
    // Segments of many chunks, for which blocks do not begin before the carries are there.
    for cut in [(2, 1), (2, 4), (3, 2)] {
        CUT.set(Some(cut));
        check(&Case::new(&[1100, 1, 70], 38, 16, FAST, true));
        check(&Case::new(&[1100], 38, 16, 0, true));
    }
}

/// Each layout of the forward's blocks, with channels and tokens that fill none of its blocks and tiles.
#[test]
fn cuda_scan_matches_double_precision_in_every_way() {
    let _free = Free;
    for way in WAYS {
        FORCED.set(Some(way));
        for (present, d) in [(0, 130), (FAST, 136)] {
            check(&Case::new(&[3, 96, 1, 33, 205], d, 16, present, true));
        }
        check(&Case::new(&[17, 64], 38, 16, FAST, false));
    }
}

#[test]
fn cuda_scan_matches_double_precision_with_other_numbers_of_states() {
    let shapes: [(&[usize], usize, usize); 7] = [
        (&[1], 1, 1),
        (&[32, 64, 33], 17, 3),
        (&[90, 1], 7, 17),
        (&[12, 33, 1], 130, 4),
        (&[3, 1], 5, 100),
        (&[70], 6, 256),
        (&[130], 64, 2),
    ];
    for (lengths, d, n) in shapes {
        for present in [0, OFFSET, ALL] {
            check(&Case::new(lengths, d, n, present, true));
        }
    }
    for bit in 0..OPTIONAL.len() {
        check(&Case::new(&[3, 41, 1], 19, 5, 1 << bit, true));
        check(&Case::new(&[3, 41, 1], 19, 5, ALL & !(1 << bit), false));
    }
}

/// So many sequences that a block walks over several.
#[test]
fn cuda_scan_matches_double_precision_with_many_sequences() {
    let lengths: Vec<usize> = (0..1300).map(|i| 1 + i % 3).collect();
    for n in [16, 5] {
        let mut case = Case::new(&lengths, 2, n, FAST, true);
        check(&case);
        // And with tables of a single row, which are summed per block.
        case.row_of.fill(0);
        for (i, width) in [(8, 2 * n), (11, 2 * n), (13, 2)] {
            case.operands[i].as_mut().unwrap().truncate(width);
        }
        check(&case);
    }
}

#[test]
fn cuda_scan_gradients_do_not_depend_on_what_else_is_asked() {
    for (present, n) in [(FAST, 16), (ALL, 5)] {
        let case = Case::new(&[3, 67, 1], 36, n, present, true);
        let all = run(&cuda(), &case, PLAIN, |_| true);
        assert_eq!(run(&cuda(), &case, PLAIN, |_| true), all, "bits differ from run to run");
        for i in 0..14 {
            let alone = run(&cuda(), &case, PLAIN, |j| j == i);
            if let (Some(alone), Some(all)) = (&alone.grads[i], &all.grads[i]) {
                let expected: Vec<f64> = all.iter().map(|&x| f64::from(x)).collect();
                assert_close(NAMES[i], alone, &expected, 1e-5);
            }
        }
    }
}

/// Compiled for this test alone.
pub(crate) static POLYNOMIAL: Source = Source::new(
    "scan polynomial",
    concat!(
        include_str!("shared.cuh"),
        r#"
extern "C" __global__ void exponentials(float *y, const float *x, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = ex2_by_polynomial(x[i]);
}
"#
    ),
);

#[test]
fn cuda_the_polynomial_is_the_exponential() {
    let cuda = cuda();
    let mut x: Vec<f32> = (-2520..=2540).map(|i| i as f32 * 0.05).collect();
    x.extend([1e-6, -1e-6, -126.4, -127.0, -1e9, f32::NEG_INFINITY, 128.0, 1e9, f32::INFINITY, f32::NAN]);
    let (to, from) = (cuda.array(ElementType::F32, x.len()).unwrap(), cuda.upload(&x).unwrap());
    let args = args![to.view(), from.view(), x.len() as i32];
    let blocks = x.len().div_ceil(128) as u32;
    cuda.launch(&POLYNOMIAL, &[("ACT_BF16", 1)], "exponentials", [blocks, 1, 1], 128, 0, &args).unwrap();
    for (x, y) in x.into_iter().zip(cuda.download::<f32>(to.view()).unwrap()) {
        let exact = f64::from(x.max(-126.0)).exp2();
        let right = match x {
            x if x.is_nan() => y.is_nan(),
            x if x >= 128.0 => y == f32::INFINITY,
            _ => (f64::from(y) / exact - 1.0).abs() < 3.1e-6,
        };
        assert!(right, "2^{x} is {exact}, not {y}");
    }
}

/// A NaN in any operand reaches the output it belongs to, also where an exponential is a polynomial.
#[test]
fn cuda_scan_passes_nan_on() {
    let _free = Free;
    let bf16 = Layout { act: ElementType::Bf16, ..PLAIN };
    for (present, n, layout) in [(FAST, 16, PLAIN), (ALL, 5, PLAIN), (FAST, 16, bf16), (FAST & !OFFSETS, 16, bf16)] {
        FORCED.set(layout.act.is_bf16().then_some(WAYS[2]));
        let case = Case::new(&[41], 36, n, present, true);
        for i in (0..14).filter(|&i| case.operands[i].is_some()) {
            let mut case = case.clone();
            case.operands[i].as_mut().unwrap()[0] = f32::NAN;
            let out = run(&cuda(), &case, layout, |_| false).out;
            assert!(out[0].is_nan(), "{} with N = {n}", NAMES[i]);
            if ![4, 5, 12].contains(&i) {
                assert!(!out[35].is_nan(), "{} leaks to another channel with N = {n}", NAMES[i]);
            }
        }
    }
}
