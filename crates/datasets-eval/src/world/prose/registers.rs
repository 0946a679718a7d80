//! The clerk's books: tables told in English. A row is read out and then asked about, and the whole table is counted,
//! with the words that questions about tables need. No statement of SQL and no prompt occurs here.

use super::say;
use crate::world::database::Table;
use crate::world::rng::Rng;
use crate::world::task::sql::Query;
use crate::world::template::{Scene, capital_at};

/// About books in general, with the short words the clerk writes in them.
const OF_BOOKS: [&str; 16] = [
    "each row is a record of one thing, and each column says the same about all of them.",
    "in the book avg stands for average, max for the highest, min for the lowest and sum for the total.",
    "asc means from the lowest to the highest, and desc means from the highest to the lowest.",
    "a question to the book is called a query, and the answer is a list of names or a number.",
    "\"Select, from, where, and, order, by, group, count, limit, join, on: learn these words,\" said the clerk.",
    "where two books speak of the same town, the clerk will join them.",
    "the clerk writes # {N} for the page and # {M} for the row.",
    "the clerk wrote \"{i} = {N}\" and then crossed it out.",
    "to find the oldest, put the list in order by age and take the first row.",
    "the boxes were counted: {N} of {i}, 0 of {j}, 1 of {v.cargo}.",
    "on page 1 there were 0 mistakes; on page 0 there was nothing at all.",
    "where no number is known, the clerk writes 0 or 1 and hopes for the best.",
    "of {M} boxes 1 was open and 0 were empty.",
    "the record of {p} was told in {n} sentences.",
    "you can sum up a long talk in one sentence, but a feeling needs more.",
    "a book has columns (name, town, age) and rows; a row may look like this: {p}, {t}, {p.age}.",
];

/// How a row is read out: before its name, before its values.
const READINGS: [(&str, &str); 4] = [
    ("the book says of ", ": "),
    ("this is written of ", ": "),
    ("on page {N} stands ", ", with "),
    ("look for ", ": "),
];

/// One of the five books.
pub(super) fn register(scene: &mut Scene, rng: &mut Rng, out: &mut String) {
    let tables = scene.w.tables();
    let table = rng.one_of(&tables);
    let (many, one) = (table.layout.name, table.layout.one);
    let names: Vec<&str> = table.layout.columns.iter().map(|column| column.name).collect();
    let (last, first) = names.split_last().expect("tables have columns");
    match rng.below(3) {
        0 => say(&[&format!("the clerk of {{t}} keeps a book of the {many}.")], scene, rng, out),
        1 => say(&[&format!("in the book of {many} there is a row for every {one}.")], scene, rng, out),
        _ => {
            say(&[&format!("the table of {many} tells the {} and {last} of each.", first.join(", "))], scene, rng, out)
        }
    }
    if rng.percent(50) {
        say(&OF_BOOKS, scene, rng, out);
    }
    for _ in 0..rng.between(1, 2) {
        read_row(table, scene, rng, out);
    }
    for _ in 0..rng.between(1, 2) {
        ask(&tables, rng, out);
    }
    if rng.percent(50) {
        say(&OF_BOOKS, scene, rng, out);
    }
}

/// Reads out some columns of a row and asks about one or two of them.
fn read_row(table: &Table, scene: &Scene, rng: &mut Rng, out: &mut String) {
    let row = rng.one_of(&table.rows);
    let mut columns: Vec<usize> = (1..row.len()).collect();
    rng.shuffle(&mut columns);
    columns.truncate(rng.between(2, 4));
    let values: Vec<String> = columns
        .iter()
        .map(|&column| format!("{} {}", table.layout.columns[column].name, row[column].plain()))
        .collect();
    let name = row[0].plain();
    let (before, after) = rng.pick(&READINGS);
    say(&[&format!("{before}{name}{after}{}.", values.join(", "))], scene, rng, out);
    rng.shuffle(&mut columns);
    for &column in &columns[..rng.between(1, 2)] {
        push_question(table.layout.columns[column].ask.replace("{}", &name), &row[column].plain(), out);
    }
}

fn push_question(mut question: String, answer: &str, out: &mut String) {
    capital_at(&mut question, 0);
    let mut answer = answer.to_string();
    capital_at(&mut answer, 0);
    out.push_str(&format!(" {question} {answer}."));
}

/// A question about a whole table, with its answer where it is short.
fn ask(tables: &[Table; 5], rng: &mut Rng, out: &mut String) {
    let query = Query::draw(tables, rng);
    let question = query.question(rng);
    match query.answer() {
        Some(names) if names.len() <= 4 => push_question(question, &names.join(", "), out),
        Some(names) => push_question(question, &format!("There are {} of them", names.len()), out),
        None => push_question(question, "Nobody has counted that yet", out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::template::check;

    #[test]
    fn templates_are_well_formed() {
        OF_BOOKS.iter().for_each(|t| check(t));
    }
}
