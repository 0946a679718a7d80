//! The loss of a run by its steps, thinned out to what a chart shows.

use crate::Observer;

/// The most points.
const POINTS: u64 = 64;

/// Collects it: the mean over equal stretches of steps, each at its last step. A stretch without a finite loss has no point.
#[derive(Default)]
pub(super) struct Curve {
    points: Vec<(u64, f64)>,
    sum: f64,
    count: usize,
}

impl Curve {
    pub fn into_points(self) -> Vec<(u64, f64)> {
        self.points
    }
}

impl Observer for Curve {
    fn step(&mut self, done: u64, of: u64, _tokens: u64, loss: f64) {
        if loss.is_finite() {
            (self.sum, self.count) = (self.sum + loss, self.count + 1);
        }
        if done.is_multiple_of(of.div_ceil(POINTS).max(1)) || done == of {
            if self.count > 0 {
                self.points.push((done, self.sum / self.count as f64));
            }
            (self.sum, self.count) = (0.0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_have_their_means_and_gaps_stay_gaps() {
        let mut curve = Curve::default();
        for step in 1..=130u64 {
            curve.step(step, 130, 0, if step <= 3 { f64::NAN } else { step as f64 });
        }
        let points = curve.into_points();
        // Stretches of three steps; the first has no finite loss, the last is of one step.
        assert_eq!((points[0], points[1]), ((6, 5.0), (9, 8.0)));
        assert_eq!((points.len(), points.last()), (43, Some(&(130, 130.0))));
    }

    #[test]
    fn a_short_run_has_every_step() {
        let mut curve = Curve::default();
        (1..=5).for_each(|step| curve.step(step, 5, 0, 1.0));
        assert_eq!(curve.into_points().len(), 5);
    }
}
