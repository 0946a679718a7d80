//! How hard a gold query is, as the official Spider evaluator counts.

use serde::Serialize;

use super::query::{LIKE, Operand, Query};

/// The level of a gold query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hardness {
    /// At most one clause, no aggregate beside another, no nested query.
    Easy,
    /// Up to two.
    Medium,
    /// Up to three, or one nested query.
    Hard,
    /// More.
    Extra,
}

impl Hardness {
    /// All, from the easiest.
    pub const ALL: [Hardness; 4] = [Hardness::Easy, Hardness::Medium, Hardness::Hard, Hardness::Extra];

    /// The name in the official table.
    pub fn name(self) -> &'static str {
        match self {
            Hardness::Easy => "easy",
            Hardness::Medium => "medium",
            Hardness::Hard => "hard",
            Hardness::Extra => "extra",
        }
    }

    pub(super) fn of(query: &Query) -> Hardness {
        match (clauses(query), nested(query), others(query)) {
            (0..=1, 0, 0) => Hardness::Easy,
            (0..=1, 0, 0..=2) | (0..=2, 0, 0..=1) => Hardness::Medium,
            (0..=2, 0, 3..) | (3, 0, 0..=2) | (0..=1, 0..=1, 0) => Hardness::Hard,
            _ => Hardness::Extra,
        }
    }
}

/// WHERE, GROUP BY, ORDER BY, LIMIT, joins, words OR, LIKE.
fn clauses(query: &Query) -> usize {
    let present = [
        !query.filter.is_empty(),
        !query.group_by.is_empty(),
        query.order_by.is_some(),
        query.limit.is_some(), //
    ];
    let likes = query.comparisons().filter(|comparison| comparison.operator == LIKE).count();
    present.iter().filter(|present| **present).count() + query.from.len().saturating_sub(1) + query.ors() + likes
}

/// Queries in conditions and after INTERSECT, EXCEPT, UNION.
fn nested(query: &Query) -> usize {
    let operands = query.comparisons().flat_map(|comparison| [&comparison.right, &comparison.upper]);
    let inside = operands.flatten().filter(|operand| matches!(operand, Operand::Query(_))).count();
    inside + [&query.intersect, &query.except, &query.union].into_iter().flatten().count()
}

/// How many there are of: more than one aggregate, more than one column selected, more than one condition, more than one
/// column grouped by. As officially counted, NOT is an aggregate, and in HAVING so are AND and OR.
fn others(query: &Query) -> usize {
    let ordered = query.order_by.iter().flat_map(|order| &order.by);
    let aggregates = query.select.iter().filter(|(aggregate, _)| *aggregate != 0).count()
        + query.filter.comparisons().filter(|comparison| comparison.negated).count()
        + query.group_by.iter().filter(|column| column.aggregate != 0).count()
        + ordered
            .flat_map(|value| [Some(&value.first), value.second.as_ref()])
            .flatten()
            .filter(|column| column.aggregate != 0)
            .count()
        + query.having.comparisons().filter(|comparison| comparison.negated).count()
        + query.having.words().count();
    let many = [aggregates, query.select.len(), query.filter.0.len(), query.group_by.len()];
    many.iter().filter(|count| **count > 1).count()
}
