//! The promises, tried on a user's own model and adapter: each is two ways to one result, and how far they are apart.
//!
//! Nothing is printed here, and nothing is changed but files in a scratch folder.

mod resumed;

use std::path::Path;

use serde::Serialize;
use statetune_datasets_eval::Dataset;
use statetune_mamba_model::{Batch, Bound, DropoutStep, Mamba, ModelError, Patches};
use statetune_peft_methods::{Adapter, PeftError, methods};
use statetune_ssm_kernels::random::uniform;
use statetune_tensor::{DType, Tape, Tensor};

use crate::checkpoint::fingerprint;
use crate::step::{MicroBatch, gradients};
use crate::{AdamW, AdamWSettings, TrainError};
pub use resumed::{RESUMED, WHOLE, checkpoint_is_whole, resumed_is_resumed};

/// What became of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Kept.
    Ok,
    /// Broken.
    Failed,
    /// Not tried.
    Skipped,
}

/// One promise and what was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The two ways that lead to one result.
    pub promise: &'static str,
    /// On what they were compared.
    pub compared: String,
    /// The largest difference; absent where nothing could be compared.
    pub difference: Option<f64>,
    /// The largest difference that rounding explains.
    pub tolerance: f64,
    /// Whether it was kept.
    pub outcome: Outcome,
    /// Why it was not tried, or could not be.
    pub reason: Option<String>,
}

impl Finding {
    /// A comparison that was made. What is no number is no small difference.
    pub fn new(promise: &'static str, compared: impl Into<String>, difference: f64, tolerance: f64) -> Finding {
        let outcome = if difference <= tolerance { Outcome::Ok } else { Outcome::Failed };
        let difference = Some(difference);
        Finding { promise, compared: compared.into(), difference, tolerance, outcome, reason: None }
    }

    /// A promise that was not tried.
    pub fn skipped(promise: &'static str, reason: impl Into<String>) -> Finding {
        Finding { outcome: Outcome::Skipped, ..Finding::impossible(promise, reason) }
    }

    /// A promise that was broken before there was anything to compare.
    pub fn impossible(promise: &'static str, reason: impl Into<String>) -> Finding {
        let (outcome, reason) = (Outcome::Failed, Some(reason.into()));
        Finding { promise, compared: String::new(), difference: None, tolerance: 0.0, outcome, reason }
    }
}

/// Tries every promise of an adapter on its model. `scratch` is an empty folder; `watch` is told how many promises are
/// done.
///
/// # Errors
/// The model or the adapter refuses what they were made for; files cannot be written. A promise that is broken is no
/// error but a finding.
pub fn verify(
    model: &Mamba,
    adapter: &Adapter,
    scratch: &Path,
    mut watch: impl FnMut(usize, usize),
) -> Result<Vec<Finding>, TrainError> {
    type Check<'a> = Box<dyn Fn() -> Result<Finding, TrainError> + 'a>;
    let checks: [Check<'_>; 8] = [
        Box::new(|| parallel_is_recurrent(model, adapter.patches())),
        Box::new(|| packed_is_alone(model, adapter.patches())),
        Box::new(|| merged_is_unmerged(model, adapter)),
        Box::new(|| saved_is_loaded(model, adapter, &scratch.join("saved"), |_| ())),
        Box::new(|| count_is_formula(model, adapter)),
        Box::new(|| accumulated_is_whole(model, adapter.patches())),
        Box::new(|| untrained_is_base(model, adapter)),
        Box::new(|| frozen_is_unmoved(model, adapter)),
    ];
    let mut found = Vec::new();
    for (done, check) in checks.iter().enumerate() {
        watch(done, checks.len());
        found.push(check()?);
    }
    watch(checks.len(), checks.len());
    Ok(found)
}

/// Sequences of tokens that depend on the model's shape only: of length 1, shorter than the convolution, 17, and one that
/// crosses two borders of the scan's chunks.
pub fn sequences(model: &Mamba) -> Vec<Vec<u32>> {
    let mut lengths = vec![1, model.config().d_conv.saturating_sub(2).max(1), 17, 70];
    lengths.dedup();
    let vocab = model.config().vocab_size;
    let sequence = |length: usize| {
        let mut draws = vec![0f64; length];
        uniform(&mut draws, 0.0, vocab as f64, 5, length as u64);
        draws.into_iter().map(|x| (x as u32).min(vocab as u32 - 1)).collect()
    };
    lengths.into_iter().map(sequence).collect()
}

