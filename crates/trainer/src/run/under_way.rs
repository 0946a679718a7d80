//! A run under way: steps, evaluations, checkpoints, the best adapter.

#[cfg(feature = "cuda")]
mod on_device;

use std::time::Instant;

use statetune_datasets_eval::PackingPlan;
use statetune_mamba_model::DropoutStep;
use statetune_peft_methods::{Adapter, methods};
#[cfg(feature = "cuda")]
use statetune_tensor::Device;

use super::{Observer, Run, RunFolder};
use crate::TrainError;
use crate::checkpoint::{self, Progress};
use crate::data::micro_batch;
use crate::effect::EffectCheck;
use crate::evaluate::{Evaluation, evaluate};
use crate::optimizer::AdamW;
use crate::record::{Log, Record, StepRecord};
use crate::schedule::Schedule;
use crate::step::gradients_by_chunks;

/// So many steps in a row without a finite gradient end a run.
const NON_FINITE_LIMIT: u32 = 10;

/// A run under way.
pub(super) struct Loop<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) plan: PackingPlan,
    pub(super) schedule: Schedule,
    pub(super) per_epoch: u64,
    /// Steps before the first of the run proper, in which methods find out what they will train.
    pub(super) selecting_steps: u64,
    pub(super) adapter: Adapter,
    pub(super) optimizer: AdamW,
    pub(super) progress: Progress,
    pub(super) log: Option<Log>,
    pub(super) effect: EffectCheck,
    pub(super) share_prefix: bool,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) evaluation: Option<Evaluation>,
    pub(super) last_saved: Option<u64>,
    /// The adapter's steps where the model is on a GPU, made with the first of them.
    #[cfg(feature = "cuda")]
    pub(super) device: Option<crate::cuda::DeviceSteps>,
    /// Loss and norm of the last step whose outcome is known.
    pub(super) known: (f64, f64),
    /// Learning rate of the last step.
    pub(super) rate: f64,
    /// Tokens and seconds at the last line of the log.
    pub(super) logged: (u64, f64),
}

