//! What a warm-up's change of `A_log` selects.

use serde::{Deserialize, Serialize};

/// The fractions that are not trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fractions {
    /// Of the channels.
    pub channels: f64,
    /// Of a trained channel's states.
    pub states: f64,
    /// Of the channels: those that lose their memory.
    pub zero_channels: f64,
}

/// What is trained in one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// The trained channels, ascending.
    pub channels: Vec<u32>,
    /// For each of them the states whose entry of `A_log` is trained, ascending.
    pub states: Vec<Vec<u32>>,
    /// The channels that lose their memory, ascending.
    #[serde(default)]
    pub zero: Vec<u32>,
}

/// round(fraction · size), halves to even: how many are not trained.
fn count(fraction: f64, size: usize) -> usize {
    (fraction * size as f64).round_ties_even() as usize
}

/// The indices of the largest values, the lower index among equals.
fn descending(values: &[f64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..values.len() as u32).collect();
    order.sort_by(|&i, &j| values[j as usize].total_cmp(&values[i as usize]).then(i.cmp(&j)));
    order
}

fn ascending(mut indices: Vec<u32>) -> Vec<u32> {
    indices.sort_unstable();
    indices
}

impl Selection {
    /// From the change `[D, N]` of `A_log`: channels by the sum of their squared changes, states by their own. The channels
    /// that changed least are the ones to be set to zero.
    pub fn from_update(update: &[f64], d: usize, n: usize, fractions: Fractions) -> Selection {
        let squares: Vec<f64> = update.iter().map(|x| x * x).collect();
        let sums: Vec<f64> = squares.chunks_exact(n).map(|row| row.iter().sum()).collect();
        let order = descending(&sums);
        let zero = count(fractions.zero_channels, d);
        let trained = d.saturating_sub(zero + count(fractions.channels, d));
        let channels = ascending(order[..trained].to_vec());
        let per_channel = n - count(fractions.states, n);
        let states = channels.iter().map(|&channel| {
            let row = &squares[channel as usize * n..][..n];
            ascending(descending(row)[..per_channel].to_vec())
        });
        Selection { states: states.collect(), channels, zero: ascending(order[d - zero..].to_vec()) }
    }

    /// Flat places in `A_log` `[D, N]` of the trained entries, in the order of the transposed matrix: all channels of the
    /// first state, then of the second.
    pub fn entries(&self, n: usize) -> Vec<u32> {
        let mut entries = Vec::new();
        for state in 0..n as u32 {
            for (&channel, states) in self.channels.iter().zip(&self.states) {
                if states.contains(&state) {
                    entries.push(channel * n as u32 + state);
                }
            }
        }
        entries
    }

    /// Flat places in `A_log` of all states of the channels set to zero.
    pub fn zero_entries(&self, n: usize) -> Vec<u32> {
        self.zero.iter().flat_map(|&channel| (0..n as u32).map(move |state| channel * n as u32 + state)).collect()
    }

    /// Checks a selection that was read from a file.
    pub(super) fn check(&self, d: usize, n: usize) -> Result<(), String> {
        let rises = |list: &[u32], below: usize| {
            list.windows(2).all(|pair| pair[0] < pair[1]) && list.last().is_none_or(|&last| (last as usize) < below)
        };
        if self.channels.is_empty() || self.states.iter().all(Vec::is_empty) {
            return Err("a layer has nothing to train".into());
        }
        if !rises(&self.channels, d) || !rises(&self.zero, d) {
            return Err(format!("channels must rise and be below d_inner = {d}"));
        }
        if self.states.len() != self.channels.len() || !self.states.iter().all(|states| rises(states, n)) {
            return Err(format!("each channel has a list of states that rise and are below d_state = {n}"));
        }
        match self.channels.iter().any(|channel| self.zero.contains(channel)) {
            true => Err("a channel is both trained and set to zero".into()),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_changes_are_chosen() {
        // Four channels of three states.
        let update = [0.1, 0.0, 0.0, 0.0, -3.0, 1.0, 2.0, 2.0, 0.5, 0.0, 0.0, 0.01];
        let fractions = Fractions { channels: 0.25, states: 0.34, zero_channels: 0.25 };
        let selection = Selection::from_update(&update, 4, 3, fractions);
        assert_eq!(selection, Selection { channels: vec![1, 2], states: vec![vec![1, 2], vec![0, 1]], zero: vec![3] });
        // State by state: (2, 0), (1, 1), (2, 1), (1, 2).
        assert_eq!(selection.entries(3), [6, 4, 7, 5]);
        assert_eq!(selection.zero_entries(3), [9, 10, 11]);
        assert_eq!(selection.check(4, 3), Ok(()));
    }

    #[test]
    fn halves_are_rounded_to_even() {
        assert_eq!([count(0.5, 5), count(0.5, 7), count(0.25, 16), count(0.9, 16)], [2, 4, 4, 14]);
    }

    #[test]
    fn selections_that_cannot_be_are_refused() {
        let good = Selection { channels: vec![1], states: vec![vec![0]], zero: vec![] };
        let bad = [
            Selection { channels: vec![4], ..good.clone() },
            Selection { states: vec![vec![3]], ..good.clone() },
            Selection { states: vec![], ..good.clone() },
            Selection { zero: vec![1], ..good.clone() },
            Selection { channels: vec![2, 1], states: vec![vec![0], vec![0]], ..good.clone() },
        ];
        for selection in bad {
            assert!(selection.check(4, 3).is_err(), "{selection:?}");
        }
    }
}