fn lengths(sequences: &[Vec<u32>]) -> String {
    let lengths: Vec<String> = sequences.iter().map(|sequence| sequence.len().to_string()).collect();
    format!("sequences of {} tokens", lengths.join(", "))
}

/// Every logit of a packed batch.
fn logits(model: &Mamba, patches: &Patches, batch: &Batch) -> Result<Vec<f64>, ModelError> {
    let tape = Tape::inference(model.device());
    let bound = Bound::new(&tape, model, patches, None)?;
    let hidden = model.forward(&tape, &bound, batch, None, false)?.hidden;
    let rows: Vec<u32> = (0..batch.tokens() as u32).collect();
    Ok(model.logits(&tape, &bound, &hidden, &rows)?.tensor().to_f64_vec())
}

/// How far logits are apart, and how large they are.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Apart {
    /// The largest difference; not a number if any of them is not.
    pub difference: f64,
    /// The largest magnitude.
    pub largest: f64,
}

impl Apart {
    fn see(&mut self, expected: &[f64], found: &[f64]) {
        for (a, b) in expected.iter().zip(found) {
            let difference = (a - b).abs();
            if difference > self.difference || difference.is_nan() {
                self.difference = difference;
            }
            self.largest = self.largest.max(a.abs());
        }
        if expected.len() != found.len() {
            self.difference = f64::NAN;
        }
    }

    /// What rounding explains: numbers of this size, or of 1, in the type that is computed in.
    fn finding(self, model: &Mamba, promise: &'static str, compared: String) -> Finding {
        let unit = match model.compute() {
            DType::F64 => 1e-10,
            _ => 5e-5,
        };
        Finding::new(promise, format!("logits of {compared}"), self.difference, unit * self.largest.max(1.0))
    }
}

/// How far the logits of two models with patches are apart on [`sequences`] of the first.
///
/// # Errors
/// A model refuses its patches.
pub fn logits_apart(one: (&Mamba, &Patches), other: (&Mamba, &Patches)) -> Result<Apart, TrainError> {
    let mut apart = Apart::default();
    for sequence in sequences(one.0) {
        let batch = Batch::new(&[sequence])?;
        apart.see(&logits(one.0, one.1, &batch)?, &logits(other.0, other.1, &batch)?);
    }
    Ok(apart)
}

fn parallel_is_recurrent(model: &Mamba, patches: &Patches) -> Result<Finding, TrainError> {
    let (sequences, vocab) = (sequences(model), model.config().vocab_size);
    let mut apart = Apart::default();
    for sequence in &sequences {
        let whole = logits(model, patches, &Batch::new(&[sequence])?)?;
        // A prefill of part of it in chunks, then token by token.
        let start = sequence.len().div_ceil(2);
        let (mut state, mut last) = model.prefill(patches, &[&sequence[..start]], 16)?;
        for at in start..=sequence.len() {
            apart.see(&whole[(at - 1) * vocab..at * vocab], &last.to_f64_vec());
            if at < sequence.len() {
                (state, last) = model.step(patches, &state, &[sequence[at]])?;
            }
        }
    }
    Ok(apart.finding(model, "parallel = recurrent", lengths(&sequences)))
}

fn packed_is_alone(model: &Mamba, patches: &Patches) -> Result<Finding, TrainError> {
    let sequences = sequences(model);
    let packed = logits(model, patches, &Batch::new(&sequences)?)?;
    let mut alone = Vec::new();
    for sequence in &sequences {
        alone.extend(logits(model, patches, &Batch::new(&[sequence])?)?);
    }
    let mut apart = Apart::default();
    apart.see(&alone, &packed);
    Ok(apart.finding(model, "packed = alone", lengths(&sequences)))
}

/// On the model in the type that is computed in: what rounding to a storage type costs is another question.
fn merged_is_unmerged(model: &Mamba, adapter: &Adapter) -> Result<Finding, TrainError> {
    let promise = "merged = unmerged";
    let widened = model.widened()?;
    match adapter.merge(&widened) {
        Err(error @ PeftError::NotMergeable { .. }) => Ok(Finding::skipped(promise, error.to_string())),
        Err(error) => Err(error.into()),
        Ok(merged) => {
            let apart = logits_apart((&widened, adapter.patches()), (&merged, &Patches::none()))?;
            Ok(apart.finding(model, promise, lengths(&sequences(model))))
        }
    }
}

