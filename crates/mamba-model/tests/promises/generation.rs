//! Generation: together = alone, reproducible, cut by stop tokens and limits.

use statetune_mamba_model::config::MambaConfig;
use statetune_mamba_model::{GenerateOptions, Generated, Mamba, Patches, Sampling};

use statetune_tensor::DType;

use crate::support::{configs, every_model, hang_on_everything, hang_on_offsets, model, paths, tokens};

fn options(sampling: Sampling) -> GenerateOptions {
    GenerateOptions { max_new_tokens: 12, sampling, prefill_chunk: 8, ..GenerateOptions::default() }
}

fn random(seed: u64) -> Sampling {
    Sampling::Random { temperature: 1.5, top_k: 0, top_p: 0.95, seed }
}

fn prompts() -> Vec<Vec<u32>> {
    vec![tokens(17, 1), tokens(1, 1), tokens(70, 1), tokens(2, 1), tokens(9, 1), tokens(6, 1)]
}

fn generate(model: &Mamba, patches: &Patches, prompts: &[Vec<u32>], options: &GenerateOptions) -> Vec<Generated> {
    let mut streamed = vec![Vec::new(); prompts.len()];
    let results = model.generate(patches, prompts, options, |s, token| streamed[s].push(token)).unwrap();
    for (result, streamed) in results.iter().zip(streamed) {
        assert_eq!(result.tokens, streamed, "every token is announced once, in order");
    }
    results
}

/// A prompt among others continues as it does alone, whoever ends first. A draw depends on the sequence's place, so
/// for random sampling "alone" keeps the place and replaces the neighbours.
#[test]
fn together_is_alone() {
    every_model(|model, path, at| {
        together_is_alone_with(model, &hang_on_everything(model), at);
        // A device takes few sequences another way than many. What bf16 rounds otherwise may choose another token; how far the
        // ways are apart is tested in `recurrent.rs`.
        if path.compute != DType::Bf16 {
            for patches in [Patches::none(), hang_on_offsets(model)] {
                together_is_alone_with(model, &patches, at);
            }
        }
    });
}

fn together_is_alone_with(model: &Mamba, patches: &Patches, at: &str) {
    let prompts = prompts();
    let mut greedy = options(Sampling::Greedy);
    let free = generate(model, patches, &prompts, &greedy);
    // Stop at a token that one of them makes early on.
    greedy.stop = vec![free[0].tokens[2]];
    for options in [options(Sampling::Greedy), greedy] {
        let together = generate(model, patches, &prompts, &options);
        for (prompt, together) in prompts.iter().zip(together) {
            let alone = generate(model, patches, std::slice::from_ref(prompt), &options);
            assert_eq!(alone[0], together, "{at}, greedy, prompt of {}", prompt.len());
        }
    }
    let mut options = options(random(3));
    // The first ends early, and the others move up in the batch.
    options.stop = vec![generate(model, patches, &prompts, &options)[0].tokens[1]];
    let together = generate(model, patches, &prompts, &options);
    assert!(together[0].tokens.len() <= 2, "{at}");
    for (s, together) in together.iter().enumerate() {
        let mut others: Vec<Vec<u32>> = (0..s).map(|other| tokens(4, other as u64)).collect();
        others.push(prompts[s].clone());
        assert_eq!(generate(model, patches, &others, &options)[s], *together, "{at}, random, sequence {s}");
    }
}

/// Threads that share a device generate what each does alone.
#[test]
fn beside_other_threads_is_alone() {
    for path in paths() {
        let (configs, prompts) = (configs(), prompts());
        let run = &|config: &MambaConfig| {
            let model = model(config, &path);
            let patches = [Patches::none(), hang_on_everything(&model)];
            patches.map(|patches| {
                [Sampling::Greedy, random(5)].map(|how| generate(&model, &patches, &prompts, &options(how)))
            })
        };
        let alone: Vec<_> = configs[..3].iter().map(run).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = configs[..3].iter().map(|config| scope.spawn(move || run(config))).collect();
            for (thread, alone) in threads.into_iter().zip(&alone) {
                assert_eq!(&thread.join().unwrap(), alone, "{}", path.label);
            }
        });
    }
}

#[test]
fn seeds_reproduce() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let run = |sampling| generate(&model, &Patches::none(), &prompts(), &options(sampling));
    assert_eq!(run(random(1)), run(random(1)));
    assert_ne!(run(random(1)), run(random(2)));
    assert_ne!(run(random(1)), run(Sampling::Greedy));
    let same = generate(&model, &Patches::none(), &[tokens(5, 1), tokens(5, 1)], &options(random(1)));
    assert_ne!(same[0], same[1], "equal prompts draw differently");
}

#[test]
fn stop_tokens_and_limits_end_a_sequence() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let none = Patches::none();
    let free = generate(&model, &none, &prompts(), &options(random(1)));
    assert!(free.iter().all(|g| g.tokens.len() == 12 && !g.stopped));
    let stop = free[2].tokens[4];
    let stopped = generate(&model, &none, &prompts(), &GenerateOptions { stop: vec![stop], ..options(random(1)) });
    for (free, found) in free.iter().zip(&stopped) {
        let end = free.tokens.iter().position(|&token| token == stop);
        assert_eq!(found.tokens, free.tokens[..end.map_or(12, |end| end + 1)]);
        assert_eq!(found.stopped, end.is_some());
    }
    let nothing = generate(&model, &none, &prompts(), &GenerateOptions { max_new_tokens: 0, ..options(random(1)) });
    assert_eq!(nothing, vec![Generated::default(); 6]);
    assert!(generate(&model, &none, &[], &options(random(1))).is_empty());
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let path = &paths()[0];
    let model = model(&configs()[3], path);
    let none = Patches::none();
    let error = |prompts: &[Vec<u32>], options: &GenerateOptions| {
        model.generate(&none, prompts, options, |_, _| {}).unwrap_err().to_string()
    };
    let good = options(Sampling::Greedy);
    assert!(error(&[vec![1], vec![]], &good).contains("prompt 1 has no tokens"));
    assert!(error(&[vec![1, 21]], &good).contains("token id 21 at position 1"));
    assert!(error(&prompts(), &GenerateOptions { prefill_chunk: 0, ..good.clone() }).contains("chunk"));
    let cold = Sampling::Random { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 };
    assert!(error(&prompts(), &options(cold)).contains("temperature"));
}
