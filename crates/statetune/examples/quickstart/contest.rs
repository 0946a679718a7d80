//! One task: trained with each method, evaluated, and asked.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;
use statetune::cli::{Output, train};
use statetune::datasets_eval::metrics::word_f1;
use statetune::datasets_eval::world::Family;
use statetune::datasets_eval::{Dataset, Tokenizer};
use statetune::mamba_model::{GenerateOptions, Mamba};
use statetune::peft_methods::Adapter;
use statetune::trainer::{Evaluation, RunConfig, TrainSettings, evaluate, record};

use crate::database::Database;
use crate::tasks::Task;

/// Name, configuration and learning rate of the methods, in the order of the table. LoRA stands where the paper puts it.
const METHODS: [(&str, &str, f64); 2] = [
    ("State-offset (h)", "method = \"state-offset-h\"", 2e-2),
    ("LoRA", "method = \"lora\"\nrank = 8\nalpha = 8\ntargets = [\"x_proj\", \"out_proj\"]", 2e-2),
];

/// How one way of tuning did.
pub struct Entry {
    pub name: &'static str,
    /// Trained numbers.
    pub trainable: usize,
    /// Seconds of training.
    pub seconds: f64,
    pub evaluation: Evaluation,
    /// Answers to the test prompts; empty for classes.
    pub answers: Vec<String>,
    /// How near the answers are, from 0 to 1; see [`crate::show::LEGEND`].
    pub score: f64,
    /// The share of answers that are right.
    pub right: f64,
    /// The run's log.
    pub records: Vec<Value>,
}

/// A task's entries: no tuning first.
pub struct Contest {
    pub family: Family,
    /// (prompt, right answer)
    pub test: Vec<(String, String)>,
    pub entries: Vec<Entry>,
}

/// Trains and judges every method on a task.
pub fn run(
    task: &Task,
    base: &Path,
    folder: &Path,
    model: &Mamba,
    tokenizer: &Tokenizer,
    database: &Database,
) -> anyhow::Result<Contest> {
    let judge = Judge { task, model, tokenizer, database };
    let untuned = Adapter::new(model, Vec::new(), 0)?;
    let mut entries: Vec<Entry> = Vec::new();
    for (name, method, rate) in METHODS {
        let config = configuration(task, base, method, rate)?;
        let tag = config.methods[0]["method"].as_str().context("a method has a name")?.to_owned();
        let run = folder.join(format!("{}-{tag}", task.family.name()));
        let trained = train::train(&config, &run, false, Output { quiet: true, json: false })?;
        if entries.is_empty() {
            let evaluation = judge.evaluation(&untuned, &config)?;
            entries.push(judge.entry("no tuning", &untuned, 0.0, evaluation, Vec::new())?);
        }
        let evaluation = trained.summary.evaluation.context("there is validation data")?;
        let records = record::read(&run)?;
        let entry = judge.entry(name, &trained.summary.adapter, trained.summary.seconds, evaluation, records)?;
        println!("  {name}: {:.0} s, validation loss {:.3}", entry.seconds, entry.evaluation.loss);
        entries.push(entry);
    }
    let test = task.test.iter().map(|example| (example.prompt.clone(), example.completion.clone())).collect();
    Ok(Contest { family: task.family, test, entries })
}

fn configuration(task: &Task, base: &Path, method: &str, rate: f64) -> anyhow::Result<RunConfig> {
    let text = format!(
        "[model]\npath = \"{}\"\n{}[[methods]]\n{method}\n[train]\nepochs = 1\nbatch_size = 8\nlearning_rate = {rate}\nwarmup_steps = 10\nlog_every = 5\n",
        base.display(),
        task.data_section()
    );
    Ok(RunConfig::parse(&text, Path::new("the quickstart's configuration"), &[])?)
}

struct Judge<'a> {
    task: &'a Task,
    model: &'a Mamba,
    tokenizer: &'a Tokenizer,
    database: &'a Database,
}

impl Judge<'_> {
    fn evaluation(&self, adapter: &Adapter, config: &RunConfig) -> anyhow::Result<Evaluation> {
        let device = self.model.device();
        let data = statetune::datasets_eval::DataConfig { train: None, ..config.data.clone() };
        let validation: Option<Dataset> = statetune::cli::setup::data(&data, self.tokenizer, device, None, true)?.1;
        let TrainSettings { micro_batch_tokens, share_prefix, .. } = config.train;
        let validation = validation.context("there is validation data")?;
        Ok(evaluate(self.model, adapter.patches(), &validation, micro_batch_tokens, share_prefix, |_, _| {})?)
    }

    fn entry(
        &self,
        name: &'static str,
        adapter: &Adapter,
        seconds: f64,
        evaluation: Evaluation,
        records: Vec<Value>,
    ) -> anyhow::Result<Entry> {
        let answers = if self.task.has_classes() { Vec::new() } else { self.answers(adapter)? };
        let (score, right) = match &evaluation.classification {
            Some(report) => (report.over_labels.accuracy, report.over_all_vocabulary.accuracy),
            None => (
                self.mean(&answers, |answer, right| self.nearness(answer, right)),
                self.mean(&answers, |answer, right| self.is_right(answer, right)),
            ),
        };
        Ok(Entry { name, trainable: adapter.trainable(), seconds, evaluation, answers, score, right, records })
    }

    /// The most probable answers to the test prompts, all at once.
    fn answers(&self, adapter: &Adapter) -> anyhow::Result<Vec<String>> {
        let prompts = self.task.test.iter().map(|example| self.tokenizer.encode(&example.prompt));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let stop = self.model.config().special_tokens.eos.clone();
        let options = GenerateOptions { max_new_tokens: 64, stop, ..GenerateOptions::default() };
        let generated = self.model.generate(adapter.patches(), &prompts, &options, |_, _| {})?;
        let texts = generated.iter().map(|answer| self.tokenizer.decode(&answer.tokens, false));
        Ok(texts.collect::<Result<_, _>>()?)
    }

    /// The mean of a judgement over the test prompts.
    fn mean(&self, answers: &[String], judgement: impl Fn(&str, &str) -> f64) -> f64 {
        let pairs = answers.iter().zip(&self.task.test);
        pairs.map(|(answer, example)| judgement(answer, &example.completion)).sum::<f64>() / answers.len() as f64
    }

    /// Whether a statement runs; how many words a sentence shares with the right one.
    fn nearness(&self, answer: &str, right: &str) -> f64 {
        match self.task.family {
            Family::Sql => f64::from(u8::from(self.database.runs(answer))),
            _ => word_f1(answer, right),
        }
    }

    /// Whether a statement finds what the right one finds; whether a sentence is the right one to the letter.
    fn is_right(&self, answer: &str, right: &str) -> f64 {
        f64::from(u8::from(match self.task.family {
            Family::Sql => self.database.agrees(answer, right),
            _ => answer.trim() == right.trim(),
        }))
    }
}
