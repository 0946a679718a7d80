//! `statetune sweep`

mod told;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use statetune_datasets_eval::Tokenizer;
use statetune_tensor::Device;
use statetune_trainer::config::DeviceSection;
use statetune_trainer::evaluate::{Kept, Scorer, Subject};
use statetune_trainer::sweep::{
    self, Candidate, DeviceUsed, Event, Judgement, Limits, Placed, Plan, Results, SweepConfig, Table, TaskData,
};
use statetune_trainer::{TrainError, memory};

use super::compare::EVALUATIONS;
use super::{Output, SweepArguments, named, out, setup, with_device};
use told::Told;

/// The folder of adapters beside that of evaluations.
const ADAPTERS: &str = "adapters";

pub(super) fn run(arguments: &SweepArguments, output: Output) -> anyhow::Result<()> {
    let started = Instant::now();
    let file = &arguments.config;
    let config = SweepConfig::read(file, &with_device(&arguments.settings, arguments.device.as_ref()))?;
    let default = || PathBuf::from("runs").join(file.file_stem().unwrap_or_default());
    let folder = config.output.folder.clone().unwrap_or_else(default);
    let path = arguments.results.clone().unwrap_or_else(|| folder.join("results.jsonl"));
    // Commits need not be recorded: the results name the weights and rows that they are of.
    let plan = Plan::new(if arguments.table {
        config
    } else {
        named::pinned(&config, None, |file| SweepConfig::read(file, &[]))?
    })?;
    plan.check_names(&arguments.only)?;
    // All else lies beside the results.
    let beside = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let whole_table = |results: &Results| -> anyhow::Result<Table> {
        let comparisons = sweep::compared(&beside.join(EVALUATIONS), &plan, results)?;
        Ok(Table::new(&plan, results).with(comparisons))
    };
    if arguments.table {
        let table = whole_table(&Results::read(&path, &plan)?)?;
        if output.json {
            say!("{:#}", serde_json::to_value(&table)?);
        } else {
            say!("{}", table.markdown.trim_end());
        }
        return Ok(());
    }
    let mut results = Results::open(&path, &plan)?;
    let workers = arguments.workers as usize;
    let section = per_worker(&plan.config.device, workers);
    let first = place(&plan, &section)?;
    let tokenizer = setup::tokenizer(&plan.config.model.tokenizer_path(), &first.model)?;
    let cache = path.parent().map(|folder| folder.join(".cache"));
    let mut data = Vec::new();
    for task in &plan.tasks {
        let read = |data| setup::data(data, &tokenizer, first.model.device(), cache.as_deref(), output.quiet);
        let (train, validation) = (read(&task.training())?.0, read(&task.validation())?.1);
        let missing = || format!("task `{}` names no such file", task.name);
        data.push(TaskData { train: train.with_context(missing)?, validation: validation.with_context(missing)? });
    }
    let ends = setup::stop_tokens(&first.model, &tokenizer);
    let keeper = Keeper::new(&plan, beside, &tokenizer, &ends)?;
    sweep::write_pages(beside, &plan, &results, &Table::new(&plan, &results))?;
    let runs = results.runs(&plan);
    if !output.quiet {
        eprintln!("{} of {} runs are finished; {workers} at once on {}", runs.0, runs.1, first.device.name);
    }
    let told = Told::new(&plan, runs, workers, Duration::from_secs(arguments.progress.into()), output.quiet);
    let limits = Limits {
        workers,
        // What no clock can reach is no limit.
        until: arguments.max_seconds.and_then(|seconds| started.checked_add(Duration::from_secs(seconds))),
        only: arguments.only.clone(),
        memory: memory::available(),
    };
    let observe = |event: Event<'_>| {
        if let Event::Finished(_, _, results) = event {
            sweep::write_pages(beside, &plan, results, &Table::new(&plan, results))?;
        }
        told.hear(&event);
        Ok(())
    };
    let tokenize = |text: &str| tokenizer.encode(text).map_err(|error| error.to_string());
    let judging = |candidate: &Candidate<'_>| keeper.judge(candidate);
    let again = || {
        let reason = |error: anyhow::Error| TrainError::NothingToDo { reason: format!("a further worker: {error:#}") };
        place(&plan, &section).map_err(reason)
    };
    let report = sweep::run(&plan, &data, &mut results, &tokenize, &judging, &first, &again, &limits, &observe)?;
    let table = whole_table(&results)?;
    sweep::write_pages(beside, &plan, &results, &table)?;
    if output.json {
        let left_out: Vec<&str> = report.left_out.iter().map(|(name, _)| name.as_str()).collect();
        let (done, of) = (report.done, report.of);
        let told = json!({
            "results": path, "done": done, "of": of, "left_out": left_out, "comparisons": table.comparisons,
        });
        say!("{told:#}");
        return Ok(());
    }
    for (name, feature) in &report.left_out {
        say!("left out: {name}, which needs a build with the feature `{feature}`");
    }
    let seconds = started.elapsed().as_secs();
    let new = table.runs.0.saturating_sub(runs.0);
    say!("{}: {} of {} runs are finished, {new} of them in these {seconds} s", path.display(), report.done, report.of);
    if report.done < report.of {
        say!("{} are left: the same command goes on", report.of - report.done);
    }
    table.comparisons.iter().for_each(|compared| say!("\n{}", compared.markdown().trim_end()));
    Ok(())
}

