//! One result by several ways: parallel = recurrent, packed = alone.

use statetune_mamba_model::Batch;

use crate::support::{LENGTHS, VOCAB, close, for_every_method, logits, sequence};

#[test]
fn parallel_is_recurrent() {
    for_every_method(|name, ground, _, adapter| {
        let model = &ground.model;
        for length in LENGTHS {
            let tokens = sequence(length, 1);
            let whole = logits(model, adapter.patches(), &Batch::new(&[&tokens]).unwrap());
            // A prefill of part of it in chunks, then token by token.
            let start = length.div_ceil(2);
            let (mut state, mut last) = model.prefill(adapter.patches(), &[&tokens[..start]], 4).unwrap();
            for at in start..=length {
                let expected = &whole[(at - 1) * VOCAB..at * VOCAB];
                close(&format!("{name} length {length} token {at}"), expected, &last.to_f64_vec(), ground.tolerance);
                if at < length {
                    (state, last) = model.step(adapter.patches(), &state, &[tokens[at]]).unwrap();
                }
            }
        }
    });
}

#[test]
fn packed_is_alone() {
    for_every_method(|name, ground, _, adapter| {
        let sequences: Vec<Vec<u32>> = LENGTHS.iter().enumerate().map(|(s, &length)| sequence(length, s)).collect();
        let packed = logits(&ground.model, adapter.patches(), &Batch::new(&sequences).unwrap());
        let alone: Vec<f64> = sequences
            .iter()
            .flat_map(|sequence| logits(&ground.model, adapter.patches(), &Batch::new(&[sequence]).unwrap()))
            .collect();
        close(name, &alone, &packed, ground.tolerance);
    });
}
