//! `[evaluation]`: what an evaluation generates, what it scores, and how sure it is of the scores.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use statetune_datasets_eval::metrics::{Bootstrap, TextMetricOptions};
use statetune_datasets_eval::{DataConfig, OnBadRow};
use statetune_mamba_model::GenerateOptions;

use crate::evaluate::{Answers, Measure};

/// `[evaluation]`, of which `statetune eval` and a sweep's tasks make use: the evaluations of a run in training score what can
/// be scored without generating.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationSection {
    /// What is scored, by name; default: what the task is usually scored by. Loss and perplexity always are. Where nothing
    /// asks for a written answer, none is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<Vec<String>>,
    /// Only the first rows of the validation file, in place of `data.limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The most tokens of an answer.
    pub max_new_tokens: usize,
    /// So many tokens come before the end of the text may.
    pub min_new_tokens: usize,
    /// The most prompts that are answered at once, at least 1: bounds memory. No result depends on it.
    pub sequences: usize,
    /// The end of the text may not come while prompt and answer together are shorter.
    pub min_length: usize,
    /// Continuations followed at once; 1: the most probable token is taken, or one drawn.
    pub beams: usize,
    /// A beam's score is its log-probability over its number of tokens to this power.
    pub length_penalty: f64,
    /// A search ends as soon as there are as many finished continuations as beams.
    pub early_stopping: bool,
    /// Draws tokens at random at this temperature; 0: takes the most probable.
    pub temperature: f64,
    /// Draws among so many most probable tokens; 0: all.
    pub top_k: usize,
    /// Draws among the most probable tokens that together reach this probability.
    pub top_p: f64,
    /// Texts that end an answer and are no part of it, beside the token that ends every text.
    pub stop: Vec<String>,
    /// Folder with WordNet's files, for METEOR's synonyms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wordnet: Option<PathBuf>,
    /// ROUGE compares stems.
    pub rouge_stemmer: bool,
    /// ROUGE counts the first reference instead of the best.
    pub rouge_first_reference: bool,
    /// Samples of the bootstrap.
    pub samples: usize,
    /// The share of the samples that lies within an interval.
    pub confidence: f64,
    /// Seed of the bootstrap and of draws.
    pub seed: u64,
    /// Rows that cannot be used, and for Spider gold queries that cannot: left out and counted, or the end.
    pub on_bad_row: OnBadRow,
}

impl Default for EvaluationSection {
    /// Greedy, 1,000 samples and 95 %.
    fn default() -> EvaluationSection {
        let bootstrap = Bootstrap::default();
        EvaluationSection {
            metrics: None,
            limit: None,
            max_new_tokens: 128,
            sequences: GenerateOptions::default().sequences,
            min_new_tokens: 0,
            min_length: 0,
            beams: 1,
            length_penalty: 1.0,
            early_stopping: false,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            stop: Vec::new(),
            wordnet: None,
            rouge_stemmer: false,
            rouge_first_reference: false,
            samples: bootstrap.samples,
            confidence: bootstrap.confidence,
            seed: bootstrap.seed,
            on_bad_row: OnBadRow::Count,
        }
    }
}

