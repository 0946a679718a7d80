//! The scan: gradients of the reference against differences, continuation, packed against alone, and every level
//! against the reference in double precision.

pub(super) mod case;
mod levels;

use super::*;
use crate::testing::reference;
use case::{Case, NAMES, OPTIONAL};

/// All optional operands.
const ALL: u32 = (1 << OPTIONAL.len()) - 1;

/// Every gradient of the f64 reference against central differences.
fn check_gradients(mut case: Case<f64>, what: &str) {
    let cpu = reference();
    let boundaries = case.forward(&cpu).boundaries;
    let grads = case.gradients(&cpu, &boundaries, |_| true);
    for (i, grad) in grads.iter().enumerate() {
        assert_eq!(grad.is_some(), case.operands[i].is_some());
        for (j, &grad) in grad.iter().flatten().enumerate() {
            let at = case.operands[i].as_ref().unwrap()[j];
            let mut loss_at = |x: f64| {
                case.operands[i].as_mut().unwrap()[j] = x;
                case.loss(&cpu)
            };
            let numeric = (loss_at(at + 1e-5) - loss_at(at - 1e-5)) / 2e-5;
            loss_at(at);
            let name = NAMES[i];
            assert!((numeric - grad).abs() < 1e-7 * grad.abs().max(1.0), "{what}: d{name}[{j}] {grad} is {numeric}");
        }
    }
}

#[test]
fn gradients_match_differences_with_each_operand_alone_and_each_left_out() {
    for softplus in [true, false] {
        for bit in 0..OPTIONAL.len() {
            let name = NAMES[OPTIONAL[bit]];
            let lengths = [1, 3, 2, 1];
            check_gradients(Case::new(&lengths, 2, 3, 1 << bit, softplus).widen(), &format!("{name} alone"));
            check_gradients(Case::new(&lengths, 2, 3, ALL & !(1 << bit), softplus).widen(), &format!("without {name}"));
        }
    }
}

#[test]
fn gradients_match_differences_over_shapes() {
    let two_borders = 2 * CHUNK + 2;
    for (lengths, d, n) in [(&[1][..], 1, 1), (&[two_borders], 1, 1), (&[2, CHUNK + 1, 1], 2, 3), (&[4, 1], 2, 16)] {
        for present in [0, ALL] {
            check_gradients(Case::new(lengths, d, n, present, true).widen(), &format!("{lengths:?} {d} {n} {present}"));
        }
    }
    let mut without_final = Case::new(&[3, 2], 2, 3, ALL, true).widen();
    without_final.d_final = None;
    check_gradients(without_final, "no gradient of the final state");
}

/// A token and a channel by hand: h = e^{Δa} h_0 + Δ u B.
#[test]
fn a_step_by_hand() {
    let mut case = Case::new(&[1], 1, 1, ALL, false).widen();
    let values = [2.0, 0.5, 0.25, -1.0, 3.0, 0.5, 0.1, 1.0, 4.0, 2.0, 0.3, 0.7, 0.2, 0.9];
    case.operands = values.map(|x| Some(vec![x]));
    let outputs = case.forward(&reference());
    let h = (-0.75f64).exp() * 4.0 + 0.75 * 2.0 * 3.0;
    let y = h * (2.0 * 0.5 + 0.3) + 4.0 * 0.2 + 0.7 * 0.5 + 0.9 + 0.1 * 2.0;
    assert!((outputs.final_state[0] - h).abs() < 1e-14);
    assert!((outputs.out[0] - y / (1.0 + (-1.0f64).exp())).abs() < 1e-14);
}