/// Judges models of the table, and keeps their evaluations and adapters.
struct Keeper<'a> {
    plan: &'a Plan,
    folder: &'a Path,
    /// By task, where answers judge.
    scorers: Vec<Option<Scorer<'a>>>,
}

impl<'a> Keeper<'a> {
    /// For a folder. What scores take is read now, so that a file that is missing is told before hours are spent.
    fn new(plan: &'a Plan, folder: &'a Path, tokenizer: &'a Tokenizer, ends: &[u32]) -> anyhow::Result<Keeper<'a>> {
        let mut scorers = Vec::new();
        for task in &plan.tasks {
            let scorer = task.judge.as_ref().map(|judge| {
                let data = named::local_data(&task.validation())?;
                anyhow::Ok(Scorer::new(&judge.evaluation, &data, tokenizer, ends)?)
            });
            scorers.push(scorer.transpose().with_context(|| format!("task `{}`", task.name))?);
        }
        Ok(Keeper { plan, folder, scorers })
    }

    /// What answers come to, where they judge; the files are whole when this returns.
    fn judge(&self, candidate: &Candidate<'_>) -> Result<Option<Judgement>, TrainError> {
        let base = &self.plan.config.model.path;
        let write = |kind: &str, write: &dyn Fn(&Path) -> anyhow::Result<()>| {
            let folder = self.folder.join(kind).join(candidate.place);
            match out::replace_whole(&folder, write) {
                Ok(()) => Ok(folder),
                Err(error) => Err(TrainError::RunFolder { folder, reason: format!("{error:#}") }),
            }
        };
        let kept = candidate.adapter.filter(|_| self.plan.config.output.keep_adapters);
        let kept = kept.map(|adapter| {
            write(ADAPTERS, &|staging| Ok(adapter.exported(candidate.model)?.save(staging, &base.to_string_lossy())?))
        });
        let adapters: Vec<PathBuf> = kept.transpose()?.into_iter().collect();
        let at = self.plan.tasks.iter().position(|task| task.name == candidate.task.name);
        let scorer = at.and_then(|at| self.scorers[at].as_ref());
        let (Some(judge), Some(scorer)) = (&candidate.task.judge, scorer) else { return Ok(None) };
        let found = candidate.examine(scorer)?;
        let subject = Subject { name: candidate.name.to_owned(), model: base.clone(), adapters };
        let (data, dataset) = (candidate.task.validation(), candidate.dataset);
        let kept = Kept::new(subject, data, dataset, &judge.evaluation, &found);
        write(EVALUATIONS, &|staging| Ok(kept.write(&found, staging)?))?;
        judge.judgement(&found, &kept.metrics).map(Some)
    }
}

/// The device of one of several workers: of the processor each has a part.
fn per_worker(section: &DeviceSection, workers: usize) -> DeviceSection {
    let mut section = setup::resolved(section);
    if section.kind.as_deref().unwrap_or("cpu") == "cpu" {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        section.threads.get_or_insert((cores / workers).max(1));
    }
    section
}

/// The model on a device of its own.
fn place(plan: &Plan, section: &DeviceSection) -> anyhow::Result<Placed> {
    let device = setup::device(section)?;
    let compute = setup::compute(section)?;
    let used = match &device {
        Device::Cpu(cpu) => DeviceUsed {
            name: processor(),
            kind: "cpu".into(),
            compute: compute.to_string(),
            level: section.level.clone(),
            products: Some(cpu.products().to_string()),
        },
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => DeviceUsed {
            name: cuda.info().map_or_else(|| "a plan".into(), |info| info.name),
            kind: "cuda".into(),
            compute: compute.to_string(),
            level: None,
            products: None,
        },
    };
    Ok(Placed { model: setup::model(&plan.config.model.path, &device, compute)?, device: used })
}

/// The processor's name, as far as the system tells.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let name = field("model name").unwrap_or_else(|| "an unknown processor".into());
    // Virtual machines hide the name; family and model still tell the core.
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{cores} cores of {name} (family {family}, model {model})"),
        _ => format!("{cores} cores of {name}"),
    }
}
