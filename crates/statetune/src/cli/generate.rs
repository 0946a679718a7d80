//! `statetune generate`

use std::path::Path;

use anyhow::{Context, bail};
use serde_json::json;
use statetune_mamba_model::{BeamOptions, GenerateOptions, Generated, Mamba, Patches, Sampling};
use statetune_trainer::RunConfig;
use statetune_trainer::config::DeviceSection;

use super::adapters::{self, Named};
use super::progress::Bar;
use super::{GenerateArguments, Output, setup};
use crate::hub;

pub(super) fn run(arguments: &GenerateArguments, output: Output) -> anyhow::Result<()> {
    let given = hub::folder(&arguments.model)?;
    // A run folder names its base model and tokenizer.
    let run = given.join("config.toml");
    let (model_path, tokenizer_path, run_adapter) = if run.is_file() {
        let config = RunConfig::read(&run, &[])?;
        let tokenizer = config.model.tokenizer_path();
        (config.model.path, tokenizer, setup::best_adapter(&given))
    } else {
        (given.clone(), given.join("tokenizer.json"), None)
    };
    let section = DeviceSection {
        kind: arguments.device.clone(),
        compute: arguments.compute.clone(),
        threads: arguments.threads,
        ..DeviceSection::default()
    };
    let device = setup::device(&section)?;
    let model = setup::model(&model_path, &device, setup::compute(&section)?)?;
    let tokenizer = setup::tokenizer(arguments.tokenizer.as_ref().unwrap_or(&tokenizer_path), &model)?;
    let all = match &arguments.adapters[..] {
        [] => run_adapter.iter().map(|path| Named::folder(path)).collect(),
        given => Named::parse_all(given)?,
    };
    let set = adapters::load(&all, &model, output)?;
    let chosen = adapters::chosen(all, &set, &arguments.names)?;
    let patches = set.patches(&adapters::names(&chosen))?;
    let texts = prompts(&arguments.prompt, arguments.prompts.as_deref())?;
    let prompts = texts.iter().map(|text| tokenizer.encode(text)).collect::<Result<Vec<_>, _>>()?;
    let results = match arguments.beams {
        Some(beams) => {
            search(arguments, beams, &model, &patches, &prompts, &setup::stop_tokens(&model, &tokenizer), output)?
        }
        None => draw(arguments, &model, &patches, &prompts, setup::stop_tokens(&model, &tokenizer), output)?,
    };
    let mut list = Vec::new();
    for (text, result) in texts.iter().zip(&results) {
        // The stop token is no text.
        let tokens = &result.tokens[..result.tokens.len() - usize::from(result.stopped)];
        let completion = tokenizer.decode(tokens, false)?;
        if output.json {
            list.push(
                json!({"prompt": text, "completion": completion, "tokens": result.tokens, "stopped": result.stopped}),
            );
        } else {
            say!("{text}{completion}\n");
        }
    }
    if output.json {
        say!("{:#}", serde_json::Value::Array(list));
    }
    Ok(())
}

/// Token by token.
fn draw(
    arguments: &GenerateArguments,
    model: &Mamba,
    patches: &Patches,
    prompts: &[Vec<u32>],
    stop: Vec<u32>,
    output: Output,
) -> anyhow::Result<Vec<Generated>> {
    let options = GenerateOptions {
        max_new_tokens: arguments.max_new_tokens,
        sampling: arguments.temperature.map_or(Sampling::Greedy, |temperature| Sampling::Random {
            temperature,
            top_k: arguments.top_k,
            top_p: arguments.top_p,
            seed: arguments.seed,
        }),
        stop,
        sequences: arguments.batch as usize,
        ..GenerateOptions::default()
    };
    let mut bar = Bar::new("generating", output.quiet);
    let (mut done, of) = (0, (prompts.len() * options.max_new_tokens) as u64);
    Ok(model.generate(patches, prompts, &options, |_, _| {
        done += 1;
        bar.at(done, of, String::new);
    })?)
}

/// The best of several beams.
fn search(
    arguments: &GenerateArguments,
    beams: usize,
    model: &Mamba,
    patches: &Patches,
    prompts: &[Vec<u32>],
    stop: &[u32],
    output: Output,
) -> anyhow::Result<Vec<Generated>> {
    let [end, ..] = stop else { bail!("--beams needs an end-of-text token, and the model names none") };
    let options = BeamOptions {
        beams,
        max_new_tokens: arguments.max_new_tokens,
        min_new_tokens: arguments.min_new_tokens,
        min_length: 0,
        length_penalty: arguments.length_penalty,
        early_stopping: arguments.early_stopping,
        end: *end,
        prefill_chunk: GenerateOptions::default().prefill_chunk,
        sequences: arguments.batch as usize,
    };
    let mut bar = Bar::new("generating", output.quiet);
    let of = prompts.len() as u64;
    Ok(model.search_best(patches, prompts, &options, |done| bar.at(done as u64, of, String::new))?)
}

/// The prompts of the command line, then those of the file.
fn prompts(given: &[String], file: Option<&Path>) -> anyhow::Result<Vec<String>> {
    let mut prompts = given.to_vec();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        prompts.extend(text.lines().filter(|line| !line.is_empty()).map(str::to_owned));
        if prompts.is_empty() {
            bail!("there is no prompt: {} has no line with text", path.display());
        }
    }
    Ok(prompts)
}
