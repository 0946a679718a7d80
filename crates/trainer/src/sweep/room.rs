//! Whether a further run has room in memory beside those under way. On the processor only: what a GPU holds is a matter of its
//! own arena.

use statetune_mamba_model::Mamba;
use statetune_peft_methods::Adapter;
use statetune_tensor::Device;

use super::plan::{Job, Plan};
use crate::TrainSettings;
use crate::memory::MemoryPlan;

/// What is free for runs, and what they are planned to take.
pub(super) struct Room {
    /// Bytes; `None`: nobody knows, or it does not matter.
    free: Option<usize>,
    /// By unit: bytes of a run beside its worker's model; 0 where it is not known.
    needs: Vec<usize>,
    /// Bytes of a model: every worker has one.
    weights: usize,
}

impl Room {
    /// With so many bytes free beside the first worker's model.
    pub fn new(free: Option<usize>, plan: &Plan, model: &Mamba) -> Room {
        let weights = model.parameters().iter().map(|p| p.value.len() * p.value.dtype().bytes()).sum();
        let free = free.filter(|_| matches!(model.device(), Device::Cpu(_)));
        Room { free, needs: vec![0; plan.units.len()], weights }
    }

    /// Notes what a run of a unit is planned to take.
    pub fn plan(&mut self, unit: usize, model: &Mamba, adapter: &Adapter, settings: &TrainSettings) {
        let tokens = settings.micro_batch_tokens;
        let plan = MemoryPlan::new(model, adapter.patches(), tokens, tokens);
        self.needs[unit] = self.needs[unit].max(plan.total() - plan.weights);
    }

    /// How many of the workers asked for are to start, each with a model and the smallest of the runs, and what to say if these
    /// are fewer. The free memory is what is left beside their models from then on.
    pub fn workers(&mut self, asked: usize) -> (usize, Option<String>) {
        let Some(free) = self.free else { return (asked, None) };
        let least = self.needs.iter().copied().filter(|&need| need > 0).min().unwrap_or(0);
        let fits = |workers: usize| (workers - 1) * self.weights + workers * least <= free;
        let workers = (2..=asked).take_while(|&workers| fits(workers)).last().unwrap_or(1);
        self.free = Some(free.saturating_sub((workers - 1) * self.weights));
        let note = (workers < asked).then(|| {
            format!(
                "{workers} at once instead of {asked}: {} MiB are free, a model takes {} MiB and the smallest run is \
                 planned to take {} MiB",
                mib(free),
                mib(self.weights),
                mib(least)
            )
        });
        (workers, note)
    }

    /// Whether a run may start beside others; one alone always may, as a training that is started by hand.
    pub fn fits(&self, running: &[Job], job: &Job) -> bool {
        let planned: usize = running.iter().map(|job| self.needs[job.unit]).sum();
        running.is_empty() || self.free.is_none_or(|free| planned + self.needs[job.unit] <= free)
    }

    /// What there is to say of a run that is about to start, or waits for room.
    pub fn note(&self, running: &[Job], job: &Job, name: &str) -> Option<String> {
        let (free, need) = (self.free?, self.needs[job.unit]);
        if !self.fits(running, job) {
            let planned: usize = running.iter().map(|job| self.needs[job.unit]).sum();
            return Some(format!(
                "{name} waits for memory: it is planned to take {} MiB, those under way {} of {} MiB",
                mib(need),
                mib(planned),
                mib(free)
            ));
        }
        (need > free).then(|| {
            format!(
                "{name} runs alone and may not fit: it is planned to take {} MiB, {} MiB are free. A smaller \
                 train.micro_batch_tokens takes less",
                mib(need),
                mib(free)
            )
        })
    }
}

fn mib(bytes: usize) -> usize {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::super::plan::Purpose;
    use super::*;

    const MIB: usize = 1 << 20;

    fn room(free: Option<usize>) -> Room {
        Room { free, needs: vec![30 * MIB, 50 * MIB], weights: 20 * MIB }
    }

    fn job(unit: usize) -> Job {
        Job { unit, purpose: Purpose::Final, rate: 0.1, seed: 0 }
    }

    #[test]
    fn a_run_starts_where_the_plans_of_all_fit() {
        let mut room = room(Some(130 * MIB));
        assert_eq!(room.workers(2), (2, None), "a second model leaves 110 MiB");
        assert!(room.fits(&[job(1)], &job(1)) && room.fits(&[job(0), job(0)], &job(1)));
        assert!(!room.fits(&[job(0), job(1)], &job(1)));
        let note = room.note(&[job(0), job(1)], &job(1), "lora on rte").unwrap();
        assert!(note.contains("lora on rte waits") && note.contains("50 MiB, those under way 80 of 110"), "{note}");
        assert_eq!(room.note(&[job(0)], &job(1), ""), None);
    }

    #[test]
    fn one_alone_always_starts_and_it_is_said() {
        let mut room = room(Some(40 * MIB));
        let (workers, note) = room.workers(3);
        assert!(workers == 1 && note.unwrap().contains("1 at once instead of 3: 40 MiB are free"));
        assert!(room.fits(&[], &job(1)) && !room.fits(&[job(0)], &job(0)));
        assert!(room.note(&[], &job(1), "full on sst2").unwrap().contains("full on sst2 runs alone and may not fit"));
    }

    #[test]
    fn where_nobody_knows_what_is_free_nothing_waits() {
        let mut room = room(None);
        assert_eq!(room.workers(7), (7, None));
        assert!(room.fits(&[job(1), job(1)], &job(1)) && room.note(&[job(1)], &job(1), "").is_none());
    }
}
