//! Golden scores of generated texts (sacrebleu, evaluate, NLTK, rouge-score): recognised by `pairs.json`. A file that is not
//! beside it, as in the small selection of the repository, is left out.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;
use statetune_datasets_eval::metrics::tokens::{
    mteval_13a, porter_stem, rouge_tokens, word_tokenize, word_tokenize_preserve_line,
};
use statetune_datasets_eval::metrics::{
    Bleu, BleuSmoothing, Bootstrap, HfBleu, Meteor, Metric, Rouge, RougeKind, Synonyms, score,
};

#[path = "../../../tests/support/golden_folders.rs"]
mod golden_folders;

use golden_folders::{folders_with, json};

/// Compares with a tolerance that is absolute, or relative where the file says so.
struct Tolerance {
    absolute: f64,
    relative: f64,
}

impl Tolerance {
    fn of(value: &Value) -> Tolerance {
        let number = |key: &str| value[key].as_f64().unwrap_or(0.0);
        let tolerance = Tolerance { absolute: number("abs"), relative: number("relative") };
        assert!(tolerance.absolute + tolerance.relative > 0.0, "no tolerance in {value}");
        tolerance
    }

    #[track_caller]
    fn check(&self, what: &str, found: f64, expected: &Value) {
        let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}: no expected value"));
        let allowed = self.absolute + self.relative * expected.abs();
        assert!((found - expected).abs() <= allowed, "{what}: expected {expected}, found {found}, allowed {allowed:e}");
    }

    #[track_caller]
    fn check_all(&self, what: &str, found: &[f64], expected: &Value) {
        let expected = list(expected);
        assert_eq!(found.len(), expected.len(), "{what}: number of values");
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            self.check(&format!("{what}, {i}"), *found, expected);
        }
    }
}

#[track_caller]
fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("expected a list, found {value}"))
}

fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(|text| text.as_str().expect("a text").to_owned()).collect()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().expect("an object").iter()
}

/// The pairs of a folder.
struct Pairs {
    predictions: Vec<String>,
    references: Vec<Vec<String>>,
}

impl Pairs {
    fn read(folder: &Path) -> Pairs {
        let pairs = json(&folder.join("pairs.json"));
        let prediction = |pair: &Value| pair["prediction"].as_str().expect("a prediction").to_owned();
        Pairs {
            predictions: list(&pairs).iter().map(prediction).collect(),
            references: list(&pairs).iter().map(|pair| strings(&pair["references"])).collect(),
        }
    }

    fn subset(&self, ids: &Value) -> Pairs {
        let ids: Vec<usize> = list(ids).iter().map(|id| id.as_u64().expect("an id") as usize).collect();
        Pairs {
            predictions: ids.iter().map(|&id| self.predictions[id].clone()).collect(),
            references: ids.iter().map(|&id| self.references[id].clone()).collect(),
        }
    }
}

#[test]
fn golden_metrics_text() {
    let mut cases = 0;
    for folder in folders_with("pairs.json") {
        let pairs = Pairs::read(&folder);
        let tolerance = json(&folder.join("tolerance.json"));
        type Check = fn(&Value, &Pairs, &Value) -> usize;
        let files: [(&str, Check); 5] = [
            ("tokens.json", tokens),
            ("porter_stems.json", stems),
            ("bleu.json", bleu),
            ("meteor.json", meteor),
            ("rouge.json", rouge),
        ];
        for (file, check) in files {
            let path = folder.join(file);
            if path.is_file() {
                cases += check(&json(&path), &pairs, &tolerance);
            }
        }
    }
    golden_folders::count("metrics", cases);
}

fn tokens(expected: &Value, _: &Pairs, _: &Value) -> usize {
    type Tokens = fn(&str) -> Vec<String>;
    let kinds: [(&str, Tokens); 5] = [
        ("bleu_13a", mteval_13a),
        ("nltk_word_tokenize", word_tokenize),
        ("nltk_word_tokenize_preserve_line", word_tokenize_preserve_line),
        ("rouge", |text| rouge_tokens(text, false)),
        ("rouge_stemmed", |text| rouge_tokens(text, true)),
    ];
    for entry in list(expected) {
        let text = entry["text"].as_str().expect("a text");
        for (kind, tokens) in kinds {
            assert_eq!(tokens(text), strings(&entry[kind]), "{kind} of {text:?}");
        }
    }
    kinds.len()
}