/// Saves to a folder and loads from it; `between` may look at the folder, or spoil it.
///
/// # Errors
/// The folder cannot be written.
pub fn saved_is_loaded(
    model: &Mamba,
    adapter: &Adapter,
    folder: &Path,
    between: impl FnOnce(&Path),
) -> Result<Finding, TrainError> {
    let promise = "saved = loaded";
    let exported;
    let saved = match adapter.methods().iter().any(|method| method.exported().is_some()) {
        true => {
            exported = adapter.exported(model)?;
            &exported
        }
        false => adapter,
    };
    saved.save(folder, "base")?;
    between(folder);
    let loaded = match Adapter::load(folder, model) {
        Ok(loaded) => loaded.adapter,
        Err(error) => return Ok(Finding::impossible(promise, error.to_string())),
    };
    if saved.patches().patches() != loaded.patches().patches() {
        return Ok(Finding::impossible(promise, "the loaded adapter changes other sites, or changes them otherwise"));
    }
    let compared = format!("the bits of {} tensors", saved.patches().tensors().len());
    Ok(Finding::new(promise, compared, differing(saved.patches(), loaded.patches()) as f64, 0.0))
}

/// How many tensors have other bits.
fn differing(one: &Patches, other: &Patches) -> usize {
    let bits = |buffer: &statetune_tensor::Buffer| buffer.tensor().to_le_bytes();
    let differs = |tensor: &&statetune_mamba_model::patch::PatchTensor| {
        other.tensor(&tensor.name).map_or(true, |found| bits(found) != bits(&tensor.buffer))
    };
    one.tensors().iter().filter(differs).count()
}

fn count_is_formula(model: &Mamba, adapter: &Adapter) -> Result<Finding, TrainError> {
    let counts = adapter.methods().iter().map(|method| method.trainable(model.config()));
    let formula: usize = counts.sum::<Result<_, _>>()?;
    let found = adapter.trainable();
    let compared = format!("{found} trained numbers");
    Ok(Finding::new("count = formula", compared, found.abs_diff(formula) as f64, 0.0))
}

/// Every next token of the sequences as a target; one micro-batch per group.
fn micro_batches(sequences: &[Vec<u32>], groups: &[&[usize]]) -> Result<Vec<MicroBatch>, TrainError> {
    let batch = |members: &&[usize]| {
        let (mut ids, mut targets, mut offsets) = (Vec::new(), Vec::new(), vec![0]);
        for &member in *members {
            let sequence = &sequences[member];
            ids.extend_from_slice(&sequence[..sequence.len() - 1]);
            targets.extend_from_slice(&sequence[1..]);
            offsets.push(ids.len());
        }
        let examples: Vec<u64> = members.iter().map(|&member| member as u64).collect();
        let rows = (0..ids.len() as u32).collect();
        let batch = Batch::packed(ids, offsets, &examples, &vec![0; members.len()])?;
        Ok(MicroBatch { prefix: None, batch, rows, targets })
    };
    groups.iter().map(batch).collect()
}

/// The dropout of the steps that are tried.
const DROPOUT: DropoutStep = DropoutStep { seed: 4, step: 2 };

fn accumulated_is_whole(model: &Mamba, patches: &Patches) -> Result<Finding, TrainError> {
    let mut sequences = sequences(model);
    sequences.retain(|sequence| sequence.len() > 1);
    let members: Vec<usize> = (0..sequences.len()).collect();
    let of = |groups: &[&[usize]]| gradients(model, patches, &micro_batches(&sequences, groups)?, Some(DROPOUT));
    let whole = of(&[&members])?;
    let parts = of(&members.chunks(1).collect::<Vec<_>>())?;
    let values = |gradient: &Option<Tensor>| gradient.as_ref().map_or(Vec::new(), Tensor::to_f64_vec);
    let largest = |values: &[f64]| values.iter().fold(0f64, |m, x| m.max(x.abs()));
    let all = whole.gradients.iter().map(|gradient| largest(&values(gradient))).fold(0f64, f64::max);
    // Relative to the largest of its tensor; a tensor whose gradient is next to nothing is all rounding.
    let mut worst = (whole.loss - parts.loss).abs() / whole.loss.abs().max(1.0);
    for (whole, parts) in whole.gradients.iter().zip(&parts.gradients) {
        let (whole, mut apart) = (values(whole), Apart::default());
        apart.see(&whole, &values(parts));
        let relative = apart.difference / apart.largest.max(1e-3 * all).max(f64::MIN_POSITIVE);
        if relative > worst || relative.is_nan() {
            worst = relative;
        }
    }
    let compared = format!("gradients, relative, of {}", lengths(&sequences));
    let tolerance = if model.compute() == DType::F64 { 1e-10 } else { 2e-4 };
    Ok(Finding::new("accumulated = whole", compared, worst, tolerance))
}

