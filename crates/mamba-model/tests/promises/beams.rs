//! Beam search: one beam is the greedy continuation, together = alone, scores are what the tokens' probabilities say.

use statetune_mamba_model::{BeamOptions, GenerateOptions, Hypothesis, Mamba, Patches};
use statetune_tensor::DType;

use crate::support::{close, configs, every_model, hang_on_everything, hang_on_offsets, model, paths, tokens};

fn options(beams: usize, end: u32) -> BeamOptions {
    BeamOptions {
        beams,
        max_new_tokens: 7,
        min_new_tokens: 0,
        min_length: 0,
        length_penalty: 1.0,
        early_stopping: false,
        end,
        prefill_chunk: 8,
        sequences: 64,
    }
}

fn prompts() -> Vec<Vec<u32>> {
    vec![tokens(17, 1), tokens(1, 1), tokens(40, 1), tokens(2, 1)]
}

fn search(model: &Mamba, patches: &Patches, prompts: &[Vec<u32>], options: &BeamOptions) -> Vec<Vec<Hypothesis>> {
    model.beam_search(patches, prompts, options).unwrap()
}

#[test]
fn one_beam_is_greedy() {
    every_model(|model, path, at| {
        if path.compute == DType::Bf16 {
            return; // few sequences and many are rounded otherwise there
        }
        for patches in [Patches::none(), hang_on_everything(model)] {
            let end = 4;
            let greedy = GenerateOptions { max_new_tokens: 7, stop: vec![end], ..GenerateOptions::default() };
            let expected = model.generate(&patches, &prompts(), &greedy, |_, _| {}).unwrap();
            let found = search(model, &patches, &prompts(), &options(1, end));
            for (expected, found) in expected.iter().zip(found) {
                assert_eq!((found.len(), &found[0].tokens), (1, &expected.tokens), "{at}");
                assert_eq!(found[0].ended, expected.stopped, "{at}");
            }
        }
    });
}

/// Beams move and prompts end at different steps, and every hypothesis scores what its tokens' probabilities say.
#[test]
fn together_is_alone_and_scores_are_the_tokens_own() {
    every_model(|model, path, at| {
        for patches in [Patches::none(), hang_on_offsets(model), hang_on_everything(model)] {
            let options = BeamOptions { length_penalty: 0.7, min_new_tokens: 2, ..options(3, 5) };
            let together = search(model, &patches, &prompts(), &options);
            for (prompt, together) in prompts().iter().zip(&together) {
                assert_eq!(together.len(), 3, "{at}");
                assert!(together.windows(2).all(|pair| pair[0].score >= pair[1].score), "{at}: the best come first");
                for hypothesis in together {
                    let sum = log_probability(model, &patches, prompt, &hypothesis.tokens);
                    let score = sum / (hypothesis.tokens.len() as f64).powf(0.7);
                    close(at, &[hypothesis.score], &[score], 20.0 * path.tolerance);
                    assert_eq!(hypothesis.ended, hypothesis.tokens.ends_with(&[5]), "{at}");
                    assert!(hypothesis.tokens.len() > 2, "{at}: the end comes after two tokens at least");
                }
                if path.compute != DType::Bf16 {
                    let alone = search(model, &patches, std::slice::from_ref(prompt), &options).remove(0);
                    let tokens = |list: &[Hypothesis]| list.iter().map(|h| h.tokens.clone()).collect::<Vec<_>>();
                    assert_eq!(tokens(together), tokens(&alone), "{at}, prompt of {}", prompt.len());
                }
            }
        }
    });
}

/// The sum of the tokens' log-probabilities after the prompt, token by token.
fn log_probability(model: &Mamba, patches: &Patches, prompt: &[u32], tokens: &[u32]) -> f64 {
    let (mut state, mut logits) = model.prefill(patches, &[prompt], 2048).unwrap();
    let mut sum = 0.0;
    for &token in tokens {
        let row = logits.to_f64_vec();
        let largest = row.iter().copied().fold(f64::MIN, f64::max);
        sum += row[token as usize] - largest - row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
        (state, logits) = model.step(patches, &state, &[token]).unwrap();
    }
    sum
}

#[test]
fn minimum_lengths_and_early_stopping() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let none = Patches::none();
    let prompt = [tokens(6, 1)];
    let found = |options: &BeamOptions| search(&model, &none, &prompt, options).remove(0);
    // The most probable first token as the end, and scores that favour short hypotheses.
    let end = found(&options(1, 20))[0].tokens[0];
    let short = BeamOptions { length_penalty: 0.0, ..options(4, end) };
    let shortest = |options: &BeamOptions| found(options).iter().map(|h| h.tokens.len()).min().unwrap();
    assert_eq!(shortest(&short), 1);
    assert!(shortest(&BeamOptions { min_new_tokens: 3, ..short.clone() }) > 3);
    // A minimum that counts the prompt of six tokens.
    assert!(shortest(&BeamOptions { min_length: 8, ..short.clone() }) > 2);
    assert_eq!(found(&BeamOptions { min_length: 6, ..short.clone() }), found(&short));
    // Stopping early is never better.
    let early = found(&BeamOptions { early_stopping: true, length_penalty: 2.0, ..options(4, end) });
    let late = found(&BeamOptions { length_penalty: 2.0, ..options(4, end) });
    assert!(early[0].score <= late[0].score + 1e-12);
}

#[test]
fn options_out_of_range_are_refused() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let error =
        |options: &BeamOptions| model.beam_search(&Patches::none(), &[tokens(3, 1)], options).unwrap_err().to_string();
    assert!(error(&options(0, 1)).contains("1 to 10 beams"));
    assert!(error(&options(11, 1)).contains("found 11"));
    assert!(error(&options(2, 21)).contains("end token 21"));
    assert!(error(&BeamOptions { length_penalty: f64::NAN, ..options(2, 1) }).contains("length penalty"));
    let nothing = BeamOptions { max_new_tokens: 0, ..options(2, 1) };
    assert_eq!(search(&model, &Patches::none(), &[tokens(3, 1)], &nothing), vec![vec![]]);
}
