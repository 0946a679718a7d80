//! What a sweep leaves beside its results, all from them: the table as Markdown and as CSV, and a page with charts.

use std::fs;
use std::path::Path;

use super::plan::{Plan, Purpose};
use super::results::{Line, Results};
use super::table::{Row, Table, shown};
use crate::TrainError;
use crate::error::io_error;
use crate::report::{self, Chart, Report, Series};

/// Writes `table.md`, `table.csv` and `report.html` into a folder, each whole or not at all. `table` is that of the results.
///
/// # Errors
/// The system refuses.
pub fn write_pages(folder: &Path, plan: &Plan, results: &Results, table: &Table) -> Result<(), TrainError> {
    let pages = [
        ("table.md", table.markdown.clone()),
        ("table.csv", csv(plan, table)),
        ("report.html", page(plan, results, table)),
    ];
    for (name, text) in pages {
        let (path, hidden) = (folder.join(name), folder.join(format!(".{name}.writing")));
        fs::write(&hidden, text).map_err(|source| io_error(&hidden, "write", source))?;
        fs::rename(&hidden, &path).map_err(|source| io_error(&path, "write", source))?;
    }
    Ok(())
}

/// A line per entry and task, after one with the columns' names (RFC 4180). Scores are in the table's units, one per seed with
/// spaces between; what is not known is empty.
fn csv(plan: &Plan, table: &Table) -> String {
    let mut text =
        "entry,task,metric,learning_rate,trained,mean,deviation,scores,seconds,peak_memory_mib,failed\n".to_owned();
    for (unit, row) in plan.units.iter().zip(&table.rows) {
        fn number<T: ToString>(value: Option<T>) -> String {
            value.map_or(String::new(), |value| value.to_string())
        }
        let scores: Vec<String> = row.scores.iter().map(f64::to_string).collect();
        let cells = [
            row.entry.clone(),
            row.task.clone(),
            shown(plan.task(unit)).0,
            number(row.learning_rate),
            number(row.trained),
            number(row.mean),
            number(row.deviation),
            scores.join(" "),
            number(row.seconds),
            number(row.peak_memory_mib),
            row.failed.to_string(),
        ];
        text += &(cells.map(|cell| quoted(&cell)).join(",") + "\n");
    }
    text
}

fn quoted(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

/// The page: a table, and for every task scores over trained numbers and the losses of the runs for the table.
fn page(plan: &Plan, results: &Results, table: &Table) -> String {
    let header = ["method", "task", "rate", "trained", "score", "deviation", "s", "peak MiB"];
    let cells = |(at, row): (usize, &Row)| {
        let task = plan.task(&plan.units[at]);
        let (metric, _, digits) = shown(task);
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let score = match row.mean {
            Some(mean) => format!("{mean:.digits$}"),
            None if row.failed => "diverged".into(),
            None => "-".into(),
        };
        vec![
            row.entry.clone(),
            format!("{}, {metric}", task.title),
            row.learning_rate.map_or("-".into(), |rate| rate.to_string()),
            row.trained.map_or("-".into(), |count| count.to_string()),
            score,
            number(row.deviation, digits),
            number(row.seconds, 1),
            number(row.peak_memory_mib, 0),
        ]
    };
    let rows = table.rows.iter().enumerate().map(cells).collect();
    let charts = (0..plan.tasks.len()).flat_map(|task| [scores(plan, table, task), losses(plan, results, task)]);
    report::render(&Report {
        title: "Sweep".into(),
        summary: vec![
            ("runs".into(), format!("{} of {}", table.runs.0, table.runs.1)),
            ("base model".into(), plan.config.model.path.display().to_string()),
            ("on".into(), table.devices.join(" and ")),
        ],
        tables: vec![report::Table { caption: "Methods".into(), header: header.map(str::to_owned).to_vec(), rows }],
        charts: charts.filter(|chart| !chart.series.is_empty()).collect(),
        ..Report::default()
    })
}

/// The mean scores of a task by the numbers that are trained for them; that of the untuned model is a line over all of them.
fn scores(plan: &Plan, table: &Table, task: usize) -> Chart {
    let rows = || plan.units.iter().zip(&table.rows).filter(|(unit, _)| unit.task == task);
    let trained = |row: &Row| row.trained.filter(|count| *count > 0).map(|count| (count as f64).log10());
    let all: Vec<f64> = rows().filter_map(|(_, row)| trained(row)).collect();
    let series = rows().filter_map(|(unit, row)| {
        let mean = row.mean?;
        let points = match unit.is_base() {
            true => {
                let ends = [all.iter().copied().reduce(f64::min)?, all.iter().copied().reduce(f64::max)?];
                ends.map(|end| (end, mean)).to_vec()
            }
            false => vec![(trained(row)?, mean)],
        };
        Some(Series { name: row.entry.clone(), points })
    });
    let task = &plan.tasks[task];
    Chart {
        title: format!("{}: score by trained numbers", task.title),
        x_label: "trained numbers, log10".into(),
        y_label: shown(task).0,
        series: series.collect(),
    }
}

/// The losses of the runs for the table, of the first seed that is there.
fn losses(plan: &Plan, results: &Results, task: usize) -> Chart {
    let units = plan.units.iter().filter(|unit| unit.task == task);
    let (name, lines) = (&plan.tasks[task].name, results.lines(plan));
    let series = units.filter_map(|unit| {
        let is_of = |line: &&Line| line.purpose == Purpose::Final && line.entry == unit.name && line.task == *name;
        let line = lines.iter().copied().filter(is_of).find(|line| !line.curve.is_empty())?;
        let points = line.curve.iter().map(|&(step, loss)| (step as f64, loss)).collect();
        Some(Series { name: format!("{}, seed {}", unit.name, line.seed), points })
    });
    Chart {
        title: format!("{}: loss in training", plan.tasks[task].title),
        x_label: "steps".into(),
        y_label: "loss".into(),
        series: series.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_a_csv_are_quoted_where_they_must_be() {
        assert_eq!([quoted("lora"), quoted("a,b"), quoted("say \"no\"")], ["lora", "\"a,b\"", "\"say \"\"no\"\"\""]);
    }
}
