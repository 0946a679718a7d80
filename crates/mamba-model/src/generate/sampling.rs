//! How the next token is chosen from logits.

use statetune_ssm_kernels::random::uniform;

use crate::ModelError;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The most probable token; the lowest id among equals.
    #[default]
    Greedy,
    /// A random one.
    Random {
        /// Logits are divided by it; above 0.
        temperature: f64,
        /// Only so many of the most probable tokens are considered; 0: all.
        top_k: usize,
        /// Only the most probable tokens that together reach this probability are considered; 1: all.
        top_p: f64,
        /// The draw of sequence s at step t depends on (seed, s, t) only.
        seed: u64,
    },
}

impl Sampling {
    pub(super) fn check(self) -> Result<(), ModelError> {
        let fail = |reason: String| Err(ModelError::Generation { reason });
        match self {
            Sampling::Random { temperature, .. } if !(temperature > 0.0 && temperature.is_finite()) => {
                fail(format!("temperature must be above 0, found {temperature}; for no randomness choose greedy"))
            }
            Sampling::Random { top_p, .. } if !(top_p > 0.0 && top_p <= 1.0) => {
                fail(format!("top_p must be above 0 and at most 1, found {top_p}"))
            }
            _ => Ok(()),
        }
    }

    /// The next token of `sequence` at `step`, given its logits.
    pub(super) fn choose(self, logits: &[f64], sequence: usize, step: usize) -> u32 {
        let Sampling::Random { temperature, top_k, top_p, seed } = self else {
            let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
            return best as u32;
        };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&i, &j| logits[j].total_cmp(&logits[i]).then(i.cmp(&j)));
        if top_k > 0 {
            order.truncate(top_k);
        }
        let largest = logits[order[0]];
        let weights: Vec<f64> = order.iter().map(|&i| ((logits[i] - largest) / temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        // The shortest prefix that reaches top_p, the token that crosses it included.
        let mut kept = 0;
        let mut mass = 0.0;
        while kept < weights.len() && (kept == 0 || mass < top_p * total) {
            mass += weights[kept];
            kept += 1;
        }
        let mut draw = [0f64];
        uniform(&mut draw, 0.0, 1.0, seed, ((sequence as u64) << 32) | step as u64);
        let mut left = draw[0] * mass;
        for (&token, weight) in order[..kept].iter().zip(&weights) {
            left -= weight;
            if left < 0.0 {
                return token as u32;
            }
        }
        order[kept - 1] as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 5] = [0.0, 3.0, 1.0, 3.0, -2.0];

    fn share(sampling: Sampling, token: u32) -> f64 {
        let hits = (0..4000).filter(|&step| sampling.choose(&LOGITS, 1, step) == token).count();
        hits as f64 / 4000.0
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampling::Greedy.choose(&LOGITS, 0, 0), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let sampling = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 5 };
        let total: f64 = LOGITS.iter().map(|l| l.exp()).sum();
        for (token, logit) in LOGITS.iter().enumerate() {
            let expected = logit.exp() / total;
            assert!((share(sampling, token as u32) - expected).abs() < 0.03, "token {token}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let sampling = Sampling::Random { temperature: 1.0, top_k: 2, top_p: 1.0, seed: 5 };
        assert_eq!(share(sampling, 1) + share(sampling, 3), 1.0);
        let sampling = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.4, seed: 5 };
        assert_eq!(share(sampling, 1), 1.0);
        let sampling = Sampling::Random { temperature: 0.05, top_k: 0, top_p: 1.0, seed: 5 };
        assert_eq!(share(sampling, 2), 0.0);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (1.0, 0.0), (1.0, 1.5)] {
            assert!(Sampling::Random { temperature, top_k: 0, top_p, seed: 0 }.check().is_err());
        }
    }
}