impl Loop<'_> {
    /// Steps until `total`, with all that happens between; returns whether it stopped early.
    pub(super) fn run_to(&mut self, total: u64) -> Result<bool, TrainError> {
        let settings = self.run.settings;
        // A run that is resumed after it stopped early stays stopped.
        let mut stopped_early = self.out_of_patience();
        let mut last = self.progress.step >= total || self.is_out_of_time();
        while !last && !stopped_early {
            let started = Instant::now();
            let loss = self.step()?;
            self.progress.step += 1;
            self.progress.seconds += started.elapsed().as_secs_f64();
            let step = self.progress.step;
            // Asked once: whatever a step sets off must agree on whether it is the last.
            last = step >= total || self.is_out_of_time();
            self.observer.step(step, self.steps_to_come(total, last), self.progress.tokens, loss);
            if step.is_multiple_of(settings.log_every) || last {
                self.settle()?;
                self.log_steps(self.known.1)?;
            }
            let selecting = self.is_selecting();
            if selecting && step == self.selecting_steps {
                self.settle()?;
            }
            if selecting && step == self.selecting_steps {
                self.select()?;
            }
            let (per_epoch, local) = (self.per_epoch, step - self.first_step());
            let due = |every: u64| local > 0 && local.is_multiple_of(if every == 0 { per_epoch } else { every });
            // What a selection is made from is not what the run is about.
            let evaluate_now = last || (!selecting && due(settings.eval_every));
            if evaluate_now || (settings.save_every > 0 && due(settings.save_every)) {
                self.settle()?;
            }
            if evaluate_now {
                stopped_early = self.evaluate()?;
            }
            let save_now = match settings.save_every {
                0 => evaluate_now || (selecting && !self.is_selecting()),
                every => last || due(every),
            };
            // While nothing is finite the checkpoints from before are the ones to keep.
            if (save_now || stopped_early) && self.progress.non_finite_in_a_row == 0 {
                self.save()?;
            }
        }
        if self.is_selecting() && self.is_out_of_time() {
            let reason = "`train.max_seconds` were over before a method had chosen what it trains: give more, or a \
                          `selection`"
                .into();
            return Err(TrainError::NothingToDo { reason });
        }
        // A run resumed after its last step has the evaluation still to report.
        if self.evaluation.is_none() && self.run.validation.is_some() {
            let (best, without) = (self.progress.best, self.progress.evaluations_without_gain);
            self.evaluation = self.evaluate_only()?;
            (self.progress.best, self.progress.evaluations_without_gain) = (best, without);
        }
        Ok(stopped_early)
    }

    /// Whether the clock has ended the run.
    fn is_out_of_time(&self) -> bool {
        let limit = self.run.settings.max_seconds;
        limit > 0.0 && self.progress.seconds >= limit
    }

    /// Steps of the run, as far as the clock lets it come.
    fn steps_to_come(&self, total: u64, last: bool) -> u64 {
        let (done, limit) = (self.progress.step, self.run.settings.max_seconds);
        if last || limit == 0.0 {
            return if last { done } else { total };
        }
        let by_clock = done as f64 * limit / self.progress.seconds.max(1e-9);
        // One more at least: it is not over.
        total.min((by_clock as u64).max(done + 1))
    }

    /// Whether methods are still finding out what they will train.
    fn is_selecting(&self) -> bool {
        methods::warmup_steps(self.adapter.methods()) > 0
    }

    /// The first step of this part of the run: data, schedule and dropout count from there.
    fn first_step(&self) -> u64 {
        if self.is_selecting() { 0 } else { self.selecting_steps }
    }

    /// Lets the methods choose, and starts anew with what they chose: tensors, optimiser, schedule and data.
    fn select(&mut self) -> Result<(), TrainError> {
        if self.optimizer.updates() == 0 {
            let reason = "no step of the warm-up had a finite gradient: there is nothing to choose by. Lower the \
                          learning rate, or give a `selection`"
                .into();
            return Err(TrainError::NothingToDo { reason });
        }
        let patches = self.adapter.patches();
        let tensor = |name: &str| Ok(patches.tensor(name)?.tensor().to_f64_vec());
        let mut chosen = Vec::new();
        for method in self.adapter.methods() {
            chosen.push(match method.select(self.run.model.config(), &tensor)? {
                Some(chosen) => chosen,
                None => methods::copy(method.as_ref())?,
            });
        }
        self.adapter = Adapter::new(self.run.model, chosen, self.run.settings.seed)?;
        self.optimizer = AdamW::new(&self.adapter, self.run.settings.adamw());
        #[cfg(feature = "cuda")]
        {
            self.device = None;
        }
        self.effect = EffectCheck::new(&self.adapter)?;
        self.progress.loss_since_log = (0.0, 0);
        let note = format!("selected what is trained: {} numbers; training starts anew", self.adapter.trainable());
        self.write(&Record::Note { step: self.progress.step, note })
    }

    /// One step; returns the last loss that is known, on a GPU that of the step before.
    fn step(&mut self) -> Result<f64, TrainError> {
        let (run, step) = (self.run, self.progress.step - self.first_step());
        let micro_batches = self
            .plan
            .step(step / self.per_epoch, (step % self.per_epoch) as usize)
            .iter()
            .map(|indices| micro_batch(run.train, indices, self.share_prefix))
            .collect::<Result<Vec<_>, _>>()?;
        let dropout = DropoutStep { seed: run.settings.seed, step };
        self.rate = self.schedule.rate(step, self.progress.seconds);
        self.progress.tokens += micro_batches.iter().map(|micro| micro.tokens() as u64).sum::<u64>();
        #[cfg(feature = "cuda")]
        if let Device::Cuda(_) = run.model.device() {
            self.step_on_device(&micro_batches, dropout)?;
            return Ok(self.known.0);
        }
        let (patches, chunk) = (self.adapter.patches(), run.settings.chunk_tokens);
        let result = gradients_by_chunks(run.model, patches, &micro_batches, Some(dropout), chunk)?;
        if let Some(what) = result.non_finite(run.model.device(), self.adapter.patches())? {
            self.skip(self.progress.step + 1, what)?;
            self.known = (result.loss, f64::NAN);
            return Ok(result.loss);
        }
        self.progress.non_finite_in_a_row = 0;
        if self.optimizer.updates() == 0 {
            self.effect.first_gradients(&self.adapter, &result.gradients)?;
        }
        let norm = result.norm(run.model.device())?;
        // As PyTorch's clip_grad_norm_, its 1e-6 included.
        let clip = run.settings.clip_norm;
        let scale = if clip > 0.0 { (clip / (norm + 1e-6)).min(1.0) } else { 1.0 };
        self.optimizer.update(run.model.device(), &self.adapter, &result.gradients, self.rate, scale)?;
        self.effect.updated(&self.adapter, self.optimizer.updates())?;
        self.progress.loss_since_log.0 += result.loss;
        self.progress.loss_since_log.1 += 1;
        self.known = (result.loss, norm);
        Ok(result.loss)
    }

    /// Waits for the outcome of the last step, where a step does not: its seconds are the step's.
    fn settle(&mut self) -> Result<(), TrainError> {
        #[cfg(feature = "cuda")]
        {
            let started = Instant::now();
            self.settle_at(self.progress.step)?;
            self.progress.seconds += started.elapsed().as_secs_f64();
        }
        Ok(())
    }

    fn skip(&mut self, step: u64, what: String) -> Result<(), TrainError> {
        self.progress.non_finite_in_a_row += 1;
        self.progress.skipped_steps += 1;
        let count = self.progress.non_finite_in_a_row;
        self.write(&Record::Skipped { step, reason: what.clone() })?;
        if count >= NON_FINITE_LIMIT {
            return Err(TrainError::NonFinite { step, what, count });
        }
        Ok(())
    }

    fn log_steps(&mut self, gradient_norm: f64) -> Result<(), TrainError> {
        let (sum, count) = std::mem::take(&mut self.progress.loss_since_log);
        if count == 0 {
            return Ok(()); // all were skipped, and logged as such
        }
        let step = self.progress.step;
        let local = step - self.first_step();
        let now = (self.progress.tokens, self.progress.seconds);
        let (tokens, seconds) = (now.0 - self.logged.0, now.1 - self.logged.1);
        self.logged = now;
        self.write(&Record::Step(StepRecord {
            step,
            epoch: local as f64 / self.per_epoch as f64,
            loss: sum / count as f64,
            learning_rate: self.rate,
            gradient_norm,
            tokens: self.progress.tokens,
            seconds: self.progress.seconds,
            tokens_per_second: tokens as f64 / seconds.max(1e-9),
        }))
    }

    fn evaluate_only(&mut self) -> Result<Option<Evaluation>, TrainError> {
        let Some(validation) = self.run.validation else { return Ok(None) };
        let (settings, observer) = (self.run.settings, &mut self.observer);
        let evaluation = evaluate(
            self.run.model,
            self.adapter.patches(),
            validation,
            settings.micro_batch_tokens,
            settings.share_prefix,
            |done, of| observer.evaluating(done, of),
        )?;
        Ok(Some(evaluation))
    }

    /// Evaluates, keeps the best, and says whether the run should stop early.
    fn evaluate(&mut self) -> Result<bool, TrainError> {
        let Some(evaluation) = self.evaluate_only()? else { return Ok(false) };
        let (settings, step) = (self.run.settings, self.progress.step);
        self.write(&Record::Evaluation { step, evaluation: evaluation.clone() })?;
        let (value, higher_is_better) = evaluation.metric(&settings.metric).expect("checked before the first step");
        self.evaluation = Some(evaluation);
        let gain = |best: f64| if higher_is_better { value > best } else { value < best };
        // What is no number is never the best: nothing would compare as better than it.
        if value.is_finite() && self.progress.best.is_none_or(|(best, _)| gain(best)) {
            self.progress.best = Some((value, step));
            self.progress.evaluations_without_gain = 0;
            if let Some(folder) = self.run.folder.filter(|_| self.run.keeps_adapters) {
                let exported = self.adapter.exported(self.run.model)?;
                exported.save(&RunFolder::best(folder), self.run.base_model)?;
            }
        } else {
            self.progress.evaluations_without_gain += 1;
        }
        Ok(self.out_of_patience())
    }

    fn out_of_patience(&self) -> bool {
        let patience = self.run.settings.early_stop;
        patience > 0 && self.progress.evaluations_without_gain >= patience
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let Some(folder) = self.run.folder else { return Ok(()) };
        if self.last_saved == Some(self.progress.step) {
            return Ok(());
        }
        let folder = RunFolder::checkpoints(folder);
        let keep = self.run.settings.keep_checkpoints;
        checkpoint::save(&folder, &self.adapter, self.run.base_model, &self.optimizer, &self.progress, keep)?;
        self.last_saved = Some(self.progress.step);
        Ok(())
    }

    pub(super) fn note_dropped_rows(&mut self) -> Result<(), TrainError> {
        let sets = [("training", Some(self.run.train)), ("validation", self.run.validation)];
        for (name, dataset) in sets {
            let Some(dataset) = dataset else { continue };
            let counts = dataset.counts;
            if counts.too_long > 0 {
                let note = format!(
                    "{} of {} {name} rows are longer than the limit and were left out (the longest has {} tokens)",
                    counts.too_long, counts.rows, counts.max_tokens
                );
                self.write(&Record::Note { step: 0, note })?;
            }
            if counts.bad > 0 {
                let (named, more) = (dataset.bad_rows.join("; "), counts.bad.saturating_sub(dataset.bad_rows.len()));
                let more = if more > 0 { format!("; and {more} more") } else { String::new() };
                let note = format!("{} {name} rows cannot be used and were left out: {named}{more}", counts.bad);
                self.write(&Record::Note { step: 0, note })?;
            }
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), TrainError> {
        self.observer.record(record);
        self.log.as_mut().map_or(Ok(()), |log| log.write(record))
    }
}
