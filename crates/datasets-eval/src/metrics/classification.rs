//! Scores of a language model that answers with one token: over all vocabulary, where an answer may be no class, and over
//! the tokens of the classes only.

use serde::Serialize;

use super::{Confusion, F1Average, accuracy, f1, matthews};
use crate::Result;

/// What the model answered to one example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The right class.
    pub gold: usize,
    /// The class whose token is the most probable of the vocabulary; `None` where that token is no class.
    pub over_all_vocabulary: Option<usize>,
    /// The class whose token is the most probable of the classes' tokens.
    pub over_labels: usize,
}

/// Accuracy, F1 and Matthews correlation of the same predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// The share that is right.
    pub accuracy: f64,
    /// With two classes, of class 1, as GLUE reports it; with more, the mean over the classes.
    pub f1: f64,
    /// The Matthews correlation coefficient.
    pub matthews: f64,
}

/// The scores of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClassificationReport {
    /// Examples.
    pub n: usize,
    /// Over all vocabulary: an answer outside the classes counts as wrong.
    pub over_all_vocabulary: Scores,
    /// Over the classes' tokens only.
    pub over_labels: Scores,
    /// Answers outside the classes.
    pub out_of_class: usize,
}

impl Scores {
    fn of(confusion: &Confusion) -> Scores {
        let average = if confusion.classes() == 2 { F1Average::Class(1) } else { F1Average::Macro };
        Scores { accuracy: accuracy(confusion), f1: f1(confusion, average), matthews: matthews(confusion) }
    }
}

impl ClassificationReport {
    /// Scores predictions among `classes` classes. Fails if there are none, or one names a class that does not exist.
    pub fn new(predictions: &[Prediction], classes: usize) -> Result<ClassificationReport> {
        let gold: Vec<usize> = predictions.iter().map(|p| p.gold).collect();
        let over_all: Vec<Option<usize>> = predictions.iter().map(|p| p.over_all_vocabulary).collect();
        let over_labels: Vec<Option<usize>> = predictions.iter().map(|p| Some(p.over_labels)).collect();
        Ok(ClassificationReport {
            n: predictions.len(),
            over_all_vocabulary: Scores::of(&Confusion::new(&gold, &over_all, classes)?),
            over_labels: Scores::of(&Confusion::new(&gold, &over_labels, classes)?),
            out_of_class: over_all.iter().filter(|class| class.is_none()).count(),
        })
    }
}
