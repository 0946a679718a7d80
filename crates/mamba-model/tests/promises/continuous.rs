//! Generation of more prompts than run at once: continuous = alone, token for token, whoever comes and ends when.

use std::collections::BTreeSet;

use statetune_mamba_model::{BeamOptions, GenerateOptions, Generated, Mamba, Patches, Sampling};
use statetune_tensor::DType;

use crate::support::{close, configs, every_model, hang_on_everything, hang_on_offsets, model, paths, tokens};

/// Eleven unequal prompts, some longer than a chunk.
fn prompts() -> Vec<Vec<u32>> {
    [17, 1, 40, 2, 9, 6, 3, 25, 1, 12, 5].into_iter().enumerate().map(|(i, len)| tokens(len, i as u64)).collect()
}

fn options(sequences: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: 9, prefill_chunk: 8, sequences, ..GenerateOptions::default() }
}

fn generate(model: &Mamba, patches: &Patches, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Generated> {
    model.generate(patches, prompts, options, |_, _| {}).unwrap()
}

/// The two tokens that end these continuations at the most different steps, and how many steps these are.
fn stops(free: &[Generated]) -> (Vec<u32>, usize) {
    let ends = |stop: &[u32; 2]| {
        let end = |g: &Generated| g.tokens.iter().position(|token| stop.contains(token));
        free.iter().filter_map(end).collect::<BTreeSet<_>>().len()
    };
    let pairs = (0..21).flat_map(|a| (a..21).map(move |b| [a, b]));
    let best = pairs.max_by_key(ends).expect("there are tokens");
    (best.to_vec(), ends(&best))
}

#[test]
fn continuous_is_alone() {
    let (mut models, mut varied) = (0, 0);
    every_model(|model, path, at| {
        if path.compute == DType::Bf16 {
            return; // few sequences and many are rounded otherwise there
        }
        for patches in [Patches::none(), hang_on_offsets(model), hang_on_everything(model)] {
            let mut alone = options(1);
            let ends;
            (alone.stop, ends) = stops(&generate(model, &patches, &prompts(), &alone));
            (models, varied) = (models + 1, varied + usize::from(ends > 2));
            let expected: Vec<Generated> = prompts()
                .iter()
                .map(|prompt| generate(model, &patches, std::slice::from_ref(prompt), &alone).remove(0))
                .collect();
            for sequences in [1, 2, 3, 4, 10, 11, 64] {
                let options = GenerateOptions { sequences, ..alone.clone() };
                let found = generate(model, &patches, &prompts(), &options);
                assert_eq!(found, expected, "{at}, {sequences} at once");
            }
        }
    });
    // A random model may say one thing only.
    assert!(2 * varied >= models, "in {varied} of {models} models sequences end at more than two different steps");
}

#[test]
fn the_order_of_arrival_changes_no_continuation() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let none = Patches::none();
    let mut options = options(3);
    options.stop = stops(&generate(&model, &none, &prompts(), &options)).0;
    let expected = generate(&model, &none, &prompts(), &options);
    let (mut turned, mut results) = (prompts(), expected.clone());
    for _ in 0..prompts().len() {
        turned.rotate_left(1);
        results.rotate_left(1);
        assert_eq!(generate(&model, &none, &turned, &options), results);
    }
    turned.reverse();
    results.reverse();
    assert_eq!(generate(&model, &none, &turned, &options), results);
}

#[test]
fn draws_depend_on_sequence_and_step_alone() {
    every_model(|model, path, at| {
        if path.compute == DType::Bf16 {
            return; // few sequences and many are rounded otherwise there
        }
        let none = Patches::none();
        let sampling = Sampling::Random { temperature: 1.5, top_k: 0, top_p: 0.95, seed: 7 };
        let mut options = GenerateOptions { sampling, ..options(64) };
        options.stop = stops(&generate(model, &none, &prompts(), &options)).0;
        let together = generate(model, &none, &prompts(), &options);
        for sequences in [1, 2, 5] {
            let options = GenerateOptions { sequences, ..options.clone() };
            assert_eq!(generate(model, &none, &prompts(), &options), together, "{at}, {sequences} at once");
        }
    });
}

/// A sequence runs from its first token to its last: never more than the options say, in the order of the prompts, and every
/// token is announced once.
#[test]
fn no_more_than_so_many_run_at_once() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let mut options = options(64);
    options.stop = stops(&generate(&model, &Patches::none(), &prompts(), &options)).0;
    for sequences in 1..=12 {
        let options = GenerateOptions { sequences, ..options.clone() };
        let mut announced: Vec<(usize, u32)> = Vec::new();
        let results =
            model.generate(&Patches::none(), &prompts(), &options, |s, token| announced.push((s, token))).unwrap();
        let (mut seen, mut left) = (vec![0; results.len()], BTreeSet::new());
        for &(s, token) in &announced {
            assert_eq!(results[s].tokens[seen[s]], token, "sequence {s}");
            if seen[s] == 0 {
                assert!((0..s).all(|before| seen[before] > 0), "sequence {s} begins after those before it");
                left.insert(s);
                assert!(left.len() <= sequences, "{left:?} run where {sequences} may");
            }
            seen[s] += 1;
            if seen[s] == results[s].tokens.len() {
                left.remove(&s);
            }
        }
        assert!(left.is_empty() && results.iter().zip(seen).all(|(result, seen)| result.tokens.len() == seen));
    }
}

#[test]
fn beams_are_searched_group_by_group() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let options = BeamOptions {
        beams: 3,
        max_new_tokens: 6,
        min_new_tokens: 0,
        min_length: 0,
        length_penalty: 0.7,
        early_stopping: false,
        end: 5,
        prefill_chunk: 8,
        sequences: 1000,
    };
    let search = |options: &BeamOptions| model.beam_search(&Patches::none(), &prompts(), options).unwrap();
    let expected = search(&options);
    for sequences in [1, 3, 5, 6, 12] {
        let found = search(&BeamOptions { sequences, ..options.clone() });
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert_eq!(found.tokens, expected.tokens, "{sequences} beams at once");
            // A device takes few sequences another way than many.
            close(&format!("{sequences} beams at once"), &[found.score], &[expected.score], path.tolerance);
        }
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [3; 11], "{sequences} beams at once");
    }
    let none = BeamOptions { sequences: 0, ..options };
    let error = model.beam_search(&Patches::none(), &prompts(), &none).unwrap_err().to_string();
    assert!(error.contains("at least one sequence"), "{error}");
}

#[test]
fn a_bad_prompt_is_refused_before_the_first_is_continued() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let refused = |prompts: &[Vec<u32>], options: &GenerateOptions| {
        let none = Patches::none();
        model.generate(&none, prompts, options, |_, _| panic!("a token was made")).unwrap_err().to_string()
    };
    assert!(refused(&[vec![1], vec![2], vec![]], &options(1)).contains("prompt 2 has no tokens"));
    assert!(refused(&[vec![1], vec![2, 3, 21]], &options(1)).contains("prompt 1: token id 21 at position 2"));
    assert!(refused(&prompts(), &options(0)).contains("at least one sequence"));
}
