//! A line about each example: what was asked, what is right, what the model answered, and how that is scored.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};
use statetune_datasets_eval::metrics::spider::{SpiderEvaluation, SpiderRecord};
use statetune_datasets_eval::metrics::{TextMetric, TextScore};
use statetune_datasets_eval::{Dataset, Tokenizer};

use super::generation::Answer;
use super::likelihood::Likelihood;
use super::measure::SqlScore;
use crate::TrainError;

/// What was found about the items of a data set.
pub(super) struct Found<'a> {
    pub answers: &'a [Answer],
    pub scores: &'a [(TextMetric, TextScore)],
    pub sql: Option<&'a SpiderEvaluation>,
}

/// Whether a query is right by a score.
pub(super) fn right(score: SqlScore, record: &SpiderRecord) -> bool {
    let execution = record.execution.as_ref();
    match score {
        SqlScore::ExactSetMatch => record.exact,
        SqlScore::Execution => execution.is_some_and(|execution| execution.official),
        SqlScore::StrictExecution => execution.is_some_and(|execution| execution.strict),
        SqlScore::Runs => execution.is_some_and(|execution| execution.failure.is_none()),
    }
}

/// The record of each item with its row; none of a bad gold.
pub(super) fn records<'a>(dataset: &Dataset, found: &'a SpiderEvaluation) -> Vec<Option<(u64, &'a SpiderRecord)>> {
    let bad: HashSet<usize> = found.bad_golds.iter().map(|bad| bad.example).collect();
    let mut records = found.records.iter();
    let of = |(place, row)| if bad.contains(&place) { None } else { records.next().map(|record| (row, record)) };
    dataset.items.iter().map(|item| item.row).enumerate().map(of).collect()
}

/// The lines of items that were answered.
pub(super) fn written(
    dataset: &Dataset,
    likelihood: &Likelihood,
    found: &Found<'_>,
    tokenizer: &Tokenizer,
) -> Result<Vec<Value>, TrainError> {
    let mut losses: HashMap<u64, (f64, usize)> = HashMap::new();
    for (example, loss) in dataset.examples.iter().zip(&likelihood.losses) {
        let of = losses.entry(example.row()).or_default();
        of.0 += loss;
        of.1 += example.tokens.len() - example.labelled_from;
    }
    let records = found.sql.map(|sql| records(dataset, sql));
    let mut lines = Vec::with_capacity(dataset.items.len());
    for (place, (item, answer)) in dataset.items.iter().zip(found.answers).enumerate() {
        let scores: Map<String, Value> = found
            .scores
            .iter()
            .map(|(metric, score)| (metric.key().to_owned(), json!(score.examples[place])))
            .collect();
        let loss = losses.get(&item.row).map(|(loss, tokens)| loss / *tokens as f64);
        let mut line = json!({
            "row": item.row,
            "line": item.line,
            "prompt": tokenizer.decode(&item.prompt, true)?,
            "references": item.references,
            "prediction": answer.text,
            "tokens": answer.tokens,
            "ended": answer.ended,
            "loss": loss,
            "scores": scores,
        });
        if let (Some(sql), Some(records)) = (found.sql, &records) {
            line["database"] = json!(item.database);
            match records[place] {
                Some((_, record)) => tell(&mut line, record),
                None => {
                    let bad = sql.bad_golds.iter().find(|bad| bad.example == place);
                    line["bad_gold"] = json!(bad.map(|bad| &bad.reason));
                }
            }
        }
        lines.push(line);
    }
    Ok(lines)
}

/// What the evaluator of Spider says of a query.
fn tell(line: &mut Value, record: &SpiderRecord) {
    line["hardness"] = json!(record.hardness);
    line["unparsed"] = json!(record.unparsed);
    line["scores"]["exact_set_match"] = json!(u8::from(record.exact));
    if let Some(execution) = &record.execution {
        line["failure"] = json!(execution.failure.as_ref().map(ToString::to_string));
        for (key, score) in [
            ("execution", SqlScore::Execution),
            ("strict_execution", SqlScore::StrictExecution),
            ("runs", SqlScore::Runs),
        ] {
            line["scores"][key] = json!(u8::from(right(score, record)));
        }
    }
}

/// The lines of examples that were not answered by a text: classes, and texts that were only given.
pub(super) fn given(
    dataset: &Dataset,
    likelihood: &Likelihood,
    tokenizer: &Tokenizer,
) -> Result<Vec<Value>, TrainError> {
    let mut lines = Vec::with_capacity(dataset.examples.len());
    for (place, (example, loss)) in dataset.examples.iter().zip(&likelihood.losses).enumerate() {
        let labelled = example.tokens.len() - example.labelled_from;
        let mut line = json!({"row": example.row(), "loss": loss / labelled as f64, "tokens": labelled});
        if let Some((prediction, token)) = likelihood.predictions.get(place) {
            let name = |class: usize| &dataset.classes[class].name;
            line["prompt"] = json!(tokenizer.decode(&example.tokens[..example.labelled_from], true)?);
            line["references"] = json!([name(prediction.gold)]);
            // What it said, be it a class or not.
            line["prediction"] = json!(match prediction.over_all_vocabulary {
                Some(class) => name(class).clone(),
                None => tokenizer.decode(&[*token], true)?,
            });
            line["is_class"] = json!(prediction.over_all_vocabulary.is_some());
            line["of_labels"] = json!(name(prediction.over_labels));
            let right = prediction.over_all_vocabulary == Some(prediction.gold);
            line["scores"] = json!({
                "accuracy": f64::from(u8::from(right)),
                "label_accuracy": f64::from(u8::from(prediction.over_labels == prediction.gold)),
            });
        }
        lines.push(line);
    }
    Ok(lines)
}
