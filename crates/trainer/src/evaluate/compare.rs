//! Evaluations of the same data beside each other: each against the first, by the paired bootstrap.

use std::fmt::Write;

use serde::Serialize;
use statetune_datasets_eval::metrics::PairedDifference;

use super::files::Stored;
use super::measure::Measure;
use super::scoring::Measured;
use crate::TrainError;

/// How an evaluation differs from the first by one measure.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Its score less the first's.
    pub value: f64,
    /// Lower end of the interval of the difference.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// The chance of as large a difference between evaluations that are equally good.
    pub p_value: f64,
    /// Whether zero lies outside the interval, and to which side: 1 better than the first, -1 worse, 0 neither.
    pub verdict: i8,
}

/// A score in a table.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cell {
    /// The score.
    pub value: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Examples.
    pub examples: usize,
    /// Against the first; absent for the first, and where the two do not compare.
    pub difference: Option<Difference>,
}

/// A measure of all evaluations.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Its name in configurations.
    pub key: String,
    /// Its name in tables.
    pub name: String,
    /// Whether more is better.
    pub higher_is_better: bool,
    /// One for each evaluation; absent where it was not scored so.
    pub cells: Vec<Option<Cell>>,
}

/// Several evaluations.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// What they are called.
    pub names: Vec<String>,
    /// The share of samples within an interval.
    pub confidence: f64,
    /// The measures.
    pub rows: Vec<Row>,
    /// What does not compare, and why.
    pub notes: Vec<String>,
}

/// Compares evaluations with the first, by the draws that its settings say.
///
/// # Errors
/// There are fewer than two, or they are of different data.
pub fn compare(all: &[(String, &Stored)]) -> Result<Comparison, TrainError> {
    let fail = |reason: String| Err(TrainError::NothingToDo { reason });
    let [(first_name, first), others @ ..] = all else { return fail("there is no evaluation to compare".into()) };
    if others.is_empty() {
        return fail(format!("there is only one evaluation, `{first_name}`: name what it is compared with"));
    }
    for (name, other) in others {
        if other.kept.data.answers != first.kept.data.answers {
            let told = |name: &str, stored: &Stored| {
                let data = &stored.kept.data;
                let file = data.config.validation.as_deref().map_or(String::new(), |file| file.display().to_string());
                format!("`{name}` is of {} rows of {file}", data.rows)
            };
            let (one, two) = (told(first_name, first), told(name, other));
            return fail(format!(
                "evaluations of different data do not compare: {one}, {two}, and rows or right answers differ; evaluate \
                 both on the same rows (`data.validation`, `data.limit`, `data.max_tokens`, `evaluation.limit`)"
            ));
        }
    }
    let mut keys: Vec<(Measure, &Measured)> = Vec::new();
    for measured in all.iter().flat_map(|(_, stored)| &stored.measured) {
        if !keys.iter().any(|(known, _)| *known == measured.measure) {
            keys.push((measured.measure, measured));
        }
    }
    let (mut rows, mut notes) = (Vec::new(), Vec::new());
    for (measure, sample) in keys {
        let own = find(first, measure);
        let mut cells = Vec::with_capacity(all.len());
        for (place, (name, stored)) in all.iter().enumerate() {
            let Some(measured) = find(stored, measure) else {
                cells.push(None);
                continue;
            };
            let mut difference = None;
            if let (Some(own), true) = (own, place > 0) {
                match obstacle(measure, (first, own), (stored, measured)) {
                    None => difference = Some(paired(first, own, measured)?),
                    Some(why) => notes.push(format!("{} of `{name}` and `{first_name}`: {why}", sample.name)),
                }
            }
            let interval = measured.interval;
            cells.push(Some(Cell {
                value: interval.value,
                low: interval.low,
                high: interval.high,
                examples: measured.rows.len(),
                difference,
            }));
        }
        rows.push(Row {
            key: measure.key(),
            name: sample.name.clone(),
            higher_is_better: measure.higher_is_better(),
            cells,
        });
    }
    let names = all.iter().map(|(name, _)| name.clone()).collect();
    Ok(Comparison { names, confidence: first.kept.settings.confidence, rows, notes })
}

