//! Operands that do not fit are refused by name, with both shapes or element types; nothing panics.

use statetune_ssm_kernels::Level;
use statetune_ssm_kernels::random::DropoutKey;
use statetune_tensor::ops::{self, Dropout, DropoutRows, HeadAddition, LowRankInput};
use statetune_tensor::{DType, Device, Result, Staged, Tape, Tensor, TensorError, Var, Weight};

fn var(shape: &[usize]) -> Var {
    Tensor::zeros(DType::F32, shape).into()
}

fn typed(dtype: DType, shape: &[usize]) -> Var {
    Tensor::zeros(dtype, shape).into()
}

fn weight(rows: usize, columns: usize) -> Weight {
    Weight::new(Tensor::zeros(DType::Bf16, &[rows, columns])).unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("accepted, expected an error with {parts:?}") };
    let message = error.to_string();
    assert!(parts.iter().all(|part| message.contains(part)), "`{message}` lacks one of {parts:?}");
}

fn tape() -> Tape {
    Tape::new(&Device::cpu(Level::best(), 1).unwrap())
}

#[test]
fn shapes_that_do_not_fit() {
    let t = &tape();
    let x = var(&[3, 4]);
    refused(ops::add(t, &x, &var(&[4, 3])), &["add", "[3, 4]", "[4, 3]"]);
    refused(ops::reshape(t, &x, &[5, 2]), &["reshape", "[3, 4]", "[5, 2]"]);
    refused(ops::matmul(t, &x, &var(&[5, 2])), &["matmul", "second factor", "[4, n]", "[5, 2]"]);
    refused(ops::matmul(t, &x, &var(&[4])), &["matmul", "a matrix", "[4]"]);
    refused(ops::select_rows(t, &x, &Staged::from([0, 3])), &["select_rows", "below 3", "[3]"]);
    refused(ops::embedding(t, &weight(5, 4), None, &Staged::from([5]), DType::F32), &["embedding", "below 5", "[5]"]);
    refused(ops::add_rms_norm(t, &x, Some(&var(&[3, 5])), &var(&[4]), 1e-5), &["residual", "[3, 4]", "[3, 5]"]);
    refused(ops::add_rms_norm(t, &x, None, &var(&[3]), 1e-5), &["add_rms_norm", "weight", "[4]", "[3]"]);
    let rows = DropoutRows { example: Staged::from([1, 2, 3]), position: Staged::from([0]) };
    let key = DropoutKey { seed: 0, step: 0, site: 0 };
    refused(ops::dropout(t, &x, Dropout { probability: 0.1, key, step: None, rows }), &["dropout", "[3]", "[3, 1]"]);
}

#[test]
fn linear_layers_that_do_not_fit() {
    let t = &tape();
    let x = var(&[3, 4]);
    let linear = |w: &Weight, bias: Option<&Var>, splits: &[usize], parts: &[LowRankInput<'_>]| {
        ops::linear(t, &x, w, None, bias, splits, parts)
    };
    let w = weight(6, 4);
    refused(linear(&weight(6, 5), None, &[6], &[]), &["linear", "[T, 5]", "[3, 4]"]);
    refused(linear(&w, None, &[2, 3], &[]), &["linear", "splits", "6", "[2, 3]"]);
    refused(linear(&w, Some(&var(&[5])), &[6], &[]), &["linear", "bias", "[6]", "[5]"]);
    let (a, b, x_other) = (var(&[2, 4]), var(&[6, 2]), var(&[2, 4]));
    let (wide, tall) = (var(&[2, 5]), var(&[6, 3]));
    let part = |rows, a, b, x| [LowRankInput { rows, scale: 1.0, x, a: Some(a), b }];
    refused(linear(&w, None, &[6], &part(0..6, &wide, &b, None)), &["low-rank A", "[r, 4]", "[2, 5]"]);
    refused(linear(&w, None, &[6], &part(0..6, &a, &tall, None)), &["low-rank B", "[6, 2]", "[6, 3]"]);
    refused(linear(&w, None, &[6], &part(0..6, &a, &b, Some(&x_other))), &["low-rank input", "[3, 4]", "[2, 4]"]);
    refused(linear(&w, None, &[3, 3], &part(1..7, &a, &b, None)), &["low-rank rows", "[3, 3]", "[1, 7]"]);
    let half = var(&[3, 2]);
    refused(linear(&w, None, &[2, 4], &part(2..5, &a, &half, None)), &["low-rank rows", "[2, 4]", "[2, 5]"]);
    assert!(linear(&w, None, &[2, 1, 3], &part(2..3, &a, &var(&[1, 2]), None)).is_ok());
}

