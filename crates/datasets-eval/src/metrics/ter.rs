//! Translation edit rate (Snover et al., "A study of translation edit rate with targeted human annotation", AMTA 2006): the
//! edits that make a reference of a prediction, in percent of the reference's words, where moving a run of words is one
//! edit. Lower is better. The search for moves and its limits are those of Tercom as sacrebleu 2.6 has them.

use std::ops::Range;

use super::metric::{Metric, reference_count, yes};
use super::tokens::{TercomOptions, python, tercom};

/// Longest run that is moved.
const MAX_SHIFT_SIZE: usize = 10;
/// Farthest move.
const MAX_SHIFT_DISTANCE: usize = 50;
/// Moves tried for a pair of texts.
const MAX_CANDIDATES: usize = 1000;
/// Half the width of the band around the diagonal in which the edit distance is sought.
const BEAM: f64 = 25.0;
/// The cost of a cell outside the band.
const FAR: u32 = u32::MAX / 2;

/// Corpus TER. The edits are those against the best reference, the length is the mean of the references'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ter(
    /// What is done to the texts first.
    pub TercomOptions,
);

impl Metric for Ter {
    fn name(&self) -> String {
        "TER".into()
    }

    fn signature(&self, references: &[Vec<String>]) -> String {
        format!(
            "nrefs:{}|case:{}|tok:tercom|norm:{}|punct:{}|asian:{}|as:sacrebleu-2.6",
            reference_count(references),
            if self.0.case_sensitive { "mixed" } else { "lc" },
            yes(self.0.normalized),
            yes(!self.0.no_punctuation),
            yes(self.0.asian_support)
        )
    }

    /// Edits and reference length.
    fn statistics(&self, prediction: &str, references: &[String]) -> Vec<f64> {
        let tokens = |text: &str| tercom(python::trim_end(text), &self.0);
        let own = tokens(prediction);
        // The tool cuts the tokens of a reference once more, which matters with `normalized`.
        let others: Vec<Vec<String>> = references.iter().map(|text| tokens(&tokens(text).join(" "))).collect();
        let edits = others.iter().map(|other| edits(&own, other)).min().unwrap_or(0);
        let lengths: usize = others.iter().map(Vec::len).sum();
        vec![f64::from(edits), lengths as f64 / others.len().max(1) as f64]
    }

    fn corpus(&self, sums: &[f64]) -> f64 {
        match (sums[0], sums[1]) {
            (edits, length) if length > 0.0 => 100.0 * edits / length,
            // A text where there should be none.
            (edits, _) if edits > 0.0 => 100.0,
            _ => 0.0,
        }
    }

    fn higher_is_better(&self) -> bool {
        false
    }
}

/// Edits that make `reference` of `prediction`, by moving, as long as that helps, and then editing word by word.
fn edits(prediction: &[String], reference: &[String]) -> u32 {
    if reference.is_empty() {
        return prediction.len() as u32;
    }
    // Words as numbers, in the order of the words.
    let mut known: Vec<&String> = prediction.iter().chain(reference).collect();
    known.sort();
    known.dedup();
    let number = |word: &String| known.binary_search(&word).unwrap_or_default() as u32;
    let mut words: Vec<u32> = prediction.iter().map(number).collect();
    let reference: Vec<u32> = reference.iter().map(number).collect();

    let (mut shifts, mut tried) = (0, 0);
    let mut table = Table::new(&reference, words.len());
    loop {
        table.fill(&words);
        let best = best_shift(&words, &reference, &mut table, &mut tried);
        // Once the limit is met, even the best move found is not taken.
        match best.filter(|shift| tried < MAX_CANDIDATES && shift.gain > 0) {
            Some(shift) => words = shift.words,
            None => break,
        }
        shifts += 1;
    }
    table.fill(&words);
    shifts + table.distance()
}

/// A move, in the order in which moves are preferred: gain, length, early origin, early aim.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shift {
    gain: i64,
    length: usize,
    from: std::cmp::Reverse<usize>,
    to: std::cmp::Reverse<usize>,
    words: Vec<u32>,
}

