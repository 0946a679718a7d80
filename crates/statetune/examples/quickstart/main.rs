//! Fine-tunes the small Mamba in the repository on four generated tasks: State-offset (h), LoRA and no tuning side by
//! side. Needs no network and no data. Ends with a table, three example generations and the path of a report.
//!
//! `cargo xtask quickstart [--folder FOLDER]`

mod contest;
mod database;
mod show;
mod tasks;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use statetune::cli::setup;
use statetune::datasets_eval::world::World;
use statetune::trainer::report::{Report, render};

/// The world that the base model has read of; see `pretrain_tiny`.
const WORLD_SEED: u64 = 1;
/// Marks a folder as one that a new quickstart may replace.
const MARK: &str = ".quickstart";

fn main() -> anyhow::Result<()> {
    statetune::ssm_kernels::runtime::keep_freed_memory();
    let started = Instant::now();
    let folder = folder()?;
    prepare(&folder)?;
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/mamba-tiny");
    let device = setup::device(&Default::default())?;
    let model = setup::model(&base, &device, setup::compute(&Default::default())?)?;
    let tokenizer = setup::tokenizer(&base.join("tokenizer.json"), &model)?;
    println!("base model: {} parameters, pretrained on generated text; {device:?}", model.size());

    let world = World::new(WORLD_SEED);
    let database = database::Database::of(&world)?;
    let mut results = Vec::new();
    for task in tasks::write(&world, &folder.join("data"))? {
        println!("{}: {} examples to learn from", task.family.name(), tasks::TRAIN);
        results.push(contest::run(&task, &base, &folder, &model, &tokenizer, &database)?);
    }

    let table = show::table(&results);
    println!("\n{}\n{}\n", show::plain(&table), show::LEGEND);
    let generations = show::generations(&results);
    for generation in &generations {
        println!("{}", show::plain_generation(generation));
    }
    let report = Report {
        title: "statetune quickstart".into(),
        summary: vec![
            ("base model".into(), format!("{} parameters, {} layers", model.size(), model.config().num_hidden_layers)),
            ("training examples per task".into(), tasks::TRAIN.to_string()),
            ("seconds".into(), format!("{:.0}", started.elapsed().as_secs_f64())),
        ],
        tables: vec![table],
        charts: results.iter().flat_map(show::curves).collect(),
        generations,
        notes: vec![show::LEGEND.into()],
        ..Report::default()
    };
    let path = folder.join("report.html");
    fs::write(&path, render(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    println!(
        "{:.0} s in all; the adapters and a page for each run are in {}",
        started.elapsed().as_secs_f64(),
        folder.display()
    );
    println!("report: {}", path.display());
    Ok(())
}

fn folder() -> anyhow::Result<PathBuf> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok("runs/quickstart".into()),
        ["--folder", folder] => Ok(folder.into()),
        _ => bail!("usage: quickstart [--folder FOLDER]"),
    }
}

/// An empty folder; only one of an earlier quickstart is emptied.
fn prepare(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        if !folder.join(MARK).is_file() && fs::read_dir(folder)?.next().is_some() {
            bail!("{} exists and is not of a quickstart: name another by --folder", folder.display());
        }
        fs::remove_dir_all(folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::write(folder.join(MARK), "").context("marking the folder")
}
