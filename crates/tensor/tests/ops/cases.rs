//! The list of cases: every operation with every combination of frozen, trained, present, absent, used and unused.

use std::ops::Range;

use statetune_ssm_kernels::random::{DropoutKey, uniform};
use statetune_tensor::ops::{self, Dropout, DropoutRows, LowRankInput};
use statetune_tensor::{DType, Result, Staged, Tape, Tensor, Var, Weight};

type Build = Box<dyn Fn(&Tape, &[Var]) -> Result<Vec<Var>>>;

/// A computation on leaves.
pub struct Case {
    /// For messages.
    pub name: String,
    /// `f64`, with values that `f32` holds exactly.
    pub leaves: Vec<Tensor>,
    /// The computation; its constants follow the leaves' element type.
    pub build: Build,
}

/// How large the operands are.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// T.
    pub tokens: usize,
    /// I, also `d_model`.
    pub inputs: usize,
    /// Outputs of a split linear layer.
    pub splits: [usize; 3],
    /// r.
    pub rank: usize,
    /// V.
    pub vocab: usize,
}

/// Small enough for a difference per element.
pub const SMALL: Sizes = Sizes { tokens: 5, inputs: 3, splits: [2, 1, 4], rank: 2, vocab: 6 };

/// Odd, past a SIMD register and past a block, and a single row.
pub const LARGE: [Sizes; 2] = [
    Sizes { tokens: 37, inputs: 67, splits: [33, 5, 70], rank: 7, vocab: 131 },
    Sizes { tokens: 1, inputs: 9, splits: [8, 17, 1], rank: 1, vocab: 5 },
];

/// Numbers in (-1, 1) that `f32` holds.
pub fn numbers(stream: u64, shape: &[usize]) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    uniform(&mut values, -1.0, 1.0, 23, stream);
    Tensor::from_vec(values, shape).unwrap().cast(DType::F64)
}

/// A constant of the element type of `like`.
pub fn constant(like: &Var, stream: u64, shape: &[usize]) -> Var {
    numbers(stream, shape).cast(like.tensor().dtype()).into()
}

/// A weight that is the same numbers in every path: it is stored in half precision.
pub fn stored(dtype: DType, shape: &[usize]) -> Weight {
    Weight::new(numbers(99, shape).cast(dtype)).unwrap()
}

/// A case whose leaves have these shapes.
pub fn case(name: &str, leaves: &[&[usize]], build: impl Fn(&Tape, &[Var]) -> Result<Vec<Var>> + 'static) -> Case {
    let leaves = leaves.iter().enumerate().map(|(i, shape)| numbers(i as u64, shape)).collect();
    Case { name: name.into(), leaves, build: Box::new(build) }
}

/// Every case at these sizes.
pub fn all(sizes: Sizes) -> Vec<Case> {
    let mut cases = elementwise(sizes);
    cases.extend(lookups(sizes));
    cases.extend(norms(sizes));
    cases.extend(linears(sizes));
    cases.extend(losses(sizes));
    cases.extend(crate::patch_cases::all(sizes));
    cases
}

fn elementwise(Sizes { tokens: t, inputs: i, rank: r, .. }: Sizes) -> Vec<Case> {
    let shape: &[usize] = &[t, i];
    let one = |y: Result<Var>| y.map(|y| vec![y]);
    vec![
        case("add", &[shape, shape], move |tape, v| one(ops::add(tape, &v[0], &v[1]))),
        case("add, one side constant", &[shape], move |tape, v| {
            one(ops::add(tape, &constant(&v[0], 7, &[t, i]), &v[0]))
        }),
        case("add of a value to itself", &[shape], move |tape, v| one(ops::add(tape, &v[0], &v[0]))),
        case("scale", &[shape], move |tape, v| one(ops::scale(tape, &v[0], -1.75))),
        case("neg_exp", &[shape], move |tape, v| one(ops::neg_exp(tape, &v[0]))),
        case("reshape", &[shape], move |tape, v| {
            // Scaled afterwards, so that the gradient has to find its way back into the old shape.
            let y = ops::reshape(tape, &v[0], &[i, 1, t])?;
            one(ops::scale(tape, &y, 0.5))
        }),
        case("matmul", &[&[t, r], &[r, i]], move |tape, v| one(ops::matmul(tape, &v[0], &v[1]))),
        case("matmul, first constant", &[&[r, i]], move |tape, v| {
            one(ops::matmul(tape, &constant(&v[0], 7, &[t, r]), &v[0]))
        }),
        case("matmul, second constant", &[&[t, r]], move |tape, v| {
            one(ops::matmul(tape, &v[0], &constant(&v[0], 7, &[r, i])))
        }),
        case("dropout", &[shape], move |tape, v| {
            let rows = DropoutRows {
                example: (0..t as u64).map(|row| 40 + row / 3).collect(),
                position: (0..t as u32).map(|row| row % 3).collect(),
            };
            let key = DropoutKey { seed: 1, step: 2, site: 3 };
            one(ops::dropout(tape, &v[0], Dropout { probability: 0.4, key, step: None, rows }))
        }),
    ]
}

