//! One run of a sweep: what it is made of, what it comes to, and how far it is meanwhile.

use std::collections::BTreeSet;

use statetune_datasets_eval::Dataset;
use statetune_mamba_model::Patches;
use statetune_peft_methods::{Adapter, Method, PeftError, Tokenize, methods};
use statetune_ssm_kernels::random::{stream_of, uniform};
use statetune_tensor::Device;

use super::curve::Curve;
use super::judge::Candidate;
use super::plan::{Job, Purpose};
use super::results::Line;
use super::run::{Event, Placed, Sweep};
use crate::evaluate::Stage;
use crate::{Evaluation, Observer, Run, TrainError, TrainSettings, evaluate, memory};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum At {
    /// It begins.
    Begun,
    /// After a step of its training: see [`Observer::step`].
    Step {
        /// Steps done.
        done: u64,
        /// Steps of the run.
        of: u64,
        /// Tokens since the run began.
        tokens: u64,
        /// The loss of the step.
        loss: f64,
    },
    /// In its evaluation.
    Evaluation {
        /// What is done there.
        stage: Stage,
        /// How much of it is done.
        done: usize,
        /// How much there is.
        of: usize,
    },
}

/// Collects the losses of a run, and tells how far it is.
struct Watched<'a> {
    curve: Curve,
    tell: &'a dyn Fn(At),
}

impl Observer for Watched<'_> {
    fn step(&mut self, done: u64, of: u64, tokens: u64, loss: f64) {
        self.curve.step(done, of, tokens, loss);
        (self.tell)(At::Step { done, of, tokens, loss });
    }

    fn evaluating(&mut self, done: usize, of: usize) {
        (self.tell)(At::Evaluation { stage: Stage::Likelihood, done, of });
    }
}

/// A task's data as runs take it.
pub(super) struct Rows<'a> {
    pub all: &'a Dataset,
    pub validation: &'a Dataset,
    /// The training rows without those that a search is judged on, and these.
    pub searched: Option<(Dataset, Dataset)>,
    pub inputs: String,
}

