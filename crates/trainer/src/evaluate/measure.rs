//! What can be scored, by name, and how a score follows from what each example adds.

use statetune_datasets_eval::metrics::spider::Hardness;
use statetune_datasets_eval::metrics::{
    Confusion, F1Average, Metric, TextMetric, TextMetricOptions, accuracy, f1, matthews, sums,
};
use statetune_datasets_eval::{DataConfig, Format};
use statetune_peft_methods::nearest;

use crate::TrainError;

/// What the rows of a data set ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// One of some classes.
    Classes,
    /// A text.
    Written,
    /// Nothing: it is running text.
    None,
}

/// A score of predicted SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlScore {
    /// Exact set match.
    ExactSetMatch,
    /// The official execution match.
    Execution,
    /// The strict one.
    StrictExecution,
    /// Whether it runs.
    Runs,
}

/// A score of a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassScore {
    /// The share of right answers, over all vocabulary.
    Accuracy,
    /// F1, over all vocabulary.
    F1,
    /// Matthews correlation, over all vocabulary.
    Matthews,
    /// Accuracy over the tokens of the classes only.
    LabelAccuracy,
}

/// Something that is scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Mean -ln p of the labelled tokens; an example adds their sum and their number.
    Loss,
    /// e to the loss.
    Perplexity,
    /// Of classes; an example adds its gold class and the predicted one, -1 for none.
    Class(ClassScore),
    /// Of texts; an example adds what the metric says.
    Text(TextMetric),
    /// Of SQL, of all or of one hardness; an example adds 1 or 0.
    Sql(SqlScore, Option<Hardness>),
}

const CLASSES: [(&str, ClassScore); 4] = [
    ("accuracy", ClassScore::Accuracy),
    ("f1", ClassScore::F1),
    ("matthews", ClassScore::Matthews),
    ("label_accuracy", ClassScore::LabelAccuracy),
];

const SQL: [(&str, SqlScore); 4] = [
    ("exact_set_match", SqlScore::ExactSetMatch),
    ("execution", SqlScore::Execution),
    ("strict_execution", SqlScore::StrictExecution),
    ("runs", SqlScore::Runs),
];

impl Answers {
    /// What the rows of a configuration ask for.
    pub fn of(data: &DataConfig) -> Answers {
        match data.format {
            Format::Glue => Answers::Classes,
            Format::Text => Answers::None,
            _ if data.label_field.is_some() => Answers::Classes,
            _ => Answers::Written,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Answers::Classes => "classes",
            Answers::Written => "written answers",
            Answers::None => "running text",
        }
    }

    /// What a task is usually scored by.
    pub fn default_measures(self, data: &DataConfig) -> Vec<Measure> {
        use TextMetric::{Bleu, Chrf, ExactMatch, HfBleu, Meteor, Rouge1, Rouge2, RougeL, RougeLsum, Ter};
        let texts = |metrics: &[TextMetric]| metrics.iter().map(|metric| Measure::Text(*metric)).collect();
        match (self, data.format) {
            (Answers::None, _) => Vec::new(),
            (Answers::Classes, _) => CLASSES.iter().map(|(_, score)| Measure::Class(*score)).collect(),
            (_, Format::Dart) => texts(&[Bleu, HfBleu, Meteor, Chrf, Ter]),
            (_, Format::Samsum) => texts(&[Rouge1, Rouge2, RougeL, RougeLsum]),
            (_, Format::Spider) => {
                let scores = if data.databases.is_some() { &SQL[..] } else { &SQL[..1] };
                scores.iter().map(|(_, score)| Measure::Sql(*score, None)).collect()
            }
            _ => texts(&[ExactMatch, Bleu, RougeL]),
        }
    }
}

impl Measure {
    /// The measures of a list of names, in its order, each once; `rouge` stands for all four of ROUGE.
    ///
    /// # Errors
    /// A name is unknown, or is of nothing that this data has.
    pub fn parse_list(names: &[String], data: &DataConfig) -> Result<Vec<Measure>, String> {
        let mut found: Vec<Measure> = Vec::new();
        for name in names {
            let measures = match (CLASSES.iter().find(|(known, _)| known == name), SQL.iter().find(|(n, _)| n == name))
            {
                (Some((_, score)), _) => vec![Measure::Class(*score)],
                (_, Some((_, score))) => vec![Measure::Sql(*score, None)],
                _ => {
                    let metrics = TextMetric::parse_list(&[name]).map_err(|_| unknown(name))?;
                    metrics.into_iter().map(Measure::Text).collect()
                }
            };
            for measure in measures {
                measure.check(data)?;
                if !found.contains(&measure) {
                    found.push(measure);
                }
            }
        }
        Ok(found)
    }

