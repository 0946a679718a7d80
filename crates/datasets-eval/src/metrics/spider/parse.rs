//! Tokens into a [`Query`], accepting what the parser of the official Spider evaluator accepts (`process_sql.py`), no
//! more and no less: joins only by JOIN, aliases only of tables, no arithmetic with constants.

use std::collections::HashMap;

use super::query::{
    AGGREGATES, ARITHMETIC, BETWEEN, COMPARISONS, ColumnUnit, Comparison, Condition, Operand, Order, Part, Query,
    Table, ValueUnit,
};
use super::schema::Schema;
use super::tokens::tokens;

/// How deep queries may stand in each other, or follow each other after UNION and the like.
const MAX_DEPTH: usize = 200;

const CLAUSES: [&str; 9] = ["select", "from", "where", "group", "order", "limit", "intersect", "union", "except"];
const JOINS: [&str; 3] = ["join", "on", "as"];
const SETS: [&str; 3] = ["intersect", "union", "except"];

type Parsed<T> = Result<T, String>;

/// Reads a query.
///
/// # Errors
///
/// What was expected and what was found, where the official parser fails.
pub(super) fn parse(sql: &str, schema: &Schema) -> Parsed<Query> {
    let tokens = tokens(sql)?;
    let aliases = aliases(&tokens, schema)?;
    Parser { tokens: &tokens, at: 0, depth: 0, aliases: &aliases, schema }.query()
}

/// Every word before AS by the one after it, wherever they stand, and the tables by their own names.
fn aliases(tokens: &[String], schema: &Schema) -> Parsed<HashMap<String, String>> {
    let mut aliases = HashMap::new();
    for (i, _) in tokens.iter().enumerate().filter(|(_, token)| *token == "as") {
        let before = if i == 0 { tokens.last() } else { tokens.get(i - 1) };
        let (Some(alias), Some(table)) = (tokens.get(i + 1), before) else {
            return Err("expected a name after `as`, found the end".into());
        };
        aliases.insert(alias.clone(), table.clone());
    }
    for table in schema.tables() {
        if aliases.insert(table.clone(), table.clone()).is_some() {
            return Err(format!("expected an alias that is no table, found `{table}`"));
        }
    }
    Ok(aliases)
}