#[test]
fn losses_that_do_not_fit() {
    let t = &tape();
    let x = var(&[2, 4]);
    let loss = |w: &Weight, targets: &[u32]| {
        ops::linear_cross_entropy(t, &x, w, None, &[], &Staged::from(targets), &1.0.into())
    };
    refused(loss(&weight(5, 3), &[0, 1]), &["linear_cross_entropy", "weight", "[V, 4]", "[5, 3]"]);
    refused(loss(&weight(5, 4), &[0]), &["linear_cross_entropy", "targets", "[2]", "[1]"]);
    refused(loss(&weight(5, 4), &[0, 5]), &["linear_cross_entropy", "target", "below 5", "[5]"]);
}

#[test]
fn columns_that_do_not_fit() {
    let t = &tape();
    let x = var(&[3, 4]);
    refused(ops::join_columns(t, &[&x, &var(&[2, 4])]), &["join_columns", "[3, n]", "[2, 4]"]);
    refused(ops::join_columns(t, &[&x, &var(&[3])]), &["join_columns", "a matrix", "[3]"]);
    refused(ops::take_columns(t, &x, 2..5), &["take_columns", "0..4", "[5]"]);
    refused(ops::take_columns(t, &x, 2..2), &["take_columns", "0..4"]);
    refused(ops::place_columns(t, &x, 2, 5), &["place_columns", "inside 5 columns", "[3, 4]"]);
    refused(ops::gather_columns(t, &x, &Staged::from([1, 4])), &["gather_columns", "below 4"]);
    refused(ops::gather_columns(t, &x, &Staged::from(Vec::new())), &["gather_columns", "some"]);
    refused(ops::scale_columns(t, &x, &var(&[3])), &["scale_columns", "gain", "[4]", "[3]"]);
}

#[test]
fn values_that_do_not_fit() {
    let t = &tape();
    let x = var(&[3, 4]);
    refused(ops::transpose(t, &var(&[4])), &["transpose", "a matrix", "[4]"]);
    refused(ops::mul(t, &x, &var(&[4, 3])), &["mul", "[3, 4]", "[4, 3]"]);
    refused(ops::sum_last(t, &var(&[2, 3, 4])), &["sum_last", "a matrix", "[2, 3, 4]"]);
    refused(ops::scale_rows(t, &x, &var(&[4])), &["scale_rows", "scale", "[3]", "[4]"]);
    refused(ops::add_row(t, &x, &var(&[3])), &["add_row", "row", "[4]", "[3]"]);
    refused(ops::scatter(t, &var(&[3]), &Staged::from([0, 1]), &[2, 2]), &["scatter", "values", "[2]", "[3]"]);
    refused(ops::scatter(t, &var(&[2]), &Staged::from([0, 4]), &[2, 2]), &["scatter", "below 4", "[4]"]);
    refused(
        ops::dora_gain(t, &var(&[3]), &Tensor::from_vec(vec![1.0, 2.0], &[2]).unwrap()),
        &["dora_gain", "magnitude", "[2]", "[3]"],
    );
}

/// Without an A, B multiplies an input of its own, as wide as B.
#[test]
fn additions_without_an_a_that_do_not_fit() {
    let t = &tape();
    let (x, w, b, chosen) = (var(&[3, 4]), weight(6, 4), var(&[6, 2]), var(&[3, 2]));
    let linear = |x_own: Option<&Var>, b: &Var| {
        let part = LowRankInput { rows: 0..6, scale: 1.0, x: x_own, a: None, b };
        ops::linear(t, &x, &w, None, None, &[6], &[part])
    };
    assert!(linear(Some(&chosen), &b).is_ok());
    refused(linear(None, &b), &["linear"]);
    refused(linear(Some(&var(&[2, 2])), &b), &["low-rank input", "[3, 2]", "[2, 2]"]);
    refused(linear(Some(&chosen), &var(&[6, 3])), &["low-rank B", "[6, 2]", "[6, 3]"]);
    let loss = |projected: &Var, b: &Var| {
        let addition = HeadAddition { projected: projected.clone(), b, scale: 1.0 };
        ops::linear_cross_entropy(t, &x, &w, None, &[addition], &Staged::from([0, 1, 2]), &1.0.into()).map(drop)
    };
    assert!(loss(&chosen, &b).is_ok());
    refused(loss(&var(&[2, 2]), &b), &["linear_cross_entropy", "addition", "[3, 2]", "[2, 2]"]);
    refused(loss(&chosen, &var(&[5, 2])), &["linear_cross_entropy", "addition", "[6, 2]"]);
}

