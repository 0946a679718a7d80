//! Golden classification scores (scikit-learn): recognised by `label_tokens.json` beside `cases.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use statetune_datasets_eval::metrics::{
    ClassificationReport, Confusion, F1Average, Prediction, accuracy, f1, matthews,
};

#[path = "support/close.rs"]
mod close;
#[path = "../../../tests/support/golden_folders.rs"]
mod golden_folders;

use close::close;
use golden_folders::{folders_with, json};

fn classes(value: &Value) -> Vec<usize> {
    value.as_array().expect("a list of classes").iter().map(|c| c.as_u64().expect("a class") as usize).collect()
}

#[test]
fn golden_metrics_classification() {
    let folders: Vec<PathBuf> = folders_with("label_tokens.json");
    let mut cases = 0;
    for folder in &folders {
        let tolerance = json(&folder.join("tolerance.json"))["scores"]["abs"].as_f64().expect("scores.abs");
        let list = json(&folder.join("cases.json"));
        for case in list.as_array().expect("a list of cases") {
            let name = case["name"].as_str().expect("a name");
            let (gold, predicted) = (classes(&case["references"]), classes(&case["predictions"]));
            let count = gold.iter().chain(&predicted).max().map_or(1, |max| max + 1).max(2);
            let predicted: Vec<Option<usize>> = predicted.into_iter().map(Some).collect();
            let confusion = Confusion::new(&gold, &predicted, count).unwrap();
            close(&format!("{name}, accuracy"), accuracy(&confusion), &case["accuracy"], tolerance);
            close(&format!("{name}, Matthews"), matthews(&confusion), &case["matthews_corrcoef"], tolerance);
            close(&format!("{name}, macro F1"), f1(&confusion, F1Average::Macro), &case["macro_f1"], tolerance);
            close(
                &format!("{name}, weighted F1"),
                f1(&confusion, F1Average::Weighted),
                &case["weighted_f1"],
                tolerance,
            );
            if case.get("f1").is_some() {
                close(&format!("{name}, F1 of class 1"), f1(&confusion, F1Average::Class(1)), &case["f1"], tolerance);
            }
            cases += 1;
        }
        out_of_class(folder, tolerance);
        cases += 1;
    }
    golden_folders::count("metrics", cases);
}

/// Token predictions, some of which are no label.
fn out_of_class(folder: &Path, tolerance: f64) {
    let case = json(&folder.join("label_tokens.json"));
    let labels: Vec<u64> =
        (0..2).map(|label| case["label_token_ids"][label.to_string()].as_u64().expect("a token")).collect();
    let class = |token: &Value| labels.iter().position(|label| Some(*label) == token.as_u64());
    let list = |key: &str| case[key].as_array().expect("a list of tokens").clone();
    let predictions: Vec<Prediction> = list("references")
        .iter()
        .zip(&list("predictions"))
        .map(|(gold, token)| Prediction {
            gold: class(gold).expect("references are labels"),
            over_all_vocabulary: class(token),
            over_labels: class(token).unwrap_or(0),
        })
        .collect();
    let report = ClassificationReport::new(&predictions, 2).unwrap();
    close(
        "accuracy, counted as wrong",
        report.over_all_vocabulary.accuracy,
        &case["count_as_wrong"]["accuracy"],
        tolerance,
    );
    assert_eq!(Some(report.out_of_class as u64), case["drop_out_of_class"]["out_of_cls"].as_u64());

    // The authors' way of scoring is the same report over what remains.
    let inside: Vec<Prediction> = predictions.into_iter().filter(|p| p.over_all_vocabulary.is_some()).collect();
    let scores = ClassificationReport::new(&inside, 2).unwrap().over_all_vocabulary;
    let expected = &case["drop_out_of_class"];
    close("accuracy, dropped", scores.accuracy, &expected["accuracy"], tolerance);
    close("F1, dropped", scores.f1, &expected["f1"], tolerance);
    close("Matthews, dropped", scores.matthews, &expected["matthews_corrcoef"], tolerance);
}
