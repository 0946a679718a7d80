//! The scores of `tests/golden_own/text_metrics`: metrics and options that have no numbers in the golden family, as the
//! reference tools compute them on invented pairs.

use std::path::Path;

use statetune_datasets_eval::metrics::tokens::TercomOptions;
use statetune_datasets_eval::metrics::{
    Bleu, BleuSmoothing, BleuTokens, Chrf, Meteor, Metric, Rouge, RougeKind, Ter, score,
};

#[path = "../../../tests/support/golden_folders.rs"]
mod golden_folders;

/// Relative to the score; sums are taken in another order than the tools'.
const TOLERANCE: f64 = 1e-9;

/// The metric that a name of the file stands for.
fn metric(name: &str) -> Box<dyn Metric> {
    let (bleu, chrf) = (Bleu { effective_order: true, ..Bleu::default() }, Chrf::default());
    let tercom = TercomOptions::default();
    let normalized = TercomOptions { normalized: true, ..tercom };
    let asian = TercomOptions { asian_support: true, ..normalized };
    match name {
        "bleu exp" => Box::new(bleu),
        "bleu floor" => Box::new(Bleu { smoothing: BleuSmoothing::Floor(0.1), ..bleu }),
        "bleu add-k" => Box::new(Bleu { smoothing: BleuSmoothing::AddK(2.0), ..bleu }),
        "bleu none" => Box::new(Bleu { smoothing: BleuSmoothing::None, tokens: BleuTokens::None, ..bleu }),
        "bleu order 2" => Box::new(Bleu { max_order: 2, ..bleu }),
        "chrf" => Box::new(chrf),
        "chrf++" => Box::new(Chrf::plus_plus()),
        "chrf lowercase" => Box::new(Chrf { lowercase: true, beta: 3, char_order: 4, ..chrf }),
        "chrf eps" => Box::new(Chrf { word_order: 1, eps_smoothing: true, whitespace: true, ..chrf }),
        "ter" => Box::new(Ter(tercom)),
        "ter case" => Box::new(Ter(TercomOptions { case_sensitive: true, ..tercom })),
        "ter normalized" => Box::new(Ter(normalized)),
        "ter asian" => Box::new(Ter(asian)),
        "ter no punctuation" => Box::new(Ter(TercomOptions { no_punctuation: true, ..asian })),
        "meteor" => Box::new(Meteor { split_sentences: false, ..Meteor::default() }),
        name => {
            let (kind, stemmer) = name.split_once(' ').map_or((name, false), |(kind, _)| (kind, true));
            let kind = match kind {
                "rouge1" => RougeKind::N(1),
                "rouge2" => RougeKind::N(2),
                "rougeL" => RougeKind::L,
                "rougeLsum" => RougeKind::Lsum,
                _ => panic!("no metric is called {name}"),
            };
            Box::new(Rouge { stemmer, ..Rouge::new(kind) })
        }
    }
}

#[test]
fn golden_own_text_metrics() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden_own/text_metrics/scores.json");
    let file = golden_folders::json(&file);
    let pairs = file["pairs"].as_array().expect("pairs");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let predictions: Vec<String> = pairs.iter().map(|pair| text(&pair["prediction"])).collect();
    let references = pairs.iter().map(|pair| pair["references"].as_array().expect("references"));
    let references: Vec<Vec<String>> = references.map(|list| list.iter().map(text).collect()).collect();

    let expected = file["metrics"].as_object().expect("metrics");
    for (name, expected) in expected {
        let found = score(metric(name).as_ref(), &predictions, &references).unwrap();
        let close = |what: &str, found: f64, expected: &serde_json::Value| {
            let expected = expected.as_f64().expect("a number");
            let allowed = TOLERANCE * expected.abs().max(1.0);
            assert!((found - expected).abs() <= allowed, "{name}, {what}: expected {expected}, found {found}");
        };
        close("corpus", found.value, &expected["corpus"]);
        let items = expected["items"].as_array().expect("items");
        assert_eq!(found.examples.len(), items.len(), "{name}");
        for (i, (found, expected)) in found.examples.iter().zip(items).enumerate() {
            close(&format!("{:?} against {:?}", predictions[i], references[i]), *found, expected);
        }
        if let Some(theirs) = expected["signature"].as_str() {
            // Ours says what the tool leaves out: another order of BLEU, and the tool itself.
            let ours = found.signature.replace("|order:2", "");
            assert_eq!(ours.split("|as:").next(), theirs.split("|version:").next(), "{name}");
        }
    }
    println!("golden own: {} cases", expected.len());
    assert!(!expected.is_empty());
}