/// Ids below `count` with repetitions, and some never named.
pub fn ids(len: usize, count: usize) -> Staged<u32> {
    (0..len).map(|i| ((i * i + 1) % count) as u32).collect()
}

fn lookups(Sizes { tokens: t, inputs: i, vocab, .. }: Sizes) -> Vec<Case> {
    vec![
        case("embedding, trained", &[&[vocab, i]], move |tape, v| {
            let compute = v[0].tensor().dtype();
            let unused = stored(DType::Bf16, &[1, 1]);
            Ok(vec![ops::embedding(tape, &unused, Some(&v[0]), &ids(t, vocab), compute)?])
        }),
        case("embedding, frozen, below a trained scale", &[&[t, i]], move |tape, v| {
            let compute = v[0].tensor().dtype();
            let x = ops::embedding(tape, &stored(DType::F16, &[vocab, i]), None, &ids(t, vocab), compute)?;
            Ok(vec![ops::add(tape, &x, &v[0])?])
        }),
        case("select_rows", &[&[t, i]], move |tape, v| Ok(vec![ops::select_rows(tape, &v[0], &ids(t + 2, t))?])),
    ]
}

fn norms(Sizes { tokens: t, inputs: i, .. }: Sizes) -> Vec<Case> {
    let mut cases = Vec::new();
    for residual in [false, true] {
        for (used, which) in [("both", [true, true]), ("normed", [true, false]), ("sum", [false, true])] {
            let name = format!("add_rms_norm, residual {residual}, {used} used");
            let leaves: [&[usize]; 3] = [&[t, i], &[i], &[t, i]];
            let leaves = if residual { &leaves[..] } else { &leaves[..2] };
            cases.push(case(&name, leaves, move |tape, v| {
                let (normed, sum) = ops::add_rms_norm(tape, &v[0], v.get(2), &v[1], 1e-5)?;
                Ok([normed, sum].into_iter().zip(which).filter(|(_, used)| *used).map(|(y, _)| y).collect())
            }));
        }
    }
    cases.push(case("add_rms_norm, only the weight trained", &[&[i]], move |tape, v| {
        let (x, residual) = (constant(&v[0], 5, &[t, i]), constant(&v[0], 6, &[t, i]));
        Ok(vec![ops::add_rms_norm(tape, &x, Some(&residual), &v[0], 1e-5)?.0])
    }));
    cases.push(case("add_rms_norm, only the residual trained", &[&[t, i]], move |tape, v| {
        let (x, weight) = (constant(&v[0], 5, &[t, i]), constant(&v[0], 6, &[i]));
        let (normed, sum) = ops::add_rms_norm(tape, &x, Some(&v[0]), &weight, 0.1)?;
        Ok(vec![normed, sum])
    }));
    cases
}

/// What hangs on a linear layer. `None` where an operand is absent, `Some(false)` where it is constant.
#[derive(Clone, Copy)]
struct Hung {
    x: bool,
    weight_trained: bool,
    bias: Option<bool>,
    low_rank: bool,
    own_inputs: bool,
    used: [bool; 3],
}

