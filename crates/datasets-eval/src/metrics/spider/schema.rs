//! A database's tables and columns, and which columns a foreign key makes one, from `tables.json` and from the database.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use crate::{DataError, Result};

/// Tables and columns by their names in lower case.
#[derive(Clone, Debug, Default)]
pub(super) struct Schema {
    columns: HashMap<String, HashSet<String>>,
    /// `table.column` of all.
    composed: HashSet<String>,
}

impl Schema {
    pub fn new(tables: impl IntoIterator<Item = (String, Vec<String>)>) -> Schema {
        let mut schema = Schema::default();
        for (table, columns) in tables {
            let table = table.to_lowercase();
            let columns: HashSet<String> = columns.iter().map(|column| column.to_lowercase()).collect();
            schema.composed.extend(columns.iter().map(|column| format!("{table}.{column}")));
            schema.columns.insert(table, columns);
        }
        schema
    }

    pub fn tables(&self) -> impl Iterator<Item = &String> {
        self.columns.keys()
    }

    /// Whether there is such a column in the table; `None` if there is no such table.
    pub fn has_column(&self, table: &str, column: &str) -> Option<bool> {
        Some(self.columns.get(table)?.contains(column))
    }

    /// The identifier of `*`, a table or a `table.column`.
    pub fn identifier(&self, name: &str) -> Option<String> {
        if name == "*" {
            return Some("__all__".into());
        }
        let known = self.columns.contains_key(name) || self.composed.contains(name);
        known.then(|| format!("__{name}__"))
    }
}

/// What `tables.json` says of a database.
#[derive(Clone, Debug)]
pub(super) struct Described {
    /// Used where there is no database.
    pub schema: Schema,
    /// A column's identifier to that of the first column that foreign keys make the same.
    pub same: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    db_id: String,
    table_names_original: Vec<String>,
    column_names_original: Vec<(i64, String)>,
    foreign_keys: Vec<(usize, usize)>,
}

/// Reads `tables.json`.
pub(super) fn read(file: &Path) -> Result<HashMap<String, Described>> {
    let hint = "give the tables.json of Spider";
    let text = std::fs::read(file).map_err(|source| DataError::Io { file: file.into(), source, hint })?;
    let entries: Vec<Entry> = serde_json::from_slice(&text).map_err(|error| DataError::Row {
        file: file.into(),
        line: error.line(),
        expected: "a list of databases with db_id, table_names_original, column_names_original and foreign_keys".into(),
        found: error.to_string(),
        hint,
    })?;
    entries.into_iter().map(|entry| Ok((entry.db_id.clone(), describe(entry, file)?))).collect()
}

fn describe(entry: Entry, file: &Path) -> Result<Described> {
    let wrong = |field: &str, expected: String, found: String| DataError::Value {
        file: file.into(),
        line: 1,
        field: format!("{field} of {}", entry.db_id),
        expected,
        found,
        hint: "give the tables.json of Spider",
    };
    let mut tables: Vec<(String, Vec<String>)> =
        entry.table_names_original.iter().map(|name| (name.clone(), Vec::new())).collect();
    let mut identifiers = Vec::new();
    for (table, column) in &entry.column_names_original {
        let Ok(index) = usize::try_from(*table) else {
            identifiers.push("__all__".to_owned());
            continue;
        };
        let count = tables.len();
        let Some((name, columns)) = tables.get_mut(index) else {
            return Err(wrong("column_names_original", format!("tables below {count}"), table.to_string()));
        };
        identifiers.push(format!("__{}.{}__", name.to_lowercase(), column.to_lowercase()));
        columns.push(column.clone());
    }
    if let Some(key) = entry.foreign_keys.iter().find(|key| key.0.max(key.1) >= identifiers.len()) {
        let expected = format!("columns below {}", identifiers.len());
        return Err(wrong("foreign_keys", expected, format!("{key:?}")));
    }
    let mut same = HashMap::new();
    for set in key_sets(&entry.foreign_keys) {
        let first = set.first().map(|&index| identifiers[index].clone()).unwrap_or_default();
        same.extend(set.iter().map(|&index| (identifiers[index].clone(), first.clone())));
    }
    Ok(Described { schema: Schema::new(tables), same })
}

/// Columns that foreign keys connect. As in the official evaluator a key joins the first set that has one of its ends;
/// sets that a later key connects stay apart.
fn key_sets(keys: &[(usize, usize)]) -> Vec<BTreeSet<usize>> {
    let mut sets: Vec<BTreeSet<usize>> = Vec::new();
    for (from, to) in keys {
        match sets.iter_mut().find(|set| set.contains(from) || set.contains(to)) {
            Some(set) => set.extend([from, to]),
            None => sets.push(BTreeSet::from([*from, *to])),
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::key_sets;

    #[test]
    fn keys_join_the_first_set_that_has_an_end() {
        let sets = key_sets(&[(1, 2), (3, 4), (5, 2), (2, 3)]);
        assert_eq!(sets, [BTreeSet::from([1, 2, 3, 5]), BTreeSet::from([3, 4])]);
    }
}
