//! `statetune eval`

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use statetune_datasets_eval::Dataset;
use statetune_mamba_model::Mamba;
use statetune_peft_methods::AdapterSet;
use statetune_trainer::RunConfig;
use statetune_trainer::evaluate::{Examination, Kept, Measure, Measured, Scorer, Stage, Subject};

use super::adapters::{self, Named};
use super::compare::{BASE, EVALUATIONS};
use super::progress::Bar;
use super::{EvalArguments, Output, compare, out, setup, with_device};

/// Adapters that are evaluated together, or none for the base model.
struct Job {
    adapters: Vec<Named>,
    subject: Subject,
    folder: PathBuf,
}

/// What all evaluations of a start have in common.
struct Common<'a> {
    config: &'a RunConfig,
    model: &'a Mamba,
    set: &'a AdapterSet<'a>,
    dataset: &'a Dataset,
    scorer: &'a Scorer<'a>,
    output: Output,
}

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
    // Adapters that cannot be used together are told before anything is computed.
    if !arguments.each {
        set.patches(&adapters::names(&chosen))?;
    }
    let data = config.evaluation.data(&config.data);
    let validation = setup::data(&data, &tokenizer, &device, None, output.quiet)?.1;
    let dataset = validation.context("`data.validation` is missing: name the file to evaluate on")?;
    let ends = setup::stop_tokens(&model, &tokenizer);
    let scorer = Scorer::new(&config.evaluation, &data, &tokenizer, &ends)?;
    let jobs = jobs(arguments, &config, &folder, chosen)?;
    let common = Common { config: &config, model: &model, set: &set, dataset: &dataset, scorer: &scorer, output };
    let mut results = Vec::new();
    for job in &jobs {
        let (kept, found) = common.evaluate(job)?;
        if output.json {
            results.push(told(job, &kept, &found, &dataset));
        } else {
            show(job, &kept, &found, &dataset, arguments.each);
        }
    }
    let comparison = match arguments.each && jobs.len() > 1 {
        true => {
            let folders = jobs.iter().map(|job| (job.subject.name.clone(), job.folder.clone()));
            Some(compare::compare(folders.collect())?)
        }
        false => None,
    };
    match (output.json, arguments.each, comparison) {
        (true, true, comparison) => say!("{:#}", json!({"evaluations": results, "comparison": comparison})),
        (true, false, _) => results.iter().for_each(|result| say!("{result:#}")),
        (false, _, Some(comparison)) => say!("{}", comparison.markdown().trim_end()),
        _ => {}
    }
    Ok(())
}

/// What is to be evaluated, and where the results go.
fn jobs(arguments: &EvalArguments, config: &RunConfig, folder: &Path, chosen: Vec<Named>) -> anyhow::Result<Vec<Job>> {
    let groups: Vec<Vec<Named>> = match arguments.each {
        true => [Vec::new()].into_iter().chain(chosen.into_iter().map(|named| vec![named])).collect(),
        false => vec![chosen],
    };
    let mut jobs = Vec::new();
    for adapters in groups {
        let name = if adapters.is_empty() { BASE.to_owned() } else { adapters::names(&adapters).join("+") };
        if arguments.each && name == BASE && !adapters.is_empty() {
            bail!("`{BASE}` is the base model: give the adapter another name, `--adapter NAME=PATH`");
        }
        let paths = adapters.iter().map(|named| named.path.clone()).collect();
        let subject = Subject { name, model: config.model.path.clone(), adapters: paths };
        let own = subject.name.replace(['/', '\\'], "_");
        let folder = match &arguments.out {
            Some(out) => {
                let folder = if arguments.each { out.join(own) } else { out.clone() };
                if !is_of(&folder, &subject, config) {
                    out::check_free(&folder)?;
                }
                folder
            }
            None => free(&folder.join(EVALUATIONS).join(own), &subject, config),
        };
        jobs.push(Job { adapters, subject, folder });
    }
    // Before hours of computing, not after them.
    for parent in jobs.iter().filter_map(|job| job.folder.parent()).filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    Ok(jobs)
}

/// Whether a folder holds an evaluation of the same by the same settings, whose place a new one takes.
fn is_of(folder: &Path, subject: &Subject, config: &RunConfig) -> bool {
    Kept::read(folder).is_ok_and(|kept| {
        kept.subject == *subject
            && kept.settings.scores_as(&config.evaluation)
            && kept.data.config == config.evaluation.data(&config.data)
    })
}

/// The folder, or the first of that name with a number that is free or is taken by an evaluation of the same.
fn free(folder: &Path, subject: &Subject, config: &RunConfig) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let numbered = (2..).map(|number| folder.with_file_name(format!("{name}-{number}")));
    let mut places = [folder.to_path_buf()].into_iter().chain(numbered);
    let found = places.find(|place| !place.exists() || is_of(place, subject, config));
    found.unwrap_or_else(|| folder.to_path_buf())
}

