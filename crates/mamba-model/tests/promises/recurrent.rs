//! Parallel = recurrent, and prefill in chunks of any size = one pass.

use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{Batch, Mamba, Patches};

use crate::support::{
    ComputePath, close, close_states, describe, every_model, hang_on_everything, hang_on_offsets, lengths, model,
    paths, tokens, train_everything, whole,
};

/// A prefill of some tokens and one step per further token gives the logits of one pass at every position, and its
/// final states.
#[test]
fn prefill_and_steps_are_one_pass() {
    every_model(|model, path, at| {
        let vocab = model.config().vocab_size;
        for patches in [Patches::none(), train_everything(model), hang_on_offsets(model), hang_on_everything(model)] {
            for len in lengths(model.config()) {
                let sequence = tokens(len, 1);
                let batch = Batch::new(&[&sequence]).unwrap();
                let (logits, states) = whole(model, &patches, &batch, None);
                let first = (len / 4).max(1);
                let (mut state, mut found) = model.prefill(&patches, &[&sequence[..first]], 2048).unwrap();
                for t in first - 1..len {
                    let what = format!("{at}, {len} tokens, position {t}");
                    close(&what, &found.to_f64_vec(), &logits[t * vocab..][..vocab], path.tolerance);
                    if t + 1 < len {
                        (state, found) = model.step(&patches, &state, &sequence[t + 1..t + 2]).unwrap();
                    }
                }
                close_states(&format!("{at}, {len} tokens, states"), &state, &states.detach(), path.tolerance);
            }
        }
    });
}

/// Prompts of all lengths together, in chunks that cut the convolution's window and the scan's chunks anywhere.
#[test]
fn prefill_in_chunks_is_one_pass() {
    every_model(|model, path, at| {
        let patches = hang_on_everything(model);
        let prompts: Vec<Vec<u32>> = lengths(model.config()).into_iter().map(|len| tokens(len, 2)).collect();
        let (state, logits) = model.prefill(&patches, &prompts, 2048).unwrap();
        for chunk in [1, 2, 3, 7, 31, 32, 33, 70] {
            let (found, last) = model.prefill(&patches, &prompts, chunk).unwrap();
            assert_eq!(last.dtype(), path.compute);
            close(&format!("{at}, chunks of {chunk}"), &last.to_f64_vec(), &logits.to_f64_vec(), path.tolerance);
            close_states(&format!("{at}, chunks of {chunk}"), &found, &state, path.tolerance);
        }
    });
}

/// Chunks that continue each other pass gradients through their states: see `gradients.rs` for the prefix's.
#[test]
fn continuing_from_given_states_is_one_pass() {
    every_model(|model, path, at| {
        let (patches, vocab) = (hang_on_everything(model), model.config().vocab_size);
        let sequences = [tokens(40, 3), tokens(6, 3)];
        let (logits, states) = whole(model, &patches, &Batch::new(&sequences).unwrap(), None);
        let heads = Batch::new(&[&sequences[0][..33], &sequences[1][..1]]).unwrap();
        let tails = Batch::new(&[&sequences[0][33..], &sequences[1][1..]]).unwrap();
        let (first, between) = whole(model, &patches, &heads, None);
        let (second, end) = whole(model, &patches, &tails, Some(&between));
        let found = [&first[..33 * vocab], &second[..7 * vocab], &first[33 * vocab..], &second[7 * vocab..]].concat();
        close(at, &found, &logits, path.tolerance);
        close_states(at, &end.detach(), &states.detach(), path.tolerance);
    });
}

/// A step of many sequences is the steps of each, whatever is patched.
#[test]
fn a_step_together_is_a_step_alone() {
    every_model(together_is_alone);
    let biased =
        |d_model: usize| MambaConfig { use_conv_bias: true, use_bias: true, ..MambaConfig::new(21, d_model, 2) };
    // So wide a Δ that a device multiplies by its matrix apart for many sequences, and inside the scan for one; matrices large
    // enough for products of many sequences of their own.
    let configs = [MambaConfig { dt_rank: 700, use_bias: false, ..biased(8) }, biased(256)];
    for (path, config) in paths().iter().flat_map(|path| configs.iter().map(move |config| (path, config))) {
        together_is_alone(&model(config, path), path, &describe(config, path));
    }
}

fn together_is_alone(model: &Mamba, path: &ComputePath, at: &str) {
    let prompts: Vec<Vec<u32>> = [3, 1, 17, 5, 2, 40].map(|len| tokens(len, 4)).into();
    for patches in [Patches::none(), hang_on_offsets(model), hang_on_everything(model)] {
        let (state, _) = model.prefill(&patches, &prompts, 2048).unwrap();
        let next = tokens(prompts.len(), 5);
        let (after, together) = model.step(&patches, &state, &next).unwrap();
        let together = together.to_f64_vec();
        for s in 0..prompts.len() {
            let (own, alone) = model.step(&patches, &state.gather(&[s]).unwrap(), &next[s..=s]).unwrap();
            let (what, vocab) = (format!("{at}, sequence {s}"), model.config().vocab_size);
            close(&what, &together[s * vocab..][..vocab], &alone.to_f64_vec(), path.tolerance);
            close_states(&what, &after.gather(&[s]).unwrap(), &own, path.tolerance);
        }
    }
}
