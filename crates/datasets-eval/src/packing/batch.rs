//! The next-token view of some examples, packed end to end.

use crate::Dataset;

/// Sequences end to end, with what is to be learnt from each: T tokens, S sequences, M targets.
/// The last token of each example is only a target, so it is not part of `ids`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBatch {
    /// Tokens of all sequences, `[T]`.
    pub ids: Vec<u32>,
    /// Where each sequence starts, and T at the end, `[S + 1]`.
    pub offsets: Vec<usize>,
    /// Index of each sequence's example in the data set, `[S]`.
    pub examples: Vec<usize>,
    /// [`Example::id`](crate::Example::id) of each sequence, `[S]`; random numbers are keyed by it.
    pub example_ids: Vec<u64>,
    /// Position in its example of each sequence's first token, `[S]`: 0, until a common prefix is cut.
    pub first_positions: Vec<u32>,
    /// Row (index into `ids`) whose hidden state predicts `targets[i]`, ascending, `[M]`.
    pub rows: Vec<u32>,
    /// The tokens to predict, `[M]`.
    pub targets: Vec<u32>,
    /// Which sequence a row belongs to, `[M]`.
    pub row_sequence: Vec<usize>,
}

impl PackedBatch {
    /// Packs the examples at `indices`, in this order. Panics if an index is not in the data set.
    #[track_caller]
    pub fn pack(dataset: &Dataset, indices: &[usize]) -> PackedBatch {
        let mut batch = PackedBatch {
            ids: Vec::new(),
            offsets: vec![0],
            examples: indices.to_vec(),
            example_ids: Vec::with_capacity(indices.len()),
            first_positions: vec![0; indices.len()],
            rows: Vec::new(),
            targets: Vec::new(),
            row_sequence: Vec::new(),
        };
        for (sequence, &index) in indices.iter().enumerate() {
            let example = &dataset.examples[index];
            let (tokens, from) = (&example.tokens, example.labelled_from);
            assert!(
                1 <= from && from < tokens.len(),
                "example {}: target {from} of {} tokens",
                example.id,
                tokens.len()
            );
            let start = batch.ids.len();
            batch.ids.extend_from_slice(&tokens[..tokens.len() - 1]);
            batch.offsets.push(batch.ids.len());
            batch.example_ids.push(example.id);
            batch.rows.extend((from..tokens.len()).map(|target| (start + target - 1) as u32));
            batch.targets.extend_from_slice(&tokens[from..]);
            batch.row_sequence.resize(batch.rows.len(), sequence);
        }
        batch
    }

    /// The number of sequences, S.
    pub fn sequences(&self) -> usize {
        self.examples.len()
    }

    /// Tokens of one sequence.
    #[track_caller]
    pub fn sequence(&self, index: usize) -> &[u32] {
        &self.ids[self.offsets[index]..self.offsets[index + 1]]
    }

    /// Cuts the longest prefix that all sequences share and returns its tokens: it can then be run once, its final
    /// states becoming the initial ones of every sequence. Each sequence keeps its labelled rows, hence at least one
    /// token; `first_positions` move on by the length of the prefix.
    pub fn split_common_prefix(&mut self) -> Vec<u32> {
        let Some(longest) = self.longest_cut() else { return Vec::new() };
        let first = self.sequence(0);
        let shared = (1..self.sequences()).fold(longest, |shared, s| {
            first.iter().zip(self.sequence(s)).take(shared).take_while(|(a, b)| a == b).count()
        });
        let prefix = first[..shared].to_vec();
        if shared == 0 {
            return prefix;
        }
        self.ids = (0..self.sequences()).flat_map(|s| self.sequence(s)[shared..].to_vec()).collect();
        for (s, offset) in self.offsets.iter_mut().enumerate() {
            *offset -= s * shared;
        }
        for (row, s) in self.rows.iter_mut().zip(&self.row_sequence) {
            *row -= ((s + 1) * shared) as u32;
        }
        self.first_positions.iter_mut().for_each(|position| *position += shared as u32);
        prefix
    }