impl EvaluationSection {
    /// Checks the ranges, and that what is to be scored can be on this data.
    ///
    /// # Errors
    /// The key, what was expected, what was found.
    pub fn check(&self, data: &DataConfig) -> Result<(), String> {
        let searches = self.searches();
        let draws = self.temperature > 0.0;
        let ranges = [
            ("limit", self.limit != Some(0), "at least 1, or absent"),
            ("max_new_tokens", self.max_new_tokens > 0, "at least 1"),
            ("sequences", self.sequences > 0, "at least 1"),
            ("min_new_tokens", self.min_new_tokens <= self.max_new_tokens, "at most `evaluation.max_new_tokens`"),
            ("beams", self.beams > 0, "at least 1"),
            ("length_penalty", self.length_penalty.is_finite(), "a finite number"),
            ("temperature", self.temperature >= 0.0 && self.temperature.is_finite(), "at least 0"),
            ("temperature", !(draws && searches), "0 with `beams`, `min_new_tokens` or `min_length`"),
            ("top_k", draws || self.top_k == 0, "absent without a `temperature`"),
            ("top_p", draws || self.top_p == 1.0, "absent without a `temperature`"),
            ("top_p", self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and at most 1"),
            ("stop", self.stop.iter().all(|text| !text.is_empty()), "texts that are not empty"),
            ("samples", self.samples > 0, "at least 1"),
            ("confidence", self.confidence > 0.0 && self.confidence < 1.0, "above 0 and below 1"),
        ];
        if let Some((key, _, expected)) = ranges.iter().find(|(_, valid, _)| !valid) {
            return Err(format!("`evaluation.{key}` must be {expected}"));
        }
        self.measures(data).map(drop)
    }

    /// What is scored, in order.
    ///
    /// # Errors
    /// A name is unknown, or it is of nothing that this data has.
    pub fn measures(&self, data: &DataConfig) -> Result<Vec<Measure>, String> {
        match &self.metrics {
            Some(names) => Measure::parse_list(names, data),
            None => Ok(Answers::of(data).default_measures(data)),
        }
    }

    /// Whether another section asks for the same results.
    pub fn scores_as(&self, other: &EvaluationSection) -> bool {
        *self == EvaluationSection { sequences: self.sequences, ..other.clone() }
    }

    /// Whether answers come from a search, which alone keeps to a minimum.
    pub fn searches(&self) -> bool {
        self.beams > 1 || self.min_new_tokens > 0 || self.min_length > 0
    }

    /// The bootstrap.
    pub fn bootstrap(&self) -> Bootstrap {
        Bootstrap { samples: self.samples, confidence: self.confidence, seed: self.seed }
    }

    /// What the metrics of texts leave open.
    pub fn text_options(&self) -> TextMetricOptions {
        TextMetricOptions {
            wordnet: self.wordnet.clone(),
            rouge_stemmer: self.rouge_stemmer,
            rouge_first_reference: self.rouge_first_reference,
        }
    }

    /// The data as an evaluation reads it: the validation file alone, its first rows, bad ones as configured here.
    pub fn data(&self, data: &DataConfig) -> DataConfig {
        DataConfig { train: None, limit: self.limit.or(data.limit), on_bad_row: self.on_bad_row, ..data.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use statetune_datasets_eval::Format;

    fn refusal(data: &DataConfig, change: impl FnOnce(&mut EvaluationSection)) -> String {
        let mut section = EvaluationSection::default();
        change(&mut section);
        section.check(data).unwrap_err()
    }

    fn of(format: Format) -> DataConfig {
        DataConfig { format, completion_field: Some("answer".into()), ..DataConfig::default() }
    }

    #[test]
    fn mistakes_are_named() {
        let data = of(Format::Jsonl);
        assert_eq!(EvaluationSection::default().check(&data), Ok(()));
        type Change = fn(&mut EvaluationSection);
        let cases: [(Change, &str); 13] = [
            (|s| s.limit = Some(0), "`evaluation.limit` must be at least 1, or absent"),
            (|s| s.max_new_tokens = 0, "`evaluation.max_new_tokens` must be at least 1"),
            (|s| s.sequences = 0, "`evaluation.sequences` must be at least 1"),
            (|s| s.min_new_tokens = 129, "`evaluation.min_new_tokens` must be at most `evaluation.max_new_tokens`"),
            (|s| s.beams = 0, "`evaluation.beams` must be at least 1"),
            (|s| s.length_penalty = f64::NAN, "`evaluation.length_penalty` must be a finite number"),
            (|s| s.temperature = -1.0, "`evaluation.temperature` must be at least 0"),
            (
                |s| (s.temperature, s.beams) = (1.0, 2),
                "`evaluation.temperature` must be 0 with `beams`, `min_new_tokens` or `min_length`",
            ),
            (|s| s.top_k = 3, "`evaluation.top_k` must be absent without a `temperature`"),
            (|s| (s.temperature, s.top_p) = (1.0, 0.0), "`evaluation.top_p` must be above 0 and at most 1"),
            (|s| s.stop = vec!["".into()], "`evaluation.stop` must be texts that are not empty"),
            (|s| s.samples = 0, "`evaluation.samples` must be at least 1"),
            (|s| s.confidence = 1.0, "`evaluation.confidence` must be above 0 and below 1"),
        ];
        for (change, expected) in cases {
            assert_eq!(refusal(&data, change), expected);
        }
    }

    #[test]
    fn metrics_are_those_of_the_task() {
        let asked = |format, name: &str| refusal(&of(format), |section| section.metrics = Some(vec![name.to_owned()]));
        assert!(asked(Format::Dart, "bluu").contains("unknown metric `bluu` (did you mean `bleu`?)"));
        assert!(asked(Format::Glue, "bleu").contains("`bleu` is of written answers, and this data has classes"));
        assert!(
            asked(Format::Dart, "accuracy").contains("`accuracy` is of classes, and this data has written answers")
        );
        assert!(asked(Format::Dart, "execution").contains("`execution` is of SQL, which only format spider has"));
        assert!(
            asked(Format::Spider, "execution").contains("`execution` runs queries: name the folder of the databases")
        );
        assert!(asked(Format::Text, "rouge").contains("and this data has running text"));
    }

    #[test]
    fn the_limit_of_the_evaluation_takes_the_place_of_that_of_the_data() {
        let data = DataConfig { limit: Some(7), train: Some("a".into()), ..of(Format::Dart) };
        let section = EvaluationSection { limit: Some(90), ..EvaluationSection::default() };
        let read = section.data(&data);
        assert_eq!((read.limit, read.train, read.on_bad_row), (Some(90), None, OnBadRow::Count));
        assert_eq!(EvaluationSection::default().data(&data).limit, Some(7));
    }
}
