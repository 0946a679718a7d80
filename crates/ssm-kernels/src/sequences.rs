//! How a packed batch is cut into sequences, and how a sequence finds its row in a table of states or offsets.

/// The sequences of a packed batch: `offsets[s]..offsets[s + 1]` are the tokens of sequence `s`.
///
/// There is no padding: `offsets[0] = 0`, the last offset is T, and no sequence is empty.
#[derive(Debug, Clone, Copy)]
pub struct Sequences<'a> {
    offsets: &'a [usize], // [S + 1]
}

impl<'a> Sequences<'a> {
    /// Wraps offsets after checking that they rise strictly from 0.
    ///
    /// # Panics
    /// When they do not.
    #[track_caller]
    pub fn new(offsets: &'a [usize]) -> Self {
        assert!(offsets.first() == Some(&0), "sequence offsets must start at 0, found {:?}", offsets.first());
        assert!(offsets.windows(2).all(|w| w[0] < w[1]), "sequence offsets must rise strictly: {offsets:?}");
        Sequences { offsets }
    }

    /// S, the number of sequences.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether the batch holds no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// T, the number of tokens.
    pub fn tokens(&self) -> usize {
        self.offsets[self.len()]
    }

    /// The tokens of sequence `s`.
    pub fn range(&self, s: usize) -> std::ops::Range<usize> {
        self.offsets[s]..self.offsets[s + 1]
    }

    /// The offsets, S + 1 of them.
    pub fn offsets(&self) -> &'a [usize] {
        self.offsets
    }
}

/// Values looked up per sequence: sequence `s` uses row `row_of[s]` of `values`.
///
/// A trained adapter has one row; recurrent states have a row per sequence; a server's batch may mix adapters.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a, T> {
    /// `[rows, ...]`, rows end to end.
    pub values: &'a [T],
    /// `[S]`, the row of each sequence.
    pub row_of: &'a [usize],
}

impl<'a, T> Table<'a, T> {
    /// The row of sequence `s`, `width` elements long.
    pub fn row(&self, s: usize, width: usize) -> &'a [T] {
        &self.values[self.row_of[s] * width..][..width]
    }

    /// The number of rows of `width` elements.
    pub fn rows(&self, width: usize) -> usize {
        self.values.len() / width
    }

    /// Checks that there are `sequences` lookups and that each names a whole row.
    ///
    /// # Panics
    /// When it does not, naming the operand.
    #[track_caller]
    pub fn check(&self, name: &str, sequences: usize, width: usize) {
        assert_eq!(self.row_of.len(), sequences, "{name}: one row index per sequence");
        assert_eq!(self.values.len() % width, 0, "{name}: {} values are not whole rows of {width}", self.values.len());
        let rows = self.rows(width);
        assert!(self.row_of.iter().all(|&r| r < rows), "{name}: a row index passes the table's {rows} rows");
    }
}
