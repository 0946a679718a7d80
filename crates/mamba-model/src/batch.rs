//! A packed batch: the tokens of all sequences end to end, and where each begins. There is no padding.

use statetune_tensor::Staged;

use statetune_tensor::ops::DropoutRows;

use crate::ModelError;

/// Token ids of a packed batch, with what identifies each token independently of its place in the batch.
#[derive(Debug, Clone)]
pub struct Batch {
    ids: Staged<u32>,         // [T]
    offsets: Staged<usize>,   // [S + 1]
    sequence_of: Staged<u32>, // [T]
    rows: DropoutRows,        // [T] each
    first_row: Staged<usize>, // [S], zeros: the row of a table with one row
    labelled: Option<Labelled>,
}

/// What dropout knows of the labelled rows, where it was found out before they are used.
#[derive(Debug, Clone)]
struct Labelled {
    of: Staged<u32>,   // [R]
    rows: DropoutRows, // [R] each
}

impl Batch {
    /// Packs sequences. The identity of sequence `s` is `s` and its first token has position 0.
    ///
    /// # Errors
    /// When there is no sequence or one is empty.
    pub fn new<S: AsRef<[u32]>>(sequences: &[S]) -> Result<Batch, ModelError> {
        let mut ids = Vec::new();
        let mut offsets = vec![0];
        for sequence in sequences {
            ids.extend_from_slice(sequence.as_ref());
            offsets.push(ids.len());
        }
        let examples: Vec<u64> = (0..sequences.len() as u64).collect();
        Batch::packed(ids, offsets, &examples, &vec![0; sequences.len()])
    }

    /// A batch that is packed already.
    ///
    /// `offsets` `[S + 1]` rise strictly from 0 to T; `examples` `[S]` identify the sequences in their data set and
    /// `first_positions` `[S]` say how many tokens came before (both matter to dropout only).
    ///
    /// # Errors
    /// When there is no sequence, one is empty, or the lengths do not fit.
    pub fn packed(
        ids: Vec<u32>,
        offsets: Vec<usize>,
        examples: &[u64],
        first_positions: &[u32],
    ) -> Result<Batch, ModelError> {
        let fail = |reason: String| Err(ModelError::Batch { reason });
        if offsets.len() < 2 {
            return fail("there is no sequence".into());
        }
        let count = offsets.len() - 1;
        if offsets[0] != 0 || offsets[count] != ids.len() {
            return fail(format!("offsets run from {} to {}, not from 0 to {}", offsets[0], offsets[count], ids.len()));
        }
        if let Some(s) = (0..count).find(|&s| offsets[s] >= offsets[s + 1]) {
            return fail(format!("sequence {s} is empty"));
        }
        if examples.len() != count || first_positions.len() != count {
            return fail(format!(
                "{} examples and {} positions for {count} sequences",
                examples.len(),
                first_positions.len()
            ));
        }
        let mut example = Vec::with_capacity(ids.len());
        let mut position = Vec::with_capacity(ids.len());
        for s in 0..count {
            let len = offsets[s + 1] - offsets[s];
            example.extend(std::iter::repeat_n(examples[s], len));
            position.extend((0..len as u32).map(|i| first_positions[s] + i));
        }
        let sequence_of: Vec<u32> =
            (0..count).flat_map(|s| std::iter::repeat_n(s as u32, offsets[s + 1] - offsets[s])).collect();
        Ok(Batch {
            ids: ids.into(),
            sequence_of: sequence_of.into(),
            offsets: offsets.into(),
            rows: DropoutRows { example: example.into(), position: position.into() },
            first_row: vec![0; count].into(),
            labelled: None,
        })
    }

    /// One sequence of `count` inputs that are no tokens. To dropout they belong to no example of any data set.
    pub(crate) fn virtual_inputs(count: usize) -> Batch {
        Batch {
            ids: vec![0; count].into(),
            offsets: [0, count].into(),
            sequence_of: vec![0; count].into(),
            rows: DropoutRows { example: vec![u64::MAX; count].into(), position: (0..count as u32).collect() },
            first_row: [0].into(),
            labelled: None,
        }
    }

