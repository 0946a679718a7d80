//! `statetune verify`

use std::path::Path;

use serde_json::{Value, json};
use statetune_datasets_eval::{DataConfig, Dataset};
use statetune_mamba_model::Mamba;
use statetune_trainer::config::DeviceSection;
use statetune_trainer::verify::{Finding, Outcome, RESUMED, checkpoint_is_whole, resumed_is_resumed};
use statetune_trainer::{Run, RunConfig, verify};

use super::adapters::Source;
use super::out::Scratch;
use super::progress::Bar;
use super::{Output, VerifyArguments, setup};

pub(super) fn run(arguments: &VerifyArguments, output: Output) -> anyhow::Result<()> {
    let source = Source::open(&arguments.path, arguments.model.as_deref())?;
    let section = source.run.as_ref().map_or(DeviceSection::default(), |run| run.device.clone());
    let section = DeviceSection { threads: arguments.threads.or(section.threads), ..section };
    let (device, compute) = (setup::device(&section)?, setup::compute(&section)?);
    let model = setup::model(&source.base, &device, compute)?;
    let adapter = setup::adapter(&source.adapter.path, &model, output)?;
    let scratch = Scratch::new()?;
    let mut bar = Bar::new("verifying", output.quiet);
    let mut found = verify(&model, &adapter, scratch.path(), |done, of| bar.at(done as u64, of as u64, String::new))?;
    if let Some(config) = &source.run {
        found.push(checkpoint_is_whole(&model, &config.train, &arguments.path)?);
        found.push(resumed(config, &arguments.path, &model, scratch.path(), output)?);
    }
    drop(scratch);
    let kept = found.iter().all(|finding| finding.outcome != Outcome::Failed);
    if output.json {
        let adapter = &source.adapter.path;
        say!("{:#}", json!({"adapter": adapter, "base": source.base, "kept": kept, "promises": found}));
    } else {
        print(&found);
    }
    match kept {
        true => Ok(()),
        // Not what the user gave is wrong, but what was made of it.
        false => std::process::exit(1),
    }
}

/// Goes on from the run's newest checkpoint, if its data is still there.
fn resumed(
    config: &RunConfig,
    folder: &Path,
    model: &Mamba,
    scratch: &Path,
    output: Output,
) -> anyhow::Result<Finding> {
    let inputs = || -> anyhow::Result<_> {
        let tokenizer = setup::tokenizer(&config.model.tokenizer_path(), model)?;
        let data = DataConfig { validation: None, ..config.data.clone() };
        let train: Option<Dataset> = setup::data(&data, &tokenizer, model.device(), None, output.quiet)?.0;
        Ok((train.unwrap_or_default(), setup::methods(config, &tokenizer)?))
    };
    let (train, methods) = match inputs() {
        Ok(inputs) => inputs,
        Err(error) => return Ok(Finding::skipped(RESUMED, format!("the run's data cannot be read: {error:#}"))),
    };
    let base_model = config.model.path.display().to_string();
    let run = Run {
        model,
        base_model: &base_model,
        train: &train,
        validation: None,
        settings: &config.train,
        folder: Some(folder),
        keeps_adapters: true,
    };
    Ok(resumed_is_resumed(&run, &methods, scratch)?)
}

/// A line per promise.
fn print(found: &[Finding]) {
    say!("{:<21} {:<8} {:>10} {:>10}  compared", "promise", "", "difference", "tolerance");
    for finding in found {
        let outcome = serde_json::to_value(finding.outcome).ok();
        let outcome = outcome.as_ref().and_then(Value::as_str).unwrap_or_default();
        let number = |x: f64| if x == 0.0 { "0".to_owned() } else { format!("{x:.1e}") };
        let difference = finding.difference.map_or(String::new(), number);
        let tolerance = finding.difference.map_or(String::new(), |_| number(finding.tolerance));
        let compared = finding.reason.as_ref().unwrap_or(&finding.compared);
        say!("{:<21} {outcome:<8} {difference:>10} {tolerance:>10}  {compared}", finding.promise);
    }
}
