//! What counts as right in text-to-SQL: where the strict execution match and the official one differ, golds that cannot be
//! used, and the table.

use std::path::{Path, PathBuf};

use statetune_datasets_eval::metrics::spider::{
    COMPONENTS, OnBadGold, SpiderEvaluator, SpiderExample, SpiderOptions, SpiderReport, read_examples,
};

#[path = "support/pets.rs"]
mod pets;

use pets::Pets;

/// Official and strict execution match.
#[track_caller]
fn compares(pets: &Pets, prediction: &str, gold: &str, official: bool, strict: bool) {
    let execution = pets.execution(prediction, gold);
    assert_eq!((execution.official, execution.strict), (official, strict), "{prediction} for {gold}: {execution:?}");
}

#[test]
fn wrong_queries_that_pass_officially_are_caught() {
    let pets = Pets::new();
    // Of columns that differ in their aggregate alone only the last is compared.
    let gold = "SELECT max(weight), min(weight) FROM Pet";
    compares(&pets, "SELECT avg(weight), min(weight) FROM Pet", gold, true, false);
    compares(&pets, "SELECT min(weight) FROM Pet", gold, true, false);
    // Of `*` only the first column is.
    let join = "SELECT * FROM Pet JOIN Owner ON Pet.owner_id = Owner.id WHERE Pet.id < 4";
    compares(&pets, "SELECT * FROM Owner WHERE id < 4", "SELECT * FROM Pet WHERE id < 4", true, false);
    compares(&pets, join, "SELECT * FROM Pet WHERE id < 4", true, false);
    // The aggregate around a column does not count: the heaviest is not the sum, but of one row it is.
    let gold = "SELECT max(weight) FROM Pet WHERE kind = 'dog'";
    compares(&pets, "SELECT sum(weight) FROM Pet WHERE kind = 'dog'", gold, true, true);
}

#[test]
fn right_queries_that_fail_officially_pass() {
    let pets = Pets::new();
    // What the official parser cannot read.
    let gold = "SELECT kind FROM Pet WHERE kind != 'cat'";
    compares(&pets, "SELECT kind FROM Pet WHERE kind <> 'cat'", gold, false, true);
    compares(&pets, "SELECT p.kind FROM Pet p WHERE p.kind NOT IN ('cat')", gold, false, true);
    // Without ORDER BY any order is right.
    compares(&pets, "SELECT id FROM Pet ORDER BY id DESC", "SELECT id FROM Pet", false, true);
    // Another column of equal values.
    compares(&pets, "SELECT owner_id FROM Pet WHERE id = 1", "SELECT id FROM Pet WHERE id = 1", false, true);
}

#[test]
fn strict_results_are_multisets_or_lists() {
    let pets = Pets::new();
    let gold = "SELECT age FROM Owner WHERE id < 4 ORDER BY age";
    compares(&pets, "SELECT age FROM Owner WHERE id < 4 ORDER BY age DESC", gold, false, false);
    compares(&pets, "SELECT age FROM Owner WHERE id < 4", gold, true, true);
    // An order within a query is not one of the whole.
    let within = "SELECT id FROM Pet WHERE owner_id IN (SELECT id FROM Owner ORDER BY age DESC LIMIT 2)";
    compares(&pets, &format!("{within} ORDER BY id DESC"), within, false, true);
    let all = "SELECT age FROM Owner WHERE id < 4";
    compares(&pets, "SELECT DISTINCT age FROM Owner WHERE id < 4", all, false, false);
    compares(&pets, "SELECT age FROM Owner WHERE id = 1 UNION ALL SELECT 30 UNION ALL SELECT 41", all, false, false);
    // Columns stay in their order, and their number counts.
    let two = "SELECT id, kind FROM Pet";
    compares(&pets, "SELECT kind, id FROM Pet", two, true, false);
    compares(&pets, "SELECT id FROM Pet", two, false, false);
    // A number is a number, however it is held; a text is none.
    let number = "SELECT weight FROM Pet WHERE id = 1";
    compares(&pets, "SELECT 4", number, false, true);
    compares(&pets, "SELECT '4.0'", number, false, false);
    compares(&pets, "SELECT NULL", "SELECT max(weight) FROM Pet WHERE id = 9", false, true);
}

