//! A trained matrix [k, w] that may be the output of an MLP in training (Li and Liang 2021, arXiv 2101.00190, section 4.3):
//! what prompts and prefixes have in common. In an exported adapter the MLP is gone and the matrix is there.

use statetune_mamba_model::patch::Value;

use crate::method::{Init, Plan, TensorSpec};

/// Adds the matrix `name` `[k, w]` to a plan, by itself or behind an MLP of `hidden` units; returns its value.
pub(super) fn matrix(plan: &mut Plan, name: String, shape: [usize; 2], init: Init, hidden: Option<usize>) -> Value {
    let Some(hidden) = hidden else {
        plan.tensors.push(TensorSpec::new(name.clone(), shape, init));
        return Value::Dense(name);
    };
    let width = shape[1];
    let mut tensor = |part: &str, spec: fn(String, usize, usize) -> TensorSpec| {
        let name = format!("{name}.{part}");
        plan.tensors.push(spec(name.clone(), hidden, width));
        name
    };
    let w1 = tensor("w1", |name, h, w| TensorSpec::new(name, [h, w], Init::KaimingUniform).decayed());
    let b1 = tensor("b1", |name, h, _| TensorSpec::new(name, [h], Init::Zeros));
    let w2 = tensor("w2", |name, h, w| TensorSpec::new(name, [w, h], Init::KaimingUniform).decayed());
    let b2 = tensor("b2", |name, _, w| TensorSpec::new(name, [w], Init::Zeros));
    let input = format!("{name}.input");
    plan.tensors.push(TensorSpec::new(input.clone(), shape, init));
    Value::Mlp { input, w1, b1, w2, b2 }
}

/// The trained numbers of such a matrix.
pub(super) fn size([k, w]: [usize; 2], hidden: Option<usize>) -> usize {
    k * w + hidden.map_or(0, |h| h * w + h + w * h + w)
}