impl Sweep<'_> {
    /// Tells how far a run is; an error of who hears it ends the sweep.
    fn tell(&self, job: &Job, at: At) {
        if let Err(error) = (self.observe)(Event::UnderWay(job, at)) {
            self.stop(error);
        }
    }

    /// Makes a run and its adapter for somebody.
    pub(super) fn with_run<R>(
        &self,
        placed: &Placed,
        job: &Job,
        act: impl FnOnce(&Run<'_>, Adapter) -> Result<R, TrainError>,
    ) -> Result<R, TrainError> {
        let unit = &self.plan.units[job.unit];
        let (rows, task) = (&self.rows[unit.task], self.plan.task(unit));
        let mut settings = TrainSettings { learning_rate: job.rate, seed: job.seed, ..task.settings.clone() };
        let (train, validation) = match job.purpose {
            Purpose::Final => (rows.all, rows.validation),
            Purpose::Search => {
                let (rest, part) = rows.searched.as_ref().expect("cut where there is a search");
                let steps = match settings.max_steps {
                    0 => settings.epochs * rows.all.examples.len().div_ceil(settings.batch_size) as u64,
                    steps => steps,
                };
                settings.max_steps = task.share_of(steps);
                (rest, part)
            }
        };
        let run = Run {
            model: &placed.model,
            base_model: "",
            train,
            validation: Some(validation),
            settings: &settings,
            folder: None,
            keeps_adapters: false,
        };
        let tokenize: Tokenize<'_> = &|text| (self.tokenize)(text);
        let methods = self.plan.methods(job).into_iter().map(|method| {
            let method = methods::parse_value(method)?;
            Ok(method.with_text(tokenize)?.unwrap_or(method))
        });
        let methods = methods.collect::<Result<Vec<Box<dyn Method>>, PeftError>>()?;
        act(&run, Adapter::new(&placed.model, methods, job.seed)?)
    }

    /// Runs it.
    pub(super) fn line(&self, placed: &Placed, job: &Job) -> Result<Line, TrainError> {
        let unit = &self.plan.units[job.unit];
        let task = self.plan.task(unit);
        let workers = self.limits.workers.max(1);
        // Other runs of this process would be counted too.
        let measured = match placed.model.device() {
            Device::Cpu(_) => workers == 1 && memory::start_process_peak(),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                cuda.start_peak();
                true
            }
        };
        let mut line = Line {
            task: task.name.clone(),
            entry: unit.name.clone(),
            purpose: job.purpose,
            learning_rate: job.rate,
            seed: job.seed,
            score: None,
            loss: None,
            failed: None,
            trained: 0,
            rows: 0,
            judged_on: 0,
            steps: 0,
            skipped_steps: 0,
            tokens: 0,
            seconds: 0.0,
            peak_memory_mib: None,
            workers,
            device: placed.device.clone(),
            inputs: self.rows[unit.task].inputs.clone(),
            settings: self.plan.settings(job),
            evaluation: serde_json::Value::Null,
            curve: Vec::new(),
        };
        let tell = |at: At| self.tell(job, at);
        tell(At::Begun);
        if unit.is_base() {
            let validation = self.rows[unit.task].validation;
            let (tokens, shares) = (task.settings.micro_batch_tokens, task.settings.share_prefix);
            let heard = |done, of| tell(At::Evaluation { stage: Stage::Likelihood, done, of });
            let found = evaluate(&placed.model, &Patches::none(), validation, tokens, shares, heard)?;
            line.judged_on = validation.examples.len();
            self.judge(&mut line, placed, job, Some(&found), None)?;
            return Ok(line);
        }
        self.with_run(placed, job, |run, adapter| {
            line.rows = run.train.examples.len();
            line.judged_on = run.validation.map_or(0, |validation| validation.examples.len());
            line.trained = adapter.trainable();
            let mut watched = Watched { curve: Curve::default(), tell: &tell };
            let trained = run.train(adapter, false, &mut watched);
            line.curve = watched.curve.into_points();
            let summary = match trained {
                Err(error @ TrainError::NonFinite { .. }) => {
                    line.failed = Some(error.to_string());
                    return Ok(());
                }
                other => other?,
            };
            line.trained = summary.adapter.trainable();
            (line.steps, line.skipped_steps) = (summary.steps, summary.skipped_steps);
            (line.tokens, line.seconds) = (summary.tokens, summary.seconds);
            self.judge(&mut line, placed, job, summary.evaluation.as_ref(), Some(&summary.adapter))
        })?;
        line.peak_memory_mib = match placed.model.device() {
            Device::Cpu(_) => memory::process_peak_mib().filter(|_| measured),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => {
                let peak: usize = cuda.memory_use().peak.iter().map(|bytes| bytes.0).sum();
                Some(peak as f64 / (1 << 20) as f64).filter(|_| measured)
            }
        };
        Ok(line)
    }

    /// Notes what a model scored.
    fn judge(
        &self,
        line: &mut Line,
        placed: &Placed,
        job: &Job,
        evaluation: Option<&Evaluation>,
        adapter: Option<&Adapter>,
    ) -> Result<(), TrainError> {
        let unit = &self.plan.units[job.unit];
        let task = self.plan.task(unit);
        if let Some(evaluation) = evaluation {
            line.score = evaluation.metric(&task.settings.metric).map(|(value, _)| value);
            line.loss = Some(evaluation.loss).filter(|loss| loss.is_finite());
            line.evaluation = serde_json::to_value(evaluation).expect("plain data");
        }
        if line.loss.is_none() {
            (line.score, line.failed) = (None, Some("the loss of the evaluation is not finite".into()));
        } else if job.purpose == Purpose::Final {
            let candidate = Candidate {
                task,
                name: &self.plan.called(job),
                place: &self.plan.place(job),
                model: &placed.model,
                adapter,
                dataset: self.rows[unit.task].validation,
                progress: &|stage, done, of| self.tell(job, At::Evaluation { stage, done, of }),
            };
            if let Some(judgement) = (self.judging)(&candidate)? {
                line.score = Some(judgement.score);
                line.evaluation["metrics"] = serde_json::to_value(&judgement.metrics).expect("plain data");
            }
        }
        Ok(())
    }
}

/// The rows of a data set without `count` of them, drawn by the seed, and these; both in the order of the file.
pub(super) fn cut(train: &Dataset, count: usize, seed: u64) -> Result<(Dataset, Dataset), TrainError> {
    let of = train.examples.len();
    if 2 * count > of {
        let reason = format!("`search.rows` is {count}, more than half of the {of} training rows: take fewer");
        return Err(TrainError::NothingToDo { reason });
    }
    let mut draws = vec![0f64; of];
    uniform(&mut draws, 0.0, 1.0, seed, stream_of("rows that a search is judged on"));
    let mut order: Vec<usize> = (0..of).collect();
    order.sort_by(|&a, &b| draws[a].total_cmp(&draws[b]).then(a.cmp(&b)));
    let drawn: BTreeSet<usize> = order[..count].iter().copied().collect();
    let part = |drawn_ones: bool| Dataset {
        examples: (0..of).filter(|i| drawn.contains(i) == drawn_ones).map(|i| train.examples[i].clone()).collect(),
        items: Vec::new(),
        classes: train.classes.clone(),
        counts: train.counts,
        bad_rows: train.bad_rows.clone(),
    };
    Ok((part(false), part(true)))
}