/// Nothing is computed in a storage type, and a trained weight has the type its gradient will have.
#[test]
fn storage_types_are_refused() {
    let t = &tape();
    for dtype in [DType::Bf16, DType::F16] {
        let (x, row) = (typed(dtype, &[3, 4]), typed(dtype, &[4]));
        let storage = &[dtype.to_string(), "storage type".into()];
        let refused = |op: &str, error: TensorError| {
            assert!(matches!(error, TensorError::NotComputed { .. }), "{op}: {error}");
            refused::<()>(Err(error), &[op, &storage[0], &storage[1]]);
        };
        refused("add", ops::add(t, &x, &x).unwrap_err());
        refused("scale", ops::scale(t, &x, 2.0).unwrap_err());
        refused("neg_exp", ops::neg_exp(t, &x).unwrap_err());
        refused("matmul", ops::matmul(t, &x, &typed(dtype, &[4, 2])).unwrap_err());
        refused("join_columns", ops::join_columns(t, &[&x, &x]).unwrap_err());
        refused("take_columns", ops::take_columns(t, &x, 1..2).unwrap_err());
        refused("place_columns", ops::place_columns(t, &x, 1, 6).unwrap_err());
        refused("gather_columns", ops::gather_columns(t, &x, &Staged::from([1])).unwrap_err());
        refused("scale_columns", ops::scale_columns(t, &x, &row).unwrap_err());
        refused("transpose", ops::transpose(t, &x).unwrap_err());
        refused("mul", ops::mul(t, &x, &x).unwrap_err());
        refused("sum_last", ops::sum_last(t, &x).unwrap_err());
        refused("scale_rows", ops::scale_rows(t, &x, &typed(dtype, &[3])).unwrap_err());
        refused("tanh", ops::tanh(t, &x).unwrap_err());
        refused("add_row", ops::add_row(t, &x, &row).unwrap_err());
        refused("scatter", ops::scatter(t, &row, &Staged::from([3, 1, 0, 2]), &[2, 2]).unwrap_err());
        refused("dora_gain", ops::dora_gain(t, &row, &Tensor::from_vec(vec![1.0; 4], &[4]).unwrap()).unwrap_err());
        refused("select_rows", ops::select_rows(t, &x, &Staged::from([0])).unwrap_err());
        refused("add_rms_norm", ops::add_rms_norm(t, &x, None, &row, 1e-5).map(drop).unwrap_err());
        refused("linear", ops::linear(t, &x, &weight(2, 4), None, None, &[2], &[]).unwrap_err());
        refused("embedding", ops::embedding(t, &weight(2, 4), None, &Staged::from([0]), dtype).unwrap_err());
        let targets = Staged::from([0, 1, 1]);
        let loss = ops::linear_cross_entropy(t, &x, &weight(2, 4), None, &[], &targets, &1.0.into()).map(drop);
        refused("linear_cross_entropy", loss.unwrap_err());
    }
}

#[test]
fn element_types_do_not_mix() {
    let t = &tape();
    let (x, wide) = (var(&[3, 4]), typed(DType::F64, &[3, 4]));
    refused(ops::add(t, &x, &wide), &["add", "[3, 4]", "f32", "f64"]);
    refused(ops::matmul(t, &x, &typed(DType::F64, &[4, 2])), &["matmul", "[4, 2]", "f32", "f64"]);
    refused(ops::add_rms_norm(t, &x, Some(&wide), &var(&[4]), 1e-5), &["add_rms_norm", "f32", "f64"]);
    refused(ops::join_columns(t, &[&x, &wide]), &["join_columns", "f32", "f64"]);
    refused(ops::mul(t, &x, &wide), &["mul", "f32", "f64"]);
    let row = typed(DType::F64, &[4]);
    refused(ops::scale_columns(t, &x, &row), &["scale_columns", "f32", "f64"]);
    refused(ops::add_row(t, &x, &row), &["add_row", "f32", "f64"]);
    refused(ops::scale_rows(t, &x, &typed(DType::F64, &[3])), &["scale_rows", "f32", "f64"]);
    for dtype in [DType::F64, DType::Bf16] {
        let (w, name) = (typed(dtype, &[2, 4]), dtype.to_string());
        let frozen = weight(2, 4);
        let linear = ops::linear(t, &x, &frozen, Some(&w), None, &[2], &[]);
        refused(linear, &["linear", "trained weight", "f32", &name]);
        let embedding = ops::embedding(t, &frozen, Some(&w), &Staged::from([1]), DType::F32);
        refused(embedding, &["embedding", "trained weight", "f32", &name]);
        let loss = ops::linear_cross_entropy(t, &x, &frozen, Some(&w), &[], &Staged::from([0, 1, 1]), &1.0.into());
        refused(loss.map(drop), &["linear_cross_entropy", "trained weight", "f32", &name]);
    }
}