    /// The most tokens that may be cut from every sequence; `None` without sequences. Every sequence has a labelled row.
    fn longest_cut(&self) -> Option<usize> {
        self.rows.iter().zip(&self.row_sequence).map(|(&row, &s)| row as usize - self.offsets[s]).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Example;
    use proptest::prelude::*;

    fn dataset(rows: &[(&[u32], usize)]) -> Dataset {
        let example = |(id, (tokens, from)): (usize, &(&[u32], usize))| Example {
            id: id as u64 + 10,
            tokens: tokens.to_vec(),
            labelled_from: *from,
            class: None,
        };
        Dataset { examples: rows.iter().enumerate().map(example).collect(), ..Dataset::default() }
    }

    #[test]
    fn packs_end_to_end() {
        let data = dataset(&[(&[1, 2, 3], 2), (&[1, 2, 5, 6, 7], 3), (&[8, 9], 1)]);
        let batch = PackedBatch::pack(&data, &[1, 0]);
        assert_eq!(batch.ids, [1, 2, 5, 6, 1, 2]);
        assert_eq!(batch.offsets, [0, 4, 6]);
        assert_eq!((batch.examples.as_slice(), batch.example_ids.as_slice()), (&[1, 0][..], &[11, 10][..]));
        assert_eq!(batch.rows, [2, 3, 5]);
        assert_eq!(batch.targets, [6, 7, 3]);
        assert_eq!(batch.row_sequence, [0, 0, 1]);
    }

    #[test]
    fn cuts_no_labelled_row() {
        let data = dataset(&[(&[1, 2, 3], 2), (&[1, 2, 5, 6, 7], 3)]);
        let mut batch = PackedBatch::pack(&data, &[0, 1]);
        // Both begin with 1, 2, but row 1 of the first is labelled.
        assert_eq!(batch.split_common_prefix(), [1]);
        assert_eq!((batch.ids.as_slice(), batch.offsets.as_slice()), (&[2, 2, 5, 6][..], &[0, 1, 4][..]));
        assert_eq!(batch.rows, [0, 2, 3]);
        assert_eq!(batch.first_positions, [1, 1]);
        assert_eq!(PackedBatch::pack(&data, &[]).split_common_prefix(), [0u32; 0]);
    }

    proptest! {
        /// Prefix and remainder together are the sequences again, each row still predicts its target, and one token
        /// more could not have been cut.
        #[test]
        fn a_cut_loses_nothing(
            prefix in prop::collection::vec(0u32..3, 0..9),
            tails in prop::collection::vec((prop::collection::vec(0u32..3, 2..9), 1usize..9), 1..5),
        ) {
            let rows: Vec<(Vec<u32>, usize)> = tails.iter().map(|(tail, from)| {
                ([&prefix[..], tail].concat(), prefix.len() + (*from).min(tail.len() - 1))
            }).collect();
            let borrowed: Vec<(&[u32], usize)> = rows.iter().map(|(tokens, from)| (&tokens[..], *from)).collect();
            let data = dataset(&borrowed);
            let indices: Vec<usize> = (0..rows.len()).collect();
            let whole = PackedBatch::pack(&data, &indices);
            let mut cut = whole.clone();
            let shared = cut.split_common_prefix();
            prop_assert!(shared.len() >= prefix.len());
            for s in 0..rows.len() {
                prop_assert!(!cut.sequence(s).is_empty());
                prop_assert_eq!([&shared[..], cut.sequence(s)].concat(), whole.sequence(s));
                prop_assert_eq!(cut.first_positions[s] as usize, shared.len());
            }
            prop_assert_eq!(&cut.targets, &whole.targets);
            for ((&row, &old), &s) in cut.rows.iter().zip(&whole.rows).zip(&cut.row_sequence) {
                prop_assert_eq!(row as usize - cut.offsets[s] + shared.len(), old as usize - whole.offsets[s]);
            }
            let next: Vec<_> = (0..rows.len()).map(|s| (cut.sequence(s)[0], cut.rows.contains(&(cut.offsets[s] as u32)))).collect();
            prop_assert!(next.iter().any(|&(token, labelled)| labelled || token != next[0].0));
        }
    }
}
