//! Counts of (gold, predicted) pairs, from which the scores of a classifier follow.

use crate::{DataError, Result};

/// How often each class was predicted for each gold class. Predictions outside the classes have a column of their own:
/// they are never right, and they are never left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[classes, classes + 1]`, gold by predicted; the last column is "no class".
    counts: Vec<u64>,
}

impl Confusion {
    /// Counts pairs; a prediction of `None` is outside the classes. Fails if the lengths differ, there are no pairs, or
    /// an index is not below `classes`.
    pub fn new(gold: &[usize], predicted: &[Option<usize>], classes: usize) -> Result<Confusion> {
        let argument = |what, expected: String, found: usize| {
            Err(DataError::Argument { what, expected, found: found.to_string() }) //
        };
        if gold.len() != predicted.len() {
            return argument("predictions", format!("{}, one for each gold label", gold.len()), predicted.len());
        }
        if gold.is_empty() {
            return argument("number of examples", "at least 1".into(), 0);
        }
        let indices = gold.iter().copied().chain(predicted.iter().flatten().copied());
        if let Some(outside) = indices.clone().find(|&index| index >= classes) {
            return argument("class", format!("below {classes}"), outside);
        }
        let mut counts = vec![0; classes * (classes + 1)];
        for (&gold, predicted) in gold.iter().zip(predicted) {
            counts[gold * (classes + 1) + predicted.unwrap_or(classes)] += 1;
        }
        Ok(Confusion { classes, counts })
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How often `predicted` was said where `gold` was right; `None`: no class.
    pub fn count(&self, gold: usize, predicted: Option<usize>) -> u64 {
        self.counts[gold * (self.classes + 1) + predicted.unwrap_or(self.classes)]
    }

    /// All pairs.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Pairs that agree.
    pub fn right(&self) -> u64 {
        (0..self.classes).map(|class| self.count(class, Some(class))).sum()
    }

    /// How often a class is the gold one.
    pub fn golds(&self, class: usize) -> u64 {
        self.counts[class * (self.classes + 1)..(class + 1) * (self.classes + 1)].iter().sum()
    }

    /// How often a class, or none, is predicted.
    pub fn predictions(&self, class: Option<usize>) -> u64 {
        (0..self.classes).map(|gold| self.count(gold, class)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_cannot_be_counted() {
        for (gold, predicted, says) in [
            (&[0, 1][..], &[Some(0)][..], "predictions: expected 2"),
            (&[], &[], "number of examples"),
            (&[0], &[Some(2)], "class: expected below 2, found 2"),
            (&[3], &[None], "found 3"),
        ] {
            let error = Confusion::new(gold, predicted, 2).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
