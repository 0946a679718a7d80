//! A run's report: one HTML page made from its folder.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::Value;
use statetune_trainer::record;
use statetune_trainer::report::{Chart, Report, Series, Table, render};

/// Writes `report.html` into a run folder and returns its path.
///
/// # Errors
/// The folder's files cannot be read, or the page cannot be written.
pub fn of_run(folder: &Path) -> anyhow::Result<PathBuf> {
    let records = record::read(folder)?;
    let config = fs::read_to_string(folder.join("config.toml")).context("a run folder has a config.toml")?;
    let summary: Value = match fs::read_to_string(folder.join("summary.json")) {
        Ok(text) => serde_json::from_str(&text).context("summary.json")?,
        Err(_) => Value::Null, // the run is not over
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let report = Report {
        title: format!("statetune: {name}"),
        summary: facts(&summary),
        charts: charts(&[(name, records.clone())]),
        tables: evaluations(&records).into_iter().collect(),
        notes: notes(&records),
        listings: vec![("Configuration".into(), config)],
        ..Report::default()
    };
    let path = folder.join("report.html");
    fs::write(&path, render(&report)).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// Loss and metric curves of several runs.
pub fn charts(runs: &[(String, Vec<Value>)]) -> Vec<Chart> {
    let curve = |kind: &str, pointer: &str| -> Vec<Series> {
        let series = runs.iter().map(|(name, records)| Series {
            name: name.clone(),
            points: records
                .iter()
                .filter(|record| record["kind"] == kind)
                .filter_map(|record| Some((record["step"].as_f64()?, record.pointer(pointer)?.as_f64()?)))
                .collect(),
        });
        series.filter(|series| !series.points.is_empty()).collect()
    };
    let chart = |title: &str, y_label: &str, kind: &str, pointer: &str| Chart {
        title: title.into(),
        x_label: "step".into(),
        y_label: y_label.into(),
        series: curve(kind, pointer),
    };
    let all = vec![
        chart("Training loss", "loss", "step", "/loss"),
        chart("Validation loss", "loss", "evaluation", "/loss"),
        chart(
            "Validation accuracy (all vocabulary)",
            "accuracy",
            "evaluation",
            "/classification/over_all_vocabulary/accuracy",
        ),
        chart("Learning rate", "rate", "step", "/learning_rate"),
        chart("Gradient norm", "norm", "step", "/gradient_norm"),
    ];
    all.into_iter().filter(|chart| !chart.series.is_empty()).collect()
}

fn evaluations(records: &[Value]) -> Option<Table> {
    let rows: Vec<Vec<String>> = records
        .iter()
        .filter(|record| record["kind"] == "evaluation")
        .map(|record| {
            let number = |pointer: &str| record.pointer(pointer).and_then(Value::as_f64);
            let text = |pointer: &str| number(pointer).map_or("".into(), |x| format!("{x:.4}"));
            vec![
                record["step"].to_string(),
                text("/loss"),
                text("/classification/over_all_vocabulary/accuracy"),
                text("/classification/over_labels/accuracy"),
                text("/classification/over_all_vocabulary/matthews"),
                number("/classification/out_of_class").map_or("".into(), |n| format!("{n}")),
            ]
        })
        .collect();
    let header = ["step", "loss", "accuracy", "accuracy over the labels", "Matthews", "outside the labels"];
    (!rows.is_empty()).then(|| Table {
        caption: "Evaluations".into(),
        header: header.map(str::to_owned).to_vec(),
        rows,
    })
}

fn notes(records: &[Value]) -> Vec<String> {
    let text = |record: &Value| {
        let key = if record["kind"] == "skipped" { "reason" } else { "note" };
        record[key].as_str().map(|text| format!("step {}: {text}", record["step"]))
    };
    records.iter().filter_map(text).collect()
}

/// The summary's facts, as one reads them.
fn facts(summary: &Value) -> Vec<(String, String)> {
    let number = |pointer: &str| summary.pointer(pointer).and_then(Value::as_f64);
    let whole = |pointer: &str| number(pointer).map(|x| format!("{x:.0}"));
    let metric = summary["metric"].as_str().unwrap_or("metric");
    let best = number("/best/value").zip(number("/best/step"));
    let skipped = whole("/skipped_steps").filter(|count| count != "0");
    let rows = |split: &str| {
        let (kept, all) = (whole(&format!("/data/{split}/kept"))?, whole(&format!("/data/{split}/rows"))?);
        Some(if kept == all { all } else { format!("{kept} of {all}") })
    };
    let facts = [
        ("trained numbers", whole("/trainable")),
        ("steps", whole("/steps")),
        ("skipped steps", skipped),
        ("training examples", rows("train")),
        ("validation examples", rows("validation")),
        ("tokens", whole("/tokens")),
        ("minutes of training", number("/seconds").map(|x| format!("{:.1}", x / 60.0))),
        ("tokens per second", whole("/tokens_per_second")),
        ("peak memory", whole("/peak_memory_mib").map(|mib| mib + " MiB")),
        (&format!("best {metric}"), best.map(|(value, step)| format!("{value:.4} after step {step}"))),
    ];
    facts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}
