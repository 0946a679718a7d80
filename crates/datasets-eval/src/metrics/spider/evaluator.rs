//! The evaluator: one example to its record, and many on several threads.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::database::{Database, RunFailure, RunLimits};
use super::examples::SpiderExample;
use super::hardness::Hardness;
use super::matching::{self, ComponentMatch, TableRule};
use super::normal::normal;
use super::parse::parse;
use super::query::Query;
use super::report::SpiderReport;
use super::rows::{is_readable, officially_same, strictly_same};
use super::schema::{self, Described};
use super::tokens::{is_ordered, tokens};
use crate::error::nearest;
use crate::{DataError, Result};

/// How to evaluate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SpiderOptions {
    /// Whether to run the queries. Without it no database is needed; tables come from `tables.json` where there is none.
    pub execute: bool,
    /// When the tables of two queries are compared for an exact match.
    pub tables: TableRule,
    /// What a query may use.
    pub limits: RunLimits,
}

impl Default for SpiderOptions {
    fn default() -> SpiderOptions {
        SpiderOptions { execute: true, tables: TableRule::Always, limits: RunLimits::default() }
    }
}

/// What to do about a gold query that cannot be parsed or run, or whose database is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadGold {
    /// End with an error that names it.
    #[default]
    Stop,
    /// Leave the example out of the scores and list it.
    Count,
}

/// Whether the results of prediction and gold are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExecutionMatch {
    /// By the official evaluator's rule.
    pub official: bool,
    /// The same rows as often, columns in the same order, rows in the same order where the gold query as a whole has
    /// ORDER BY; numbers are equal as numbers.
    pub strict: bool,
    /// Why the prediction has no result.
    pub failure: Option<RunFailure>,
    /// What the official evaluator would have ended at instead of an answer: text that is not UTF-8 in the gold's
    /// result, a column its parser found and SQLite did not.
    pub official_ends: Option<&'static str>,
}

/// The scores of one prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpiderRecord {
    /// The database.
    pub db_id: String,
    /// The gold query.
    pub gold: String,
    /// The prediction.
    pub prediction: String,
    /// Of the gold query.
    pub hardness: Hardness,
    /// Exact set match.
    pub exact: bool,
    /// The components in the order of [`COMPONENTS`](super::COMPONENTS).
    pub components: [ComponentMatch; 10],
    /// Why the prediction cannot be parsed; it is compared as the empty query.
    pub unparsed: Option<String>,
    /// The results compared; `None` where queries are not run.
    pub execution: Option<ExecutionMatch>,
}

/// A gold query that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadGold {
    /// Index of the example.
    pub example: usize,
    /// Its file.
    pub file: PathBuf,
    /// Its line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

/// An evaluation of many examples.
#[derive(Clone, Debug, Serialize)]
pub struct SpiderEvaluation {
    /// One record for each example in order, but for those with a bad gold query.
    pub records: Vec<SpiderRecord>,
    /// The examples left out.
    pub bad_golds: Vec<BadGold>,
    /// The scores.
    pub report: SpiderReport,
}

/// Evaluates predictions against databases in the layout of Spider.
#[derive(Debug)]
pub struct SpiderEvaluator {
    described: HashMap<String, Described>,
    databases: PathBuf,
    options: SpiderOptions,
}

/// What is wrong with a gold query.
struct Fault {
    what: &'static str,
    expected: String,
    found: String,
}

impl SpiderEvaluator {
    /// Reads `tables.json`; the database of `db_id` is `databases/db_id/db_id.sqlite`.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not a `tables.json`.
    pub fn open(tables: &Path, databases: &Path) -> Result<SpiderEvaluator> {
        SpiderEvaluator::open_with(tables, databases, SpiderOptions::default())
    }

    /// [`open`](Self::open) with options.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_with(tables: &Path, databases: &Path, options: SpiderOptions) -> Result<SpiderEvaluator> {
        Ok(SpiderEvaluator { described: schema::read(tables)?, databases: databases.into(), options })
    }

    /// Scores one prediction.
    ///
    /// # Errors
    ///
    /// The database is unknown or missing, or the gold query cannot be parsed or run. A prediction is never an error.
    pub fn evaluate(&self, prediction: &str, gold: &str, db_id: &str) -> Result<SpiderRecord> {
        Session { evaluator: self, open: None }.evaluate(prediction, gold, db_id).map_err(|fault| DataError::Argument {
            what: fault.what,
            expected: fault.expected,
            found: fault.found,
        })
    }

    /// Scores many predictions on this many threads, at least one. The result does not depend on their number.
    ///
    /// # Errors
    ///
    /// The first bad gold query, with its file and line, unless they are to be counted.
    pub fn evaluate_all(
        &self,
        examples: &[SpiderExample],
        threads: usize,
        on_bad_gold: OnBadGold,
    ) -> Result<SpiderEvaluation> {
        let next = AtomicUsize::new(0);
        // Past the first bad gold nothing is asked for; all before it is, whatever the timing.
        let end = AtomicUsize::new(examples.len());
        let work = || {
            let mut session = Session { evaluator: self, open: None };
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= end.load(Ordering::Relaxed) {
                    return done;
                }
                let SpiderExample { prediction, gold, db_id, .. } = &examples[index];
                let result = session.evaluate(prediction, gold, db_id);
                if result.is_err() && on_bad_gold == OnBadGold::Stop {
                    end.fetch_min(index, Ordering::Relaxed);
                }
                done.push((index, result));
            }
        };
        let mut results: Vec<(usize, Result<SpiderRecord, Fault>)> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads.clamp(1, examples.len().max(1))).map(|_| scope.spawn(work)).collect();
            let joined = workers.into_iter().map(|worker| match worker.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            joined.flatten().collect()
        });
        results.sort_unstable_by_key(|(index, _)| *index);
        let (mut records, mut bad_golds) = (Vec::new(), Vec::new());
        for (index, result) in results {
            let SpiderExample { file, line, .. } = &examples[index];
            match result {
                Ok(record) => records.push(record),
                Err(fault) if on_bad_gold == OnBadGold::Stop => return Err(fault.at(file, *line)),
                Err(fault) => bad_golds.push(BadGold {
                    example: index,
                    file: file.clone(),
                    line: *line,
                    reason: format!("{}: expected {}, found {}", fault.what, fault.expected, fault.found),
                }),
            }
        }
        let report = SpiderReport::new(&records);
        Ok(SpiderEvaluation { records, bad_golds, report })
    }
}

