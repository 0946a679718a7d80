//! Spider (Yu et al., 2018): a question and the schema of its database to SQL. The instruction and the paper's form are
//! those of State-offset Tuning's published code.
//!
//! The paper's form has slips. `Schema` follows a literal backslash, not a line end. A foreign key names only the column it
//! refers to, not the one it is of. The query is lower-cased as a whole, so that `"Asia"` becomes `"asia"`, which is another
//! value to SQLite. The clean form has a line end, names both columns, and lower-cases what is outside quotes only.

use serde::Deserialize;

use super::glue::SEPARATOR;
use crate::Preset;

/// What every prompt begins with; tokenised on its own.
pub fn instruction(preset: Preset) -> &'static str {
    match preset {
        Preset::Paper => "Create a sql request for the following question and schema:\n###",
        Preset::Clean => "Create a sql request for the following question and schema:\n",
    }
}

/// The schema of a database, an entry of `tables.json`. Columns are counted over all tables; column 0 is `*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Schema {
    /// The database.
    pub db_id: String,
    /// Tables, as the database names them.
    #[serde(rename = "table_names_original")]
    pub tables: Vec<String>,
    /// Table and name of each column, as the database names it; table -1 for `*`.
    #[serde(rename = "column_names_original")]
    pub columns: Vec<(i64, String)>,
    /// Type of each column: text, number, time, boolean, others.
    #[serde(rename = "column_types")]
    pub types: Vec<String>,
    /// Columns that refer to another: (column, what it refers to).
    pub foreign_keys: Vec<(usize, usize)>,
    /// Columns that are a key, or part of one.
    pub primary_keys: Vec<PrimaryKey>,
}

/// A key of one column, or of several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PrimaryKey {
    /// One column.
    Column(usize),
    /// Several.
    Columns(Vec<usize>),
}

impl PrimaryKey {
    fn columns(&self) -> &[usize] {
        match self {
            PrimaryKey::Column(column) => std::slice::from_ref(column),
            PrimaryKey::Columns(columns) => columns,
        }
    }
}

impl Schema {
    /// What is wrong with the numbers in it, if anything.
    pub fn problem(&self) -> Option<String> {
        if self.types.len() != self.columns.len() {
            return Some(format!("{} column types for {} columns", self.types.len(), self.columns.len()));
        }
        let table = self.columns.iter().find(|(table, _)| *table >= self.tables.len() as i64);
        if let Some((table, name)) = table {
            return Some(format!("column `{name}` in table {table} of {}", self.tables.len()));
        }
        let foreign = self.foreign_keys.iter().flat_map(|&(from, to)| [from, to]);
        let mut keys = foreign.chain(self.primary_keys.iter().flat_map(|key| key.columns().iter().copied()));
        // A key has a table, so it is not `*`.
        let wrong = keys.find(|&column| self.columns.get(column).is_none_or(|(table, _)| *table < 0));
        wrong.map(|column| format!("a key of column {column}, which no table has"))
    }

    /// The schema as it stands in the prompt, lower-cased: tables joined by ` | `.
    ///
    /// The paper's form of a table is `name: col type ,  ... ,  foreign: col from table , ... ,  primary: col , ...`, with
    /// the column that is referred to. The clean form is `name: col type, ..., foreign: col = table.col, primary: col`,
    /// without keys where there are none. `problem` has to be none.
    pub fn text(&self, preset: Preset) -> String {
        let tables = self.tables.iter().enumerate().map(|(index, name)| self.table(index as i64, name, preset));
        tables.collect::<Vec<String>>().join(" | ").to_lowercase()
    }

