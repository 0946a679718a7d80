//! Golden scores of text-to-SQL (the public Spider evaluator): recognised by `results.json` beside `tables.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use statetune_datasets_eval::metrics::spider::{
    COMPONENTS, LevelScores, OnBadGold, SpiderEvaluator, SpiderExample, SpiderReport,
};

#[path = "support/close.rs"]
mod close;
#[path = "../../../tests/support/golden_folders.rs"]
mod golden_folders;

use close::close;
use golden_folders::{folders_with, json};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {value}"))
}

fn flag(value: &Value, key: &str) -> bool {
    value[key].as_bool().unwrap_or_else(|| panic!("no flag `{key}` in {value}"))
}

/// One pair's scores are what the official evaluator prints for a file of that pair alone.
fn compare_pair(evaluator: &SpiderEvaluator, item: &Value) {
    let (gold, predicted, db_id) = (text(item, "gold"), text(item, "pred"), text(item, "db_id"));
    let at = format!("pair {}: {predicted}", item["id"]);
    let record = evaluator.evaluate(predicted, gold, db_id).unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(record.unparsed.is_none(), flag(item, "pred_parses"), "{at}: parses; {:?}", record.unparsed);
    assert_eq!(record.hardness.name(), text(item, "hardness"), "{at}: hardness");
    assert_eq!(record.exact, flag(item, "exact"), "{at}: exact");
    let execution = record.execution.as_ref().expect("queries are run");
    assert_eq!(execution.official, flag(item, "exec"), "{at}: execution; {execution:?}");
    let report = SpiderReport::new(std::slice::from_ref(&record));
    let scores = report.levels.last().expect("all").components;
    for (component, scores) in COMPONENTS.iter().zip(scores) {
        let expected =
            |key: &str| item[key][component].as_f64().unwrap_or_else(|| panic!("{at}: no {key} {component}"));
        let expected = [expected("partial_acc"), expected("partial_rec"), expected("partial_f1")];
        assert_eq!([scores.accuracy, scores.recall, scores.f1], expected, "{at}: {component}");
    }
    let lower = &item["lowercased"];
    let record = evaluator.evaluate(&predicted.to_lowercase(), &gold.to_lowercase(), db_id);
    let record = record.unwrap_or_else(|error| panic!("{at}, lower-cased: {error}"));
    assert_eq!(record.hardness.name(), text(lower, "hardness"), "{at}: hardness, lower-cased");
    assert_eq!(record.exact, flag(lower, "exact"), "{at}: exact, lower-cased");
    let official = record.execution.expect("queries are run").official;
    assert_eq!(official, flag(lower, "exec"), "{at}: execution, lower-cased");
}

fn compare_level(scores: &LevelScores, expected: &Value, tolerance: f64) {
    let level = scores.level;
    assert_eq!(Some(scores.count as u64), expected["count"].as_u64(), "{level}: count");
    close(&format!("{level}: exact"), scores.exact, &expected["exact"], tolerance);
    close(&format!("{level}: execution"), scores.execution.expect("run"), &expected["exec"], tolerance);
    for (name, scores) in COMPONENTS.iter().zip(&scores.components) {
        let expected = &expected["partial"][name];
        let at = |score: &str| format!("{level}: {score} of {name}");
        close(&at("accuracy"), scores.accuracy, &expected["acc"], tolerance);
        close(&at("recall"), scores.recall, &expected["rec"], tolerance);
        close(&at("F1"), scores.f1, &expected["f1"], tolerance);
        let counts = [expected["acc_count"].as_u64(), expected["rec_count"].as_u64()];
        assert_eq!([Some(scores.predicted as u64), Some(scores.gold as u64)], counts, "{}", at("counts"));
    }
}

fn example(item: &Value, folder: &Path) -> SpiderExample {
    SpiderExample {
        prediction: text(item, "pred").into(),
        gold: text(item, "gold").into(),
        db_id: text(item, "db_id").into(),
        file: folder.join("results.json"),
        line: 1,
    }
}

#[test]
fn golden_metrics_spider() {
    let folders: Vec<PathBuf> = folders_with("tables.json");
    let folders: Vec<&PathBuf> = folders.iter().filter(|folder| folder.join("results.json").is_file()).collect();
    let mut cases = 0;
    for folder in folders {
        let results = json(&folder.join("results.json"));
        let tolerance = json(&folder.join("tolerance.json"))["fractions"]["abs"].as_f64().expect("fractions.abs");
        let evaluator = SpiderEvaluator::open(&folder.join("tables.json"), &folder.join("database")).unwrap();
        let items = results["items"].as_array().expect("a list of pairs");
        items.iter().for_each(|item| compare_pair(&evaluator, item));
        let examples: Vec<SpiderExample> = items.iter().map(|item| example(item, folder)).collect();
        let evaluation = evaluator.evaluate_all(&examples, 2, OnBadGold::Stop).unwrap();
        for level in &evaluation.report.levels {
            compare_level(level, &results["aggregate"][level.level], tolerance);
        }
        cases += items.len();
    }
    golden_folders::count("metrics", cases);
}