/// The best of the moves of a run that the reference has elsewhere, where both places are wrong now.
fn best_shift(words: &[u32], reference: &[u32], table: &mut Table, tried: &mut usize) -> Option<Shift> {
    let before = i64::from(table.distance());
    let alignment = table.alignment();
    let mut best: Option<Shift> = None;
    for (from, at, length) in common_runs(words, reference) {
        let is_wrong = |errors: &[bool], range: Range<usize>| errors[range].contains(&true);
        if !is_wrong(&alignment.wrong_words, from..from + length)
            || !is_wrong(&alignment.wrong_reference, at..at + length)
            || alignment.behind[at].checked_sub(1).is_some_and(|to| (from..from + length).contains(&to))
        {
            continue;
        }
        let mut last = None;
        for offset in 0..=length {
            // Before the run's place in the reference, then behind every word of it.
            let to = match at + offset {
                0 => 0,
                place => alignment.behind[place - 1],
            };
            if last.replace(to) == Some(to) {
                continue;
            }
            let moved = moved(words, from, length, to);
            let gain = before - i64::from(table.try_words(&moved));
            *tried += 1;
            let shift = Shift { gain, length, from: std::cmp::Reverse(from), to: std::cmp::Reverse(to), words: moved };
            if best.as_ref().is_none_or(|best| shift > *best) {
                best = Some(shift);
            }
        }
        if *tried >= MAX_CANDIDATES {
            break;
        }
    }
    best
}

/// Runs that both texts have: where in the one, where in the other, how long; every length up to the longest.
fn common_runs(words: &[u32], reference: &[u32]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..words.len()).flat_map(move |from| {
        let near = from.saturating_sub(MAX_SHIFT_DISTANCE)..reference.len().min(from + MAX_SHIFT_DISTANCE + 1);
        near.flat_map(move |at| {
            let equal = words[from..].iter().zip(&reference[at..]).take_while(|(a, b)| a == b).count();
            (1..=equal.min(MAX_SHIFT_SIZE)).map(move |length| (from, at, length))
        })
    })
}

/// The words with a run of them taken out and put in again: before the word `to` as counted in the whole text, or, where
/// that is inside the run or right behind it, so many words further on.
fn moved(words: &[u32], from: usize, length: usize, to: usize) -> Vec<u32> {
    let run = &words[from..from + length];
    let mut rest = [&words[..from], &words[from + length..]].concat();
    let to = match to {
        _ if to < from => to,
        _ if to > from + length => to - length,
        _ => to,
    };
    let to = to.min(rest.len());
    rest.splice(to..to, run.iter().copied());
    rest
}

/// How a cell of the table was reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A word of each text, equal.
    Same,
    /// A word of each text, unequal.
    Replace,
    /// A word of the prediction goes.
    Delete,
    /// A word of the reference comes.
    Insert,
    /// Outside the band.
    None,
}

/// Which words of the texts stand against each other.
struct Alignment {
    /// For every word of the reference, the number of words of the prediction up to its place.
    behind: Vec<usize>,
    wrong_words: Vec<bool>,
    wrong_reference: Vec<bool>,
}

/// The edit distance of predictions of one length from a reference, in a band around the diagonal. Rows of words that the
/// last text began with are kept.
struct Table<'a> {
    reference: &'a [u32],
    /// The text that `rows` are for.
    words: Vec<u32>,
    /// `[words + 1][reference + 1]`
    rows: Vec<Vec<(u32, Step)>>,
    /// Rows of a text that is only tried.
    scratch: [Vec<(u32, Step)>; 2],
}