/// Levels as `evaluation.py` gives them.
#[test]
fn hardness_counts_what_the_official_evaluator_counts() {
    let pets = Pets::new();
    let level = |gold: &str| pets.record(gold, gold).hardness.name();
    assert_eq!(level("SELECT kind FROM Pet WHERE id = 1"), "easy");
    assert_eq!(level("SELECT kind FROM Pet WHERE id = 1 OR id = 2"), "medium");
    // In HAVING the words between conditions are counted as aggregates.
    assert_eq!(level("SELECT kind FROM Pet GROUP BY kind HAVING id > 1 AND id < 9"), "easy");
    assert_eq!(level("SELECT kind FROM Pet GROUP BY kind HAVING id > 1 AND id < 9 AND id < 8"), "medium");
    // So is NOT in WHERE; LIKE is one clause more.
    assert_eq!(level("SELECT max(id) FROM Pet WHERE kind LIKE 'c%'"), "medium");
    assert_eq!(level("SELECT max(id) FROM Pet WHERE kind = 'cat'"), "easy");
    assert_eq!(level("SELECT max(id) FROM Pet WHERE kind NOT IN (SELECT Name FROM Owner)"), "extra");
    assert_eq!(level("SELECT id FROM Pet WHERE kind NOT IN (SELECT Name FROM Owner)"), "hard");
    assert_eq!(level("SELECT id FROM Pet WHERE id = 1 UNION SELECT id FROM Owner"), "hard");
    assert_eq!(level("SELECT id, kind FROM Pet WHERE id = 1 UNION SELECT id, Name FROM Owner"), "extra");
    assert_eq!(level("SELECT id FROM Pet WHERE id = 1 GROUP BY kind ORDER BY id"), "hard");
    assert_eq!(level("SELECT id FROM Pet WHERE id = 1 GROUP BY kind ORDER BY id LIMIT 1"), "extra");
}

#[test]
fn literals_are_compared_as_they_are_written() {
    let pets = Pets::new();
    let gold = "SELECT id FROM Pet WHERE kind = 'cat'";
    let lower = pets.record("SELECT id FROM Pet WHERE kind = 'CAT'", gold);
    let execution = lower.execution.unwrap();
    assert!(
        lower.exact && !execution.official && !execution.strict,
        "exact match ignores literals, execution does not"
    );
}

#[test]
fn text_that_is_not_utf8_fails_officially() {
    let pets = Pets::new();
    let all = "SELECT Name FROM Owner";
    // A prediction that reads it: the official evaluator counts it as failed.
    compares(&pets, all, "SELECT Name FROM Owner WHERE id < 4", false, false);
    // A gold that reads it: the official evaluator ends. The bytes can be compared all the same.
    let execution = pets.execution(all, all);
    assert_eq!((execution.official, execution.strict), (false, true));
    assert!(execution.official_ends.is_some_and(|reason| reason.contains("UTF-8")), "{execution:?}");
    compares(&pets, "SELECT id FROM Owner WHERE id = 4", "SELECT id FROM Owner WHERE age = 5", true, true);
}

#[test]
fn columns_that_sqlite_reads_otherwise_end_the_official_evaluator() {
    let pets = Pets::new();
    // An alias to SQLite, a column to the official parser.
    let execution = pets.execution("SELECT id weight FROM Pet", "SELECT id FROM Pet");
    assert!(!execution.official && execution.strict && execution.official_ends.is_some(), "{execution:?}");
}

fn file(pets: &Pets, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let file = pets.folder.path().join(name);
    std::fs::write(&file, text).unwrap();
    file
}

fn examples(pets: &Pets, golds: &str, predictions: &str) -> Vec<SpiderExample> {
    read_examples(&file(pets, "golds.sql", golds), &file(pets, "predictions.sql", predictions)).unwrap()
}

#[test]
fn golds_that_cannot_be_used_are_named() {
    let pets = Pets::new();
    let evaluator = pets.evaluator(SpiderOptions::default());
    let golds = "SELECT id FROM Pet\tpets\n\nSELECT id FORM Pet\tpets\nSELECT id FROM Pet LIMIT 1 LIMIT 2\tpets\n\
        SELECT id FROM Pet\tpet\nSELECT kind FROM Pet\tpets\n";
    let examples = examples(&pets, golds, "SELECT id FROM Pet\na\nb\nc\nSELECT kind FROM Pet\n");
    for threads in [1, 3] {
        let error = evaluator.evaluate_all(&examples, threads, OnBadGold::Stop).unwrap_err().to_string();
        assert!(error.contains("golds.sql:3: "), "{error}");
        assert!(error.contains("gold query") && error.contains("SELECT id FORM Pet"), "{error}");
        let evaluation = evaluator.evaluate_all(&examples, threads, OnBadGold::Count).unwrap();
        let lines: Vec<(usize, usize)> = evaluation.bad_golds.iter().map(|bad| (bad.example, bad.line)).collect();
        assert_eq!(lines, [(1, 3), (2, 4), (3, 5)]);
        assert!(evaluation.bad_golds[1].reason.contains("failed: "), "{:?}", evaluation.bad_golds[1]);
        assert!(evaluation.bad_golds[2].reason.contains("did you mean `pets`?"), "{:?}", evaluation.bad_golds[2]);
        assert_eq!(evaluation.records.len(), 2);
        assert!(evaluation.records.iter().all(|record| record.exact));
    }
}

