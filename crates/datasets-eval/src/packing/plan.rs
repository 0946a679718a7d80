//! Which examples form which step. The order of an epoch is a function of (seed, epoch), so step k of epoch e is rebuilt
//! without replaying any other.

use super::shuffle::Permutation;
use crate::{DataError, Result};

/// Steps whose examples are sorted by length together: the larger, the more alike the lengths in a batch.
const WINDOW_STEPS: usize = 32;

/// The steps of every epoch: examples shuffled, sorted by length inside windows of 32 steps, cut into steps of
/// `batch_size` examples, and the steps shuffled again, so that lengths do not rise along a window.
#[derive(Clone, Debug)]
pub struct PackingPlan {
    lengths: Vec<usize>,
    batch_size: usize,
    micro_tokens: usize,
    seed: u64,
}

impl PackingPlan {
    /// A plan over examples of these lengths (packed positions). `batch_size` counts examples per optimiser step;
    /// `micro_tokens` is the most positions that run at once: a step over it is split, a single longer example runs
    /// alone. Fails if there are no examples or a size is zero.
    pub fn new(lengths: Vec<usize>, batch_size: usize, micro_tokens: usize, seed: u64) -> Result<PackingPlan> {
        for (what, value) in
            [("number of examples", lengths.len()), ("batch_size", batch_size), ("micro_tokens", micro_tokens)]
        {
            if value == 0 {
                return Err(DataError::Argument { what, expected: "at least 1".into(), found: "0".into() });
            }
        }
        Ok(PackingPlan { lengths, batch_size, micro_tokens, seed })
    }

    /// Steps of one epoch; one of them may be short.
    pub fn steps_per_epoch(&self) -> usize {
        self.lengths.len().div_ceil(self.batch_size)
    }

    /// The micro-batches of a step, as indices of examples, each within the budget of tokens. Panics if `step` is not
    /// below [`steps_per_epoch`](Self::steps_per_epoch).
    #[track_caller]
    pub fn step(&self, epoch: u64, step: usize) -> Vec<Vec<usize>> {
        let steps = self.steps_per_epoch();
        assert!(step < steps, "step {step} of {steps}");
        let batch = Permutation::new(steps, self.seed, epoch, 1).at(step);
        let examples = self.lengths.len();
        let start = batch / WINDOW_STEPS * WINDOW_STEPS * self.batch_size;
        let end = (start + WINDOW_STEPS * self.batch_size).min(examples);
        let order = Permutation::new(examples, self.seed, epoch, 0);
        let mut window: Vec<usize> = (start..end).map(|place| order.at(place)).collect();
        window.sort_by_key(|&index| self.lengths[index]); // stable: ties stay shuffled
        let first = batch * self.batch_size - start;
        let last = (first + self.batch_size).min(window.len());
        split(&self.lengths, &window[first..last], self.micro_tokens)
    }
}

/// Batches for evaluation: every example once, in rising order of length, each batch within the budget of tokens (a
/// single longer example alone). A budget of zero gives each example its own batch.
pub fn evaluation_batches(lengths: &[usize], micro_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| lengths[index]);
    split(lengths, &order, micro_tokens)
}

/// Cuts a run of examples into as few batches as the budget allows, in order.
fn split(lengths: &[usize], indices: &[usize], micro_tokens: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for &index in indices {
        match batches.last_mut() {
            Some(batch) if lengths[index] <= room => {
                room -= lengths[index];
                batch.push(index);
            }
            _ => {
                room = micro_tokens.saturating_sub(lengths[index]);
                batches.push(vec![index]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn epoch(plan: &PackingPlan, epoch: u64) -> Vec<Vec<Vec<usize>>> {
        (0..plan.steps_per_epoch()).map(|step| plan.step(epoch, step)).collect()
    }

    fn is_within(lengths: &[usize], batch: &[usize], budget: usize) -> bool {
        batch.len() == 1 || batch.iter().map(|&index| lengths[index]).sum::<usize>() <= budget
    }

    proptest! {
        #[test]
        fn each_epoch_has_every_example_once(
            lengths in prop::collection::vec(1usize..60, 1..400), batch_size in 1usize..9, budget in 1usize..150, seed: u64,
        ) {
            let plan = PackingPlan::new(lengths.clone(), batch_size, budget, seed).unwrap();
            for e in 0..2 {
                let steps = epoch(&plan, e);
                prop_assert_eq!(&steps, &epoch(&plan.clone(), e));
                let mut seen: Vec<usize> = steps.concat().concat();
                seen.sort();
                prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
                let short = steps.iter().filter(|step| step.concat().len() != batch_size).count();
                prop_assert!(short <= 1);
                prop_assert!(steps.concat().iter().all(|micro| is_within(&lengths, micro, budget)));
            }
            // So many steps that two orders of them agree by chance once in 10^12.
            if plan.steps_per_epoch() > 14 {
                prop_assert_ne!(epoch(&plan, 0), epoch(&plan, 1));
                let other = PackingPlan::new(lengths, batch_size, budget, seed ^ 1).unwrap();
                prop_assert_ne!(epoch(&plan, 0), epoch(&other, 0));
            }
        }

        #[test]
        fn evaluation_covers_each_once(lengths in prop::collection::vec(1usize..60, 0..200), budget in 0usize..150) {
            let batches = evaluation_batches(&lengths, budget);
            prop_assert!(batches.iter().all(|batch| !batch.is_empty() && is_within(&lengths, batch, budget)));
            let mut seen = batches.concat();
            prop_assert!(seen.is_sorted_by_key(|&index| lengths[index]));
            seen.sort();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_have_similar_lengths() {
        let lengths: Vec<usize> = (0..5000).map(|i| 1 + (i * 7919) % 100).collect();
        let plan = PackingPlan::new(lengths.clone(), 16, 10_000, 0).unwrap();
        let spread: usize = (0..plan.steps_per_epoch())
            .map(|step| plan.step(0, step).concat().iter().map(|&index| lengths[index]).collect::<Vec<_>>())
            .map(|batch| batch.iter().max().unwrap() - batch.iter().min().unwrap())
            .sum();
        // Unsorted batches of 16 would spread over 89 of the 100 lengths on average.
        assert!(spread / plan.steps_per_epoch() < 10, "mean spread {}", spread / plan.steps_per_epoch());
    }

    #[test]
    fn refuses_nothing() {
        for (lengths, batch, budget, what) in
            [(vec![], 1, 1, "examples"), (vec![1], 0, 1, "batch_size"), (vec![1], 1, 0, "micro")]
        {
            let error = PackingPlan::new(lengths, batch, budget, 0).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