impl Fault {
    fn at(self, file: &Path, line: usize) -> DataError {
        DataError::Value {
            file: file.into(),
            line,
            field: self.what.into(),
            expected: self.expected,
            found: self.found,
            hint: "correct it, or count such examples instead of stopping",
        }
    }
}

/// Evaluates one after another and keeps the last database open.
struct Session<'a> {
    evaluator: &'a SpiderEvaluator,
    open: Option<(String, Database)>,
}

impl Session<'_> {
    fn evaluate(&mut self, prediction: &str, gold: &str, db_id: &str) -> Result<SpiderRecord, Fault> {
        let SpiderEvaluator { described, options, .. } = self.evaluator;
        let described = described.get(db_id).ok_or_else(|| unknown(db_id, described))?;
        let mut database = self.database(db_id)?;
        let schema = database.as_ref().map_or(&described.schema, |database| &database.schema);
        let parsed =
            parse(gold, schema).map_err(|found| fault("a query that the official parser reads", gold, &found))?;
        let hardness = Hardness::of(&parsed);
        let gold_query = normal(parsed, &described.same);
        let limit = options.limits.statement_bytes;
        let read = match prediction.len() {
            bytes if bytes > limit => Err(format!("expected at most {limit} bytes, found {bytes}")),
            _ => parse(prediction, schema),
        };
        let (query, unparsed) = match read {
            Ok(query) => (normal(query, &described.same), None),
            Err(reason) => (Query::default(), Some(reason)),
        };
        let components = matching::components(&query, &gold_query, options.tables);
        let exact = matching::exact(&components, &query, &gold_query, options.tables);
        let execution = match &mut database {
            Some(database) if options.execute => Some(execute(database, (prediction, &query), (gold, &gold_query))?),
            _ => None,
        };
        let (db_id, gold, prediction) = (db_id.to_owned(), gold.to_owned(), prediction.to_owned());
        Ok(SpiderRecord { db_id, gold, prediction, hardness, exact, components, unparsed, execution })
    }

    /// The database; none where queries are not run and there is no file.
    fn database(&mut self, db_id: &str) -> Result<Option<&mut Database>, Fault> {
        let SpiderEvaluator { databases, options, .. } = self.evaluator;
        if self.open.as_ref().is_none_or(|(open, _)| open != db_id) {
            self.open = None;
            let file = databases.join(db_id).join(format!("{db_id}.sqlite"));
            if !options.execute && !file.is_file() {
                return Ok(None);
            }
            let database = Database::open(&file, options.limits).map_err(|error| Fault {
                what: "db_id",
                expected: format!("a database {}", file.display()),
                found: error.to_string(),
            })?;
            self.open = Some((db_id.to_owned(), database));
        }
        Ok(self.open.as_mut().map(|(_, database)| database))
    }
}

fn unknown(db_id: &str, described: &HashMap<String, Described>) -> Fault {
    let near = nearest(db_id, described.keys().map(String::as_str));
    let near = near.map_or(String::new(), |name| format!(" (did you mean `{name}`?)"));
    Fault { what: "db_id", expected: "a database of tables.json".into(), found: format!("`{db_id}`{near}") }
}

fn fault(expected: &str, gold: &str, problem: &str) -> Fault {
    Fault { what: "gold query", expected: expected.into(), found: format!("`{gold}`: {problem}") }
}

/// Runs both queries and compares what they find.
fn execute(
    database: &mut Database,
    (prediction, query): (&str, &Query),
    (gold, gold_query): (&str, &Query),
) -> Result<ExecutionMatch, Fault> {
    let right = database.run(gold).map_err(|failure| fault("a query that runs", gold, &failure.to_string()))?;
    let mut result = ExecutionMatch { official: false, strict: false, failure: None, official_ends: None };
    let found = match database.run(prediction) {
        Ok(found) => found,
        Err(failure) => return Ok(ExecutionMatch { failure: Some(failure), ..result }),
    };
    if !is_readable(&right) {
        result.official_ends = Some("the gold's result has text that is not UTF-8");
    } else if is_readable(&found) {
        match officially_same((query, &found), (gold_query, &right)) {
            Some(same) => result.official = same,
            None => result.official_ends = Some("a query has fewer columns than the official parser reads"),
        }
    }
    let ordered = tokens(gold).is_ok_and(|tokens| is_ordered(&tokens));
    result.strict = strictly_same(found, right, ordered);
    Ok(result)
}