    fn table(&self, index: i64, name: &str, preset: Preset) -> String {
        let column = |at: usize| self.columns[at].1.as_str();
        let table = |at: usize| self.tables[self.columns[at].0 as usize].as_str();
        let is_here = |at: &usize| self.columns[*at].0 == index;
        let described = (0..self.columns.len()).filter(is_here).map(|at| format!("{} {}", column(at), self.types[at]));
        let mut parts: Vec<String> = described.collect();
        let foreign = self.foreign_keys.iter().filter(|(from, _)| is_here(from));
        let keys =
            self.primary_keys.iter().flat_map(PrimaryKey::columns).filter(|at| is_here(at)).map(|&at| column(at));
        let keys: Vec<&str> = keys.collect();
        match preset {
            Preset::Paper => {
                let foreign: Vec<String> =
                    foreign.map(|&(_, to)| format!("{} from {}", column(to), table(to))).collect();
                parts.push(format!("foreign: {}", foreign.join(" , ")));
                parts.push(format!("primary: {}", keys.join(" , ")));
                format!("{name}: {}", parts.join(" ,  "))
            }
            Preset::Clean => {
                let foreign: Vec<String> =
                    foreign.map(|&(from, to)| format!("{} = {}.{}", column(from), table(to), column(to))).collect();
                for (word, list) in [("foreign", foreign.join(", ")), ("primary", keys.join(", "))] {
                    if !list.is_empty() {
                        parts.push(format!("{word}: {list}"));
                    }
                }
                format!("{name}: {}", parts.join(", "))
            }
        }
    }
}

/// The prompt after the instruction, for a question about a database whose schema reads `schema`.
pub fn prompt(question: &str, schema: &str, preset: Preset) -> String {
    match preset {
        Preset::Paper => format!("Question: {question}\\Schema: {schema}\n{SEPARATOR}"),
        Preset::Clean => format!("Question: {}\nSchema: {schema}\n{SEPARATOR}", question.trim()),
    }
}

/// The SQL to learn, lower-cased: all of it in the paper's form; in the clean one what is outside quotes, where runs of
/// blanks become one, and without the semicolon at the end.
pub fn answer(query: &str, preset: Preset) -> String {
    if preset == Preset::Paper {
        return query.to_lowercase();
    }
    let query = query.trim().trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let mut answer = String::with_capacity(query.len());
    let mut quote = None;
    for c in query.chars() {
        match quote {
            Some(open) => {
                answer.push(c);
                // A quote written twice inside closes and opens again.
                quote = Some(open).filter(|&open| open != c);
            }
            None if c.is_whitespace() => {
                if !answer.ends_with(' ') {
                    answer.push(' ');
                }
            }
            None => {
                quote = Some(c).filter(|c| matches!(c, '\'' | '"' | '`'));
                answer.extend(c.to_lowercase());
            }
        }
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_their_case() {
        let clean = |query: &str| answer(query, Preset::Clean);
        assert_eq!(
            clean("SELECT A ,  B FROM T WHERE C  =  \"Asia  X\" ;"),
            "select a , b from t where c = \"Asia  X\""
        );
        assert_eq!(
            clean("SELECT 'It''S A' FROM\n`Tab` WHERE Ä = \"X'Y\""),
            "select 'It''S A' from `Tab` where ä = \"X'Y\""
        );
        assert_eq!(answer("SELECT  'A';", Preset::Paper), "select  'a';");
    }

    #[test]
    fn both_forms_of_a_schema() {
        let json = r#"{"db_id": "d", "table_names_original": ["Sold", "Item"], "table_names": [],
            "column_names_original": [[-1, "*"], [0, "ItemId"], [0, "Day"], [1, "Id"]],
            "column_types": ["text", "number", "time", "number"],
            "foreign_keys": [[1, 3]], "primary_keys": [[1, 2], 3]}"#;
        let mut schema: Schema = serde_json::from_str(json).unwrap();
        assert_eq!(schema.problem(), None);
        let clean = "sold: itemid number, day time, foreign: itemid = item.id, primary: itemid, day | item: id number, primary: id";
        assert_eq!(schema.text(Preset::Clean), clean);
        let paper = "sold: itemid number ,  day time ,  foreign: id from item ,  primary: itemid , day | item: id number ,  foreign:  ,  primary: id";
        assert_eq!(schema.text(Preset::Paper), paper);
        schema.foreign_keys[0].1 = 0;
        assert_eq!(schema.problem().unwrap(), "a key of column 0, which no table has");
        schema.foreign_keys[0].1 = 4;
        assert_eq!(schema.problem().unwrap(), "a key of column 4, which no table has");
        schema.columns[3].0 = 2;
        assert_eq!(schema.problem().unwrap(), "column `Id` in table 2 of 2");
        schema.types.pop();
        assert_eq!(schema.problem().unwrap(), "3 column types for 4 columns");
    }
}
