//! `statetune extract`

use anyhow::bail;
use serde_json::json;
use statetune_peft_methods::adapter::ADAPTER_CONFIG;
use statetune_peft_methods::extract::{Options, Report, extract};
use statetune_peft_methods::linalg::{Rank, available};
use statetune_tensor::DType;
use statetune_trainer::config::DeviceSection;

use super::progress::Bar;
use super::{ExtractArguments, Output, setup};
use crate::hub;

pub(super) fn run(arguments: &ExtractArguments, output: Output) -> anyhow::Result<()> {
    // Before models are read for nothing.
    available("`statetune extract`")?;
    let options = Options {
        targets: arguments.targets.clone(),
        rank: arguments.rank.map_or(Rank::Energy(arguments.energy), Rank::Fixed),
        rest: arguments.rest,
    };
    options.rank.check()?;
    let out = &arguments.out;
    if out.join(ADAPTER_CONFIG).exists() {
        bail!("{} holds an adapter already: name another folder", out.display());
    }
    let device = setup::device(&DeviceSection { threads: arguments.threads, ..DeviceSection::default() })?;
    let (base_path, tuned_path) = (hub::pinned(&arguments.base)?, hub::pinned(&arguments.tuned)?);
    let base = setup::model(&base_path, &device, DType::F32)?;
    let tuned = setup::model(&tuned_path, &device, DType::F32)?;
    let mut bar = Bar::new("extracting", output.quiet);
    let (adapter, report) = extract(&base, &tuned, &options, |done, of| bar.at(done as u64, of as u64, String::new))?;
    adapter.save(out, &base_path.to_string_lossy())?;
    if output.json {
        say!(
            "{:#}",
            json!({"adapter": out, "base": base_path, "tuned": tuned_path,
            "numbers": adapter.trainable(), "report": report})
        );
        return Ok(());
    }
    print(&report);
    let percent = 100.0 * adapter.trainable() as f64 / base.size() as f64;
    say!("{}: {} numbers, {percent:.2}% of the model", out.display(), adapter.trainable());
    Ok(())
}

fn print(report: &Report) {
    for site in &report.sites {
        let [rows, columns] = site.shape;
        let (rank, energy, left) = (site.rank, 100.0 * site.energy, site.error / site.norm);
        say!(
            "{} [{rows}, {columns}]: rank {rank}, {energy:.2}% of the energy, error {left:.2e} of the difference",
            site.name
        );
    }
    if !report.unchanged.is_empty() {
        say!("unchanged and left out: {}", summed_up(report.unchanged.iter()));
    }
    if !report.rest.is_empty() {
        let what = if report.rest_included { "taken along whole" } else { "differ, but are not covered (see --rest)" };
        say!("{what}: {}", summed_up(report.rest.iter().map(|tensor| &tensor.name)));
    }
}

/// Names, those of layers once with the number of layers; `--json` has every one.
fn summed_up<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for name in names {
        let in_layer = name.strip_prefix("backbone.layers.").and_then(|rest| rest.split_once('.'));
        let (short, layers) = in_layer.map_or((name.as_str(), 0), |(_, short)| (short, 1));
        match counts.iter_mut().find(|(known, _)| *known == short) {
            Some((_, count)) => *count += layers,
            None => counts.push((short, layers)),
        }
    }
    let shown = counts.into_iter().map(|(name, layers)| match layers {
        0 => name.to_owned(),
        1 => format!("{name} in 1 layer"),
        _ => format!("{name} in {layers} layers"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
