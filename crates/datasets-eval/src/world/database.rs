//! The world as a database: five tables, their columns with the phrases by which questions speak of them, and the
//! script that SQLite runs. Questions and statements are made in `task/sql.rs`, sentences about the tables in
//! `prose/registers.rs`.

use super::entities::World;
use super::goods::{GOODS, SHOP_KINDS};

/// How a question may narrow down a table by a column; `{}` is the value.
pub(super) enum Filter {
    /// Not used to narrow.
    None,
    /// Text equal to a value.
    Is(&'static str),
    /// A number above or below a value, and the words for the row with the highest and the lowest.
    Number { over: &'static str, under: &'static str, most: &'static str, least: &'static str },
}

/// A column.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// The question for this column of one named row; `{}` is the name.
    pub(super) ask: &'static str,
    pub(super) filter: Filter,
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Text(String),
    Number(usize),
}

impl Value {
    /// As a statement writes it; none of the world's words holds an apostrophe.
    pub(super) fn literal(&self) -> String {
        match self {
            Value::Text(text) => format!("'{text}'"),
            Value::Number(number) => number.to_string(),
        }
    }

    /// As a sentence writes it.
    pub(super) fn plain(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Number(number) => number.to_string(),
        }
    }
}

/// What is fixed about a table. The first column is the name of a row.
pub(super) struct Layout {
    pub(super) name: &'static str,
    /// One row, for questions: "ship".
    pub(super) one: &'static str,
    pub(super) columns: &'static [Column],
}

const fn column(name: &'static str, ask: &'static str, filter: Filter) -> Column {
    Column { name, ask, filter }
}

const NAME: Column = column("name", "", Filter::None);
const AGE: Column = column(
    "age",
    "how old is {}?",
    Filter::Number {
        over: "older than {} years",
        under: "younger than {} years",
        most: "the oldest",
        least: "the youngest",
    },
);

/// The five tables.
pub(super) const LAYOUTS: [Layout; 5] = [
    Layout {
        name: "ships",
        one: "ship",
        columns: &[
            NAME,
            column("kind", "what kind of ship is {}?", Filter::Is("of the kind {}")),
            column("town", "where does {} come from?", Filter::Is("from {}")),
            column("captain", "who is the captain of {}?", Filter::None),
            column("colour", "what is the colour of {}?", Filter::Is("painted {}")),
            column("cargo", "what is the cargo of {}?", Filter::Is("with a cargo of {}")),
            column(
                "crew",
                "how many hands are in the crew of {}?",
                Filter::Number {
                    over: "with more than {} hands",
                    under: "with less than {} hands",
                    most: "the one with the biggest crew",
                    least: "the one with the smallest crew",
                },
            ),
            AGE,
            column(
                "length",
                "how long is {}?",
                Filter::Number {
                    over: "longer than {} feet",
                    under: "shorter than {} feet",
                    most: "the longest",
                    least: "the shortest",
                },
            ),
        ],
    },
    Layout {
        name: "shops",
        one: "shop",
        columns: &[
            NAME,
            column("kind", "what kind of shop is {}?", Filter::Is("of the kind {}")),
            column("town", "in which town is {}?", Filter::Is("in {}")),
            column("street", "on which street is {}?", Filter::Is("on {}")),
            column("keeper", "who is the keeper of {}?", Filter::None),
            column("closed", "on which day is {} closed?", Filter::Is("closed on {}")),
            AGE,
        ],
    },
    Layout {
        name: "people",
        one: "person",
        columns: &[
            NAME,
            column("work", "what is the work of {}?", Filter::Is("with the work of {}")),
            column("town", "in which town does {} live?", Filter::Is("in {}")),
            column("street", "on which street does {} live?", Filter::Is("on {}")),
            AGE,
        ],
    },
    Layout {
        name: "towns",
        one: "town",
        columns: &[
            NAME,
            column("island", "on which island is {}?", Filter::Is("on the island of {}")),
            column("market", "on which day is the market in {}?", Filter::Is("with a market on {}")),
            column("known", "what is {} known for?", Filter::None),
            column(
                "people",
                "how many people live in {}?",
                Filter::Number {
                    over: "with more than {} people",
                    under: "with less than {} people",
                    most: "the biggest",
                    least: "the smallest",
                },
            ),
        ],
    },
    Layout {
        name: "goods",
        one: "good",
        columns: &[
            NAME,
            column("shop", "what kind of shop sells {}?", Filter::Is("sold in the kind of shop called {}")),
            column(
                "price",
                "what is the price of {}?",
                Filter::Number {
                    over: "that cost more than {} coins",
                    under: "that cost less than {} coins",
                    most: "the one with the highest price",
                    least: "the one with the lowest price",
                },
            ),
        ],
    },
];

