//! A training run: what it is made of, how it begins or goes on, and what it comes to.

mod under_way;

use std::path::{Path, PathBuf};

use statetune_datasets_eval::{Dataset, PackingPlan};
use statetune_mamba_model::Mamba;
use statetune_peft_methods::{Adapter, methods};

use crate::TrainError;
use crate::checkpoint::{self, Progress};
use crate::config::TrainSettings;
use crate::effect::EffectCheck;
use crate::evaluate::Evaluation;
use crate::optimizer::AdamW;
use crate::record::{Log, Record};
use crate::schedule::Schedule;

use under_way::Loop;

/// What a run trains on and where it writes.
pub struct Run<'a> {
    /// The base model, frozen.
    pub model: &'a Mamba,
    /// What the base model is called in adapter files: its path.
    pub base_model: &'a str,
    /// Training examples.
    pub train: &'a Dataset,
    /// Evaluation examples.
    pub validation: Option<&'a Dataset>,
    /// How to train.
    pub settings: &'a TrainSettings,
    /// The run's folder; without one nothing is written.
    pub folder: Option<&'a Path>,
    /// Whether the last and the best adapter are written there, beside the checkpoints.
    pub keeps_adapters: bool,
}

/// What happens during a run, for progress bars and logs.
pub trait Observer {
    /// After every step: steps done, steps of the run (of one that ends by the clock, as many as it seems), tokens since
    /// the run began, the last loss.
    fn step(&mut self, done: u64, of: u64, tokens: u64, loss: f64) {
        let _ = (done, of, tokens, loss);
    }
    /// A line of the log.
    fn record(&mut self, record: &Record) {
        let _ = record;
    }
    /// During an evaluation: examples done, examples in all.
    fn evaluating(&mut self, done: usize, of: usize) {
        let _ = (done, of);
    }
}

/// Sees nothing.
pub struct Silent;
impl Observer for Silent {}

/// The outcome of a run.
#[derive(Debug)]
pub struct Summary {
    /// The adapter after the last step.
    pub adapter: Adapter,
    /// Steps done.
    pub steps: u64,
    /// Steps skipped for a number that was not finite.
    pub skipped_steps: u64,
    /// Tokens computed in training.
    pub tokens: u64,
    /// Seconds of training, evaluations not counted.
    pub seconds: f64,
    /// The last evaluation.
    pub evaluation: Option<Evaluation>,
    /// The best value of the metric and its step.
    pub best: Option<(f64, u64)>,
    /// Whether it ended early for want of gain.
    pub stopped_early: bool,
}

/// The folders inside a run's folder.
pub struct RunFolder;

impl RunFolder {
    /// Checkpoints to resume from.
    pub fn checkpoints(folder: &Path) -> PathBuf {
        folder.join("checkpoints")
    }
    /// The adapter with the best metric.
    pub fn best(folder: &Path) -> PathBuf {
        folder.join("best")
    }
    /// The adapter after the last step.
    pub fn last(folder: &Path) -> PathBuf {
        folder.join("adapter")
    }
}

