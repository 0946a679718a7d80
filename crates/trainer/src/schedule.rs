//! The learning rate at a step: warm-up, then constant, linear or cosine.

use serde::{Deserialize, Serialize};

/// The shape of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// Stays.
    Constant,
    /// Falls in a straight line to zero at the end of the run.
    #[default]
    Linear,
    /// Falls along half a cosine to zero at the end of the run.
    Cosine,
}

/// A learning rate over the steps of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// The rate at the end of the warm-up.
    pub peak: f64,
    /// Steps over which the rate rises in a straight line; the first step already has `peak / warmup_steps`.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of step `step`, from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decay = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / decay).min(1.0);
        match self.kind {
            ScheduleKind::Constant => self.peak,
            ScheduleKind::Linear => self.peak * (1.0 - done),
            ScheduleKind::Cosine => self.peak * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_and_falls() {
        let schedule = |kind| Schedule { kind, peak: 2.0, warmup_steps: 4, total_steps: 12 };
        let linear = schedule(ScheduleKind::Linear);
        let rates: Vec<f64> = (0..12).map(|step| linear.rate(step)).collect();
        assert_eq!(rates[..5], [0.5, 1.0, 1.5, 2.0, 2.0]);
        assert_eq!((rates[8], rates[11]), (1.0, 0.25));
        assert_eq!(linear.rate(20), 0.0);
        let cosine = schedule(ScheduleKind::Cosine);
        assert!((cosine.rate(8) - 1.0).abs() < 1e-12 && cosine.rate(5) > linear.rate(5));
        assert_eq!(schedule(ScheduleKind::Constant).rate(11), 2.0);
    }

    #[test]
    fn no_warmup_starts_at_the_peak() {
        let schedule = Schedule { kind: ScheduleKind::Linear, peak: 1.0, warmup_steps: 0, total_steps: 2 };
        assert_eq!((schedule.rate(0), schedule.rate(1)), (1.0, 0.5));
    }
}