impl Common<'_> {
    fn evaluate(&self, job: &Job) -> anyhow::Result<(Kept, Examination)> {
        let patches = self.set.patches(&adapters::names(&job.adapters))?;
        let mut bars: Vec<(Stage, Bar)> = Vec::new();
        let quiet = self.output.quiet;
        let mut progress = |stage: Stage, done: usize, of: usize| {
            if bars.last().is_none_or(|(last, _)| *last != stage) {
                let name = match stage {
                    Stage::Likelihood => "evaluating",
                    Stage::Generation => "generating",
                    Stage::Scoring => "scoring",
                };
                bars.push((stage, Bar::new(name, quiet)));
            }
            if let Some((_, bar)) = bars.last_mut() {
                bar.at(done as u64, of as u64, String::new);
            }
        };
        let settings = &self.config.train;
        let (tokens, share) = (settings.micro_batch_tokens, settings.share_prefix);
        let found = self.scorer.examine(self.model, &patches, self.dataset, tokens, share, &mut progress)?;
        let section = &self.config.evaluation;
        let data = section.data(&self.config.data);
        let kept = Kept::new(job.subject.clone(), data, self.dataset, section, &found);
        out::replace_whole(&job.folder, |staging| Ok(kept.write(&found, staging)?))?;
        Ok((kept, found))
    }
}

/// An evaluation as JSON.
fn told(job: &Job, kept: &Kept, found: &Examination, dataset: &Dataset) -> Value {
    let counts = json!({
        "rows": dataset.counts.rows,
        "too_long": dataset.counts.too_long,
        "prompts_too_long": dataset.counts.prompts_too_long,
        "bad": dataset.counts.bad,
        "bad_rows": dataset.bad_rows,
        "bad_golds": found.bad_golds,
    });
    // One adapter is known by its path alone.
    let adapter = if let [named] = &job.adapters[..] { Some(&named.path) } else { None };
    json!({
        "name": job.subject.name,
        "adapter": adapter,
        "adapters": Named::json(&job.adapters),
        "evaluation": found.evaluation,
        "metrics": kept.metrics,
        "counts": counts,
        "folder": job.folder,
    })
}

/// An evaluation for people.
fn show(job: &Job, kept: &Kept, found: &Examination, dataset: &Dataset, named: bool) {
    let (evaluation, counts) = (&found.evaluation, &dataset.counts);
    if named {
        say!("{}:", job.subject.name);
    }
    say!("{} examples, loss {:.4}, perplexity {:.3}", evaluation.examples, evaluation.loss, evaluation.perplexity);
    if counts.too_long > 0 {
        say!("{} rows were longer than the limit and left out", counts.too_long);
    }
    if counts.prompts_too_long > 0 {
        say!("{} prompts reach the limit alone and were not answered", counts.prompts_too_long);
    }
    if counts.bad > 0 {
        say!("{} rows cannot be used and were left out:", counts.bad);
        dataset.bad_rows.iter().for_each(|row| say!("  {row}"));
    }
    if !found.bad_golds.is_empty() {
        say!("{} gold queries cannot be used, and scores of SQL leave their rows out:", found.bad_golds.len());
        found.bad_golds.iter().take(Dataset::BAD_ROWS).for_each(|gold| say!("  {gold}"));
    }
    if let Some(report) = &evaluation.classification {
        for (name, scores) in [("all vocabulary", report.over_all_vocabulary), ("labels only", report.over_labels)] {
            let (accuracy, f1, matthews) = (100.0 * scores.accuracy, scores.f1, scores.matthews);
            say!("over {name}: accuracy {accuracy:.2}%, F1 {f1:.4}, Matthews {matthews:.4}");
        }
        say!("outside the labels: {} of {} (counted as wrong)", report.out_of_class, report.n);
    }
    say!("");
    let wide = found.measured.iter().map(|measured| measured.name.chars().count()).max().unwrap_or(0);
    let percent = format!("{}% interval", 100.0 * kept.settings.confidence);
    say!("{:wide$}  {:>10}  {percent:>22}  {:>8}", "", "score", "examples");
    found.measured.iter().for_each(|measured| say!("{}", row(measured, wide)));
    say!("\n{}\n", job.folder.join(Kept::PREDICTIONS).display());
}

fn row(measured: &Measured, wide: usize) -> String {
    let Measured { measure, name, interval, rows, .. } = measured;
    let digits = Measure::digits(*measure);
    let between = format!("[{:.digits$}, {:.digits$}]", interval.low, interval.high);
    format!("{name:wide$}  {:>10.digits$}  {between:>22}  {:>8}", interval.value, rows.len())
}
