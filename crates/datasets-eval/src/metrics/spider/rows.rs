//! Results of statements and when two are the same: by the rule of the official Spider evaluator, and strictly.

use std::cmp::Ordering;

use super::query::{ColumnUnit, Query};

/// A row of a result.
pub(super) type Row = Vec<Cell>;

/// A value of a result. Equal numbers are equal whether SQLite holds them as integers or not; text and number never are.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    /// UTF-8, if the database is in order.
    Text(Vec<u8>),
    Blob(Vec<u8>),
}

impl Cell {
    /// A real number, as an integer if it is one, so that equal numbers have one form.
    pub fn real(number: f64) -> Cell {
        // 2^63: what is below fits.
        let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&number);
        if fits && number.fract() == 0.0 { Cell::Integer(number as i64) } else { Cell::Real(number) }
    }

    fn rank(&self) -> u8 {
        match self {
            Cell::Null => 0,
            Cell::Integer(_) => 1,
            Cell::Real(_) => 2,
            Cell::Text(_) => 3,
            Cell::Blob(_) => 4,
        }
    }
}

impl Ord for Cell {
    /// Any order that all values have.
    fn cmp(&self, other: &Cell) -> Ordering {
        match (self, other) {
            (Cell::Integer(a), Cell::Integer(b)) => a.cmp(b),
            (Cell::Real(a), Cell::Real(b)) => a.total_cmp(b),
            (Cell::Text(a), Cell::Text(b)) | (Cell::Blob(a), Cell::Blob(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Cell {
    fn partial_cmp(&self, other: &Cell) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cell {
    fn eq(&self, other: &Cell) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Cell {}

/// Whether two results are the same: as many columns in the same order, the same rows as often, in the same order if
/// `ordered`.
pub(super) fn strictly_same(mut predicted: Vec<Row>, mut gold: Vec<Row>, ordered: bool) -> bool {
    if !ordered {
        predicted.sort_unstable();
        gold.sort_unstable();
    }
    predicted == gold
}

/// Whether every text can be read; the official evaluator fails at one that is not UTF-8.
pub(super) fn is_readable(rows: &[Row]) -> bool {
    rows.iter().flatten().all(|cell| !matches!(cell, Cell::Text(text) if std::str::from_utf8(text).is_err()))
}

/// Whether two results are the same to the official evaluator: a map from the column selected, without the aggregate
/// around it, to its values in the order of the rows. Of columns with one key the last stands. `None` where a query
/// names more columns than its rows have, at which the official evaluator fails.
pub(super) fn officially_same(predicted: (&Query, &[Row]), gold: (&Query, &[Row])) -> Option<bool> {
    let (ours, theirs) = (Columns::new(predicted)?, Columns::new(gold)?);
    Some(
        ours.0.len() == theirs.0.len()
            && ours.0.iter().all(|(key, at)| {
                let other = theirs.0.iter().find(|(other, _)| other == key);
                other.is_some_and(|(_, other)| same_column(predicted.1, *at, gold.1, *other))
            }),
    )
}

/// A selected column: alone, or with arithmetic and another.
type Key<'a> = (&'a ColumnUnit, Option<(usize, &'a ColumnUnit)>);

/// Keys and the places of their columns.
struct Columns<'a>(Vec<(Key<'a>, usize)>);

impl<'a> Columns<'a> {
    fn new((query, rows): (&'a Query, &[Row])) -> Option<Columns<'a>> {
        if rows.iter().any(|row| row.len() < query.select.len()) {
            return None;
        }
        let mut columns: Vec<(Key<'a>, usize)> = Vec::new();
        for (at, (_, value)) in query.select.iter().enumerate() {
            let key = (&value.first, value.second.as_ref().map(|second| (value.arithmetic, second)));
            match columns.iter_mut().find(|(other, _)| *other == key) {
                Some(column) => column.1 = at,
                None => columns.push((key, at)),
            }
        }
        Some(Columns(columns))
    }
}

fn same_column(ours: &[Row], at: usize, theirs: &[Row], other: usize) -> bool {
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| ours[at] == theirs[other])
}

#[cfg(test)]
mod tests {
    use super::Cell;

    #[test]
    fn numbers_are_equal_where_their_values_are() {
        assert_eq!(Cell::real(4.0), Cell::Integer(4));
        assert_eq!(Cell::real(-0.0), Cell::Integer(0));
        assert_eq!(Cell::real(0.5), Cell::real(0.5));
        assert_ne!(Cell::real(0.5), Cell::Integer(0));
        // Beyond 2^53 not every integer is a real number; beyond 2^63 none is an integer here.
        assert_ne!(Cell::real(9_007_199_254_740_992.0), Cell::Integer(9_007_199_254_740_993));
        assert_ne!(Cell::real(9_223_372_036_854_775_808.0), Cell::Integer(i64::MAX));
        assert_ne!(Cell::real(f64::INFINITY), Cell::real(f64::NEG_INFINITY));
    }

    #[test]
    fn values_of_other_kinds_are_other_values() {
        let cells =
            [Cell::Null, Cell::Integer(1), Cell::real(1.5), Cell::Text(b"1".to_vec()), Cell::Blob(b"1".to_vec())];
        for (i, a) in cells.iter().enumerate() {
            cells.iter().enumerate().for_each(|(j, b)| assert_eq!(a == b, i == j, "{a:?} {b:?}"));
        }
    }
}
