//! The scores of many predictions in the official table, as text and as Markdown.

use serde::Serialize;

use super::evaluator::SpiderRecord;
use super::hardness::Hardness;
use super::matching::COMPONENTS;

/// How well a component is predicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ComponentScores {
    /// The share that is right of the predictions that have it; 0 where none has.
    pub accuracy: f64,
    /// The share that is right of the golds that have it; 0 where none has.
    pub recall: f64,
    /// Their harmonic mean; officially 1 where both are 0, and 0 where there is no example.
    pub f1: f64,
    /// Predictions that have it.
    pub predicted: usize,
    /// Golds that have it.
    pub gold: usize,
}

/// The scores of the examples of one hardness, or of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LevelScores {
    /// `easy`, `medium`, `hard`, `extra` or `all`.
    pub level: &'static str,
    /// Examples.
    pub count: usize,
    /// The share with an exact set match.
    pub exact: f64,
    /// The share with an official execution match; `None` where queries were not run.
    pub execution: Option<f64>,
    /// The share with a strict execution match.
    pub strict_execution: Option<f64>,
    /// In the order of [`COMPONENTS`].
    pub components: [ComponentScores; 10],
}

/// The scores of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpiderReport {
    /// The four levels from the easiest, then all.
    pub levels: Vec<LevelScores>,
    /// Predictions that cannot be parsed.
    pub unparsed: usize,
    /// Predictions that cannot be run, or were ended at a limit.
    pub failed: usize,
}

impl SpiderReport {
    /// Sums records up.
    pub fn new(records: &[SpiderRecord]) -> SpiderReport {
        let of = |level| records.iter().filter(move |record| record.hardness == level);
        let mut levels: Vec<LevelScores> =
            Hardness::ALL.iter().map(|level| LevelScores::new(level.name(), of(*level))).collect();
        levels.push(LevelScores::new("all", records.iter()));
        let executions = records.iter().filter_map(|record| record.execution.as_ref());
        SpiderReport {
            levels,
            unparsed: records.iter().filter(|record| record.unparsed.is_some()).count(),
            failed: executions.filter(|execution| execution.failure.is_some()).count(),
        }
    }

    /// The official table line by line, with the strict execution match below the official one.
    pub fn plain(&self) -> String {
        let mut out = plain_row("", &self.cells(|level| level.level.into()));
        out += &plain_row("count", &self.cells(|level| level.count.to_string()));
        for section in self.sections() {
            out += section.title;
            out.push('\n');
            out.extend(section.rows.iter().map(|(name, cells)| plain_row(name, cells)));
        }
        out
    }

    /// The same table as Markdown.
    pub fn markdown(&self) -> String {
        let row = |name: &str, cells: &[String]| format!("| {name} | {} |\n", cells.join(" | "));
        let mut out = row("", &self.cells(|level| level.level.into()));
        out += "|---|---:|---:|---:|---:|---:|\n";
        out += &row("count", &self.cells(|level| level.count.to_string()));
        for Section { name: section, rows, .. } in self.sections() {
            let named = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{name}, {section}") };
            out.extend(rows.iter().map(|(name, cells)| row(&named(name), cells)));
        }
        out
    }

    fn cells(&self, cell: impl Fn(&LevelScores) -> String) -> Vec<String> {
        self.levels.iter().map(cell).collect()
    }

    fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        if self.levels.iter().any(|level| level.execution.is_some()) {
            let official = self.cells(|level| share(level.execution.unwrap_or(0.0)));
            let strict = self.cells(|level| share(level.strict_execution.unwrap_or(0.0)));
            let rows = vec![("execution", official), ("strict execution", strict)];
            sections.push(Section { title: EXECUTION, name: "", rows });
        }
        let rows = vec![("exact match", self.cells(|level| share(level.exact)))];
        sections.push(Section { title: EXACT, name: "", rows });
        for (title, name, score) in PARTIAL {
            let row = |i: usize| self.cells(|level| share(score(&level.components[i])));
            let rows = COMPONENTS.iter().enumerate().map(|(i, name)| (*name, row(i))).collect();
            sections.push(Section { title, name, rows });
        }
        sections
    }
}

// The headings of the official table.
const EXECUTION: &str = "=====================   EXECUTION ACCURACY     =====================";
const EXACT: &str = "\n====================== EXACT MATCHING ACCURACY =====================";
type Partial = (&'static str, &'static str, fn(&ComponentScores) -> f64);
const PARTIAL: [Partial; 3] = [
    ("\n---------------------PARTIAL MATCHING ACCURACY----------------------", "accuracy", |scores| scores.accuracy),
    ("---------------------- PARTIAL MATCHING RECALL ----------------------", "recall", |scores| scores.recall),
    ("---------------------- PARTIAL MATCHING F1 --------------------------", "F1", |scores| scores.f1),
];

/// A part of the table: its heading, the word for it, and rows of one cell a level.
struct Section {
    title: &'static str,
    name: &'static str,
    rows: Vec<(&'static str, Vec<String>)>,
}

fn share(value: f64) -> String {
    format!("{value:.3}")
}

fn plain_row(name: &str, cells: &[String]) -> String {
    let cells: String = cells.iter().map(|cell| format!(" {cell:<20}")).collect();
    format!("{name:<20}{cells}\n")
}

impl LevelScores {
    fn new<'a>(level: &'static str, records: impl Iterator<Item = &'a SpiderRecord>) -> LevelScores {
        let records: Vec<&SpiderRecord> = records.collect();
        let count = records.len();
        let executions: Vec<_> = records.iter().filter_map(|record| record.execution.as_ref()).collect();
        let executed = |right: usize| (!executions.is_empty()).then(|| ratio(right, count));
        LevelScores {
            level,
            count,
            exact: ratio(records.iter().filter(|record| record.exact).count(), count),
            execution: executed(executions.iter().filter(|execution| execution.official).count()),
            strict_execution: executed(executions.iter().filter(|execution| execution.strict).count()),
            components: std::array::from_fn(|component| ComponentScores::new(component, &records)),
        }
    }
}

impl ComponentScores {
    fn new(component: usize, records: &[&SpiderRecord]) -> ComponentScores {
        let matches = || records.iter().map(|record| record.components[component]);
        let predicted = matches().filter(|one| one.in_prediction).count();
        let gold = matches().filter(|one| one.in_gold).count();
        let accuracy = ratio(matches().filter(|one| one.in_prediction && one.same).count(), predicted);
        let recall = ratio(matches().filter(|one| one.in_gold && one.same).count(), gold);
        let f1 = match (records.is_empty(), accuracy == 0.0 && recall == 0.0) {
            (true, _) => 0.0,
            (false, true) => 1.0,
            (false, false) => 2.0 * accuracy * recall / (recall + accuracy),
        };
        ComponentScores { accuracy, recall, f1, predicted, gold }
    }
}

/// A share; 0 of nothing.
fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
