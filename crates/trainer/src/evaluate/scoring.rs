//! From a model and a data set to scores with intervals, and a line about each example.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use statetune_datasets_eval::metrics::spider::{
    Hardness, OnBadGold, SpiderEvaluation, SpiderEvaluator, SpiderExample, SpiderOptions,
};
use statetune_datasets_eval::metrics::{Interval, Metric, TextMetric, TextScore, score};
use statetune_datasets_eval::{DataConfig, Dataset, Format, OnBadRow, Split, Tokenizer};
use statetune_mamba_model::{Mamba, Patches};

use super::generation::{Answer, Writer};
use super::likelihood::{self, Likelihood};
use super::measure::{ClassScore, Measure, SqlScore};
use super::{Evaluation, lines};
use crate::TrainError;
use crate::config::EvaluationSection;

/// What an evaluation is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The right answers, by examples.
    Likelihood,
    /// Answers of the model, by rows.
    Generation,
    /// Queries and texts compared.
    Scoring,
}

/// One measure of a data set, with what each example adds to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Which.
    pub measure: Measure,
    /// What it is called, with what was left out.
    pub name: String,
    /// What was computed.
    pub signature: String,
    /// The score and where it might lie.
    pub interval: Interval,
    /// The examples that add to it, by position of their rows in the file.
    pub rows: Vec<u64>,
    /// What each adds.
    pub statistics: Vec<Vec<f64>>,
}

/// An evaluation.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Loss, and scores of a classifier.
    pub evaluation: Evaluation,
    /// The measures, those asked for first, then loss and perplexity.
    pub measured: Vec<Measured>,
    /// An object for each row that was asked for an answer; for running text, for each window.
    pub lines: Vec<Value>,
    /// Gold queries that cannot be used, with file and line.
    pub bad_golds: Vec<String>,
}

/// Evaluates models on one data set.
pub struct Scorer<'a> {
    section: &'a EvaluationSection,
    measures: Vec<Measure>,
    tokenizer: &'a Tokenizer,
    /// Tokens that end a text.
    ends: Vec<u32>,
    texts: Vec<(TextMetric, Box<dyn Metric>)>,
    sql: Option<SpiderEvaluator>,
    file: PathBuf,
}

/// The answers to the items of a data set, and what is said of them.
struct Written {
    answers: Vec<Answer>,
    scores: Vec<(TextMetric, TextScore)>,
    sql: Option<SpiderEvaluation>,
}

