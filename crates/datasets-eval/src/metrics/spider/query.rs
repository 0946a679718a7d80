//! A query in the structure of the official Spider evaluator, in which two queries are compared. Columns and tables are
//! its identifiers: `__table.column__`, `__table__` and `__all__` for `*`.

/// Aggregates by their number; the first is none.
pub(super) const AGGREGATES: [&str; 6] = ["none", "max", "min", "count", "sum", "avg"];
/// Arithmetic by its number; the first is none.
pub(super) const ARITHMETIC: [&str; 5] = ["none", "-", "+", "*", "/"];
/// Comparisons by their number.
pub(super) const COMPARISONS: [&str; 12] =
    ["not", "between", "=", ">", "<", ">=", "<=", "!=", "in", "like", "is", "exists"];
/// Their numbers that are asked for.
pub(super) const BETWEEN: usize = 1;
pub(super) const IN: usize = 8;
pub(super) const LIKE: usize = 9;

/// A column with its aggregate.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ColumnUnit {
    pub aggregate: usize,
    pub column: String,
    pub distinct: bool,
}

/// One column, or two and what is between them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ValueUnit {
    pub arithmetic: usize,
    pub first: ColumnUnit,
    pub second: Option<ColumnUnit>,
}

/// What a column is compared with.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Number(f64),
    Text(String),
    Column(ColumnUnit),
    Query(Box<Query>),
}

/// A comparison; `upper` is the second operand of BETWEEN.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Comparison {
    pub negated: bool,
    pub operator: usize,
    pub left: ValueUnit,
    pub right: Option<Operand>,
    pub upper: Option<Operand>,
}

/// A part of a condition.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    Comparison(Box<Comparison>),
    And,
    Or,
}

/// Comparisons with AND and OR between them. As in the official evaluator they are told apart by their places: even ones
/// are comparisons (the parser sees to that), odd ones words, whatever stands there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Condition(pub Vec<Part>);

impl Condition {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn comparisons(&self) -> impl Iterator<Item = &Comparison> {
        self.0.iter().step_by(2).filter_map(|part| match part {
            Part::Comparison(comparison) => Some(&**comparison),
            Part::And | Part::Or => None,
        })
    }

    pub fn comparisons_mut(&mut self) -> impl Iterator<Item = &mut Comparison> {
        self.0.iter_mut().step_by(2).filter_map(|part| match part {
            Part::Comparison(comparison) => Some(&mut **comparison),
            Part::And | Part::Or => None,
        })
    }

    pub fn words(&self) -> impl Iterator<Item = &Part> {
        self.0.iter().skip(1).step_by(2)
    }
}

/// Something to select from.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Table {
    Named(String),
    Query(Box<Query>),
}

/// ORDER BY: one direction for all, the last that is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Order {
    pub descending: bool,
    pub by: Vec<ValueUnit>,
}

/// A query. [`Default`] is the empty one that stands in for a prediction that cannot be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Query {
    pub distinct: bool,
    /// Each with the aggregate around it.
    pub select: Vec<(usize, ValueUnit)>,
    pub from: Vec<Table>,
    pub joined_on: Condition,
    pub filter: Condition,
    pub group_by: Vec<ColumnUnit>,
    pub having: Condition,
    pub order_by: Option<Order>,
    /// The digits.
    pub limit: Option<String>,
    pub intersect: Option<Box<Query>>,
    pub union: Option<Box<Query>>,
    pub except: Option<Box<Query>>,
}

impl Query {
    /// The comparisons of ON, WHERE and HAVING.
    pub fn comparisons(&self) -> impl Iterator<Item = &Comparison> {
        self.joined_on.comparisons().chain(self.filter.comparisons()).chain(self.having.comparisons())
    }

    /// How many words OR are in ON, WHERE and HAVING.
    pub fn ors(&self) -> usize {
        let words = self.joined_on.words().chain(self.filter.words()).chain(self.having.words());
        words.filter(|word| **word == Part::Or).count()
    }
}
