//! What happens to rows that cannot be used: the first ends the reading, or they are counted and the first few named.

use crate::{Counts, Dataset, OnBadRow, Result};

/// Lets good rows through.
#[derive(Debug)]
pub(super) struct Sieve {
    policy: OnBadRow,
    count: usize,
    messages: Vec<String>,
}

impl Sieve {
    pub(super) fn new(policy: OnBadRow) -> Sieve {
        Sieve { policy, count: 0, messages: Vec::new() }
    }

    /// The value; `None` where a row was bad and is counted.
    ///
    /// # Errors
    /// That of the row, where the first is to stop; any that is not about one row.
    pub(super) fn take<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.policy == OnBadRow::Count && error.is_of_one_row() => {
                self.count += 1;
                if self.messages.len() < Dataset::BAD_ROWS {
                    self.messages.push(error.to_string());
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether bad rows are counted.
    pub(super) fn counts(&self) -> bool {
        self.policy == OnBadRow::Count
    }

    /// A data set with what was counted.
    pub(super) fn told(self, dataset: Dataset) -> Dataset {
        Dataset { counts: Counts { bad: self.count, ..dataset.counts }, bad_rows: self.messages, ..dataset }
    }
}