/// A table with its rows, each as long as the columns.
pub(super) struct Table {
    pub(super) layout: &'static Layout,
    pub(super) rows: Vec<Vec<Value>>,
}

impl Table {
    /// "ships (name, kind, town)", as prompts and statements write it.
    pub(super) fn heading(&self) -> String {
        let names: Vec<&str> = self.layout.columns.iter().map(|column| column.name).collect();
        format!("{} ({})", self.layout.name, names.join(", "))
    }
}

impl World {
    /// The tables in the order of `LAYOUTS`.
    pub(super) fn tables(&self) -> [Table; 5] {
        let text = |text: &str| Value::Text(text.to_string());
        let town = |index: usize| text(self.towns[index].name);
        let ship = |s: &super::entities::Ship| {
            vec![
                text(&s.name),
                text(s.kind),
                town(s.town),
                text(&self.people[s.captain].name),
                text(s.colour),
                text(GOODS[s.cargo].name),
                Value::Number(s.crew),
                Value::Number(s.age),
                Value::Number(s.length),
            ]
        };
        let shop = |s: &super::entities::Shop| {
            let kind = text(SHOP_KINDS[s.kind].name);
            let keeper = text(&self.people[s.keeper].name);
            vec![text(&s.name), kind, town(s.town), text(s.street), keeper, text(s.closed), Value::Number(s.age)]
        };
        let person = |(index, p): (usize, &super::entities::Person)| {
            vec![text(&p.name), text(self.job(index)), town(p.town), text(p.street), Value::Number(p.age)]
        };
        let place = |t: &super::entities::Town| {
            vec![text(t.name), text(t.island), text(t.market), text(GOODS[t.known].name), Value::Number(t.people)]
        };
        let good = |index: usize| {
            let kind = SHOP_KINDS.iter().find(|kind| kind.goods.contains(&index)).expect("every good has its shop");
            vec![text(GOODS[index].name), text(kind.name), Value::Number(self.prices[index])]
        };
        let rows = [
            self.ships.iter().map(ship).collect(),
            self.shops.iter().map(shop).collect(),
            self.people.iter().enumerate().map(person).collect(),
            self.towns.iter().map(place).collect(),
            (0..GOODS.len()).map(good).collect(),
        ];
        let mut rows = rows.into_iter();
        LAYOUTS.each_ref().map(|layout| Table { layout, rows: rows.next().expect("as many lists as layouts") })
    }

    /// `create table` statements of the world's database, for SQLite.
    pub fn sql_schema(&self) -> String {
        let mut out = String::new();
        for table in self.tables() {
            let columns: Vec<String> = (table.layout.columns.iter())
                .map(|column| match column.filter {
                    Filter::Number { .. } => format!("{} integer not null", column.name),
                    _ => format!("{} text not null", column.name),
                })
                .collect();
            out.push_str(&format!("create table {} ({});\n", table.layout.name, columns.join(", ")));
        }
        out
    }

    /// `insert` statements with every row of the world's database, for SQLite, after [`World::sql_schema`].
    pub fn sql_rows(&self) -> String {
        let mut out = String::new();
        for table in self.tables() {
            for row in &table.rows {
                let values: Vec<String> = row.iter().map(Value::literal).collect();
                out.push_str(&format!("insert into {} values ({});\n", table.layout.name, values.join(", ")));
            }
        }
        out
    }
}
