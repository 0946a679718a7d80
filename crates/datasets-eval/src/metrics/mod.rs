//! Metrics, one file each: numbers or texts in, a number out. [`ClassificationReport`] scores a classifier that is a
//! language model, whose answer may be no class at all. A [`Metric`] scores generated texts against references;
//! [`TextMetric`] knows them by name, and [`Bootstrap`] says how far a score might be off.

mod accuracy;
mod bleu;
mod bootstrap;
mod chrf;
mod classification;
mod confusion;
mod correlation;
mod exact_match;
mod f1;
mod hf_bleu;
mod matthews;
mod meteor;
mod metric;
mod ngrams;
mod perplexity;
mod rouge;
pub mod spider;
mod ter;
mod text_metric;
pub mod tokens;
mod word_f1;
mod wordnet;

pub use accuracy::accuracy;
pub use bleu::{Bleu, BleuSmoothing, BleuTokens, SentenceBleu};
pub use bootstrap::{Bootstrap, Interval, PairedDifference};
pub use chrf::Chrf;
pub use classification::{ClassificationReport, Prediction, Scores};
pub use confusion::Confusion;
pub use correlation::{pearson, spearman};
pub use exact_match::ExactMatch;
pub use f1::{F1Average, f1};
pub use hf_bleu::HfBleu;
pub use matthews::matthews;
pub use meteor::{Meteor, MeteorAlignment, Synonyms};
pub use metric::{Metric, TextScore, score, sums};
pub use perplexity::perplexity;
pub use rouge::{Rouge, RougeKind, RougeScore};
pub use ter::Ter;
pub use text_metric::{TextMetric, TextMetricOptions};
pub use word_f1::word_f1;
pub use wordnet::WordNet;