impl<'a> Scorer<'a> {
    /// Reads what the measures take: dictionaries and tables. `ends` are the tokens that end a text for the model; that of
    /// the data comes before them.
    ///
    /// # Errors
    /// A measure does not fit the data, a file it takes cannot be read, or a search is asked for and no token ends a text.
    pub fn new(
        section: &'a EvaluationSection,
        data: &DataConfig,
        tokenizer: &'a Tokenizer,
        ends: &[u32],
    ) -> Result<Scorer<'a>, TrainError> {
        let measures = section.measures(data).map_err(|reason| TrainError::NothingToDo { reason })?;
        let mut texts = Vec::new();
        for measure in &measures {
            if let Measure::Text(metric) = measure {
                texts.push((*metric, metric.build(&section.text_options())?));
            }
        }
        let wanted = measures.iter().any(|measure| matches!(measure, Measure::Sql(..)));
        let sql = match (&data.tables, wanted && data.format == Format::Spider) {
            (Some(tables), true) => {
                let execute = measures
                    .iter()
                    .any(|measure| matches!(measure, Measure::Sql(score, _) if *score != SqlScore::ExactSetMatch));
                let databases = data.databases.as_deref().unwrap_or(Path::new(""));
                let options = SpiderOptions { execute, ..SpiderOptions::default() };
                Some(SpiderEvaluator::open_with(tables, databases, options)?)
            }
            _ => None,
        };
        let own = data.end_of_text.as_deref().filter(|name| !name.is_empty()).and_then(|name| tokenizer.token(name));
        let mut all: Vec<u32> = own.into_iter().collect();
        all.extend(ends.iter().filter(|end| own != Some(**end)));
        if section.searches() && all.is_empty() && (!texts.is_empty() || sql.is_some()) {
            let reason = "`evaluation.beams`, `min_new_tokens` and `min_length` need a token that ends a text, and neither \
                          the model nor `data.end_of_text` names one";
            return Err(TrainError::NothingToDo { reason: reason.into() });
        }
        let file = data.file(Split::Validation)?.to_path_buf();
        Ok(Scorer { section, measures, tokenizer, ends: all, texts, sql, file })
    }

    /// Evaluates a model with patches on a data set, whose likelihoods are computed so many tokens at once, a shared prefix
    /// once if `share_prefix`. The result is a function of its arguments.
    ///
    /// # Errors
    /// There is nothing to evaluate on; the model refuses; a gold query cannot be used and such are not counted.
    pub fn examine(
        &self,
        model: &Mamba,
        patches: &Patches,
        dataset: &Dataset,
        micro_batch_tokens: usize,
        share_prefix: bool,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Examination, TrainError> {
        let likelihood = likelihood::examine(model, patches, dataset, micro_batch_tokens, share_prefix, |done, of| {
            progress(Stage::Likelihood, done, of);
        })?;
        let written = match self.texts.is_empty() && self.sql.is_none() {
            true => None,
            false => Some(self.write(model, patches, dataset, progress)?),
        };
        let mut measured = Vec::new();
        for measure in &self.measures {
            match (measure, &written) {
                (Measure::Class(score), _) => measured.push(self.classified(*score, dataset, &likelihood)?),
                (Measure::Text(metric), Some(written)) => measured.extend(self.text(*metric, dataset, written)?),
                (Measure::Sql(score, _), Some(Written { sql: Some(sql), .. })) => {
                    measured.extend(self.sql(*score, dataset, sql)?);
                }
                _ => {}
            }
        }
        measured.extend(self.likelihoods(dataset, &likelihood)?);
        let bad_golds = written.iter().flat_map(|written| &written.sql).flat_map(|sql| &sql.bad_golds);
        let bad_golds = bad_golds.map(|bad| format!("{}:{}: {}", bad.file.display(), bad.line, bad.reason)).collect();
        let lines = match &written {
            Some(written) => {
                let found =
                    lines::Found { answers: &written.answers, scores: &written.scores, sql: written.sql.as_ref() };
                lines::written(dataset, &likelihood, &found, self.tokenizer)?
            }
            None => lines::given(dataset, &likelihood, self.tokenizer)?,
        };
        Ok(Examination { evaluation: likelihood.evaluation, measured, lines, bad_golds })
    }

    fn write(
        &self,
        model: &Mamba,
        patches: &Patches,
        dataset: &Dataset,
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Written, TrainError> {
        let prompts: Vec<&[u32]> = dataset.items.iter().map(|item| &item.prompt[..]).collect();
        if prompts.is_empty() {
            let reason =
                format!("{}: no prompt is short enough to be answered: raise data.max_tokens", self.file.display());
            return Err(TrainError::NothingToDo { reason });
        }
        let writer = Writer::new(self.section, self.tokenizer, &self.ends)?;
        let answers = writer.write(model, patches, &prompts, |done, of| progress(Stage::Generation, done, of))?;
        let texts: Vec<String> = answers.iter().map(|answer| answer.text.clone()).collect();
        let references: Vec<Vec<String>> = dataset.items.iter().map(|item| item.references.clone()).collect();
        let of = self.texts.len() + usize::from(self.sql.is_some());
        let mut scores = Vec::new();
        for (metric, built) in &self.texts {
            progress(Stage::Scoring, scores.len(), of);
            scores.push((*metric, score(built.as_ref(), &texts, &references)?));
        }
        let sql = self.sql.as_ref().map(|evaluator| {
            let examples = dataset.items.iter().zip(texts).map(|(item, prediction)| SpiderExample {
                prediction,
                gold: item.references[0].clone(),
                db_id: item.database.clone().unwrap_or_default(),
                file: self.file.clone(),
                line: item.line as usize,
            });
            let on_bad_gold = match self.section.on_bad_row {
                OnBadRow::Stop => OnBadGold::Stop,
                OnBadRow::Count => OnBadGold::Count,
            };
            let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
            evaluator.evaluate_all(&examples.collect::<Vec<_>>(), threads, on_bad_gold)
        });
        let sql = sql.transpose()?;
        progress(Stage::Scoring, of, of);
        Ok(Written { answers, scores, sql })
    }

    /// A measure with its interval; none of no examples.
    fn measured(
        &self,
        measure: Measure,
        (name, signature): (String, String),
        classes: usize,
        rows: Vec<u64>,
        statistics: Vec<Vec<f64>>,
    ) -> Result<Option<Measured>, TrainError> {
        if rows.is_empty() {
            return Ok(None);
        }
        let reducer = measure.reducer(classes)?;
        let bootstrap = self.section.bootstrap();
        let interval = bootstrap.interval(rows.len(), |places| reducer.score(&statistics, places))?;
        Ok(Some(Measured { measure, name, signature, interval, rows, statistics }))
    }

    fn likelihoods(&self, dataset: &Dataset, likelihood: &Likelihood) -> Result<Vec<Measured>, TrainError> {
        let (rows, statistics): (Vec<u64>, Vec<Vec<f64>>) = by_row(dataset, likelihood).into_iter().unzip();
        let mut found = Vec::new();
        for (measure, name) in [(Measure::Loss, "loss"), (Measure::Perplexity, "perplexity")] {
            let named = (name.to_owned(), "tokens:labelled".to_owned());
            found.extend(self.measured(measure, named, 0, rows.clone(), statistics.clone())?);
        }
        Ok(found)
    }

    fn classified(
        &self,
        score: ClassScore,
        dataset: &Dataset,
        likelihood: &Likelihood,
    ) -> Result<Measured, TrainError> {
        let said = |predicted: Option<usize>| predicted.map_or(-1.0, |class| class as f64);
        let statistics = likelihood.predictions.iter().map(|(prediction, _)| match score {
            ClassScore::LabelAccuracy => vec![prediction.gold as f64, prediction.over_labels as f64],
            _ => vec![prediction.gold as f64, said(prediction.over_all_vocabulary)],
        });
        let statistics: Vec<Vec<f64>> = statistics.collect();
        let rows = dataset.examples.iter().map(|example| example.row()).collect();
        let (name, over) = match score {
            ClassScore::Accuracy => ("accuracy", "vocabulary"),
            ClassScore::F1 => ("F1", "vocabulary"),
            ClassScore::Matthews => ("Matthews", "vocabulary"),
            ClassScore::LabelAccuracy => ("accuracy of the labels", "labels"),
        };
        let classes = dataset.classes.len();
        let named = (name.to_owned(), format!("over:{over}|classes:{classes}"));
        let measured = self.measured(Measure::Class(score), named, classes, rows, statistics)?;
        measured.ok_or_else(|| TrainError::NothingToDo { reason: "there is no example to evaluate on".into() })
    }

    fn text(&self, metric: TextMetric, dataset: &Dataset, written: &Written) -> Result<Option<Measured>, TrainError> {
        let Some((_, score)) = written.scores.iter().find(|(known, _)| *known == metric) else { return Ok(None) };
        let rows = dataset.items.iter().map(|item| item.row).collect();
        let named = (score.name.clone(), score.signature.clone());
        self.measured(Measure::Text(metric), named, 0, rows, score.statistics.clone())
    }

    /// Of all, then of each hardness that there is.
    fn sql(&self, score: SqlScore, dataset: &Dataset, found: &SpiderEvaluation) -> Result<Vec<Measured>, TrainError> {
        let records: Vec<_> = lines::records(dataset, found).into_iter().flatten().collect();
        let name = match score {
            SqlScore::ExactSetMatch => "exact set match",
            SqlScore::Execution => "execution",
            SqlScore::StrictExecution => "strict execution",
            SqlScore::Runs => "queries that run",
        };
        let mut measured = Vec::new();
        for level in [None].into_iter().chain(Hardness::ALL.map(Some)) {
            let of = records.iter().filter(|(_, record)| level.is_none_or(|level| record.hardness == level));
            let (rows, statistics): (Vec<u64>, Vec<Vec<f64>>) =
                of.map(|(row, record)| (*row, vec![f64::from(u8::from(lines::right(score, record)))])).unzip();
            let name = level.map_or(name.to_owned(), |level| format!("{name}, {}", level.name()));
            let named = (name, "as:taoyds/spider-2020-05".to_owned());
            measured.extend(self.measured(Measure::Sql(score, level), named, 0, rows, statistics)?);
        }
        Ok(measured)
    }
}

/// Each row with the summed loss of its examples and the number of their labelled tokens, in the order of the file.
fn by_row(dataset: &Dataset, likelihood: &Likelihood) -> Vec<(u64, Vec<f64>)> {
    let mut rows: Vec<(u64, Vec<f64>)> = Vec::new();
    let mut places: HashMap<u64, usize> = HashMap::new();
    for (example, loss) in dataset.examples.iter().zip(&likelihood.losses) {
        let place = *places.entry(example.row()).or_insert_with(|| {
            rows.push((example.row(), vec![0.0, 0.0]));
            rows.len() - 1
        });
        rows[place].1[0] += loss;
        rows[place].1[1] += (example.tokens.len() - example.labelled_from) as f64;
    }
    rows
}
