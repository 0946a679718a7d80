//! Every case's gradient against central differences in `f64`.

use statetune_ssm_kernels::Level;
use statetune_tensor::gradient_check::check;
use statetune_tensor::{Device, Tensor};

use crate::cases::{SMALL, all};

#[test]
fn every_case_matches_differences() {
    let device = Device::cpu(Level::Reference, 1).unwrap();
    for case in all(SMALL) {
        println!("{}", case.name); // shown above the panic of a failed check
        check(&device, &case.leaves, &case.build).unwrap();
    }
}

/// The check itself: a gradient that is cut must not pass.
#[test]
#[should_panic(expected = "leaf 0 element 0")]
fn a_cut_gradient_is_found() {
    let device = Device::cpu(Level::Reference, 1).unwrap();
    let leaves = [Tensor::from_vec(vec![0.5, -0.25], &[2]).unwrap()];
    let cut = |tape: &statetune_tensor::Tape, v: &[statetune_tensor::Var]| {
        let y = statetune_tensor::ops::neg_exp(tape, &v[0].detach())?;
        Ok(vec![statetune_tensor::ops::add(tape, &y, &v[0])?])
    };
    check(&device, &leaves, cut).unwrap();
}
