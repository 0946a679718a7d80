//! The query task: a question about the world's database and the headings of its tables, to a statement of SQL. Words
//! of statements are written small, as SQLite allows, because the tokenizer and the base know them so. Values come from
//! rows that exist, so that every statement finds something.

use super::{TaskExample, answered};
use crate::world::database::{Filter, Table, Value};
use crate::world::rng::Rng;
use crate::world::template::capital_at;

/// One condition on a column.
struct Condition {
    column: usize,
    /// `=`, `>` or `<`.
    sign: &'static str,
    value: Value,
    /// As the question says it: "older than 10 years".
    phrase: String,
}

/// What is asked of the rows that meet the conditions.
enum Form {
    Names,
    Count,
    /// One column of a named row.
    Lookup(usize),
    /// The row with the most (or least) of a numeric column.
    Extreme {
        column: usize,
        most: bool,
    },
    /// `avg`, `max`, `min` or `sum` of a numeric column, and the word the question uses.
    Aggregate {
        column: usize,
        function: (&'static str, &'static str),
    },
    /// How many there are for each value of a column of text.
    PerGroup(usize),
    /// Names in the order of a numeric column.
    Sorted {
        column: usize,
        down: bool,
    },
    /// Names of what lies in towns of a condition, which is on the table of towns.
    InTowns,
}

/// A question with its statement.
pub(crate) struct Query<'t> {
    table: &'t Table,
    towns: &'t Table,
    conditions: Vec<Condition>,
    form: Form,
}

/// A condition that `row` meets, on a column that none of `used` has.
fn condition(table: &Table, row: &[Value], used: &[Condition], rng: &mut Rng) -> Condition {
    let free = |&column: &usize| {
        let filter = &table.layout.columns[column].filter;
        !matches!(filter, Filter::None) && used.iter().all(|other| other.column != column)
    };
    let free: Vec<usize> = (0..row.len()).filter(free).collect();
    let column = rng.pick(&free);
    let (sign, value, phrase) = match (&table.layout.columns[column].filter, &row[column]) {
        (Filter::Number { over, under, .. }, Value::Number(number)) => {
            let step = if *number >= 100 { 100 } else { 1 } * rng.between(1, 5);
            match rng.percent(50) && *number > step {
                true => (">", Value::Number(number - step), *over),
                false => ("<", Value::Number(number + step), *under),
            }
        }
        (Filter::Is(phrase), value) => ("=", value.clone(), *phrase),
        _ => unreachable!("numeric filters are on numeric columns, and columns without a filter were left out"),
    };
    let phrase = phrase.replace("{}", &value.plain());
    Condition { column, sign, value, phrase }
}

impl<'t> Query<'t> {
    /// Draws a question about one of the world's tables.
    pub(crate) fn draw(tables: &'t [Table; 5], rng: &mut Rng) -> Query<'t> {
        let (table, towns) = (&tables[rng.pick(&[0, 0, 1, 1, 2, 2, 3, 4])], &tables[3]);
        let row = rng.one_of(&table.rows);
        let columns = table.layout.columns;
        let number = |column: &usize| matches!(columns[*column].filter, Filter::Number { .. });
        let numbers: Vec<usize> = (0..columns.len()).filter(number).collect();
        let texts: Vec<usize> = (0..columns.len()).filter(|&c| matches!(columns[c].filter, Filter::Is(_))).collect();
        let column = rng.pick(&numbers);
        const FUNCTIONS: [(&str, &str); 4] =
            [("avg", "average"), ("max", "highest"), ("min", "lowest"), ("sum", "total")];
        let (form, low, high) = match rng.below(20) {
            0..5 => (Form::Names, 1, 2),
            5..9 => (Form::Count, 1, 2),
            9..12 => (Form::Lookup(rng.between(1, columns.len() - 1)), 0, 0),
            12..14 => (Form::Extreme { column, most: rng.percent(50) }, 0, 1),
            14..16 => (Form::Aggregate { column, function: rng.pick(&FUNCTIONS) }, 0, 1),
            16 => (Form::PerGroup(rng.pick(&texts)), 0, 1),
            17 => (Form::Sorted { column, down: rng.percent(50) }, 1, 1),
            // Only ships, shops and people lie in towns.
            _ if columns.iter().any(|column| column.name == "town") => (Form::InTowns, 0, 0),
            _ => (Form::Names, 1, 2),
        };
        let mut conditions: Vec<Condition> = Vec::new();
        for _ in 0..rng.between(low, high) {
            let next = condition(table, row, &conditions, rng);
            conditions.push(next);
        }
        match form {
            Form::Lookup(_) => {
                let value = row[0].clone();
                conditions.push(Condition { column: 0, sign: "=", phrase: value.plain(), value });
            }
            Form::InTowns => {
                let of = columns.iter().position(|column| column.name == "town").expect("checked above");
                let town = towns.rows.iter().find(|town| town[0] == row[of]).expect("every town is in the table");
                conditions.push(condition(towns, town, &[], rng));
            }
            _ => {}
        }
        Query { table, towns, conditions, form }
    }

    fn column(&self, column: usize) -> &'static str {
        self.table.layout.columns[column].name
    }

