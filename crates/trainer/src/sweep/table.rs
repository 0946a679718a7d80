//! The table of a sweep, from its results alone.

use serde::Serialize;

use super::compared::Compared;
use super::config::SearchSection;
use super::plan::{Plan, PlannedTask, Purpose, Unit};
use super::results::{Choice, Line, Results};

/// What came out, as text for a page and as numbers.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The devices' names.
    pub devices: Vec<String>,
    /// Runs finished and runs in all.
    pub runs: (usize, usize),
    /// A row per entry and task.
    pub rows: Vec<Row>,
    /// Of each task that is judged by answers, the evaluations.
    pub comparisons: Vec<Compared>,
    /// Tables and what to know about them.
    pub markdown: String,
}

/// An entry on a task.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The entry's name.
    pub entry: String,
    /// The task's name.
    pub task: String,
    /// The rate that was found.
    pub learning_rate: Option<f64>,
    /// Whether every run of the search, or one with the rate found, came to no finite result.
    pub failed: bool,
    /// Numbers trained.
    pub trained: Option<usize>,
    /// The scores by seed, in the table's units.
    pub scores: Vec<f64>,
    /// Their mean.
    pub mean: Option<f64>,
    /// Their standard deviation (of a sample); absent for one.
    pub deviation: Option<f64>,
    /// Mean seconds of training.
    pub seconds: Option<f64>,
    /// The most memory.
    pub peak_memory_mib: Option<f64>,
}

/// How a task's score is shown: its name with the unit, what it is multiplied with, digits behind the point.
pub(super) fn shown(task: &PlannedTask) -> (String, f64, usize) {
    if let Some(judge) = &task.judge {
        return (judge.measure.key(), 1.0, judge.measure.digits());
    }
    let (name, factor, digits) = match task.settings.metric.as_str() {
        "accuracy" => ("accuracy %", 100.0, 1),
        "label_accuracy" => ("accuracy of the labels %", 100.0, 1),
        "f1" => ("F1", 1.0, 3),
        "matthews" => ("Matthews", 1.0, 3),
        _ => ("loss", 1.0, 4),
    };
    (name.to_owned(), factor, digits)
}

impl Table {
    /// Of the results so far.
    pub fn new(plan: &Plan, results: &Results) -> Table {
        let (lines, mut devices) = (results.lines(plan), Vec::<String>::new());
        for line in &lines {
            if !devices.contains(&line.device.name) {
                devices.push(line.device.name.clone());
            }
        }
        let rows: Vec<Row> = (0..plan.units.len()).map(|unit| row(plan, results, unit)).collect();
        let runs = results.runs(plan);
        let markdown = markdown(plan, &lines, &devices, &rows, runs);
        Table { devices, runs, rows, comparisons: Vec::new(), markdown }
    }

    /// With evaluations beside each other below it.
    pub fn with(mut self, comparisons: Vec<Compared>) -> Table {
        for compared in &comparisons {
            self.markdown += &format!("\n{}", compared.markdown());
        }
        self.comparisons = comparisons;
        self
    }
}

fn row(plan: &Plan, results: &Results, at: usize) -> Row {
    let unit = &plan.units[at];
    let choice = results.choice(plan, at);
    let lines: Vec<&Line> = match choice {
        Choice::Rate(rate) => plan.finals(at, rate).iter().filter_map(|job| results.of(plan, job)).collect(),
        Choice::Open | Choice::None => Vec::new(),
    };
    let factor = shown(plan.task(unit)).1;
    let scores: Vec<f64> = lines.iter().filter_map(|line| line.score).map(|score| score * factor).collect();
    let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let middle = mean(&scores);
    let deviation = middle.filter(|_| scores.len() > 1).map(|middle| {
        let squares = scores.iter().map(|score| (score - middle).powi(2)).sum::<f64>();
        (squares / (scores.len() - 1) as f64).sqrt()
    });
    let trained = lines.iter().filter(|line| line.failed.is_none() && !unit.is_base());
    Row {
        entry: unit.name.clone(),
        task: plan.task(unit).name.clone(),
        learning_rate: match choice {
            Choice::Rate(rate) if !unit.is_base() && (!lines.is_empty() || !plan.search(at).is_empty()) => Some(rate),
            _ => None,
        },
        failed: choice == Choice::None || lines.iter().any(|line| line.failed.is_some()),
        trained: lines.first().map(|line| line.trained),
        mean: middle,
        deviation,
        seconds: mean(&trained.map(|line| line.seconds).collect::<Vec<_>>()),
        peak_memory_mib: lines.iter().filter_map(|line| line.peak_memory_mib).reduce(f64::max),
        scores,
    }
}

fn markdown(plan: &Plan, lines: &[&Line], devices: &[String], rows: &[Row], runs: (usize, usize)) -> String {
    let mut text = heading(plan, lines, devices);
    let tasks = &plan.tasks;
    text += "\n\n| method | trained |";
    for task in tasks {
        let name = shown(task).0;
        let title = &task.title;
        text += &format!(" {title} rate | {title} {name} | {title} s |");
    }
    text += " peak MiB |\n|---|---|";
    text += &"---|---|---|".repeat(tasks.len());
    text += "---|\n";
    let mut without = Vec::new();
    for (units, rows) in plan.units.chunks(tasks.len()).zip(rows.chunks(tasks.len())) {
        if rows.iter().all(|row| row.scores.is_empty() && !row.failed) {
            without.push(rows[0].entry.as_str());
            continue;
        }
        let mut trained: Vec<String> = Vec::new();
        for count in rows.iter().filter_map(|row| row.trained).map(|count| count.to_string()) {
            if !trained.contains(&count) {
                trained.push(count);
            }
        }
        text += &format!("| {} | {} |", rows[0].entry, or_dash(trained.join(" / ")));
        for (unit, row) in units.iter().zip(rows) {
            text += &cells(plan, unit, row);
        }
        let peak = rows.iter().filter_map(|row| row.peak_memory_mib).reduce(f64::max);
        text += &format!(" {} |\n", or_dash(peak.map_or(String::new(), |mib| format!("{mib:.0}"))));
    }
    if !without.is_empty() {
        let list = without.join(", ");
        text += &format!("\nWithout a result, not run yet or for want of the feature `lapack`: {list}.\n");
    }
    if runs.0 < runs.1 {
        text += &format!("\n{} of {} runs are finished.\n", runs.0, runs.1);
    }
    text + &references(plan, rows)
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "–".into() } else { text }
}