    fn check(self, data: &DataConfig) -> Result<(), String> {
        let (key, has) = (self.key(), Answers::of(data));
        let needs = match self {
            Measure::Loss | Measure::Perplexity => return Ok(()),
            Measure::Class(_) => Answers::Classes,
            Measure::Text(_) | Measure::Sql(..) => Answers::Written,
        };
        if needs != has {
            return Err(format!(
                "`evaluation.metrics`: `{key}` is of {}, and this data has {}",
                needs.name(),
                has.name()
            ));
        }
        let Measure::Sql(score, _) = self else { return Ok(()) };
        if data.format != Format::Spider {
            return Err(format!("`evaluation.metrics`: `{key}` is of SQL, which only format spider has"));
        }
        if score != SqlScore::ExactSetMatch && data.databases.is_none() {
            return Err(format!(
                "`evaluation.metrics`: `{key}` runs queries: name the folder of the databases by `data.databases`"
            ));
        }
        Ok(())
    }

    /// The name in configurations and files; of one hardness, with that behind a dot.
    pub fn key(self) -> String {
        match self {
            Measure::Loss => "loss".into(),
            Measure::Perplexity => "perplexity".into(),
            Measure::Class(score) => CLASSES.iter().find(|(_, s)| *s == score).map_or("", |(name, _)| name).into(),
            Measure::Text(metric) => metric.key().into(),
            Measure::Sql(score, level) => {
                let name = SQL.iter().find(|(_, s)| *s == score).map_or("", |(name, _)| name);
                level.map_or(name.to_owned(), |level| format!("{name}.{}", level.name()))
            }
        }
    }

    /// The measure of a key.
    pub fn of_key(key: &str) -> Option<Measure> {
        let (name, level) = match key.split_once('.') {
            Some((name, level)) => (name, Some(Hardness::ALL.into_iter().find(|known| known.name() == level)?)),
            None => (key, None),
        };
        let sql = SQL.iter().find(|(known, _)| *known == name);
        let class = CLASSES.iter().find(|(known, _)| *known == name);
        match (name, sql, class, level) {
            (_, Some((_, score)), _, level) => Some(Measure::Sql(*score, level)),
            ("loss", .., None) => Some(Measure::Loss),
            ("perplexity", .., None) => Some(Measure::Perplexity),
            (_, _, Some((_, score)), None) => Some(Measure::Class(*score)),
            (name, .., None) => name.parse().ok().map(Measure::Text),
            _ => None,
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Measure::Loss | Measure::Perplexity | Measure::Text(TextMetric::Ter))
    }

    /// Digits behind the point in a table.
    pub fn digits(self) -> usize {
        match self {
            Measure::Text(
                TextMetric::Bleu
                | TextMetric::SentenceBleu
                | TextMetric::Chrf
                | TextMetric::ChrfPlusPlus
                | TextMetric::Ter,
            )
            | Measure::Perplexity => 2,
            _ => 4,
        }
    }

    /// How a score follows from what the examples at some places add. `classes` is their number, where there are any.
    ///
    /// # Errors
    /// A metric of texts cannot be made.
    pub fn reducer(self, classes: usize) -> Result<Reducer, TrainError> {
        let metric = match self {
            // The score of sums asks for no dictionary.
            Measure::Text(metric) => Some(metric.build(&TextMetricOptions::default())?),
            _ => None,
        };
        Ok(Reducer { measure: self, classes, metric })
    }
}

fn unknown(name: &str) -> String {
    let texts = TextMetric::all().map(TextMetric::key);
    let own = CLASSES.iter().map(|(name, _)| *name).chain(SQL.iter().map(|(name, _)| *name));
    let known: Vec<&str> = texts.chain(["rouge"]).chain(own).collect();
    let near = nearest(name, known.iter().copied()).map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
    format!("`evaluation.metrics`: unknown metric `{name}`{near}; there are {}", known.join(", "))
}

/// A measure ready to score.
pub struct Reducer {
    measure: Measure,
    classes: usize,
    metric: Option<Box<dyn Metric>>,
}