fn stems(expected: &Value, _: &Pairs, _: &Value) -> usize {
    for (word, stem) in entries(expected) {
        assert_eq!(Some(porter_stem(word).as_str()), stem.as_str(), "stem of {word:?}");
    }
    1
}

fn bleu(expected: &Value, pairs: &Pairs, tolerance: &Value) -> usize {
    let tolerance = Tolerance::of(&tolerance["bleu"]);
    let default = Bleu::default();
    let sacrebleu = [
        ("sacrebleu_13a", default),
        ("sacrebleu_13a_lowercase", Bleu { lowercase: true, ..default }),
        ("sacrebleu_13a_no_smoothing", Bleu { smoothing: BleuSmoothing::None, ..default }),
    ];
    let evaluate = [("hf_evaluate", HfBleu { smooth: false }), ("hf_evaluate_smooth", HfBleu { smooth: true })];
    let mut cases = 0;
    for (subset, ids) in entries(&expected["subsets"]) {
        let pairs = pairs.subset(ids);
        for (name, metric) in &sacrebleu {
            let (at, expected) = (format!("{name}, {subset}"), &expected[name][subset]);
            let found = score(metric, &pairs.predictions, &pairs.references).unwrap();
            tolerance.check(&at, found.value, &expected["score"]);
            let sums = sums(&found.statistics);
            tolerance.check(&format!("{at}, length"), sums[0], &expected["sys_len"]);
            tolerance.check(&format!("{at}, reference length"), sums[1], &expected["ref_len"]);
            tolerance.check_all(&format!("{at}, matches"), &sums[2..6], &expected["counts"]);
            tolerance.check_all(&format!("{at}, totals"), &sums[6..], &expected["totals"]);
            // Ours names the definition where the tool's names its version.
            let theirs = expected["signature"].as_str().expect("a signature").split("|version:").next();
            assert_eq!(found.signature.split("|as:").next(), theirs, "{at}");
            cases += 1;
        }
        for (name, metric) in &evaluate {
            let (at, expected) = (format!("{name}, {subset}"), &expected[name][subset]);
            let found = score(metric, &pairs.predictions, &pairs.references).unwrap();
            check_evaluate(&at, found.value, &sums(&found.statistics), expected, &tolerance);
            cases += 1;
        }
    }
    let found = score(&default, &pairs.predictions, &pairs.references).unwrap();
    tolerance.check_all("sacrebleu_sentence", &found.examples, &expected["sacrebleu_sentence"]);
    let found = score(&evaluate[0].1, &pairs.predictions, &pairs.references).unwrap();
    for (i, expected) in list(&expected["hf_evaluate_sentence"]).iter().enumerate() {
        let at = format!("hf_evaluate_sentence, {i}");
        check_evaluate(&at, found.examples[i], &found.statistics[i], expected, &tolerance);
    }
    cases + 2
}

fn check_evaluate(at: &str, value: f64, sums: &[f64], expected: &Value, tolerance: &Tolerance) {
    tolerance.check(at, value, &expected["bleu"]);
    tolerance.check(&format!("{at}, length"), sums[0], &expected["translation_length"]);
    tolerance.check(&format!("{at}, reference length"), sums[1], &expected["reference_length"]);
    tolerance.check_all(&format!("{at}, matches"), &sums[2..6], &expected["matches"]);
    tolerance.check_all(&format!("{at}, possible"), &sums[6..], &expected["possible"]);
}

fn sums(statistics: &[Vec<f64>]) -> Vec<f64> {
    let width = statistics[0].len();
    (0..width).map(|column| statistics.iter().map(|row| row[column]).sum()).collect()
}