fn linears(sizes: Sizes) -> Vec<Case> {
    let plain =
        Hung { x: true, weight_trained: false, bias: None, low_rank: false, own_inputs: false, used: [true; 3] };
    let low_rank = Hung { low_rank: true, ..plain };
    let whole = Hung { weight_trained: true, bias: Some(true), ..low_rank };
    [
        ("frozen", plain),
        ("frozen, constant bias", Hung { bias: Some(false), ..plain }),
        ("trained", Hung { weight_trained: true, ..plain }),
        ("trained, x constant", Hung { x: false, weight_trained: true, ..plain }),
        ("bias alone trained", Hung { x: false, bias: Some(true), ..plain }),
        ("second output unused", Hung { weight_trained: true, bias: Some(true), used: [true, false, true], ..plain }),
        ("low-rank", low_rank),
        ("low-rank, x constant", Hung { x: false, ..low_rank }),
        ("low-rank, own inputs", Hung { own_inputs: true, ..low_rank }),
        ("low-rank, own inputs, x constant", Hung { x: false, own_inputs: true, ..low_rank }),
        ("low-rank, only the first output used", Hung { used: [true, false, false], ..low_rank }),
        ("low-rank, only the last output used", Hung { used: [false, false, true], ..whole }),
        ("everything", whole),
        ("everything, own inputs", Hung { own_inputs: true, ..whole }),
    ]
    .into_iter()
    .map(|(name, hung)| linear(name, sizes, hung))
    .collect()
}

/// Three additions that overlap: on all rows, on the last two outputs, on the middle one. With `own_inputs`, the second
/// multiplies another activation than the layer does.
fn linear(name: &str, Sizes { tokens: t, inputs: i, splits, rank: r, .. }: Sizes, hung: Hung) -> Case {
    let outputs: usize = splits.iter().sum();
    let additions: Vec<(Range<usize>, f64)> = match hung.low_rank {
        true => vec![(0..outputs, 0.5), (splits[0]..outputs, -2.0), (splits[0]..splits[0] + splits[1], 1.5)],
        false => Vec::new(),
    };
    let mut leaves: Vec<Vec<usize>> = Vec::new();
    leaves.extend(hung.x.then(|| vec![t, i]));
    leaves.extend(hung.weight_trained.then(|| vec![outputs, i]));
    leaves.extend((hung.bias == Some(true)).then(|| vec![outputs]));
    for (rows, _) in &additions {
        leaves.extend([vec![r, i], vec![rows.len(), r]]);
    }
    leaves.extend(hung.own_inputs.then(|| vec![t, i]));
    let leaves: Vec<&[usize]> = leaves.iter().map(Vec::as_slice).collect();
    case(&format!("linear, {name}"), &leaves, move |tape, v| {
        let mut next = v.iter();
        let mut leaf = || next.next().expect("one variable per leaf");
        let x = if hung.x { leaf().clone() } else { constant(&v[0], 50, &[t, i]) };
        let weight = hung.weight_trained.then(&mut leaf);
        let bias = hung.bias.map(|trained| if trained { leaf().clone() } else { constant(&v[0], 51, &[outputs]) });
        let factors: Vec<[&Var; 2]> = additions.iter().map(|_| [leaf(), leaf()]).collect();
        let own = hung.own_inputs.then(&mut leaf);
        let parts: Vec<LowRankInput<'_>> = additions
            .iter()
            .zip(&factors)
            .enumerate()
            .map(|(n, ((rows, scale), [a, b]))| LowRankInput {
                rows: rows.clone(),
                scale: *scale,
                x: own.filter(|_| n == 1),
                a: Some(*a),
                b,
            })
            .collect();
        let frozen = stored(DType::Bf16, &[outputs, i]);
        let y = ops::linear(tape, &x, &frozen, weight, bias.as_ref(), &splits, &parts)?;
        Ok(y.into_iter().zip(hung.used).filter(|(_, used)| *used).map(|(y, _)| y).collect())
    })
}

fn losses(Sizes { tokens: t, inputs: i, vocab, .. }: Sizes) -> Vec<Case> {
    let loss = move |tape: &Tape, x: &Var, trained: Option<&Var>| {
        let frozen = stored(DType::Bf16, &[vocab, i]);
        Ok(vec![ops::linear_cross_entropy(tape, x, &frozen, trained, &[], &ids(t, vocab), &3.5.into())?.loss])
    };
    vec![
        case("linear_cross_entropy, frozen head", &[&[t, i]], move |tape, v| loss(tape, &v[0], None)),
        case("linear_cross_entropy, trained head", &[&[t, i], &[vocab, i]], move |tape, v| {
            loss(tape, &v[0], Some(&v[1]))
        }),
        case("linear_cross_entropy, x constant", &[&[vocab, i]], move |tape, v| {
            loss(tape, &constant(&v[0], 5, &[t, i]), Some(&v[0]))
        }),
    ]
}