fn find(stored: &Stored, measure: Measure) -> Option<&Measured> {
    stored.measured.iter().find(|measured| measured.measure == measure)
}

/// Why two scores by one measure do not compare, if so.
fn obstacle(measure: Measure, first: (&Stored, &Measured), second: (&Stored, &Measured)) -> Option<String> {
    if matches!(measure, Measure::Loss | Measure::Perplexity) && first.0.kept.data.tokens != second.0.kept.data.tokens {
        return Some("not compared, since the tokens are others".into());
    }
    if first.1.signature != second.1.signature {
        let (one, two) = (&second.1.signature, &first.1.signature);
        return Some(format!("not compared, since one is {one}, the other {two}"));
    }
    if first.1.rows != second.1.rows {
        let (one, two) = (second.1.rows.len(), first.1.rows.len());
        return Some(format!("not compared, since they are of other examples ({one} and {two})"));
    }
    None
}

fn paired(first: &Stored, own: &Measured, other: &Measured) -> Result<Difference, TrainError> {
    let measure = own.measure;
    let reducer = measure.reducer(first.kept.data.classes)?;
    let score = |of: &Measured, places: &[usize]| reducer.score(&of.statistics, places);
    let bootstrap = first.kept.settings.bootstrap();
    let found = bootstrap.paired_by(own.rows.len(), |places| score(other, places) - score(own, places))?;
    let verdict = match (found.is_clear(), (found.difference.value > 0.0) == measure.higher_is_better()) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => -1,
    };
    let PairedDifference { difference, p_value } = found;
    Ok(Difference { value: difference.value, low: difference.low, high: difference.high, p_value, verdict })
}

impl Comparison {
    /// A table of scores with intervals, differences beyond their interval marked, and what to know about it.
    pub fn markdown(&self) -> String {
        let mut out = format!("| | {} |\n|---|{}\n", self.names.join(" | "), "---|".repeat(self.names.len()));
        for row in &self.rows {
            let digits = Measure::of_key(&row.key).map_or(4, Measure::digits);
            let cells = row.cells.iter().map(|cell| cell.as_ref().map_or("–".into(), |cell| cell.text(digits)));
            // Writing to a string does not fail.
            let _ = writeln!(out, "| {} | {} |", row.name, cells.collect::<Vec<_>>().join(" | "));
        }
        let percent = 100.0 * self.confidence;
        let _ = write!(
            out,
            "\nIn brackets the {percent}% interval of the bootstrap. ↑ better and ↓ worse than {}, where zero lies outside \
             the {percent}% interval of the paired difference.\n",
            self.names[0]
        );
        self.notes.iter().for_each(|note| out.push_str(&format!("\n- {note}")));
        out
    }
}