    /// The question in English.
    pub(crate) fn question(&self, rng: &mut Rng) -> String {
        let (many, one) = (self.table.layout.name, self.table.layout.one);
        let such: String = self.conditions.iter().map(|condition| format!(" {}", condition.phrase)).collect();
        let mut question = match self.form {
            Form::Names => match rng.below(3) {
                0 => format!("which {many} are there{such}?"),
                1 => format!("list the {many}{such}."),
                _ => format!("name the {many}{such}."),
            },
            Form::Count => match rng.below(2) {
                0 => format!("how many {many} are there{such}?"),
                _ => format!("count the {many}{such}."),
            },
            Form::Lookup(column) => self.table.layout.columns[column].ask.replace("{}", such.trim_start()),
            Form::Extreme { column, most: up } => match self.table.layout.columns[column].filter {
                Filter::Number { most, least, .. } => {
                    format!("which {one}{such} is {}?", if up { most } else { least })
                }
                _ => unreachable!("extremes are of numeric columns"),
            },
            Form::Aggregate { column, function } => {
                let what = if self.column(column) == "people" { "number of people" } else { self.column(column) };
                format!("what is the {} {what} of the {many}{such}?", function.1)
            }
            Form::PerGroup(column) => format!("how many {many}{such} are there for each {}?", self.column(column)),
            Form::Sorted { column, down } => {
                let order = if down { "from the highest to the lowest" } else { "from the lowest to the highest" };
                format!("list the {many}{such} by {}, {order}.", self.column(column))
            }
            Form::InTowns => format!("which {many} are there in the towns{such}?"),
        };
        capital_at(&mut question, 0);
        question
    }

    /// The statement.
    pub(crate) fn statement(&self) -> String {
        let from = self.table.layout.name;
        let one = |condition: &Condition| {
            format!("{} {} {}", self.column(condition.column), condition.sign, condition.value.literal())
        };
        let conditions: Vec<String> = match self.form {
            Form::InTowns => Vec::new(),
            _ => self.conditions.iter().map(one).collect(),
        };
        let such = if conditions.is_empty() { String::new() } else { format!(" where {}", conditions.join(" and ")) };
        match self.form {
            Form::Names => format!("select name from {from}{such}"),
            Form::Count => format!("select count(*) from {from}{such}"),
            Form::Lookup(column) => format!("select {} from {from}{such}", self.column(column)),
            Form::Extreme { column, most } => {
                let order = if most { "desc" } else { "asc" };
                format!("select name from {from}{such} order by {} {order} limit 1", self.column(column))
            }
            Form::Aggregate { column, function } => {
                format!("select {}({}) from {from}{such}", function.0, self.column(column))
            }
            Form::PerGroup(column) => {
                let by = self.column(column);
                format!("select {by}, count(*) from {from}{such} group by {by}")
            }
            Form::Sorted { column, down } => {
                let order = if down { "desc" } else { "asc" };
                format!("select name from {from}{such} order by {} {order}", self.column(column))
            }
            Form::InTowns => {
                let Condition { column, sign, value, .. } = &self.conditions[0];
                format!(
                    "select {from}.name from {from} join towns on {from}.town = towns.name where towns.{} {sign} {}",
                    self.towns.layout.columns[*column].name,
                    value.literal()
                )
            }
        }
    }

    /// The rows that meet the conditions.
    fn rows(&self) -> Vec<&'t [Value]> {
        let meets = |row: &[Value], condition: &Condition| match (&row[condition.column], &condition.value) {
            (Value::Number(a), Value::Number(b)) if condition.sign == ">" => a > b,
            (Value::Number(a), Value::Number(b)) if condition.sign == "<" => a < b,
            (a, b) => a == b,
        };
        let all = |row: &&'t Vec<Value>| self.conditions.iter().all(|condition| meets(row, condition));
        self.table.rows.iter().filter(all).map(Vec::as_slice).collect()
    }

    /// The answer as the text writes it, for the forms whose answer is short: names, a number, a value.
    pub(crate) fn answer(&self) -> Option<Vec<String>> {
        match self.form {
            Form::Names => Some(self.rows().iter().map(|row| row[0].plain()).collect()),
            Form::Count => Some(vec![self.rows().len().to_string()]),
            Form::Lookup(column) => Some(vec![self.rows()[0][column].plain()]),
            _ => None,
        }
    }

    /// The headings a prompt shows: the tables of the statement, and at times one that it does not need.
    fn headings(&self, tables: &[Table; 5], rng: &mut Rng) -> String {
        let mut shown = vec![self.table];
        if matches!(self.form, Form::InTowns) {
            shown.push(self.towns);
        } else if rng.percent(40) {
            let other = rng.one_of(tables);
            if other.layout.name != self.table.layout.name {
                shown.push(other);
            }
        }
        rng.shuffle(&mut shown);
        shown.iter().map(|table| table.heading()).collect::<Vec<_>>().join("; ")
    }
}

/// An example about the tables of the world itself, and its key.
pub(super) fn draw(tables: &[Table; 5], rng: &mut Rng) -> (String, TaskExample) {
    let query = Query::draw(tables, rng);
    let question = query.question(rng);
    let headings = query.headings(tables, rng);
    answered(format!("Write the query for the question. ### {question} ### {headings} ###"), query.statement())
}
