//! `statetune eval`

use anyhow::Context;
use serde_json::json;
use statetune_trainer::evaluate;

use super::adapters::{self, Named};
use super::progress::Bar;
use super::{EvalArguments, Output, setup, with_device};

pub(super) fn run(arguments: &EvalArguments, output: Output) -> anyhow::Result<()> {
    let (config, folder) =
        setup::configuration(&arguments.run, &with_device(&arguments.settings, arguments.device.as_ref()))?;
    let device = setup::device(&config.device)?;
    let model = setup::model(&config.model.path, &device, setup::compute(&config.device)?)?;
    let tokenizer = setup::tokenizer(&config.model.tokenizer_path(), &model)?;
    let all = match (&arguments.adapters[..], arguments.base) {
        ([], true) => Vec::new(),
        ([], false) => vec![Named::folder(&setup::best_adapter(&folder).with_context(|| {
            format!("{} has no adapter yet: train first, name one by --adapter, or use --base", folder.display())
        })?)],
        (given, _) => Named::parse_all(given)?,
    };
    let set = adapters::load(&all, &model, output)?;
    let chosen = adapters::chosen(all, &set, &arguments.names)?;
    let patches = set.patches(&adapters::names(&chosen))?;
    let data = statetune_datasets_eval::DataConfig { train: None, ..config.data.clone() };
    let validation = setup::data(&data, &tokenizer, &device, None, output.quiet)?.1;
    let validation = validation.context("`data.validation` is missing: name the file to evaluate on")?;
    let mut bar = Bar::new("evaluating", output.quiet);
    let settings = &config.train;
    let evaluation =
        evaluate(&model, &patches, &validation, settings.micro_batch_tokens, settings.share_prefix, |done, of| {
            bar.at(done as u64, of as u64, String::new)
        })?;
    if output.json {
        let counts = json!({
            "rows": validation.counts.rows,
            "too_long": validation.counts.too_long,
            "bad": validation.counts.bad,
            "bad_rows": validation.bad_rows,
        });
        // One adapter is known by its path alone.
        let adapter = if let [named] = &chosen[..] { Some(&named.path) } else { None };
        let adapters = Named::json(&chosen);
        say!("{:#}", json!({"adapter": adapter, "adapters": adapters, "evaluation": evaluation, "counts": counts}));
        return Ok(());
    }
    say!("{} examples, loss {:.4}, perplexity {:.3}", evaluation.examples, evaluation.loss, evaluation.perplexity);
    if validation.counts.too_long > 0 {
        say!("{} rows were longer than the limit and left out", validation.counts.too_long);
    }
    if validation.counts.bad > 0 {
        say!("{} rows cannot be used and were left out:", validation.counts.bad);
        validation.bad_rows.iter().for_each(|row| say!("  {row}"));
    }
    if let Some(report) = &evaluation.classification {
        for (name, scores) in [("all vocabulary", report.over_all_vocabulary), ("labels only", report.over_labels)] {
            let (accuracy, f1, matthews) = (100.0 * scores.accuracy, scores.f1, scores.matthews);
            say!("over {name}: accuracy {accuracy:.2}%, F1 {f1:.4}, Matthews {matthews:.4}");
        }
        say!("outside the labels: {} of {} (counted as wrong)", report.out_of_class, report.n);
    }
    Ok(())
}