fn cells(plan: &Plan, unit: &Unit, row: &Row) -> String {
    let rate = or_dash(row.learning_rate.map_or(String::new(), |rate| rate.to_string()));
    let seconds = or_dash(row.seconds.map_or(String::new(), |seconds| format!("{seconds:.1}")));
    format!(" {rate} | {} | {seconds} |", score(plan, unit, row))
}

/// Mean ± deviation, and how many seeds there are if not all.
fn score(plan: &Plan, unit: &Unit, row: &Row) -> String {
    let digits = shown(plan.task(unit)).2;
    let Some(mean) = row.mean else { return if row.failed { "diverged".into() } else { "–".into() } };
    let mut text = format!("{mean:.digits$}");
    if let Some(deviation) = row.deviation {
        text += &format!(" ± {deviation:.digits$}");
    }
    let seeds = plan.in_table(unit);
    if row.scores.len() < seeds {
        let failed = if row.failed { ", others diverged" } else { "" };
        text += &format!(" ({} of {seeds} seeds{failed})", row.scores.len());
    }
    text
}

fn heading(plan: &Plan, lines: &[&Line], devices: &[String]) -> String {
    let mut text = match (devices, lines.first()) {
        ([..], Some(line)) => {
            let products = line.device.products.as_ref().map_or(String::new(), |p| format!(", products in {p}"));
            format!("On {}, activations in {}{products}. ", devices.join(" and "), line.device.compute)
        }
        _ => String::new(),
    };
    for task in &plan.tasks {
        // The untuned model was trained on no rows.
        let trained = lines.iter().find(|l| l.task == task.name && l.purpose == Purpose::Final && l.rows > 0);
        let settings = &task.settings;
        let length = match settings.max_steps {
            0 => format!("epochs: {}", settings.epochs),
            steps => format!("{steps} steps"),
        };
        let rows = trained.map_or(String::new(), |line| {
            format!(" {} rows, judged on the {} of the validation file,", line.rows, line.judged_on)
        });
        text += &format!("{}:{rows} {length}, batch {}. ", task.title, settings.batch_size);
    }
    let seeds: Vec<String> = plan.config.seeds.iter().map(u64::to_string).collect();
    text += &searched(plan);
    text +=
        &format!("Seeds {}; mean ± standard deviation. Seconds are those of a run's training steps", seeds.join(", "));
    match lines.iter().map(|line| line.workers).max() {
        Some(workers) if workers > 1 => text + &format!(", with up to {workers} runs on the device at once."),
        _ => text + ".",
    }
}

/// How the rates were found: of all tasks in one sentence where they have one way.
fn searched(plan: &Plan) -> String {
    let is_searched = |task: usize| {
        let mut units = (0..plan.units.len()).filter(|&unit| plan.units[unit].task == task);
        units.any(|unit| !plan.search(unit).is_empty())
    };
    let mut ways: Vec<(Vec<&str>, &SearchSection)> = Vec::new();
    for task in (0..plan.tasks.len()).filter(|&task| is_searched(task)).map(|task| &plan.tasks[task]) {
        match ways.iter_mut().find(|(_, way)| **way == task.search) {
            Some((tasks, _)) => tasks.push(&task.title),
            None => ways.push((vec![&task.title], &task.search)),
        }
    }
    let several = ways.len() > 1;
    let told = |(tasks, search): (Vec<&str>, &SearchSection)| {
        let on = if several { format!("On {} the", tasks.join(", ")) } else { "The".into() };
        let factors: Vec<String> = search.factors.iter().map(|factor| format!("{factor:.2}")).collect();
        format!(
            "{on} learning rate is the best of several (where nothing else is said, the method's default times {}) on {} rows cut \
             from the training rows, after {:.0} % of the steps on the others. ",
            factors.join(", "),
            search.rows,
            100.0 * search.share,
        )
    };
    ways.into_iter().map(told).collect()
}

/// What others measured beside what is measured here.
fn references(plan: &Plan, rows: &[Row]) -> String {
    let list = &plan.config.references;
    if list.is_empty() {
        return String::new();
    }
    let mut text = "\n| reference | method | metric | its rate | its scores | here: rate | here |\n|---|---|---|---|---|---|---|\n".to_owned();
    for reference in list {
        let found =
            plan.units.iter().zip(rows).find(|(_, row)| (&row.entry, &row.task) == (&reference.entry, &reference.task));
        let Some((unit, row)) = found else { continue };
        let (task, scores) = (plan.task(unit), reference.scores.iter().map(f64::to_string).collect::<Vec<_>>());
        text += &format!(
            "| {} | {} | {} | {} | {} | {} | {} |\n",
            task.title,
            row.entry,
            shown(task).0,
            reference.rate,
            scores.join(", "),
            or_dash(row.learning_rate.map_or(String::new(), |rate| rate.to_string())),
            score(plan, unit, row)
        );
    }
    text
}
