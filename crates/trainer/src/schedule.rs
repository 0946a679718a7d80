//! The learning rate at a step: warm-up, then constant, linear or cosine; by steps, or by the seconds of a run that ends by
//! the clock.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Stays.
    Constant,
    /// Falls in a straight line until the end of the run.
    #[default]
    Linear,
    /// Falls along half a cosine until the end of the run.
    Cosine,
}

/// A learning rate over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Steps over which the rate rises in a straight line; the first step already has `peak / warmup_steps`.
    pub warmup_steps: u64,
    /// Steps of the run; [`Schedule::NO_END`] where the clock alone ends it.
    pub total_steps: u64,
    /// Seconds of training after which the run ends; 0: the steps end it.
    pub max_seconds: f64,
    /// The share of the run after which the rate falls, if that is later than the end of the warm-up.
    pub constant_until: f64,
    /// What the rate falls to at the end, as a share of `peak`.
    pub final_rate: f64,
}

impl Schedule {
    /// Steps of a run that the clock ends.
    pub const NO_END: u64 = u64::MAX;

    /// The rate of step `step`, from 0, which begins after so many seconds of training.
    pub fn rate(&self, step: u64, seconds: f64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let done = self.done(step, seconds);
        let share = match self.kind {
            ScheduleKind::Constant => return self.peak,
            ScheduleKind::Linear => 1.0 - done,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.peak * (self.final_rate + (1.0 - self.final_rate) * share)
    }

    /// How much of the fall is behind, from 0 to 1: by steps or by the clock, whichever will end the run sooner.
    fn done(&self, step: u64, seconds: f64) -> f64 {
        let by_steps = match self.total_steps {
            Self::NO_END => 0.0,
            total => {
                let start = (self.warmup_steps as f64).max(self.constant_until * total as f64);
                (step as f64 - start) / (total as f64 - start).max(1.0)
            }
        };
        let by_clock = match self.max_seconds > 0.0 {
            true => (seconds / self.max_seconds - self.constant_until) / (1.0 - self.constant_until),
            false => 0.0,
        };
        by_steps.max(by_clock).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        Schedule {
            kind,
            peak: 2.0,
            warmup_steps: 4,
            total_steps: 12,
            max_seconds: 0.0,
            constant_until: 0.0,
            final_rate: 0.0,
        }
    }

    #[test]
    fn rises_and_falls() {
        let linear = schedule(ScheduleKind::Linear);
        let rates: Vec<f64> = (0..12).map(|step| linear.rate(step, 0.0)).collect();
        assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert_eq!((rates[8], rates[11]), (1.0, 0.25));
        assert_eq!(linear.rate(20, 0.0), 0.0);
        let cosine = schedule(ScheduleKind::Cosine);
        assert!((cosine.rate(8, 0.0) - 1.0).abs() < 1e-12 && cosine.rate(5, 0.0) > linear.rate(5, 0.0));
        assert_eq!(schedule(ScheduleKind::Constant).rate(11, 0.0), 2.0);
    }

    #[test]
    fn no_warmup_starts_at_the_peak() {
        let schedule = Schedule { warmup_steps: 0, peak: 1.0, total_steps: 2, ..schedule(ScheduleKind::Linear) };
        assert_eq!((schedule.rate(0, 0.0), schedule.rate(1, 0.0)), (1.0, 0.5));
    }

    #[test]
    fn stays_until_a_share_of_the_run_and_falls_to_a_floor() {
        let half = Schedule { constant_until: 0.5, final_rate: 0.02, ..schedule(ScheduleKind::Linear) };
        let rates: Vec<f64> = (0..=12).map(|step| half.rate(step, 0.0)).collect();
        assert_eq!(rates[3..7], [2.0; 4]);
        assert!((rates[9] - 1.02).abs() < 1e-12 && (rates[12] - 0.04).abs() < 1e-12, "{rates:?}");
        assert!((half.rate(100, 0.0) - 0.04).abs() < 1e-12);
        let cosine = Schedule { kind: ScheduleKind::Cosine, ..half };
        assert!((cosine.rate(9, 0.0) - 1.02).abs() < 1e-12 && cosine.rate(7, 0.0) > half.rate(7, 0.0));
        // A share that ends within the warm-up has no say.
        let early = Schedule { constant_until: 0.1, ..schedule(ScheduleKind::Linear) };
        assert_eq!(early.rate(8, 0.0), schedule(ScheduleKind::Linear).rate(8, 0.0));
    }

    #[test]
    fn follows_the_clock() {
        let by_clock = Schedule {
            total_steps: Schedule::NO_END,
            max_seconds: 100.0,
            constant_until: 0.5,
            final_rate: 0.02,
            ..schedule(ScheduleKind::Linear)
        };
        assert_eq!(by_clock.rate(1, 99.0), 1.0, "the warm-up goes by steps");
        assert_eq!((by_clock.rate(4, 0.0), by_clock.rate(1000, 50.0)), (2.0, 2.0));
        assert!((by_clock.rate(1000, 75.0) - 1.02).abs() < 1e-12 && (by_clock.rate(7, 100.0) - 0.04).abs() < 1e-12);
        // Where both may end the run, whichever is nearer to its end decides.
        let both = Schedule { total_steps: 12, ..by_clock };
        assert!((both.rate(9, 10.0) - 1.02).abs() < 1e-12 && (both.rate(5, 75.0) - 1.02).abs() < 1e-12);
    }
}
