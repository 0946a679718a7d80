//! Exact set match of two queries, whole and per component, as the official Spider evaluator compares (Yu et al. 2018,
//! "Spider: A Large-Scale Human-Labeled Dataset for Complex and Cross-Domain Semantic Parsing and Text-to-SQL Task").

use std::collections::BTreeSet;

use serde::Serialize;

use super::query::{IN, LIKE, Part, Query};

/// The components, in the order and by the names of the official table.
pub const COMPONENTS: [&str; 10] = [
    "select",
    "select(no AGG)",
    "where",
    "where(no OP)",
    "group(no Having)",
    "group",
    "order",
    "and/or",
    "IUEN",
    "keywords",
];

/// Whether a component of a prediction is that of the gold query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ComponentMatch {
    /// Whether all of it is the same; also where neither query has it, for `exact` but not for accuracy and recall.
    pub same: bool,
    /// Whether the prediction has it: then it counts in the component's accuracy.
    pub in_prediction: bool,
    /// Whether the gold query has it: then it counts in the component's recall.
    pub in_gold: bool,
}

/// When the tables of two queries are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableRule {
    /// Always: the evaluator since 25 October 2018.
    #[default]
    Always,
    /// Where the gold query has more than one: the evaluator before, by which its published example was scored.
    Joins,
}

impl TableRule {
    /// The fewest tables of a gold query that are compared.
    fn fewest(self) -> usize {
        match self {
            TableRule::Always => 1,
            TableRule::Joins => 2,
        }
    }
}

/// How many parts of a component agree, and how many there are.
struct Counts {
    common: usize,
    predicted: usize,
    gold: usize,
}

impl Counts {
    fn verdict(&self) -> ComponentMatch {
        ComponentMatch {
            same: self.predicted == self.gold && self.common == self.predicted,
            in_prediction: self.predicted > 0,
            in_gold: self.gold > 0,
        }
    }
}

/// Every component in the order of [`COMPONENTS`]; the queries are normal.
pub(super) fn components(predicted: &Query, gold: &Query, rule: TableRule) -> [ComponentMatch; 10] {
    let select = sets(&predicted.select, &gold.select);
    let without = |query: &Query| query.select.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>();
    let select_without = sets(&without(predicted), &without(gold));
    let conditions = |query: &Query| query.filter.comparisons().cloned().collect::<Vec<_>>();
    let (ours, theirs) = (conditions(predicted), conditions(gold));
    let left = |query: &Query| query.filter.comparisons().map(|comparison| comparison.left.clone()).collect::<Vec<_>>();
    [
        select.verdict(),
        select_without.verdict(),
        sets(&ours, &theirs).verdict(),
        sets(&left(predicted), &left(gold)).verdict(),
        sets(&grouped(predicted), &grouped(gold)).verdict(),
        group(predicted, gold).verdict(),
        order(predicted, gold).verdict(),
        and_or(predicted, gold).verdict(),
        set_operations(predicted, gold, rule).verdict(),
        keywords_of_both(predicted, gold).verdict(),
    ]
}

/// Whether all components are the same and so are the tables; the queries are normal.
pub(super) fn exact(components: &[ComponentMatch], predicted: &Query, gold: &Query, rule: TableRule) -> bool {
    let tables = sets(&predicted.from, &gold.from).verdict();
    components.iter().all(|component| component.same) && (gold.from.len() < rule.fewest() || tables.same)
}

/// Common members of two multisets.
fn sets<T: PartialEq>(predicted: &[T], gold: &[T]) -> Counts {
    let mut rest: Vec<&T> = gold.iter().collect();
    let mut common = 0;
    for member in predicted {
        if let Some(i) = rest.iter().position(|other| *other == member) {
            rest.swap_remove(i);
            common += 1;
        }
    }
    Counts { common, predicted: predicted.len(), gold: gold.len() }
}

/// Columns grouped by, without their tables.
fn grouped(query: &Query) -> Vec<&str> {
    let column = |name: &'_ str| name.find('.').map_or(0, |at| at + 1);
    query.group_by.iter().map(|unit| unit.column[column(&unit.column)..].split('.').next().unwrap_or("")).collect()
}

fn group(predicted: &Query, gold: &Query) -> Counts {
    let columns = |query: &Query| query.group_by.iter().map(|unit| unit.column.clone()).collect::<Vec<_>>();
    let both = !predicted.group_by.is_empty() && !gold.group_by.is_empty();
    let same = both && columns(predicted) == columns(gold) && predicted.having == gold.having;
    one(same, !predicted.group_by.is_empty(), !gold.group_by.is_empty())
}

fn order(predicted: &Query, gold: &Query) -> Counts {
    let same = gold.order_by.is_some()
        && predicted.order_by == gold.order_by
        && predicted.limit.is_some() == gold.limit.is_some();
    one(same, predicted.order_by.is_some(), gold.order_by.is_some())
}

fn one(same: bool, predicted: bool, gold: bool) -> Counts {
    Counts { common: usize::from(same), predicted: usize::from(predicted), gold: usize::from(gold) }
}

/// The words between conditions, as sets. Where they differ, each query's number stands in the place of the other's, as
/// officially.
fn and_or(predicted: &Query, gold: &Query) -> Counts {
    let (ours, theirs) = (unique(predicted), unique(gold));
    if ours.len() == theirs.len() && ours.iter().all(|word| theirs.contains(word)) {
        return Counts { common: 1, predicted: 1, gold: 1 };
    }
    Counts { common: 0, predicted: theirs.len(), gold: ours.len() }
}

fn unique(query: &Query) -> Vec<&Part> {
    let mut words: Vec<&Part> = Vec::new();
    for word in query.filter.words() {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

/// INTERSECT, UNION, EXCEPT and, by the component's name, nested queries, though none but those after the three count.
fn set_operations(predicted: &Query, gold: &Query, rule: TableRule) -> Counts {
    let mut counts = Counts { common: 0, predicted: 0, gold: 0 };
    let pairs = [
        (&predicted.intersect, &gold.intersect),
        (&predicted.except, &gold.except),
        (&predicted.union, &gold.union), //
    ];
    for (ours, theirs) in pairs {
        counts.predicted += usize::from(ours.is_some());
        counts.gold += usize::from(theirs.is_some());
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            counts.common += usize::from(exact(&components(ours, theirs, rule), ours, theirs, rule));
        }
    }
    counts
}

fn keywords_of_both(predicted: &Query, gold: &Query) -> Counts {
    let (ours, theirs) = (keywords(predicted), keywords(gold));
    Counts { common: ours.intersection(&theirs).count(), predicted: ours.len(), gold: theirs.len() }
}

fn keywords(query: &Query) -> BTreeSet<&'static str> {
    let direction = |descending: bool| if descending { "desc" } else { "asc" };
    let present = [
        ("where", !query.filter.is_empty()),
        ("group", !query.group_by.is_empty()),
        ("having", !query.having.is_empty()),
        ("order", query.order_by.is_some()),
        ("limit", query.limit.is_some()),
        ("except", query.except.is_some()),
        ("union", query.union.is_some()),
        ("intersect", query.intersect.is_some()),
        ("or", query.ors() > 0),
        ("not", query.comparisons().any(|comparison| comparison.negated)),
        ("in", query.comparisons().any(|comparison| comparison.operator == IN)),
        ("like", query.comparisons().any(|comparison| comparison.operator == LIKE)),
    ];
    let present = present.into_iter().filter(|(_, present)| *present).map(|(word, _)| word);
    present.chain(query.order_by.as_ref().map(|order| direction(order.descending))).collect()
}