impl Run<'_> {
    /// Checks what can be known before the first step. [`Run::train`] does it too; whoever makes the run's folder asks
    /// first, so that a mistake leaves none behind.
    ///
    /// # Errors
    /// A setting is out of range or without effect; there is nothing to train or to learn from.
    pub fn check(&self, adapter: &Adapter) -> Result<(), TrainError> {
        let settings = self.settings;
        let fail = |reason: String| Err(TrainError::NothingToDo { reason });
        if let Err(reason) = settings.check() {
            return fail(reason);
        }
        if adapter.trainable() == 0 {
            return fail("there is nothing to train: name at least one method".into());
        }
        if self.train.examples.is_empty() {
            return fail("there is no training example".into());
        }
        let (selecting, steps) = (methods::warmup_steps(adapter.methods()), self.total_steps(&self.plan()?));
        if selecting > steps {
            return fail(format!(
                "a method chooses what it trains in {selecting} steps (`warmup_steps`), but the run has {steps}: take fewer, \
                 or a longer run"
            ));
        }
        let metric = &settings.metric;
        match self.validation {
            None if settings.early_stop > 0 || metric != "loss" => fail(
                "`train.early_stop` and `train.metric` need `data.validation`: there is nothing to evaluate on".into(),
            ),
            Some(validation) if metric != "loss" && validation.classes.is_empty() => {
                fail(format!("`train.metric` is \"{metric}\", but the validation data has no classes: use \"loss\""))
            }
            _ => Ok(()),
        }
    }

    /// Trains. With `resume` the newest checkpoint of the folder goes on as if it had never stopped.
    ///
    /// # Errors
    /// Nothing would be trained; a patch has no effect; ten steps in a row are not finite; a file cannot be written
    /// (the last good checkpoint survives); the checkpoint is not one of this run.
    pub fn train(&self, adapter: Adapter, resume: bool, observer: &mut dyn Observer) -> Result<Summary, TrainError> {
        let settings = self.settings;
        self.check(&adapter)?;
        let plan = self.plan()?;
        let (per_epoch, total_steps) = (plan.steps_per_epoch() as u64, self.total_steps(&plan));
        let selecting_steps = methods::warmup_steps(adapter.methods());
        let schedule = Schedule {
            kind: settings.schedule,
            peak: settings.learning_rate,
            warmup_steps: settings.warmup_steps,
            total_steps,
            max_seconds: settings.max_seconds,
            constant_until: settings.constant_until,
            final_rate: settings.final_rate,
        };
        let new_optimizer = |adapter: &Adapter| AdamW::new(adapter, settings.adamw());
        let newest = match self.folder.filter(|_| resume) {
            Some(folder) => checkpoint::list(&RunFolder::checkpoints(folder))?.pop(),
            None => None,
        };
        let resumed = newest.is_some();
        // Until the first updates are made, what a run starts from is what its tensors must move away from.
        let mut effect = EffectCheck::new(&adapter)?;
        // Only a checkpoint asks for it.
        let inputs = self.folder.map_or(0, |_| checkpoint::fingerprint(self.model, self.train));
        let (adapter, optimizer, progress) = match newest {
            Some((_, path)) => {
                let loaded = checkpoint::load(&path, self.model, new_optimizer)
                    .map_err(|source| TrainError::Resume { path: path.clone(), source: Box::new(source) })?;
                if loaded.2.inputs != inputs {
                    let reason = "the base model or the training data is not what this run was started with: \
                                  restore it, or start a new run"
                        .into();
                    return Err(TrainError::Checkpoint { path, reason });
                }
                loaded
            }
            None => {
                let optimizer = new_optimizer(&adapter);
                (adapter, optimizer, Progress { inputs, ..Progress::default() })
            }
        };
        let log = self.folder.map(|folder| Log::open(folder, resumed.then_some(progress.step))).transpose()?;
        if optimizer.updates() >= EffectCheck::UPDATES {
            effect = EffectCheck::passed();
        } else if selecting_steps > 0 && methods::warmup_steps(adapter.methods()) == 0 {
            effect = EffectCheck::new(&self.anew(&adapter)?)?;
        }
        let share_prefix = settings.share_prefix && !adapter.patches().has_dropout();
        let logged = (progress.tokens, progress.seconds);
        let mut looped = Loop {
            run: self,
            plan,
            schedule,
            per_epoch,
            selecting_steps,
            adapter,
            optimizer,
            progress,
            log,
            effect,
            share_prefix,
            observer,
            evaluation: None,
            last_saved: None,
            #[cfg(feature = "cuda")]
            device: None,
            known: (f64::NAN, f64::NAN),
            rate: 0.0,
            logged,
        };
        if !resumed {
            looped.note_dropped_rows()?;
        }
        let stopped_early = looped.run_to(selecting_steps.saturating_add(total_steps))?;
        if let Some(folder) = self.folder.filter(|_| self.keeps_adapters) {
            looped.adapter.exported(self.model)?.save(&RunFolder::last(folder), self.base_model)?;
        }
        Ok(Summary {
            steps: looped.progress.step,
            skipped_steps: looped.progress.skipped_steps,
            tokens: looped.progress.tokens,
            seconds: looped.progress.seconds,
            evaluation: looped.evaluation,
            best: looped.progress.best,
            adapter: looped.adapter,
            stopped_early,
        })
    }

    fn plan(&self) -> Result<PackingPlan, TrainError> {
        let settings = self.settings;
        let (examples, tokens) = (settings.batch_size, settings.micro_batch_tokens);
        Ok(PackingPlan::new(self.train.lengths(), examples, tokens, settings.seed)?)
    }

    /// Steps of the run proper.
    fn total_steps(&self, plan: &PackingPlan) -> u64 {
        match self.settings.max_steps {
            0 if self.settings.max_seconds > 0.0 => Schedule::NO_END,
            0 => self.settings.epochs * plan.steps_per_epoch() as u64,
            max => max,
        }
    }

    /// An adapter's methods with tensors as before the first step.
    fn anew(&self, adapter: &Adapter) -> Result<Adapter, TrainError> {
        Ok(Adapter::new(self.model, methods::copies(adapter.methods())?, self.settings.seed)?)
    }
}
