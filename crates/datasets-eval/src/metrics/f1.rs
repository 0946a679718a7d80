//! The F1 score: the harmonic mean of precision and recall.

use super::Confusion;

/// Which classes the score speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F1Average {
    /// One class against the rest: class 1 in GLUE's binary tasks.
    Class(usize),
    /// The mean over the classes that occur as gold or prediction.
    Macro,
    /// The mean over the classes, each weighted by how often it is the gold one.
    Weighted,
}

/// 2 tp / (2 tp + fp + fn), 0 where that is undefined, as scikit-learn computes it. A prediction outside the classes is
/// a false negative of its gold class.
pub fn f1(confusion: &Confusion, average: F1Average) -> f64 {
    let of = |class: usize| {
        let (golds, predictions) = (confusion.golds(class), confusion.predictions(Some(class)));
        match golds + predictions {
            0 => 0.0,
            both => 2.0 * confusion.count(class, Some(class)) as f64 / both as f64,
        }
    };
    let classes = 0..confusion.classes();
    match average {
        F1Average::Class(class) => of(class),
        F1Average::Macro => {
            let occurs = |&class: &usize| confusion.golds(class) + confusion.predictions(Some(class)) > 0;
            let scores: Vec<f64> = classes.filter(occurs).map(of).collect();
            scores.iter().sum::<f64>() / scores.len() as f64
        }
        F1Average::Weighted => {
            classes.map(|class| of(class) * confusion.golds(class) as f64).sum::<f64>() / confusion.total() as f64
        }
    }
}
