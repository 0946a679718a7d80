//! More of the list of cases: what patches are made of. Columns joined, cut, placed, picked and scaled; small functions of
//! trained tensors; additions without an A, to a linear layer and to the head.

use statetune_tensor::ops::{self, HeadAddition, LowRankInput};
use statetune_tensor::{DType, Result, Staged, Tape, Tensor, Var};

use crate::cases::{Case, Sizes, case, constant, ids, stored};

/// Every case at these sizes.
pub fn all(sizes: Sizes) -> Vec<Case> {
    let mut cases = columns(sizes);
    cases.extend(values(sizes));
    cases.extend(gains(sizes));
    cases.extend(chosen_inputs(sizes));
    cases.extend(head_additions(sizes));
    cases
}

fn one(y: Result<Var>) -> Result<Vec<Var>> {
    y.map(|y| vec![y])
}

/// Some columns below `count`, in no order, one of them twice where there are two.
fn picked(count: usize) -> Staged<u32> {
    let mut columns: Vec<u32> = (0..count as u32).rev().step_by(2).collect();
    columns.push(columns[0]);
    columns.into()
}

fn columns(Sizes { tokens: t, inputs: i, rank: r, .. }: Sizes) -> Vec<Case> {
    vec![
        case("join_columns", &[&[t, i], &[t, 1], &[t, r]], move |tape, v| {
            one(ops::join_columns(tape, &[&v[0], &v[1], &v[2]]))
        }),
        case("join_columns, the middle constant", &[&[t, i], &[t, r]], move |tape, v| {
            one(ops::join_columns(tape, &[&v[0], &constant(&v[0], 7, &[t, 2]), &v[1]]))
        }),
        case("join_columns of a value with itself", &[&[t, i]], move |tape, v| {
            one(ops::join_columns(tape, &[&v[0], &v[0]]))
        }),
        case("take_columns, inner", &[&[t, i]], move |tape, v| one(ops::take_columns(tape, &v[0], 1..i - 1))),
        case("take_columns, last", &[&[t, i]], move |tape, v| one(ops::take_columns(tape, &v[0], i - 1..i))),
        case("take_columns, all", &[&[t, i]], move |tape, v| one(ops::take_columns(tape, &v[0], 0..i))),
        case("place_columns, inner", &[&[t, i]], move |tape, v| one(ops::place_columns(tape, &v[0], 2, i + 5))),
        case("place_columns, first", &[&[t, i]], move |tape, v| one(ops::place_columns(tape, &v[0], 0, i + 1))),
        case("place_columns, all", &[&[t, i]], move |tape, v| one(ops::place_columns(tape, &v[0], 0, i))),
        case("gather_columns", &[&[t, i]], move |tape, v| one(ops::gather_columns(tape, &v[0], &picked(i)))),
        case("scale_columns", &[&[t, i], &[i]], move |tape, v| one(ops::scale_columns(tape, &v[0], &v[1]))),
        case("scale_columns, x constant", &[&[i]], move |tape, v| {
            one(ops::scale_columns(tape, &constant(&v[0], 7, &[t, i]), &v[0]))
        }),
        case("scale_columns, gain constant", &[&[t, i]], move |tape, v| {
            one(ops::scale_columns(tape, &v[0], &constant(&v[0], 7, &[i])))
        }),
    ]
}

fn values(Sizes { tokens: t, inputs: i, rank: r, .. }: Sizes) -> Vec<Case> {
    let shape: &[usize] = &[t, i];
    vec![
        // Scaled by rows afterwards, so that the gradient has to find its way back.
        case("transpose", &[shape], move |tape, v| {
            let y = ops::transpose(tape, &v[0])?;
            one(ops::scale_rows(tape, &y, &constant(&v[0], 7, &[i])))
        }),
        case("mul", &[shape, shape], move |tape, v| one(ops::mul(tape, &v[0], &v[1]))),
        case("mul, one side constant", &[shape], move |tape, v| {
            one(ops::mul(tape, &constant(&v[0], 7, &[t, i]), &v[0]))
        }),
        case("mul of a value with itself", &[shape], move |tape, v| one(ops::mul(tape, &v[0], &v[0]))),
        case("sum_last", &[shape], move |tape, v| one(ops::sum_last(tape, &v[0]))),
        case("scale_rows", &[shape, &[t]], move |tape, v| one(ops::scale_rows(tape, &v[0], &v[1]))),
        case("scale_rows, x constant", &[&[t]], move |tape, v| {
            one(ops::scale_rows(tape, &constant(&v[0], 7, &[t, i]), &v[0]))
        }),
        case("scale_rows, scale constant", &[shape], move |tape, v| {
            one(ops::scale_rows(tape, &v[0], &constant(&v[0], 7, &[t])))
        }),
        case("tanh", &[shape], move |tape, v| one(ops::tanh(tape, &v[0]))),
        case("add_row", &[shape, &[i]], move |tape, v| one(ops::add_row(tape, &v[0], &v[1]))),
        case("add_row, x constant", &[&[i]], move |tape, v| {
            one(ops::add_row(tape, &constant(&v[0], 7, &[t, i]), &v[0]))
        }),
        case("add_row, row constant", &[shape], move |tape, v| {
            one(ops::add_row(tape, &v[0], &constant(&v[0], 7, &[i])))
        }),
        case("scatter", &[&[t]], move |tape, v| {
            // Every third place, from the last on.
            let entries: Staged<u32> = (0..t as u32).rev().map(|at| 3 * at + 1).collect();
            one(ops::scatter(tape, &v[0], &entries, &[t, 3]))
        }),
        case("a matrix behind an MLP", &[&[r, i], &[t, i], &[t], &[i, t], &[i]], move |tape, v| {
            let layer =
                |x: &Var, w: &Var, b: &Var| ops::add_row(tape, &ops::matmul(tape, x, &ops::transpose(tape, w)?)?, b);
            let hidden = ops::tanh(tape, &layer(&v[0], &v[1], &v[2])?)?;
            one(layer(&hidden, &v[3], &v[4]))
        }),
    ]
}