fn meteor(expected: &Value, pairs: &Pairs, tolerance: &Value) -> usize {
    let tolerance = Tolerance::of(&tolerance["meteor"]);
    let mut cases = 0;
    for (name, split_sentences) in [("exact_stem", true), ("exact_stem_preserve_line", false)] {
        let metric = Meteor { split_sentences, ..Meteor::default() };
        assert_eq!(metric.name(), "METEOR (exact+stem)");
        let found = score(&metric, &pairs.predictions, &pairs.references).unwrap();
        tolerance.check_all(name, &found.examples, &expected[name]["per_item"]);
        for (subset, ids) in entries(&expected["subsets"]) {
            let pairs = pairs.subset(ids);
            let found = score(&metric, &pairs.predictions, &pairs.references).unwrap();
            tolerance.check(&format!("{name}, {subset}"), found.value, &expected[name]["mean"][subset]);
            cases += 1;
        }
    }
    let metric = Meteor::default();
    for detail in list(&expected["detail"]) {
        let id = detail["id"].as_u64().expect("an id") as usize;
        let prediction = word_tokenize(&pairs.predictions[id]);
        for (reference, expected) in pairs.references[id].iter().zip(list(&detail["references"])) {
            check_alignment(&metric, &prediction, &word_tokenize(reference), expected, &tolerance);
        }
    }
    let toy = &expected["toy_synonyms"];
    let sets = list(&toy["synsets"]).iter().map(|set| strings(set).into_iter().collect::<HashSet<_>>());
    let with = Meteor { synonyms: Synonyms::Sets(sets.collect()), ..Meteor::default() };
    for item in list(&toy["items"]) {
        let prediction = strings(&item["prediction_tokens"]);
        let references: Vec<Vec<String>> = list(&item["references_tokens"]).iter().map(strings).collect();
        for (metric, key) in [(&with, "score"), (&metric, "score_without_synonyms")] {
            let scores = references.iter().map(|reference| metric.align(&prediction, reference).score);
            tolerance.check(&format!("{key} of {prediction:?}"), scores.fold(0.0, f64::max), &item[key]);
        }
        for (reference, expected) in references.iter().zip(list(&item["detail"])) {
            check_alignment(&with, &prediction, reference, expected, &tolerance);
        }
        cases += 1;
    }
    cases + 1
}

fn check_alignment(
    metric: &Meteor,
    prediction: &[String],
    reference: &[String],
    expected: &Value,
    tolerance: &Tolerance,
) {
    let found = metric.align(prediction, reference);
    let matches: Vec<Value> = found.matches.iter().map(|(i, j)| serde_json::json!([i, j])).collect();
    assert_eq!(matches, list(&expected["matches"]), "{prediction:?} against {reference:?}");
    assert_eq!(Some(found.chunks as u64), expected["chunks"].as_u64(), "{prediction:?} against {reference:?}");
    tolerance.check(&format!("{prediction:?} against {reference:?}"), found.score, &expected["score"]);
}

fn rouge(expected: &Value, pairs: &Pairs, tolerance: &Value) -> usize {
    let exact = Tolerance::of(&tolerance["rouge"]);
    let band = Tolerance::of(&tolerance["rouge_bootstrap_mid_to_mean"]);
    let kinds = [
        ("rouge1", RougeKind::N(1)),
        ("rouge2", RougeKind::N(2)),
        ("rougeL", RougeKind::L),
        ("rougeLsum", RougeKind::Lsum),
    ];
    let mut cases = 0;
    for (part, stemmer) in [("no_stemmer", false), ("stemmer", true)] {
        for (which, best_reference) in [("first_reference", false), ("multi_reference", true)] {
            for (name, kind) in kinds {
                let metric = Rouge { kind, stemmer, best_reference };
                let at = format!("{part}, {which}, {name}");
                for (i, expected) in list(&expected[part][which]).iter().enumerate() {
                    let found = metric.example_score(&pairs.predictions[i], &pairs.references[i]);
                    let found = [found.precision, found.recall, found.f];
                    exact.check_all(&format!("{at}, pair {i}"), &found, &expected[name]);
                }
                let found = score(&metric, &pairs.predictions, &pairs.references).unwrap();
                exact.check(&format!("{at}, mean"), found.value, &expected[part][format!("mean_f_{which}")][name]);
                if !best_reference {
                    let expected = &expected[part]["bootstrap_f_first_reference"][name];
                    let found = Bootstrap::default().score(&metric, &found).unwrap();
                    band.check(&format!("{at}, middle"), found.median, &expected["mid"]);
                    band.check(&format!("{at}, low"), found.low, &expected["low"]);
                    band.check(&format!("{at}, high"), found.high, &expected["high"]);
                }
                cases += 1;
            }
        }
    }
    cases
}