impl Reducer {
    /// The score of what the examples at these places add.
    pub fn score(&self, statistics: &[Vec<f64>], places: &[usize]) -> f64 {
        let summed = || sums(statistics, places.iter().copied());
        match (self.measure, &self.metric) {
            (Measure::Text(_), Some(metric)) => metric.corpus(&summed()),
            (Measure::Class(score), _) => self.classified(score, statistics, places),
            (Measure::Loss, _) => ratio(&summed()),
            (Measure::Perplexity, _) => ratio(&summed()).exp(),
            _ => summed()[0] / places.len() as f64,
        }
    }

    fn classified(&self, score: ClassScore, statistics: &[Vec<f64>], places: &[usize]) -> f64 {
        let gold: Vec<usize> = places.iter().map(|&place| statistics[place][0] as usize).collect();
        let class = |x: f64| (x >= 0.0).then_some(x as usize);
        let predicted: Vec<Option<usize>> = places.iter().map(|&place| class(statistics[place][1])).collect();
        let Ok(confusion) = Confusion::new(&gold, &predicted, self.classes) else { return f64::NAN };
        match score {
            ClassScore::Accuracy | ClassScore::LabelAccuracy => accuracy(&confusion),
            ClassScore::F1 => f1(&confusion, if self.classes == 2 { F1Average::Class(1) } else { F1Average::Macro }),
            ClassScore::Matthews => matthews(&confusion),
        }
    }
}

fn ratio(sums: &[f64]) -> f64 {
    sums[0] / sums[1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_read_back() {
        let own = CLASSES.iter().map(|(_, score)| Measure::Class(*score));
        let sql = SQL.iter().flat_map(|(_, score)| {
            let levels = Hardness::ALL.map(|level| Measure::Sql(*score, Some(level)));
            [Measure::Sql(*score, None)].into_iter().chain(levels)
        });
        let texts = TextMetric::all().map(Measure::Text);
        for measure in [Measure::Loss, Measure::Perplexity].into_iter().chain(own).chain(sql).chain(texts) {
            assert_eq!(Measure::of_key(&measure.key()), Some(measure), "{}", measure.key());
            if let Measure::Text(metric) = measure {
                let built = metric.build(&TextMetricOptions::default()).unwrap();
                assert_eq!(measure.higher_is_better(), built.higher_is_better(), "{}", measure.key());
            }
        }
        for key in ["", "blue", "accuracy.easy", "bleu.hard", "execution.simple", "loss.easy"] {
            assert_eq!(Measure::of_key(key), None, "{key}");
        }
    }

    #[test]
    fn names_are_taken_once() {
        let data = DataConfig { completion_field: Some("a".into()), ..DataConfig::default() };
        let names = ["rougeL", "rouge", "bleu", "bleu"].map(String::from);
        let keys: Vec<String> = Measure::parse_list(&names, &data).unwrap().into_iter().map(Measure::key).collect();
        assert_eq!(keys, ["rougeL", "rouge1", "rouge2", "rougeLsum", "bleu"]);
    }

    #[test]
    fn scores_follow_from_what_examples_add() {
        let score = |measure: Measure, statistics: &[Vec<f64>], places: &[usize]| {
            measure.reducer(2).unwrap().score(statistics, places)
        };
        let losses = [vec![3.0, 2.0], vec![1.0, 2.0], vec![9.0, 1.0]];
        assert_eq!(score(Measure::Loss, &losses, &[0, 1]), 1.0);
        assert_eq!(score(Measure::Loss, &losses, &[2, 2]), 9.0);
        assert_eq!(score(Measure::Perplexity, &losses, &[0, 1]), 1f64.exp());
        // Gold and predicted: right, wrong, no class, right.
        let classes = [vec![1.0, 1.0], vec![0.0, 1.0], vec![1.0, -1.0], vec![0.0, 0.0]];
        assert_eq!(score(Measure::Class(ClassScore::Accuracy), &classes, &[0, 1, 2, 3]), 0.5);
        assert_eq!(score(Measure::Class(ClassScore::F1), &classes, &[0, 1, 2, 3]), 0.5);
        let right = [vec![1.0], vec![0.0]];
        assert_eq!(score(Measure::Sql(SqlScore::Runs, None), &right, &[0, 0, 0, 1]), 0.75);
    }
}
