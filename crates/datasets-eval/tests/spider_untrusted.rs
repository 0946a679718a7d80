//! What predicted SQL must not do: reach other files, write, load code, or take more than its share. Each costs its own
//! score only, and the record says why.

use std::time::{Duration, Instant};

use statetune_datasets_eval::metrics::spider::{OnBadGold, RunFailure, RunLimits, SpiderExample, SpiderOptions};

#[path = "support/pets.rs"]
mod pets;

use pets::{Pets, failure};

const ENDLESS: &str = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)";

#[test]
fn nothing_but_reading_is_allowed() {
    let pets = Pets::new();
    let evaluator = pets.evaluator(SpiderOptions::default());
    let before = std::fs::read(&pets.database).unwrap();
    let other = pets.folder.path().join("other.sqlite");
    let other_name = other.display();
    for statement in [
        format!("ATTACH DATABASE '{other_name}' AS other"),
        "ATTACH ':memory:' AS other".into(),
        "DETACH main".into(),
        format!("VACUUM INTO '{other_name}'"),
        "VACUUM".into(),
        "SELECT load_extension('libm.so')".into(),
        "SELECT LOAD_EXTENSION('libm.so', 'f')".into(),
        "SELECT fts3_tokenizer('simple')".into(),
        "INSERT INTO Pet VALUES (9, 1, 'cat', 1)".into(),
        "INSERT INTO Pet VALUES (9, 1, 'cat', 1) RETURNING id".into(),
        "UPDATE Pet SET kind = 'dog'".into(),
        "DELETE FROM Pet".into(),
        "DROP TABLE Pet".into(),
        "CREATE TABLE New (id)".into(),
        "CREATE TEMP TABLE New (id)".into(),
        "CREATE VIRTUAL TABLE New USING fts5(text)".into(),
        "ALTER TABLE Pet ADD COLUMN x".into(),
        "PRAGMA journal_mode = WAL".into(),
        "PRAGMA query_only = OFF".into(),
        "PRAGMA table_info(Pet)".into(),
        "SELECT * FROM pragma_database_list".into(),
        "BEGIN EXCLUSIVE".into(),
        "SAVEPOINT here".into(),
        "ANALYZE".into(),
        "REINDEX".into(),
    ] {
        let failure = failure(&evaluator, &statement);
        assert!(matches!(failure, RunFailure::Refused(_)), "{statement}: {failure}");
    }
    for statement in [
        "SELECT count(*) FROM Pet; DROP TABLE Pet",
        "SELECT count(*) FROM Pet;; DROP TABLE Pet",
        "SELECT count(*) FROM Pet /* ; */ ; -- more\n DELETE FROM Pet",
        "SELECT count(*) FROM Pet\0; DROP TABLE Pet",
        "SELECT count(*) FROM other.Pet",
        "",
        ";",
        "nonsense",
    ] {
        let failure = failure(&evaluator, statement);
        assert!(matches!(failure, RunFailure::Failed(_)), "{statement}: {failure}");
    }
    assert!(!other.exists());
    assert_eq!(std::fs::read(&pets.database).unwrap(), before);
    let files = std::fs::read_dir(pets.database.parent().unwrap()).unwrap().count();
    assert_eq!(files, 1, "files beside the database");
}

#[test]
fn statements_may_end_and_be_explained() {
    let pets = Pets::new();
    for statement in
        ["SELECT count(*) FROM Pet;", "SELECT count(*) FROM Pet ; -- all", "SELECT count(*) /* ; */ FROM Pet"]
    {
        assert!(pets.execution(statement, "SELECT count(*) FROM Pet").strict, "{statement}");
    }
    let gold = "SELECT kind FROM Pet WHERE kind = \"cat\"";
    assert!(pets.execution("SELECT kind FROM Pet WHERE kind = 'cat' -- ;", gold).strict);
    assert!(pets.execution("SELECT kind FROM Pet WHERE kind = 'cat' AND kind != ';''[' ", gold).strict);
}