fn gains(Sizes { tokens: t, inputs: i, .. }: Sizes) -> Vec<Case> {
    let norms = (0..i).map(|at| 0.5 + at as f64 / 4.0).collect::<Vec<f64>>();
    let norms = Tensor::from_vec(norms, &[i]).unwrap();
    let again = norms.clone();
    vec![
        case("dora_gain with constant norms", &[&[i]], move |tape, v| one(ops::dora_gain(tape, &v[0], &norms))),
        case("dora_gain on a product", &[&[t, i], &[i]], move |tape, v| {
            let gain = ops::dora_gain(tape, &v[1], &again)?;
            one(ops::scale_columns(tape, &v[0], &gain))
        }),
    ]
}

/// B multiplies inputs of its own without an A between: chosen columns of x, or what A and a diagonal have made.
fn chosen_inputs(Sizes { tokens: t, inputs: i, splits, rank: r, .. }: Sizes) -> Vec<Case> {
    let outputs: usize = splits.iter().sum();
    let layer = move |tape: &Tape, x: &Var, chosen: &Var, b: &Var| {
        let frozen = stored(DType::Bf16, &[outputs, i]);
        let part = LowRankInput { rows: splits[0]..outputs, scale: -0.5, x: Some(chosen), a: None, b };
        ops::linear(tape, x, &frozen, None, None, &splits, &[part])
    };
    let rows = outputs - splits[0];
    let count = picked(i).len();
    vec![
        case("linear, B alone", &[&[t, i], &[t, r], &[rows, r]], move |tape, v| layer(tape, &v[0], &v[1], &v[2])),
        case("linear, B alone, its input constant", &[&[t, i], &[rows, r]], move |tape, v| {
            layer(tape, &v[0], &constant(&v[0], 7, &[t, r]), &v[1])
        }),
        case("linear, B alone and constant", &[&[t, r]], move |tape, v| {
            let (x, b) = (constant(&v[0], 7, &[t, i]), constant(&v[0], 8, &[rows, r]));
            layer(tape, &x, &v[0], &b)
        }),
        case("linear, B on chosen columns", &[&[t, i], &[rows, count]], move |tape, v| {
            layer(tape, &v[0], &ops::gather_columns(tape, &v[0], &picked(i))?, &v[1])
        }),
        case("linear, a diagonal between frozen factors", &[&[t, i], &[r], &[rows]], move |tape, v| {
            let (a, b) = (constant(&v[0], 7, &[r, i]), constant(&v[0], 8, &[rows, r]));
            let projected = ops::matmul(tape, &v[0], &ops::transpose(tape, &a)?)?;
            let projected = ops::scale_columns(tape, &projected, &v[1])?;
            layer(tape, &v[0], &projected, &ops::scale_rows(tape, &b, &v[2])?)
        }),
    ]
}

fn add<'a>(projected: &Var, b: &'a Var, scale: f64) -> HeadAddition<'a> {
    HeadAddition { projected: projected.clone(), b, scale }
}

/// Additions to the logits, on a frozen and on a trained head.
fn head_additions(Sizes { tokens: t, inputs: i, rank: r, vocab, .. }: Sizes) -> Vec<Case> {
    let loss = move |tape: &Tape, x: &Var, trained: Option<&Var>, additions: &[HeadAddition<'_>]| {
        let frozen = stored(DType::Bf16, &[vocab, i]);
        one(ops::linear_cross_entropy(tape, x, &frozen, trained, additions, &ids(t, vocab), &3.5.into())
            .map(|out| out.loss))
    };
    vec![
        case("linear_cross_entropy, an addition", &[&[t, i], &[t, r], &[vocab, r]], move |tape, v| {
            loss(tape, &v[0], None, &[add(&v[1], &v[2], -1.5)])
        }),
        case("linear_cross_entropy, only an addition's B", &[&[vocab, r]], move |tape, v| {
            let (x, projected) = (constant(&v[0], 5, &[t, i]), constant(&v[0], 6, &[t, r]));
            loss(tape, &x, None, &[add(&projected, &v[0], 0.5)])
        }),
        case("linear_cross_entropy, only an addition's input", &[&[t, r]], move |tape, v| {
            let (x, b) = (constant(&v[0], 5, &[t, i]), constant(&v[0], 6, &[vocab, r]));
            loss(tape, &x, None, &[add(&v[0], &b, 0.5)])
        }),
        case(
            "linear_cross_entropy, two additions on a trained head",
            &[&[t, i], &[vocab, i], &[t, r], &[vocab, r], &[vocab, 1]],
            move |tape, v| {
                // The second is a bias.
                let ones = ops::scale(tape, &constant(&v[0], 5, &[t, 1]), 0.0)?;
                let ones = ops::neg_exp(tape, &ones)?;
                loss(tape, &v[0], Some(&v[1]), &[add(&v[2], &v[3], 0.5), add(&ones, &v[4], -1.0)])
            },
        ),
        case("linear_cross_entropy, a low-rank addition of x", &[&[t, i], &[r, i], &[vocab, r]], move |tape, v| {
            let projected = ops::matmul(tape, &v[0], &ops::transpose(tape, &v[1])?)?;
            loss(tape, &v[0], None, &[add(&projected, &v[2], 2.0)])
        }),
    ]
}
