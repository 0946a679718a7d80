//! What the official Spider evaluator leaves out of a query before it compares: literals, DISTINCT, and which of the
//! columns that a foreign key connects is meant.

use std::collections::{HashMap, HashSet};

use super::query::{ColumnUnit, Condition, Operand, Query, Table, ValueUnit};

/// The query as it is compared. Queries in FROM stay as they are, and of queries in conditions only literals go: so the
/// official evaluator does it.
pub(super) fn normal(mut query: Query, same: &HashMap<String, String>) -> Query {
    forget_literals(&mut query);
    let names = query.from.iter().filter_map(|table| match table {
        Table::Named(name) => Some(name.clone()),
        Table::Query(_) => None,
    });
    // Of queries after UNION and the like too, the tables of the first count.
    let columns = Columns { same, tables: names.collect() };
    columns.query(&mut query);
    query
}

fn forget_literals(query: &mut Query) {
    for condition in [&mut query.joined_on, &mut query.having, &mut query.filter] {
        for comparison in condition.comparisons_mut() {
            comparison.right = comparison.right.take().and_then(without_literals);
            comparison.upper = comparison.upper.take().and_then(without_literals);
        }
    }
    for other in [&mut query.intersect, &mut query.except, &mut query.union].into_iter().flatten() {
        forget_literals(other);
    }
}

fn without_literals(operand: Operand) -> Option<Operand> {
    match operand {
        Operand::Query(mut query) => {
            forget_literals(&mut query);
            Some(Operand::Query(query))
        }
        Operand::Number(_) | Operand::Text(_) | Operand::Column(_) => None,
    }
}

struct Columns<'a> {
    same: &'a HashMap<String, String>,
    tables: HashSet<String>,
}

impl Columns<'_> {
    fn query(&self, query: &mut Query) {
        query.distinct = false;
        query.select.iter_mut().for_each(|(_, value)| self.value(value));
        for condition in [&mut query.joined_on, &mut query.filter, &mut query.having] {
            self.condition(condition);
        }
        query.group_by.iter_mut().for_each(|column| self.column(column));
        query.order_by.iter_mut().flat_map(|order| &mut order.by).for_each(|value| self.value(value));
        for other in [&mut query.intersect, &mut query.except, &mut query.union].into_iter().flatten() {
            self.query(other);
        }
    }

    fn condition(&self, condition: &mut Condition) {
        condition.comparisons_mut().for_each(|comparison| self.value(&mut comparison.left));
    }

    fn value(&self, value: &mut ValueUnit) {
        self.column(&mut value.first);
        value.second.iter_mut().for_each(|column| self.column(column));
    }

    fn column(&self, unit: &mut ColumnUnit) {
        unit.distinct = false;
        let table = unit.column.split_once('.').map(|(table, _)| format!("{table}__"));
        if table.is_some_and(|table| self.tables.contains(&table))
            && let Some(first) = self.same.get(&unit.column)
        {
            unit.column.clone_from(first);
        }
    }
}
