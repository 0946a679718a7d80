//! The four task families and how their examples are drawn and split. What an example of each family is made of is in
//! the file of its name.
//!
//! Prompts have the form that the paper's data sets have: an instruction, then the text, parted by ` ### `, and ` ###` at
//! the end. A completion begins with a space, so that prompt and completion fall into the same tokens together as apart.

mod dialogue;
mod feeling;
mod records;
pub(super) mod sql;

use std::collections::HashSet;

use super::database::Table;
use super::entities::World;
use super::rng::{Rng, hash_text};

/// A kind of task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// A record of fields (`name: X | town: Y`) to English sentences.
    Records,
    /// A question and the headings of tables to a statement of SQL for SQLite.
    Sql,
    /// A talk of two people to one sentence of what it comes to.
    Dialogue,
    /// A sentence or two to `1` (the feeling is good) or `0` (bad).
    Feeling,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 4] = [Family::Records, Family::Sql, Family::Dialogue, Family::Feeling];

    /// Lower-case name, for files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Family::Records => "records",
            Family::Sql => "sql",
            Family::Dialogue => "dialogue",
            Family::Feeling => "feeling",
        }
    }
}

/// A part of a family's examples; no two parts share an answer or (for [`Family::Feeling`]) a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Eight tenths of the examples there are.
    Train,
    /// One tenth.
    Validation,
    /// One tenth.
    Test,
}

impl Split {
    /// Every split.
    pub const ALL: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

    /// The split an example with this key belongs to.
    fn of(world: &World, family: Family, key: &str) -> Split {
        match hash_text(world.seed, &format!("{} {key}", family.name())) % 10 {
            0 => Split::Test,
            1 => Split::Validation,
            _ => Split::Train,
        }
    }
}

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskExample {
    /// Instruction and text, ending in ` ###`.
    pub prompt: String,
    /// The answer, with a space in front.
    pub completion: String,
    /// The class, for families with classes: the digit that `completion` holds.
    pub label: Option<usize>,
}

/// Examples of one family and split, no prompt twice; see [`World::task`].
pub struct Tasks<'w> {
    world: &'w World,
    tables: [Table; 5],
    family: Family,
    split: Split,
    stream: String,
    /// Index of the next draw; draws of other splits are passed over.
    draw: u64,
    left: usize,
    seen: HashSet<String>,
}

/// Draws in a row without a new example of the split after which a family counts as exhausted.
const PATIENCE: usize = 5_000;

impl World {
    /// `count` examples of a family's split, the same for the same seeds and without a repeated prompt. Another `seed`
    /// draws others from the same split. Ends early if the split has no more examples; no family is near that below
    /// 10,000 for training and 1,000 for the other splits.
    pub fn task(&self, family: Family, split: Split, seed: u64, count: usize) -> Tasks<'_> {
        let stream = format!("{} {seed}", family.name());
        Tasks { world: self, tables: self.tables(), family, split, stream, draw: 0, left: count, seen: HashSet::new() }
    }
}

impl Iterator for Tasks<'_> {
    type Item = TaskExample;

    fn next(&mut self) -> Option<TaskExample> {
        if self.left == 0 {
            return None;
        }
        for _ in 0..PATIENCE {
            let mut rng = Rng::new(self.world.seed, &self.stream, self.draw);
            self.draw += 1;
            let (key, example) = match self.family {
                Family::Records => records::draw(&mut rng),
                Family::Sql => sql::draw(&self.tables, &mut rng),
                Family::Dialogue => dialogue::draw(&mut rng),
                Family::Feeling => feeling::draw(&mut rng),
            };
            if Split::of(self.world, self.family, &key) == self.split && self.seen.insert(example.prompt.clone()) {
                self.left -= 1;
                return Some(example);
            }
        }
        None
    }
}

/// An example whose answer decides its split.
fn answered(prompt: String, answer: String) -> (String, TaskExample) {
    let completion = format!(" {answer}");
    (answer, TaskExample { prompt, completion, label: None })
}
