//! The metrics of generated texts by the names that a configuration gives them.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use super::meteor::Synonyms;
use super::wordnet::WordNet;
use super::{Bleu, Chrf, ExactMatch, HfBleu, Meteor, Metric, Rouge, RougeKind, SentenceBleu, Ter};
use crate::error::nearest;
use crate::{DataError, Result};

/// A metric of generated texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TextMetric {
    /// Corpus BLEU of sacrebleu.
    Bleu,
    /// Corpus BLEU of the evaluate library, which the authors report.
    HfBleu,
    /// The mean of sentence BLEU.
    SentenceBleu,
    /// chrF2.
    Chrf,
    /// chrF2++.
    ChrfPlusPlus,
    /// Translation edit rate.
    Ter,
    /// METEOR.
    Meteor,
    /// ROUGE-1.
    Rouge1,
    /// ROUGE-2.
    Rouge2,
    /// ROUGE-L.
    RougeL,
    /// ROUGE-L by lines.
    RougeLsum,
    /// Exact match.
    ExactMatch,
}

/// Every metric and its name.
const NAMES: [(&str, TextMetric); 12] = [
    ("bleu", TextMetric::Bleu),
    ("hf_bleu", TextMetric::HfBleu),
    ("sentence_bleu", TextMetric::SentenceBleu),
    ("chrf", TextMetric::Chrf),
    ("chrf++", TextMetric::ChrfPlusPlus),
    ("ter", TextMetric::Ter),
    ("meteor", TextMetric::Meteor),
    ("rouge1", TextMetric::Rouge1),
    ("rouge2", TextMetric::Rouge2),
    ("rougeL", TextMetric::RougeL),
    ("rougeLsum", TextMetric::RougeLsum),
    ("exact_match", TextMetric::ExactMatch),
];

/// What some of the metrics leave open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextMetricOptions {
    /// METEOR's folder with WordNet's files; without it there are no synonyms, and the result's name says so.
    pub wordnet: Option<PathBuf>,
    /// ROUGE compares stems.
    pub rouge_stemmer: bool,
    /// ROUGE counts the first reference instead of the best.
    pub rouge_first_reference: bool,
}

impl TextMetric {
    /// All of them.
    pub fn all() -> impl Iterator<Item = TextMetric> {
        NAMES.iter().map(|(_, metric)| *metric)
    }

    /// The name in a configuration.
    pub fn key(self) -> &'static str {
        NAMES.iter().find(|(_, metric)| *metric == self).map_or("", |(name, _)| name)
    }

    /// The metrics of a list of names, in its order, each once. `rouge` stands for all four of ROUGE.
    ///
    /// # Errors
    ///
    /// A name is unknown; the nearest one is told.
    pub fn parse_list<S: AsRef<str>>(names: &[S]) -> Result<Vec<TextMetric>> {
        let mut found = Vec::new();
        for name in names {
            let metrics = match name.as_ref() {
                "rouge" => vec![TextMetric::Rouge1, TextMetric::Rouge2, TextMetric::RougeL, TextMetric::RougeLsum],
                name => vec![name.parse()?],
            };
            let new: Vec<_> = metrics.into_iter().filter(|metric| !found.contains(metric)).collect();
            found.extend(new);
        }
        Ok(found)
    }

    /// The metric, ready to score.
    ///
    /// # Errors
    ///
    /// WordNet's files cannot be read.
    pub fn build(self, options: &TextMetricOptions) -> Result<Box<dyn Metric>> {
        let rouge = |kind| -> Box<dyn Metric> {
            Box::new(Rouge { kind, stemmer: options.rouge_stemmer, best_reference: !options.rouge_first_reference })
        };
        Ok(match self {
            TextMetric::Bleu => Box::new(Bleu::default()),
            TextMetric::HfBleu => Box::new(HfBleu::default()),
            TextMetric::SentenceBleu => Box::new(SentenceBleu::default()),
            TextMetric::Chrf => Box::new(Chrf::default()),
            TextMetric::ChrfPlusPlus => Box::new(Chrf::plus_plus()),
            TextMetric::Ter => Box::new(Ter::default()),
            TextMetric::Meteor => {
                let synonyms = match &options.wordnet {
                    Some(folder) => Synonyms::WordNet(Arc::new(WordNet::read(folder)?)),
                    None => Synonyms::None,
                };
                Box::new(Meteor { synonyms, ..Meteor::default() })
            }
            TextMetric::Rouge1 => rouge(RougeKind::N(1)),
            TextMetric::Rouge2 => rouge(RougeKind::N(2)),
            TextMetric::RougeL => rouge(RougeKind::L),
            TextMetric::RougeLsum => rouge(RougeKind::Lsum),
            TextMetric::ExactMatch => Box::new(ExactMatch::default()),
        })
    }
}

impl FromStr for TextMetric {
    type Err = DataError;

    /// # Errors
    ///
    /// The name is unknown; the nearest one is told.
    fn from_str(name: &str) -> Result<TextMetric> {
        let names = || NAMES.iter().map(|(name, _)| *name);
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, metric)| *metric).ok_or_else(|| DataError::Config {
            key: "metrics",
            expected: format!("one of {}", names().chain(["rouge"]).collect::<Vec<_>>().join(", ")),
            found: format!("`{name}`"),
            nearest: nearest(name, names().chain(["rouge"])),
        })
    }
}