    /// T.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// S.
    pub fn sequences(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Token ids, `[T]`.
    pub fn ids(&self) -> &Staged<u32> {
        &self.ids
    }

    /// Where the sequences start, `[S + 1]`.
    pub fn offsets(&self) -> &Staged<usize> {
        &self.offsets
    }

    /// The sequence of each token, `[T]`.
    pub fn sequence_of(&self) -> &Staged<u32> {
        &self.sequence_of
    }

    /// The batch with a dead tail, so that it has `tokens` tokens and `sequences` sequences: for a captured graph, which is
    /// of one size. The tail's tokens are one sequence that nobody reads; the rest of the sequences are empty.
    ///
    /// # Errors
    /// When the batch has more tokens than that, or needs more sequences.
    pub fn with_dead_tail(&self, tokens: usize, sequences: usize) -> Result<Batch, ModelError> {
        let (tail, live) = (tokens.checked_sub(self.tokens()), self.sequences());
        let needed = live + usize::from(tail != Some(0));
        let Some(tail) = tail.filter(|_| needed <= sequences) else {
            let reason = format!(
                "{} tokens in {live} sequences do not fit {tokens} tokens in {sequences} sequences",
                self.tokens()
            );
            return Err(ModelError::Batch { reason });
        };
        fn followed<T: statetune_tensor::Stage>(values: &[T], by: T, count: usize) -> Staged<T> {
            values.iter().copied().chain(std::iter::repeat_n(by, count)).collect()
        }
        Ok(Batch {
            ids: followed(&self.ids, 0, tail),
            offsets: followed(&self.offsets, tokens, sequences - live),
            sequence_of: followed(&self.sequence_of, live as u32, tail),
            rows: DropoutRows {
                example: followed(&self.rows.example, u64::MAX, tail),
                position: self.rows.position.iter().copied().chain(0..tail as u32).collect(),
            },
            first_row: vec![0; sequences].into(),
            labelled: None,
        })
    }

    /// The batch with what dropout knows of its rows and of the labelled ones: [`Batch::stage`] and [`Batch::rewrite`] then
    /// take them along, so that a captured graph draws the masks of the batch it is shown.
    pub fn for_dropout(self, labelled: &Staged<u32>) -> Batch {
        let rows = self.dropout_rows_of(labelled);
        Batch { labelled: Some(Labelled { of: labelled.clone(), rows }), ..self }
    }

    /// Brings all that a forward pass looks up onto a device.
    ///
    /// # Errors
    /// When the device fails.
    #[cfg(feature = "cuda")]
    pub fn stage(&self, cuda: &statetune_ssm_kernels::runtime::Cuda) -> Result<(), ModelError> {
        self.ids.on(cuda)?;
        self.offsets.on(cuda)?;
        self.sequence_of.on(cuda)?;
        self.first_row.on(cuda)?;
        if let Some(labelled) = &self.labelled {
            for rows in [&self.rows, &labelled.rows] {
                rows.example.on(cuda)?;
                rows.position.on(cuda)?;
            }
        }
        Ok(())
    }

    /// Puts the tokens of another batch of the same size in place of this one's on the device, for a captured graph to see.
    ///
    /// # Errors
    /// When the device fails.
    ///
    /// # Panics
    /// When the other has another number of tokens, sequences or, for dropout, labelled rows.
    #[cfg(feature = "cuda")]
    pub fn rewrite(&self, cuda: &statetune_ssm_kernels::runtime::Cuda, other: &Batch) -> Result<(), ModelError> {
        self.ids.rewrite(cuda, &other.ids)?;
        self.offsets.rewrite(cuda, &other.offsets)?;
        self.sequence_of.rewrite(cuda, &other.sequence_of)?;
        if let (Some(own), Some(theirs)) = (&self.labelled, &other.labelled) {
            for (own, theirs) in [(&self.rows, &other.rows), (&own.rows, &theirs.rows)] {
                own.example.rewrite(cuda, &theirs.example)?;
                own.position.rewrite(cuda, &theirs.position)?;
            }
        }
        Ok(())
    }

    /// What dropout knows of each row.
    pub fn dropout_rows(&self) -> &DropoutRows {
        &self.rows
    }

    /// What dropout knows of some of the rows; of one that is not there (a list may be filled up) that it is no example.
    pub(crate) fn dropout_rows_of(&self, rows: &Staged<u32>) -> DropoutRows {
        if let Some(labelled) = self.labelled.as_ref().filter(|labelled| labelled.of == *rows) {
            return labelled.rows.clone();
        }
        let of = |row: u32| Some((*self.rows.example.get(row as usize)?, self.rows.position[row as usize]));
        let known = |row: &u32| of(*row).unwrap_or((u64::MAX, 0));
        let (example, position): (Vec<u64>, Vec<u32>) = rows.iter().map(known).unzip();
        DropoutRows { example: example.into(), position: position.into() }
    }

    /// The row of the last token of each sequence, `[S]`.
    pub fn last_rows(&self) -> Vec<u32> {
        self.offsets[1..].iter().map(|&end| end as u32 - 1).collect()
    }

    /// Row 0 for every sequence: the lookup into what all sequences share.
    pub(crate) fn shared_row(&self) -> &Staged<usize> {
        &self.first_row
    }

    /// A row of its own for every sequence.
    pub(crate) fn own_rows(&self) -> Staged<usize> {
        (0..self.sequences()).collect()
    }
}
