//! Runs of n tokens, counted: what BLEU, chrF and ROUGE compare.

use std::cmp::Ordering;

/// The runs of a text. The places where they begin are sorted by what stands there, so that equal runs of every length lie
/// side by side, and one sort serves all of them.
pub(super) struct Ngrams<T> {
    tokens: Vec<T>,
    starts: Vec<usize>,
}

impl<T: Ord> Ngrams<T> {
    /// For runs of up to `longest` tokens.
    pub(super) fn new(tokens: Vec<T>, longest: usize) -> Ngrams<T> {
        let mut starts: Vec<usize> = (0..tokens.len()).collect();
        let run = |at: usize| &tokens[at..tokens.len().min(at + longest)];
        starts.sort_unstable_by(|&a, &b| run(a).cmp(run(b)));
        Ngrams { tokens, starts }
    }

    /// Tokens of the text.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Runs of n tokens, equal ones counted each.
    pub(super) fn total(&self, n: usize) -> usize {
        (self.len() + 1).saturating_sub(n)
    }

    /// The different runs of n tokens and how often each occurs, in order.
    fn groups(&self, n: usize) -> Vec<(&[T], usize)> {
        let mut found: Vec<(&[T], usize)> = Vec::new();
        for run in self.starts.iter().filter_map(|&at| self.tokens.get(at..at + n)) {
            match found.last_mut() {
                Some((last, count)) if *last == run => *count += 1,
                _ => found.push((run, 1)),
            }
        }
        found
    }

    /// How many runs of n tokens are also in one of `others`: each as often as it occurs here, but no more often than in
    /// the one that has it most often.
    pub(super) fn shared(&self, others: &[Ngrams<T>], n: usize) -> usize {
        let own = self.groups(n);
        let mut most = vec![0; own.len()];
        for other in others {
            let theirs = other.groups(n);
            let (mut i, mut j) = (0, 0);
            while i < own.len() && j < theirs.len() {
                match own[i].0.cmp(theirs[j].0) {
                    Ordering::Less => i += 1,
                    Ordering::Greater => j += 1,
                    Ordering::Equal => {
                        most[i] = most[i].max(theirs[j].1);
                        (i, j) = (i + 1, j + 1);
                    }
                }
            }
        }
        own.iter().zip(most).map(|((_, count), most)| (*count).min(most)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_shared_as_often_as_the_richest_other_has_them() {
        let of = |text: &str| Ngrams::new(text.chars().collect(), 3);
        let text = of("abababa");
        for (n, others, shared) in [
            (1, vec!["ab"], 2),
            (1, vec!["aab", "abb"], 4),
            (2, vec!["abab"], 3),
            (3, vec!["abab", "babab"], 3),
            (3, vec![], 0),
        ] {
            let others: Vec<_> = others.into_iter().map(of).collect();
            assert_eq!(text.shared(&others, n), shared, "n = {n}");
            assert_eq!(text.total(n), 8 - n);
        }
        assert_eq!(of("a").total(3), 0);
    }
}