#[test]
fn runaway_statements_are_ended() {
    let pets = Pets::new();
    let limits = RunLimits { steps: 2_000_000, ..RunLimits::default() };
    let evaluator = pets.limited(limits);
    let ended = |statement: &str, limit: &'static str| {
        let start = Instant::now();
        assert_eq!(failure(&evaluator, statement), RunFailure::Limit(limit), "{statement}");
        assert!(start.elapsed() < Duration::from_secs(10), "{statement}: {:?}", start.elapsed());
    };
    ended(&format!("{ENDLESS} SELECT max(x) FROM c"), "steps");
    ended(&format!("{ENDLESS} SELECT x FROM c WHERE x < 0"), "steps");
    let tables = (0..12).map(|i| format!("Pet AS p{i}")).collect::<Vec<_>>().join(", ");
    ended(&format!("SELECT sum(p0.weight * p11.weight) FROM {tables}"), "steps");
    ended(&format!("SELECT count(*) FROM {tables} WHERE p0.kind LIKE p11.kind"), "steps");

    ended("SELECT zeroblob(1000000000)", "value or statement bytes");
    ended("SELECT hex(randomblob(900000))", "value or statement bytes");
    ended("SELECT printf('%2000000d', 1)", "value or statement bytes");
    ended(
        &format!("{ENDLESS} SELECT group_concat(hex(zeroblob(9999))) FROM (SELECT x FROM c LIMIT 900)"),
        "value or statement bytes",
    );
    ended(
        "WITH RECURSIVE d(x) AS (SELECT 'a' UNION ALL SELECT x || x FROM d) SELECT length(x) FROM d",
        "value or statement bytes",
    );
    ended(&format!("SELECT '{}'", "a".repeat(100_000)), "value or statement bytes");

    ended(&format!("{ENDLESS} SELECT x FROM c"), "rows");
    ended(&format!("{ENDLESS} SELECT zeroblob(500000) FROM c"), "result bytes");
    ended("SELECT a.weight FROM Pet AS a, Pet, Pet, Pet, Pet, Pet, Pet, Pet, Pet, Pet", "rows");
}

#[test]
fn time_is_limited_too() {
    let pets = Pets::new();
    let limits = RunLimits { steps: u64::MAX, time: Duration::from_millis(50), ..RunLimits::default() };
    let evaluator = pets.limited(limits);
    assert_eq!(failure(&evaluator, &format!("{ENDLESS} SELECT max(x) FROM c")), RunFailure::Limit("time"));
}

#[test]
fn deep_and_long_predictions_are_wrong_and_no_more() {
    let pets = Pets::new();
    let evaluator = pets.evaluator(SpiderOptions::default());
    for statement in [
        "(".repeat(60_000),
        "SELECT id FROM ".to_owned() + &"(SELECT id FROM ".repeat(3_000),
        "SELECT id FROM Pet".to_owned() + &" UNION SELECT id FROM Pet".repeat(2_000),
        "SELECT id FROM Pet WHERE id IN ".to_owned() + &"(SELECT id FROM Pet WHERE id IN ".repeat(1_500),
        "SELECT id FROM Pet WHERE ".to_owned() + &"NOT ".repeat(10_000) + "id = 1",
        "SELECT ".to_owned() + &"id, ".repeat(10_000) + "id FROM Pet",
        "a".repeat(10_000_000),
        "=".into(),
        "> =".into(),
        "as".into(),
        "select * from as as as".into(),
        "'".into(),
        ".\u{0301}. \u{1f980},\u{1f980}:".into(),
    ] {
        let record = evaluator.evaluate(&statement, "SELECT id FROM Pet", "pets").unwrap();
        let shown: String = statement.chars().take(60).collect();
        assert!(!record.exact, "{shown}");
        assert!(record.execution.unwrap().failure.is_some(), "{shown}");
    }
}

#[test]
fn a_runaway_costs_its_own_score_only() {
    let pets = Pets::new();
    let gold = "SELECT kind FROM Pet WHERE weight < 5";
    let examples: Vec<SpiderExample> = (0..40)
        .map(|i| SpiderExample {
            prediction: if i % 4 == 1 { format!("{ENDLESS} SELECT max(x) FROM c") } else { gold.into() },
            gold: gold.into(),
            db_id: "pets".into(),
            file: "golds.sql".into(),
            line: i + 1,
        })
        .collect();
    let evaluator = pets.limited(RunLimits { steps: 1_000_000, ..RunLimits::default() });
    let results: Vec<_> =
        [1, 2, 5].map(|threads| evaluator.evaluate_all(&examples, threads, OnBadGold::Stop).unwrap()).into();
    for (i, record) in results[0].records.iter().enumerate() {
        let execution = record.execution.as_ref().unwrap();
        assert_eq!((execution.official, execution.strict), (i % 4 != 1, i % 4 != 1), "{i}");
        assert_eq!(execution.failure, (i % 4 == 1).then_some(RunFailure::Limit("steps")), "{i}");
    }
    assert_eq!(results[0].report.failed, 10);
    for other in &results[1..] {
        assert_eq!((&other.records, &other.report), (&results[0].records, &results[0].report));
    }
}
