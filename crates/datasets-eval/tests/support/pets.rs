//! A small database in the layout of Spider, and evaluators of it.
#![allow(dead_code)] // every test binary uses its own part

use std::path::PathBuf;

use statetune_datasets_eval::metrics::spider::{
    ExecutionMatch, RunFailure, RunLimits, SpiderEvaluator, SpiderOptions, SpiderRecord,
};
use tempfile::TempDir;

const TABLES: &str = r#"[{
    "db_id": "pets",
    "table_names_original": ["Owner", "Pet"],
    "column_names_original": [[-1, "*"], [0, "id"], [0, "Name"], [0, "age"], [1, "id"], [1, "owner_id"], [1, "kind"], [1, "weight"]],
    "foreign_keys": [[5, 1]]
}]"#;

const ROWS: &str = "
    CREATE TABLE Owner (id INTEGER PRIMARY KEY, Name TEXT, age INTEGER);
    CREATE TABLE Pet (id INTEGER PRIMARY KEY, owner_id INTEGER REFERENCES Owner(id), kind TEXT, weight REAL);
    INSERT INTO Owner VALUES (1, 'Ada', 30), (2, 'Bo', 41), (3, 'Cy', 41), (4, CAST(x'ff41' AS TEXT), 5);
    INSERT INTO Pet VALUES (1, 1, 'cat', 4.0), (2, 2, 'dog', 9.5), (3, 3, 'cat', 4.0), (4, 4, 'owl', 4.0);
";

/// The files.
pub struct Pets {
    pub folder: TempDir,
    pub database: PathBuf,
}

impl Pets {
    pub fn new() -> Pets {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("database/pets/pets.sqlite");
        std::fs::create_dir_all(database.parent().unwrap()).unwrap();
        std::fs::write(folder.path().join("tables.json"), TABLES).unwrap();
        rusqlite::Connection::open(&database).unwrap().execute_batch(ROWS).unwrap();
        Pets { folder, database }
    }

    pub fn evaluator(&self, options: SpiderOptions) -> SpiderEvaluator {
        SpiderEvaluator::open_with(
            &self.folder.path().join("tables.json"),
            &self.folder.path().join("database"),
            options,
        )
        .unwrap()
    }

    pub fn limited(&self, limits: RunLimits) -> SpiderEvaluator {
        self.evaluator(SpiderOptions { limits, ..SpiderOptions::default() })
    }

    /// The record of a prediction.
    pub fn record(&self, prediction: &str, gold: &str) -> SpiderRecord {
        self.evaluator(SpiderOptions::default())
            .evaluate(prediction, gold, "pets")
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// How the results compare.
    pub fn execution(&self, prediction: &str, gold: &str) -> ExecutionMatch {
        self.record(prediction, gold).execution.expect("queries are run")
    }
}

/// Why a statement has no result; the gold is any that runs.
#[track_caller]
pub fn failure(evaluator: &SpiderEvaluator, prediction: &str) -> RunFailure {
    let record = evaluator.evaluate(prediction, "SELECT count(*) FROM Pet", "pets").unwrap();
    let execution = record.execution.expect("queries are run");
    assert!(!execution.official && !execution.strict, "{prediction}");
    execution.failure.unwrap_or_else(|| panic!("it ran: {prediction}"))
}