#[derive(Clone)]
struct Parser<'a> {
    tokens: &'a [String],
    at: usize,
    depth: usize,
    aliases: &'a HashMap<String, String>,
    schema: &'a Schema,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.tokens.get(self.at).map(String::as_str)
    }

    /// The token here; there has to be one.
    fn here(&self, expected: &str) -> Parsed<&'a str> {
        self.peek().ok_or_else(|| format!("expected {expected}, found the end"))
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.peek() == Some(token);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        let found = self.here(&format!("`{token}`"))?;
        self.at += 1;
        if found == token { Ok(()) } else { Err(format!("expected `{token}`, found `{found}`")) }
    }

    fn at_any(&self, tokens: &[&str]) -> bool {
        self.peek().is_some_and(|token| tokens.contains(&token))
    }

    fn at_end_of_part(&self) -> bool {
        self.at_any(&CLAUSES) || self.at_any(&[")", ";"])
    }

    fn query(&mut self) -> Parsed<Query> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("expected at most {MAX_DEPTH} queries within each other, found more"));
        }
        let start = self.at;
        self.here("a query")?;
        let block = self.eat("(");
        let select = self.at;
        // FROM is read first: it says whose columns the others are.
        let from = self.tokens.get(start..).unwrap_or_default().iter().position(|token| token == "from");
        self.at = start + from.ok_or("expected `from`, found none")? + 1;
        let mut query = Query::default();
        let tables = self.from(&mut query)?;
        let after_from = self.at;
        self.at = select;
        self.select(&mut query, &tables)?;
        self.at = after_from;
        if self.eat("where") {
            query.filter = self.condition(&tables)?;
        }
        if self.eat("group") {
            query.group_by = self.group_by(&tables)?;
        }
        if self.eat("having") {
            query.having = self.condition(&tables)?;
        }
        if self.eat("order") {
            query.order_by = Some(self.order_by(&tables)?);
        }
        if self.eat("limit") {
            query.limit = Some(integer(self.here("a number after `limit`")?)?);
            self.at += 1;
        }
        while self.eat(";") {}
        if block {
            self.expect(")")?;
        }
        while self.eat(";") {}
        if self.at_any(&SETS) {
            let word = self.here("a word")?;
            self.at += 1;
            let other = Some(Box::new(self.query()?));
            match word {
                "intersect" => query.intersect = other,
                "union" => query.union = other,
                _ => query.except = other,
            }
        }
        self.depth -= 1;
        Ok(query)
    }

    /// Tables and ON; the names of the tables.
    fn from(&mut self, query: &mut Query) -> Parsed<Vec<String>> {
        let mut names = Vec::new();
        while self.peek().is_some() {
            let block = self.eat("(");
            if self.here("a table")? == "select" {
                query.from.push(Table::Query(Box::new(self.query()?)));
            } else {
                self.eat("join");
                let name = self.here("a table")?;
                let table = self.aliases.get(name).ok_or_else(|| format!("expected a table, found `{name}`"))?;
                self.at += 1;
                if self.peek() == Some("as") {
                    self.at += 2;
                }
                let known = self.schema.identifier(table);
                query.from.push(Table::Named(known.ok_or_else(|| format!("expected a table, found `{table}`"))?));
                names.push(table.clone());
            }
            if self.eat("on") {
                let on = self.condition(&names)?;
                if !query.joined_on.is_empty() {
                    query.joined_on.0.push(Part::And);
                }
                query.joined_on.0.extend(on.0);
            }
            if block {
                self.expect(")")?;
            }
            if self.at_end_of_part() {
                break;
            }
        }
        checked(&query.joined_on)?;
        Ok(names)
    }

    fn select(&mut self, query: &mut Query, tables: &[String]) -> Parsed<()> {
        self.expect("select")?;
        query.distinct = self.eat("distinct");
        while self.peek().is_some() && !self.at_any(&CLAUSES) {
            let aggregate = number_of(self.here("a column")?, &AGGREGATES);
            self.at += usize::from(aggregate.is_some());
            let value = self.value(tables)?;
            query.select.push((aggregate.unwrap_or(0), value));
            self.eat(",");
        }
        Ok(())
    }

    fn group_by(&mut self, tables: &[String]) -> Parsed<Vec<ColumnUnit>> {
        self.expect("by")?;
        let mut columns = Vec::new();
        while self.peek().is_some() && !self.at_end_of_part() {
            columns.push(self.column_unit(tables)?);
            if !self.eat(",") {
                break;
            }
        }
        Ok(columns)
    }

    fn order_by(&mut self, tables: &[String]) -> Parsed<Order> {
        self.expect("by")?;
        let mut order = Order { descending: false, by: Vec::new() };
        while self.peek().is_some() && !self.at_end_of_part() {
            order.by.push(self.value(tables)?);
            if self.at_any(&["asc", "desc"]) {
                order.descending = self.peek() == Some("desc");
                self.at += 1;
            }
            if !self.eat(",") {
                break;
            }
        }
        Ok(order)
    }

    fn condition(&mut self, tables: &[String]) -> Parsed<Condition> {
        let mut condition = Condition::default();
        while self.peek().is_some() {
            let left = self.value(tables)?;
            self.here("a comparison")?;
            let negated = self.eat("not");
            let word = self.here("a comparison")?;
            let operator = number_of(word, &COMPARISONS);
            let operator = operator.ok_or_else(|| format!("expected a comparison, found `{word}`"))?;
            self.at += 1;
            let right = Some(self.operand(tables)?);
            let mut upper = None;
            if operator == BETWEEN {
                self.expect("and")?;
                upper = Some(self.operand(tables)?);
            }
            condition.0.push(Part::Comparison(Box::new(Comparison { negated, operator, left, right, upper })));
            if self.at_end_of_part() || self.at_any(&JOINS) {
                break;
            }
            if self.eat("and") {
                condition.0.push(Part::And);
            } else if self.eat("or") {
                condition.0.push(Part::Or);
            }
        }
        checked(&condition)?;
        Ok(condition)
    }

    /// What stands on the right of a comparison.
    fn operand(&mut self, tables: &[String]) -> Parsed<Operand> {
        let start = self.at;
        self.here("a value")?;
        let block = self.eat("(");
        let token = self.here("a value")?;
        let operand = if token == "select" {
            Operand::Query(Box::new(self.query()?))
        } else if token.contains('"') {
            self.at += 1;
            Operand::Text(token.into())
        } else if let Some(number) = float(token) {
            self.at += 1;
            Operand::Number(number)
        } else {
            // One column is read; what follows it up to a word that ends the comparison is passed over.
            while self.peek().is_some() && !self.at_any(&[",", ")", "and"]) {
                if self.at_any(&CLAUSES) || self.at_any(&JOINS) {
                    break;
                }
                self.at += 1;
            }
            let mut inside = Parser { tokens: &self.tokens[start..self.at], at: 0, ..self.clone() };
            Operand::Column(inside.column_unit(tables)?)
        };
        if block {
            self.expect(")")?;
        }
        Ok(operand)
    }

    /// A column, or two with arithmetic between them.
    fn value(&mut self, tables: &[String]) -> Parsed<ValueUnit> {
        self.here("a column")?;
        let block = self.eat("(");
        let first = self.column_unit(tables)?;
        let mut value = ValueUnit { arithmetic: 0, first, second: None };
        if let Some(arithmetic) = self.peek().and_then(|token| number_of(token, &ARITHMETIC)) {
            self.at += 1;
            value.arithmetic = arithmetic;
            value.second = Some(self.column_unit(tables)?);
        }
        if block {
            self.expect(")")?;
        }
        Ok(value)
    }

    fn column_unit(&mut self, tables: &[String]) -> Parsed<ColumnUnit> {
        self.here("a column")?;
        let block = self.eat("(");
        if let Some(aggregate) = number_of(self.here("a column")?, &AGGREGATES) {
            self.at += 1;
            self.expect("(")?;
            let distinct = self.eat("distinct");
            let column = self.column(tables)?;
            self.expect(")")?;
            // A bracket before the aggregate is not closed here: such a query cannot be read, or only in part.
            return Ok(ColumnUnit { aggregate, column, distinct });
        }
        let distinct = self.eat("distinct");
        let column = self.column(tables)?;
        if block {
            self.expect(")")?;
        }
        Ok(ColumnUnit { aggregate: 0, column, distinct })
    }

    /// A column's identifier: of the table named with it, else of the first that has such a column.
    fn column(&mut self, tables: &[String]) -> Parsed<String> {
        let token = self.here("a column")?;
        self.at += 1;
        let unknown = || format!("expected a column, found `{token}`");
        let name = if token == "*" {
            token.to_owned()
        } else if token.contains('.') {
            let (alias, column) = token.split_once('.').filter(|(_, rest)| !rest.contains('.')).ok_or_else(unknown)?;
            format!("{}.{column}", self.aliases.get(alias).ok_or_else(unknown)?)
        } else {
            let mut found = None;
            for table in tables {
                let table = self.aliases.get(table).ok_or_else(unknown)?;
                if self.schema.has_column(table, token).ok_or_else(unknown)? {
                    found = Some(format!("{table}.{token}"));
                    break;
                }
            }
            found.ok_or_else(unknown)?
        };
        self.schema.identifier(&name).ok_or_else(unknown)
    }
}