/// The methods' adapter as it is before training.
fn untrained_is_base(model: &Mamba, adapter: &Adapter) -> Result<Finding, TrainError> {
    let promise = "untrained = base";
    for method in adapter.methods() {
        if !method.starts_unchanged() {
            return Ok(Finding::skipped(promise, format!("{} changes the model from its start", method.tag())));
        }
    }
    let untrained = match Adapter::new(model, methods::copies(adapter.methods())?, 0) {
        Err(error @ PeftError::MissingFeature { .. }) => return Ok(Finding::skipped(promise, error.to_string())),
        other => other?,
    };
    let apart = logits_apart((model, &Patches::none()), (model, untrained.patches()))?;
    Ok(apart.finding(model, promise, lengths(&sequences(model))))
}

/// One update of a copy of the adapter leaves the bits of the model and of the adapter's constants.
fn frozen_is_unmoved(model: &Mamba, adapter: &Adapter) -> Result<Finding, TrainError> {
    let weights = || fingerprint(model, &Dataset::default());
    let before = weights();
    let saved = adapter.patches().tensors().iter().zip(adapter.specs()).filter(|(_, spec)| spec.saved);
    let tensors = saved.map(|(tensor, _)| (tensor.name.clone(), tensor.buffer.tensor())).collect();
    let copy = Adapter::with_tensors(model, methods::copies(adapter.methods())?, tensors)?;
    let constants = || -> Vec<Vec<u8>> {
        let fixed = copy.patches().tensors().iter().filter(|tensor| !tensor.trained);
        fixed.map(|tensor| tensor.buffer.tensor().to_le_bytes()).collect()
    };
    let fixed = constants();
    let mut sequences = sequences(model);
    sequences.retain(|sequence| sequence.len() > 1);
    let members: Vec<usize> = (0..sequences.len()).collect();
    let step = gradients(model, copy.patches(), &micro_batches(&sequences, &[&members])?, Some(DROPOUT))?;
    AdamW::new(&copy, AdamWSettings::default()).update(model.device(), &copy, &step.gradients, 1e-2, 1.0)?;
    let moved = constants().iter().zip(&fixed).filter(|(after, before)| after != before).count();
    let difference = moved + usize::from(weights() != before);
    let compared = format!("the bits of {} frozen numbers after an update", model.size());
    Ok(Finding::new("frozen = unmoved", compared, difference as f64, 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_above_the_tolerance_fails() {
        let outcome = |difference: f64| Finding::new("a = b", "x", difference, 1e-3).outcome;
        assert_eq!([0.0, 1e-3].map(outcome), [Outcome::Ok; 2]);
        assert_eq!([1.1e-3, f64::INFINITY, f64::NAN].map(outcome), [Outcome::Failed; 3]);
    }

    #[test]
    fn one_odd_number_is_seen() {
        let apart = |expected: &[f64], found: &[f64]| {
            let mut apart = Apart::default();
            apart.see(expected, found);
            apart
        };
        assert_eq!(apart(&[1.0, -8.0, 2.0], &[1.0, -8.5, 2.0]), Apart { difference: 0.5, largest: 8.0 });
        assert!(apart(&[1.0, f64::NAN, 2.0], &[1.0, 0.0, 9.0]).difference.is_nan());
        assert!(apart(&[1.0, 2.0], &[1.0]).difference.is_nan());
        // What follows does not hide it.
        let mut apart = apart(&[f64::NAN], &[0.0]);
        apart.see(&[1.0], &[2.0]);
        assert!(apart.difference.is_nan());
    }
}