impl<'a> Table<'a> {
    fn new(reference: &'a [u32], words: usize) -> Table<'a> {
        let far = vec![(FAR, Step::None); reference.len() + 1];
        let mut rows = vec![far.clone(); words + 1];
        rows[0] = (0..=reference.len() as u32).map(|cost| (cost, Step::Insert)).collect();
        Table { reference, words: Vec::new(), rows, scratch: [far.clone(), far] }
    }

    /// Computes the rows of a text of the length that the table was made for.
    fn fill(&mut self, words: &[u32]) {
        let kept = self.common(words);
        for i in kept + 1..=words.len() {
            let (before, row) = self.rows.split_at_mut(i);
            next_row(self.reference, words, i, &before[i - 1], &mut row[0]);
        }
        self.words = words.to_vec();
    }

    /// The distance of another text of the same length.
    fn try_words(&mut self, words: &[u32]) -> u32 {
        let kept = self.common(words);
        let [mut last, mut row] = std::mem::take(&mut self.scratch);
        last.clone_from(&self.rows[kept]);
        row.resize(last.len(), (FAR, Step::None));
        for i in kept + 1..=words.len() {
            next_row(self.reference, words, i, &last, &mut row);
            std::mem::swap(&mut last, &mut row);
        }
        let distance = last[self.reference.len()].0;
        self.scratch = [last, row];
        distance
    }

    /// Words that a text has in common with the table's, from the first on.
    fn common(&self, words: &[u32]) -> usize {
        self.words.iter().zip(words).take_while(|(a, b)| a == b).count()
    }

    fn distance(&self) -> u32 {
        self.rows[self.words.len()][self.reference.len()].0
    }

    fn alignment(&self) -> Alignment {
        let (mut i, mut j) = (self.words.len(), self.reference.len());
        let mut found = Alignment { behind: vec![0; j], wrong_words: vec![true; i], wrong_reference: vec![true; j] };
        while i > 0 || j > 0 {
            let step = match self.rows[i][j].1 {
                // A path that leaves the band takes the straight way home.
                _ if i == 0 => Step::Insert,
                _ if j == 0 => Step::Delete,
                step => step,
            };
            match step {
                Step::Same | Step::Replace => {
                    found.behind[j - 1] = i;
                    found.wrong_words[i - 1] = step == Step::Replace;
                    found.wrong_reference[j - 1] = step == Step::Replace;
                    (i, j) = (i - 1, j - 1);
                }
                Step::Insert => {
                    found.behind[j - 1] = i;
                    j -= 1;
                }
                Step::Delete | Step::None => i -= 1,
            }
        }
        found
    }
}

/// Row `i` of the table from the one before. Of equally cheap steps a replacement comes first, then a deletion.
fn next_row(reference: &[u32], words: &[u32], i: usize, before: &[(u32, Step)], row: &mut [(u32, Step)]) {
    row.fill((FAR, Step::None));
    let ratio = reference.len() as f64 / words.len() as f64;
    // Very unequal lengths need a wider band for rows to overlap at all.
    let beam = if BEAM < ratio / 2.0 { (ratio / 2.0 + BEAM).ceil() } else { BEAM };
    let diagonal = (i as f64 * ratio).floor();
    let first = (diagonal - beam).max(0.0) as usize;
    let end = if i == words.len() { row.len() } else { row.len().min((diagonal + beam) as usize) };
    for j in first..end {
        let mut cell = row[j];
        let mut offer = |cost: u32, step: Step| {
            if cost < cell.0 {
                cell = (cost, step);
            }
        };
        if j > 0 {
            let same = words[i - 1] == reference[j - 1];
            offer(before[j - 1].0 + u32::from(!same), if same { Step::Same } else { Step::Replace });
        }
        offer(before[j].0 + 1, Step::Delete);
        if j > 0 {
            offer(row[j - 1].0 + 1, Step::Insert);
        }
        row[j] = cell;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_moves_for_one_edit() {
        let of = |prediction: &str, reference: &str| {
            let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            edits(&words(prediction), &words(reference))
        };
        assert_eq!(of("a b c d e", "a b c d e"), 0);
        assert_eq!(of("d e a b c", "a b c d e"), 1);
        assert_eq!(of("a b x d e", "a b c d e"), 1);
        assert_eq!(of("b c d a x", "a b c d e"), 2);
    }

    #[test]
    fn a_run_is_put_where_it_is_aimed_at() {
        let words = [0, 1, 2, 3, 4, 5];
        assert_eq!(moved(&words, 2, 2, 0), [2, 3, 0, 1, 4, 5]);
        assert_eq!(moved(&words, 2, 2, 6), [0, 1, 4, 5, 2, 3]);
        assert_eq!(moved(&words, 2, 2, 5), [0, 1, 4, 2, 3, 5]);
        assert_eq!(moved(&words, 2, 2, 3), [0, 1, 4, 2, 3, 5]);
        assert_eq!(moved(&words, 2, 2, 2), words);
    }
}
