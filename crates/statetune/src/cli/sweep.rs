//! `statetune sweep`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use statetune_datasets_eval::Dataset;
use statetune_mamba_model::{Mamba, Patches};
use statetune_tensor::Device;
use statetune_trainer::config::DeviceSection;
use statetune_trainer::sweep::{
    self, DeviceUsed, Event, Judge, Limits, Line, Placed, Plan, PlannedTask, Purpose, Results, SweepConfig, Table,
    TaskData,
};
use statetune_trainer::{TrainError, memory};

use super::{Output, SweepArguments, named, setup, with_device};

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
    if arguments.table {
        let table = Table::new(&plan, &Results::read(&path, &plan)?);
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
        let (train, validation) =
            setup::data(&task.data, &tokenizer, first.model.device(), cache.as_deref(), output.quiet)?;
        let missing = || format!("task `{}` names no such file", task.name);
        data.push(TaskData { train: train.with_context(missing)?, validation: validation.with_context(missing)? });
    }
    // The pages lie beside the results.
    let pages = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sweep::write_pages(pages, &plan, &results)?;
    let (before, of) = (results.lines().len(), plan.runs());
    if !output.quiet {
        eprintln!("{before} of {of} runs are finished; {workers} at once on {}", first.device.name);
    }
    let limits = Limits {
        workers,
        until: arguments.max_seconds.map(|seconds| started + Duration::from_secs(seconds)),
        only: arguments.only.clone(),
        memory: memory::available(),
    };
    let observe = |event: Event<'_>| {
        match event {
            Event::Finished(line, results) => {
                sweep::write_pages(pages, &plan, results)?;
                if !output.quiet {
                    eprintln!("[{}/{of}] {}", results.lines().len(), told(line));
                }
            }
            Event::Note(note) if !output.quiet => eprintln!("{note}"),
            Event::Note(_) => {}
        }
        Ok(())
    };
    let tokenize = |text: &str| tokenizer.encode(text).map_err(|error| error.to_string());
    let ends = setup::stop_tokens(&first.model, &tokenizer);
    let judging = |judge: &Judge, task: &PlannedTask, model: &Mamba, patches: &Patches, dataset: &Dataset| {
        sweep::judged(judge, task, &tokenizer, &ends, model, patches, dataset)
    };
    let again = || {
        let reason = |error: anyhow::Error| TrainError::NothingToDo { reason: format!("a further worker: {error:#}") };
        place(&plan, &section).map_err(reason)
    };
    let report = sweep::run(&plan, &data, &mut results, &tokenize, &judging, &first, &again, &limits, &observe)?;
    if output.json {
        let left_out: Vec<&str> = report.left_out.iter().map(|(name, _)| name.as_str()).collect();
        say!("{:#}", json!({"results": path, "done": report.done, "of": report.of, "left_out": left_out}));
        return Ok(());
    }
    for (name, feature) in &report.left_out {
        say!("left out: {name}, which needs a build with the feature `{feature}`");
    }
    let seconds = started.elapsed().as_secs();
    let new = results.lines().len() - before;
    say!("{}: {} of {} runs are finished, {new} of them in these {seconds} s", path.display(), report.done, report.of);
    if report.done < report.of {
        say!("{} are left: the same command goes on", report.of - report.done);
    }
    Ok(())
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

/// A finished run in a line.
fn told(line: &Line) -> String {
    let purpose = match line.purpose {
        Purpose::Search => "search".to_owned(),
        Purpose::Final => format!("seed {}", line.seed),
    };
    let outcome = match (line.score, &line.failed) {
        (Some(score), _) => format!("{score:.4}"),
        (None, failed) => failed.clone().unwrap_or_default(),
    };
    format!(
        "{} on {}, {purpose}, rate {}: {outcome} ({} steps in {:.1} s)",
        line.entry, line.task, line.learning_rate, line.steps, line.seconds
    )
}
