//! The world's database in SQLite: whether two statements find the same.

use rusqlite::Connection;
use rusqlite::types::Value;
use statetune::datasets_eval::world::World;

/// More rows than any table has: a statement that finds more is wrong.
const MAX_ROWS: usize = 10_000;

/// A database in memory that only answers.
pub struct Database(Connection);

impl Database {
    /// The tables of a world.
    pub fn of(world: &World) -> anyhow::Result<Database> {
        let connection = Connection::open_in_memory()?;
        connection.execute_batch(&world.sql_schema())?;
        connection.execute_batch(&world.sql_rows())?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(Database(connection))
    }

    /// Whether a statement runs.
    pub fn runs(&self, statement: &str) -> bool {
        self.rows(statement).is_ok()
    }

    /// Whether a statement runs and finds the rows that the right one finds, in its order if that has one.
    pub fn agrees(&self, predicted: &str, right: &str) -> bool {
        let (Ok(mut found), Ok(mut expected)) = (self.rows(predicted), self.rows(right)) else { return false };
        if !right.contains("order by") {
            found.sort();
            expected.sort();
        }
        found == expected
    }

    fn rows(&self, statement: &str) -> rusqlite::Result<Vec<String>> {
        let mut statement = self.0.prepare(statement)?;
        let columns = statement.column_count();
        let rows = statement.query_map([], |row| {
            let values: Result<Vec<Value>, _> = (0..columns).map(|column| row.get(column)).collect();
            Ok(format!("{:?}", values?))
        })?;
        rows.take(MAX_ROWS).collect()
    }
}
