//! What every metric of generated texts promises, whatever its numbers: perfect for equal texts, within its range, the same
//! whatever the order of references, refused where there is nothing to score.

use std::collections::HashSet;

use proptest::prelude::*;
use statetune_datasets_eval::metrics::{
    Bleu, Bootstrap, Chrf, ExactMatch, HfBleu, Meteor, Metric, Rouge, RougeKind, SentenceBleu, Synonyms, Ter,
    TextMetric, TextMetricOptions, TextScore, WordNet, score,
};

/// Every metric by its name, and its best value.
fn all() -> Vec<(TextMetric, Box<dyn Metric>, f64)> {
    let best = |metric: TextMetric| match metric {
        TextMetric::Bleu | TextMetric::SentenceBleu | TextMetric::Chrf | TextMetric::ChrfPlusPlus => 100.0,
        TextMetric::Ter => 0.0,
        _ => 1.0,
    };
    let built = |metric: TextMetric| metric.build(&TextMetricOptions::default()).unwrap();
    TextMetric::all().map(|metric| (metric, built(metric), best(metric))).collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn one_each(references: &[String]) -> Vec<Vec<String>> {
    references.iter().map(|text| vec![text.clone()]).collect()
}

/// Long enough for runs of four words.
const TEXTS: [&str; 3] = [
    "The mill by the old canal grinds rye.",
    "Two ships left the harbour at 7.30 p.m. on Friday.",
    "Das Tor war offen geblieben.",
];

#[test]
fn equal_texts_are_perfect() {
    for (metric, built, best) in all() {
        let found = score(built.as_ref(), &texts(&TEXTS), &one_each(&texts(&TEXTS))).unwrap();
        for value in found.examples.iter().chain([&found.value]) {
            // METEOR takes something off for the one chunk that there always is.
            let allowed = if metric == TextMetric::Meteor { 0.01 } else { 1e-9 };
            assert!((value - best).abs() <= allowed, "{}: {value}", metric.key());
        }
    }
}

#[test]
fn empty_predictions_are_worst() {
    for (metric, built, _) in all() {
        let found = score(built.as_ref(), &texts(&["", " ", "\n"]), &one_each(&texts(&TEXTS))).unwrap();
        let worst = if metric == TextMetric::Ter { 100.0 } else { 0.0 };
        assert!(found.examples.iter().all(|value| *value == worst), "{}: {found:?}", metric.key());
        assert_eq!(found.value, worst, "{}", metric.key());
    }
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let (some, lists) = (texts(&TEXTS), one_each(&texts(&TEXTS)));
    for (predictions, references, says) in [
        (&some[..2], &lists[..], "predictions: expected 3, one for each list of references, found 2"),
        (&[], &[], "at least 1"),
        (&some[..1], &[vec![]], "references: expected at least 1 for each example, found none for example 0"),
    ] {
        let error = score(&Bleu::default(), predictions, references).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn the_two_kinds_of_bleu_differ_where_references_do() {
    // Seven words; the nearest reference has eight, the shortest three.
    let predictions = texts(&["the mill grinds rye on each friday"]);
    let references = vec![texts(&["the mill grinds rye on each friday night", "the mill grinds"])];
    let of = |metric: &dyn Metric| score(metric, &predictions, &references).unwrap().value;
    let brevity = (1.0 - 8.0 / 7.0_f64).exp();
    assert!((of(&Bleu::default()) - 100.0 * brevity).abs() < 1e-9);
    assert!((of(&HfBleu::default()) - 1.0).abs() < 1e-12);
    assert!((of(&SentenceBleu::default()) - of(&Bleu::default())).abs() < 1e-9);
}

#[test]
fn rouge_takes_the_reference_it_is_told() {
    let (prediction, references) = ("a b", texts(&["c d", "a b c"]));
    for (best_reference, f) in [(true, 0.8), (false, 0.0)] {
        let metric = Rouge { best_reference, ..Rouge::new(RougeKind::N(1)) };
        assert!((metric.example_score(prediction, &references).f - f).abs() < 1e-12);
    }
    // Lines in another order cost ROUGE-L, but not ROUGE-Lsum.
    let pair = |kind| Rouge::new(kind).pair("a b c\nd e", "d e\na b c").f;
    assert_eq!((pair(RougeKind::L), pair(RougeKind::Lsum)), (0.6, 1.0));
}

#[test]
fn exact_match_ignores_what_it_is_told() {
    let of = |metric: ExactMatch, a: &str, b: &str| metric.statistics(a, &texts(&["other", b]))[0];
    let default = ExactMatch::default();
    for (metric, a, b, found) in [
        (default, " a\n", "a", 1.0),
        (ExactMatch { keep_space: true, ..default }, " a\n", "a", 0.0),
        (default, "A", "a", 0.0),
        (ExactMatch { ignore_case: true, ..default }, "Σ", "σ", 1.0),
        (default, "a.", "a", 0.0),
        (ExactMatch { ignore_punctuation: true, ..default }, "(a) b.", "a b", 1.0),
    ] {
        assert_eq!(of(metric, a, b), found, "{metric:?} {a:?} {b:?}");
    }
}

#[test]
fn names_lead_to_metrics_and_slips_to_the_nearest() {
    for metric in TextMetric::all() {
        assert_eq!(metric.key().parse::<TextMetric>().unwrap(), metric);
    }
    let list = TextMetric::parse_list(&["bleu", "rouge", "rougeL", "meteor"]).unwrap();
    let keys: Vec<&str> = list.iter().map(|metric| metric.key()).collect();
    assert_eq!(keys, ["bleu", "rouge1", "rouge2", "rougeL", "rougeLsum", "meteor"]);
    let error = TextMetric::parse_list(&["metor"]).unwrap_err().to_string();
    assert!(error.contains("metrics: expected one of bleu, hf_bleu,"), "{error}");
    assert!(error.contains("found `metor` (did you mean `meteor`?)"), "{error}");
}

#[test]
fn signatures_tell_metrics_and_options_apart() {
    let references = vec![texts(&["a"]), texts(&["a", "b"])];
    let stemmed = TextMetricOptions { rouge_stemmer: true, ..Default::default() };
    let mut seen = HashSet::new();
    for (metric, built, _) in all() {
        assert!(seen.insert((built.name(), built.signature(&references))), "{}", metric.key());
        assert!(built.signature(&references).contains("nrefs:var"), "{}", metric.key());
        assert!(built.signature(&references[..1]).contains("nrefs:1"), "{}", metric.key());
        let other = metric.build(&stemmed).unwrap();
        let is_rouge = metric.key().starts_with("rouge");
        assert_eq!(built.signature(&references) != other.signature(&references), is_rouge, "{}", metric.key());
    }
}

/// A dictionary of two sets of nouns and one of verbs and adjectives each, in WordNet's format.
fn dictionary() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let licence = "  1 This is not WordNet.\n";
    for (name, index, data, exceptions) in [
        (
            "noun",
            "auto n 1 1 @ 1 0 00000025\ncar n 2 1 @ 2 0 00000025 00000110\nmotor_car n 1 1 @ 1 0 00000025\n\
             wagon n 1 1 @ 1 0 00000110\nman n 1 0 1 0 00000200\nadult_male n 1 0 1 0 00000200\nguy n 1 0 1 0 00000200\n",
            "00000025 06 n 03 car 0 auto 0 motor_car 0 000 | runs\n00000110 06 n 02 car 1 wagon 0 000 | rolls\n\
             00000200 18 n 03 man 0 adult_male 0 guy 0 000 | walks\n",
            "men man\n",
        ),
        (
            "verb",
            "begin v 1 0 1 0 00000050\nstart v 1 0 1 0 00000050\n",
            "00000050 30 v 02 begin 0 start 0 000 01 + 01 00 | gets going\n",
            "begun begin\n",
        ),
        (
            "adj",
            "fast a 1 0 1 0 00000070\nquick a 1 0 1 0 00000070\n",
            "00000070 00 s 02 fast(a) 0 quick 0 000 | not slow\n",
            "",
        ),
        ("adv", "", "", ""),
    ] {
        let write =
            |file: String, text: &str| std::fs::write(folder.path().join(file), format!("{licence}{text}")).unwrap();
        write(format!("index.{name}"), index);
        write(format!("data.{name}"), data);
        write(format!("{name}.exc"), exceptions);
    }
    folder
}

#[test]
fn synonyms_are_read_from_a_dictionary() {
    let folder = dictionary();
    let dictionary = WordNet::read(folder.path()).unwrap();
    for (word, synonyms) in [
        ("car", &["auto", "car", "wagon"][..]),
        ("Cars", &["auto", "car", "wagon"]),
        ("wagon", &["car", "wagon"]),
        ("men", &["guy", "man"]),
        ("begun", &["begin", "start"]),
        ("starting", &["begin", "start"]),
        ("faster", &["fast", "quick"]),
        ("motor_car", &["auto", "car"]),
        ("ship", &[]),
    ] {
        let mut found: Vec<&str> = dictionary.synonyms(word).into_iter().collect();
        found.sort_unstable();
        assert_eq!(found, synonyms, "{word}");
    }

    let options = TextMetricOptions { wordnet: Some(folder.path().into()), ..Default::default() };
    let with = TextMetric::Meteor.build(&options).unwrap();
    let without = Meteor::default();
    assert_eq!((with.name().as_str(), without.name().as_str()), ("METEOR (exact+stem+WordNet)", "METEOR (exact+stem)"));
    let (predictions, references) = (texts(&["the quick car"]), one_each(&texts(&["the fast auto"])));
    let of = |metric: &dyn Metric| score(metric, &predictions, &references).unwrap().value;
    // All three match in one chunk; or one of three.
    assert!((of(with.as_ref()) - (1.0 - 0.5 / 27.0)).abs() < 1e-12);
    assert!((of(&without) - 0.5 / 3.0).abs() < 1e-12);
    let sets =
        vec![HashSet::from(["quick", "fast"].map(String::from)), HashSet::from(["car", "auto"].map(String::from))];
    let sets = Meteor { synonyms: Synonyms::Sets(sets), ..Meteor::default() };
    assert_eq!(of(&sets), of(with.as_ref()));
}

#[test]
fn a_dictionary_that_lacks_something_is_refused() {
    let folder = dictionary();
    let options = TextMetricOptions { wordnet: Some(folder.path().into()), ..Default::default() };
    let fails = || match TextMetric::Meteor.build(&options) {
        Ok(metric) => panic!("{} was built", metric.name()),
        Err(error) => error.to_string(),
    };
    let path = folder.path().join("index.adj");
    let index = std::fs::read_to_string(&path).unwrap();
    // An offset that the data file does not have, a count that is not met, and a word that is cut short.
    for broken in ["fast a 1 0 1 0 00000071", "fast a 2 0 1 0 00000070", "fast a"] {
        std::fs::write(&path, format!("{index}{broken}\n")).unwrap();
        let error = fails();
        assert!(error.contains("index.adj:4: expected a word:") && error.contains(broken), "{error}");
    }
    std::fs::write(&path, index).unwrap();
    std::fs::remove_file(folder.path().join("verb.exc")).unwrap();
    let error = fails();
    assert!(error.contains("verb.exc") && error.contains("METEOR's dictionary is a folder"), "{error}");
}

/// Two systems' answers to 200 questions: right with the given chances in a hundred.
fn systems(chances: [usize; 2]) -> [TextScore; 2] {
    chances.map(|chance| {
        let answer = |i: usize| if i * 37 % 100 < chance { "yes" } else { "no" };
        let predictions: Vec<String> = (0..200).map(|i| answer(i).to_owned()).collect();
        score(&ExactMatch::default(), &predictions, &vec![texts(&["yes"]); 200]).unwrap()
    })
}

#[test]
fn intervals_follow_the_binomial_and_the_seed() {
    let [found, _] = systems([30, 30]);
    let metric = ExactMatch::default();
    let interval = Bootstrap::default().score(&metric, &found).unwrap();
    // Standard deviation of the mean: sqrt(0.3 * 0.7 / 200) = 0.0324, 1.96 of it on each side.
    assert_eq!(interval.value, 0.3);
    for (end, expected) in [(interval.low, 0.2365), (interval.high, 0.3635), (interval.median, 0.3)] {
        assert!((end - expected).abs() < 0.012, "{interval:?}");
    }
    assert_eq!(interval, Bootstrap::default().mean(&found.examples).unwrap());
    let other = Bootstrap { seed: 1, ..Bootstrap::default() };
    let again = other.score(&metric, &found).unwrap();
    assert_ne!(interval, again);
    assert_eq!(again, other.score(&metric, &found).unwrap());
    let narrow = Bootstrap { confidence: 0.5, ..Bootstrap::default() }.score(&metric, &found).unwrap();
    assert!(narrow.low > interval.low && narrow.high < interval.high);
}

#[test]
fn paired_differences_tell_better_from_equal() {
    let metric = ExactMatch::default();
    for (chances, clear) in [([60, 50], true), ([50, 60], true), ([50, 50], false), ([51, 50], false)] {
        let [first, second] = systems(chances);
        let found = Bootstrap::default().paired(&metric, &first, &second).unwrap();
        assert_eq!(found.difference.value, first.value - second.value);
        assert_eq!((found.is_clear(), found.p_value < 0.05), (clear, clear), "{chances:?}: {found:?}");
    }
    let [first, mut second] = systems([50, 60]);
    second.statistics.pop();
    let error = Bootstrap::default().paired(&metric, &first, &second).unwrap_err().to_string();
    assert!(error.contains("scores to compare: expected 200 examples"), "{error}");
}

#[test]
fn a_bootstrap_of_nothing_is_refused() {
    let default = Bootstrap::default();
    for (bootstrap, values, says) in [
        (default, &[][..], "examples to resample"),
        (Bootstrap { samples: 0, ..default }, &[1.0], "bootstrap samples"),
        (Bootstrap { confidence: 1.0, ..default }, &[1.0], "bootstrap confidence"),
        (Bootstrap { confidence: f64::NAN, ..default }, &[1.0], "bootstrap confidence"),
    ] {
        let error = bootstrap.mean(values).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

/// It takes a fraction of a second for each metric; the limits leave room for a busy machine.
#[test]
fn thousands_of_pairs_are_scored_quickly() {
    let words = ["rye", "mill", "the", "canal,", "old", "Friday", "grinds", "1,000", "ship's", "harbour"];
    let text = |i: usize| (0..25).map(|j| words[(i * 7 + j * (i % 9 + 1)) % 10]).collect::<Vec<_>>().join(" ") + ".";
    let predictions: Vec<String> = (0..2000).map(text).collect();
    let references: Vec<Vec<String>> = (0..2000).map(|i| vec![text(i + 1), text(i + 2)]).collect();
    for (metric, built, _) in all() {
        let begin = std::time::Instant::now();
        score(built.as_ref(), &predictions, &references).unwrap();
        let limit = if metric == TextMetric::Ter { 30 } else { 5 };
        assert!(begin.elapsed().as_secs() < limit, "{}: {:?}", metric.key(), begin.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any text at all, marks and scripts mixed: scores stay in range, references have no order, and no input stops a metric.
    #[test]
    fn scores_stay_in_range_whatever_the_texts(
        prediction in "([a-cA-C.,'\"()\\-!? \n]|Inc\\.|p\\.m\\.|n't|\\PC){0,40}",
        references in prop::collection::vec("([a-cA-C.,'\"()\\-!? \n]|&amp;|cannot|\\PC){0,40}", 1..4),
    ) {
        let mut turned = references.clone();
        turned.reverse();
        for (metric, built, best) in all() {
            let of = |references: &[String]| {
                score(built.as_ref(), std::slice::from_ref(&prediction), &[references.to_vec()]).unwrap()
            };
            let found = of(&references);
            let range = if metric == TextMetric::Ter { 0.0..=f64::MAX } else { 0.0..=best + 1e-9 };
            prop_assert!(range.contains(&found.value), "{}: {}", metric.key(), found.value);
            let other = of(&turned);
            prop_assert!((found.value - other.value).abs() < 1e-9, "{}: {} {}", metric.key(), found.value, other.value);
            // A text among its own references can only match it.
            let mut with_own = references.clone();
            with_own.push(prediction.clone());
            if metric == TextMetric::ExactMatch {
                prop_assert_eq!(of(&with_own).value, 1.0);
            }
        }
    }

    /// A text against itself takes no edits, and moving all of it around never costs more than writing it anew.
    #[test]
    fn edits_are_at_most_the_words(words in prop::collection::vec("[a-e]", 1..30), by in 0usize..30) {
        let text = words.join(" ");
        let mut turned = words.clone();
        turned.rotate_left(by % words.len());
        let of = |other: &str| Ter::default().statistics(&text, &[other.to_owned()])[0];
        prop_assert_eq!(of(&text), 0.0);
        prop_assert!(of(&turned.join(" ")) <= words.len() as f64);
    }

    /// chrF does not see white space.
    #[test]
    fn chrf_does_not_see_white_space(text in "[a-d ]{0,20}", other in "[a-d ]{0,20}") {
        let of = |text: &str| Chrf::default().example(&Chrf::default().statistics(text, std::slice::from_ref(&other)));
        prop_assert_eq!(of(&text), of(&text.replace(' ', "")));
    }
}
