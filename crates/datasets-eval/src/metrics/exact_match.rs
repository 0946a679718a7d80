//! Exact match: the share of predictions that are one of their references.

use super::metric::{Metric, mean, reference_count, yes};
use super::tokens::python::is_space;

/// Exact match, 0 to 1. By default every character counts but white space at the ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactMatch {
    /// White space at the ends counts too.
    pub keep_space: bool,
    /// Case does not matter.
    pub ignore_case: bool,
    /// ASCII marks do not matter.
    pub ignore_punctuation: bool,
}

impl ExactMatch {
    fn normal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.keep_space { text } else { text.trim_matches(is_space).to_owned() }
    }
}

impl Metric for ExactMatch {
    fn name(&self) -> String {
        "exact match".into()
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        format!(
            "nrefs:{}|case:{}|punct:{}|trim:{}",
            reference_count(references),
            if self.ignore_case { "lc" } else { "mixed" },
            yes(!self.ignore_punctuation),
            yes(!self.keep_space)
        )
    }

    /// 1 or 0, and 1.
    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        let own = self.normal(prediction);
        vec![f64::from(references.iter().any(|reference| self.normal(reference) == own)), 1.0]
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        mean(sums)
    }
}