impl Cell {
    fn text(&self, digits: usize) -> String {
        let mark = match self.difference.map_or(0, |difference| difference.verdict) {
            1 => " ↑",
            -1 => " ↓",
            _ => "",
        };
        format!("{:.digits$} [{:.digits$}, {:.digits$}]{mark}", self.value, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use statetune_datasets_eval::metrics::TextMetric;
    use statetune_datasets_eval::{Counts, DataConfig};

    use super::super::files::{DataUsed, Kept, Subject};
    use super::*;
    use crate::config::EvaluationSection;

    /// An evaluation by exact match whose example `i` is right where `right` says so.
    fn stored(examples: usize, right: impl Fn(usize) -> bool) -> Stored {
        let statistics: Vec<Vec<f64>> = (0..examples).map(|i| vec![f64::from(u8::from(right(i))), 1.0]).collect();
        let settings = EvaluationSection::default();
        let measure = Measure::Text(TextMetric::ExactMatch);
        let reducer = measure.reducer(0).unwrap();
        let interval = settings.bootstrap().interval(examples, |places| reducer.score(&statistics, places)).unwrap();
        let measured = Measured {
            measure,
            name: "exact match".into(),
            signature: "nrefs:1".into(),
            interval,
            rows: (0..examples as u64).collect(),
            statistics,
        };
        let data = DataUsed {
            config: DataConfig { validation: Some("dev.jsonl".into()), ..DataConfig::default() },
            rows: examples,
            answers: "a".into(),
            tokens: "t".into(),
            classes: 0,
            counts: Counts::default(),
            bad_rows: Vec::new(),
            bad_golds: Vec::new(),
        };
        let subject = Subject { name: "x".into(), model: "m".into(), adapters: Vec::new() };
        let kept = Kept { version: 1, subject, data, settings, evaluation: json!({}), metrics: Vec::new() };
        Stored { folder: "f".into(), kept, measured: vec![measured] }
    }

    fn difference(first: &Stored, second: &Stored) -> Difference {
        let found = compare(&[("a".into(), first), ("b".into(), second)]).unwrap();
        found.rows[0].cells[1].unwrap().difference.unwrap()
    }

    #[test]
    fn a_real_difference_is_marked_and_a_null_one_is_not() {
        let first = stored(200, |i| i % 2 == 0);
        // As many right ones, at other places.
        let equal = stored(200, |i| i % 2 == 1);
        // A few more, on the same examples: intervals of the two overlap, that of the difference is clear.
        let better = stored(200, |i| i % 2 == 0 || i % 20 == 1);
        // One more is chance.
        let luck = stored(200, |i| i % 2 == 0 || i == 1);
        assert_eq!(difference(&first, &equal).verdict, 0);
        assert_eq!(difference(&first, &luck).verdict, 0);
        let found = difference(&first, &better);
        assert!(found.verdict == 1 && found.low > 0.0 && found.p_value < 0.05, "{found:?}");
        assert!((found.value - 0.05).abs() < 1e-12, "{found:?}");
        let (a, b) = (first.measured[0].interval, better.measured[0].interval);
        assert!(a.high > b.low, "intervals of each alone would not tell: {a:?} {b:?}");
        assert_eq!(difference(&better, &first).verdict, -1);
    }

    #[test]
    fn more_is_worse_where_less_is_better() {
        let of = |shift: f64| {
            let mut stored = stored(50, |_| true);
            stored.measured[0].measure = Measure::Loss;
            stored.measured[0].statistics = (0..50).map(|i| vec![f64::from(i % 3) + shift, 2.0]).collect();
            stored
        };
        assert_eq!(difference(&of(0.0), &of(0.5)).verdict, -1);
        assert_eq!(difference(&of(0.5), &of(0.0)).verdict, 1);
    }

    #[test]
    fn what_does_not_compare_is_noted_or_refused() {
        let first = stored(20, |_| true);
        let mut second = stored(20, |_| false);
        second.measured[0].signature = "nrefs:2".into();
        let found = compare(&[("a".into(), &first), ("b".into(), &second)]).unwrap();
        assert_eq!(found.rows[0].cells[1].unwrap().difference, None);
        assert_eq!(found.notes, ["exact match of `b` and `a`: not compared, since one is nrefs:2, the other nrefs:1"]);
        assert!(found.markdown().contains("| 0.0000 [0.0000, 0.0000] |"), "{}", found.markdown());
        let mut third = stored(20, |_| false);
        third.measured[0].rows[3] = 77;
        let found = compare(&[("a".into(), &first), ("b".into(), &third)]).unwrap();
        assert!(found.notes[0].contains("of other examples (20 and 20)"), "{:?}", found.notes);
        third.kept.data.answers = "other".into();
        let error = compare(&[("a".into(), &first), ("b".into(), &third)]).unwrap_err().to_string();
        assert!(error.contains("`a` is of 20 rows of dev.jsonl, `b` is of 20 rows of dev.jsonl"), "{error}");
        let error = compare(&[("a".into(), &first)]).unwrap_err().to_string();
        assert!(error.contains("only one evaluation, `a`"), "{error}");
        second.measured.clear();
        let found = compare(&[("a".into(), &first), ("b".into(), &second)]).unwrap();
        assert!(found.markdown().contains("| exact match | 1.0000 [1.0000, 1.0000] | – |"), "{}", found.markdown());
    }
}