/// Every even part has to be a comparison.
fn checked(condition: &Condition) -> Parsed<()> {
    let words = condition.0.iter().step_by(2).filter(|part| !matches!(part, Part::Comparison(_))).count();
    if words == 0 { Ok(()) } else { Err("expected `and` or `or` between comparisons, found none".into()) }
}

fn number_of(token: &str, names: &[&str]) -> Option<usize> {
    names.iter().position(|name| *name == token)
}

/// Digits with single underscores between them, which go.
fn without_underscores(token: &str) -> Option<String> {
    let digits: Vec<&str> = token.split('_').collect();
    let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let between = digits.windows(2).all(|pair| digit(pair[0].chars().last()) && digit(pair[1].chars().next()));
    between.then(|| digits.concat())
}

/// A number as Python's `float` reads it.
fn float(token: &str) -> Option<f64> {
    without_underscores(token)?.parse().ok()
}

/// A whole number as Python's `int` reads it, as its digits.
fn integer(token: &str) -> Parsed<String> {
    let wrong = || format!("expected a whole number after `limit`, found `{token}`");
    let digits = without_underscores(token).ok_or_else(wrong)?;
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.strip_prefix('+').unwrap_or(&digits)),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
        return Err(wrong());
    }
    let digits = digits.trim_start_matches('0');
    Ok(if digits.is_empty() { "0".into() } else { format!("{sign}{digits}") })
}