#[test]
fn a_missing_database_is_an_error_only_where_queries_are_run() {
    let pets = Pets::new();
    std::fs::remove_file(&pets.database).unwrap();
    let query = "SELECT T1.kind FROM Pet AS T1 JOIN Owner AS T2 ON T1.owner_id = T2.id";
    let error = pets.evaluator(SpiderOptions::default()).evaluate(query, query, "pets").unwrap_err().to_string();
    assert!(error.contains("pets.sqlite"), "{error}");
    assert!(!pets.database.exists(), "a database was made");
    let matching = SpiderOptions { execute: false, ..SpiderOptions::default() };
    let record = pets.evaluator(matching).evaluate(query, query, "pets").unwrap();
    assert!(record.exact && record.execution.is_none());
}

#[test]
fn a_file_that_is_no_database_is_an_error() {
    let pets = Pets::new();
    std::fs::write(&pets.database, "not a database, though long enough to be looked at").unwrap();
    let error = pets.evaluator(SpiderOptions::default()).evaluate("", "SELECT id FROM Pet", "pets").unwrap_err();
    assert!(error.to_string().contains("not a database"), "{error}");
}

#[test]
fn files_that_do_not_fit_are_errors() {
    let pets = Pets::new();
    let golds = file(&pets, "golds.sql", "SELECT 1\tpets\nSELECT 2\tpets\n");
    let read = |name: &str, text: &[u8]| read_examples(&golds, &file(&pets, name, text));
    assert_eq!(read("empty-last", b"SELECT 1\n\n\n").unwrap()[1].prediction, "");
    assert_eq!(read("empty-first", b"\nSELECT 2\tmore").unwrap()[1].prediction, "SELECT 2");
    let few = read("few", b"SELECT 1").unwrap_err().to_string();
    assert!(few.contains("few:1: expected 2 predictions"), "{few}");
    let many = read("many", b"a\nb\nc").unwrap_err().to_string();
    assert!(many.contains("many:3: "), "{many}");
    let bytes = read("bytes", b"a\n\xff\n").unwrap_err().to_string();
    assert!(bytes.contains("bytes:2: expected UTF-8"), "{bytes}");
    let untold = read_examples(&file(&pets, "untold", "SELECT 1"), &golds).unwrap_err().to_string();
    assert!(untold.contains("untold:1: expected a query, a tab and a db_id"), "{untold}");
}

#[test]
fn tables_that_contradict_themselves_are_errors() {
    let pets = Pets::new();
    let open = |text: &str| {
        let error =
            SpiderEvaluator::open(&file(&pets, "bad.json", text), Path::new("database")).unwrap_err().to_string();
        assert!(error.contains("bad.json:"), "{error}");
        error
    };
    let entry = |columns: &str, keys: &str| {
        format!(
            r#"[{{"db_id": "d", "table_names_original": ["t"], "column_names_original": {columns}, "foreign_keys": {keys}}}]"#
        )
    };
    assert!(open("[\n{}]").contains("bad.json:2: "));
    assert!(open(&entry(r#"[[1, "c"]]"#, "[]")).contains("column_names_original of d"));
    assert!(open(&entry(r#"[[0, "c"]]"#, "[[0, 1]]")).contains("foreign_keys of d"));
}

#[test]
fn the_table_as_text_and_as_markdown() {
    let pets = Pets::new();
    let records = [
        pets.record("SELECT avg(weight), min(weight) FROM Pet", "SELECT max(weight), min(weight) FROM Pet"),
        pets.record("SELECT kind FROM Pet", "SELECT kind FROM Pet"),
        pets.record("SELECT kinds FROM Pet", "SELECT kind FROM Pet"),
    ];
    let report = SpiderReport::new(&records);
    assert_eq!((report.unparsed, report.failed), (1, 1));
    let plain = report.plain();
    let row = |name: &str| plain.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{plain}"));
    let cells = |name: &str| row(name)[20..].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(cells("count"), "2 1 0 0 3");
    assert_eq!(cells("execution "), "0.500 1.000 0.000 0.000 0.667");
    assert_eq!(cells("strict execution"), "0.500 0.000 0.000 0.000 0.333");
    assert_eq!(cells("exact match"), "0.500 0.000 0.000 0.000 0.333");
    let markdown = report.markdown();
    assert!(markdown.contains("| strict execution | 0.500 | 0.000 | 0.000 | 0.000 | 0.333 |"), "{markdown}");
    // Two of golds have been answered, one rightly.
    assert!(markdown.contains("| select, accuracy | 1.000 | 0.000 | 0.000 | 0.000 | 0.500 |"), "{markdown}");
    assert!(markdown.contains("| select, recall | 0.500 | 0.000 | 0.000 | 0.000 | 0.333 |"), "{markdown}");
    assert_eq!(markdown.lines().count(), 5 + 3 * COMPONENTS.len() + 1);
}

#[test]
fn an_evaluation_of_nothing_is_zeros() {
    let report = SpiderReport::new(&[]);
    assert_eq!(report.levels.len(), 5);
    assert!(report.levels.iter().all(|level| level.count == 0 && level.exact == 0.0 && level.execution.is_none()));
}
