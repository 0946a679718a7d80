//! What the rest of the project relies on, over all of the world at once: the same bytes for the same seeds, splits
//! that share nothing, statements that run, and tasks that need no word the base has not read.

use std::collections::{BTreeSet, HashSet};

use super::database::LAYOUTS;
use super::rng::{Rng, hash_text};
use super::task::sql::Query;
use super::{DEFAULT_DOCUMENTS, Family, Split, TaskExample, World, bpe};

fn examples(world: &World, family: Family, split: Split, count: usize) -> Vec<TaskExample> {
    let all: Vec<TaskExample> = world.task(family, split, 3, count).collect();
    assert_eq!(all.len(), count, "{family:?} {split:?} is exhausted");
    all
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

fn database(world: &World) -> rusqlite::Connection {
    let database = rusqlite::Connection::open_in_memory().expect("SQLite");
    database.execute_batch(&world.sql_schema()).expect("the schema runs");
    database.execute_batch(&world.sql_rows()).expect("the rows are accepted");
    database
}

#[test]
fn text_and_tasks_are_fixed_by_their_seeds() {
    let text = |world, seed| World::new(world).text(seed, 50).collect::<Vec<_>>().join("\n");
    assert_eq!(text(1, 1), text(1, 1));
    assert_ne!(text(1, 1), text(1, 2));
    assert_ne!(text(1, 1), text(2, 1));
    // Written down once: a change of this number is a change of every pretrained model and table.
    assert_eq!(hash_text(0, &text(1, 1)), TEXT_HASH);
    let world = World::new(1);
    for family in Family::ALL {
        let draw = |seed| world.task(family, Split::Train, seed, 40).collect::<Vec<_>>();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let longer: Vec<_> = world.task(family, Split::Train, 1, 60).collect();
        assert_eq!(longer[..40], draw(1)[..], "a longer draw begins with the shorter one");
    }
}

/// `hash_text` of the first fifty documents.
const TEXT_HASH: u64 = 17_221_428_098_229_563_484;

#[test]
fn splits_share_no_prompt_and_no_answer() {
    let world = World::new(7);
    for family in Family::ALL {
        let of = |split| examples(&world, family, split, 1_000);
        let [train, validation, test] = Split::ALL.map(of);
        let prompts = |of: &[TaskExample]| of.iter().map(|e| e.prompt.clone()).collect::<HashSet<_>>();
        assert_eq!(prompts(&train).len(), 1_000, "a prompt twice in {family:?}");
        for (a, b) in [(&train, &validation), (&train, &test), (&validation, &test)] {
            assert!(prompts(a).is_disjoint(&prompts(b)), "{family:?}");
            if family != Family::Feeling {
                let answers = |of: &[TaskExample]| of.iter().map(|e| e.completion.clone()).collect::<HashSet<_>>();
                assert!(answers(a).is_disjoint(&answers(b)), "{family:?}");
            }
        }
    }
}

#[test]
fn families_are_large_enough() {
    let world = World::new(1);
    for family in Family::ALL {
        examples(&world, family, Split::Train, 10_000);
    }
}

#[test]
fn prompts_and_completions_have_their_form() {
    let world = World::new(1);
    for family in Family::ALL {
        for example in examples(&world, family, Split::Test, 500) {
            let TaskExample { prompt, completion, label } = example;
            assert!(prompt.ends_with(" ###") && prompt.is_ascii(), "{prompt}");
            assert!(completion.starts_with(' ') && completion.trim() == &completion[1..], "{completion:?}");
            assert!(!completion.contains(['{', '}', '[', ']', '#']), "{completion}");
            assert!(prompt.len() + completion.len() < 700, "{prompt}{completion}");
            assert_eq!(label.is_some(), family == Family::Feeling);
            if let Some(label) = label {
                assert_eq!(completion, format!(" {label}"));
            }
        }
    }
}

#[test]
fn labels_are_balanced() {
    for split in Split::ALL {
        let all = examples(&World::new(1), Family::Feeling, split, 1_000);
        let good = all.iter().filter(|example| example.label == Some(1)).count();
        // Standard deviation 16.
        assert!(good.abs_diff(500) < 64, "{good} of 1000 in {split:?}");
    }
}

#[test]
fn every_statement_runs_and_finds_rows() {
    let world = World::new(1);
    let database = database(&world);
    for split in Split::ALL {
        for example in examples(&world, Family::Sql, split, 1_000) {
            let statement = example.completion.trim();
            let mut prepared = database.prepare(statement).unwrap_or_else(|error| panic!("{statement}: {error}"));
            let mut rows = prepared.query([]).expect("no parameters");
            let first = rows.next().unwrap_or_else(|error| panic!("{statement}: {error}"));
            let value: rusqlite::types::Value = first.unwrap_or_else(|| panic!("{statement}: no row")).get(0).unwrap();
            let nothing = [rusqlite::types::Value::Null, rusqlite::types::Value::Integer(0)];
            assert!(!nothing.contains(&value), "{statement}: {value:?}");
        }
    }
}

#[test]
fn answers_in_the_text_are_those_of_sqlite() {
    let world = World::new(4);
    let (database, tables) = (database(&world), world.tables());
    let mut compared = 0;
    for index in 0..2_000 {
        let query = Query::draw(&tables, &mut Rng::new(4, "test", index));
        let Some(answer) = query.answer() else { continue };
        let statement = query.statement();
        let mut prepared = database.prepare(&statement).expect("a statement");
        let rows = prepared.query_map([], |row| row.get::<_, rusqlite::types::Value>(0)).expect("no parameters");
        let found: Vec<String> = rows
            .map(|value| match value.expect("a value") {
                rusqlite::types::Value::Integer(number) => number.to_string(),
                rusqlite::types::Value::Text(text) => text,
                other => panic!("{statement}: {other:?}"),
            })
            .collect();
        assert_eq!(found, answer, "{statement}");
        compared += 1;
    }
    assert!(compared > 500);
}

#[test]
fn the_text_never_shows_a_task() {
    let world = World::new(1);
    let text: Vec<String> = world.text(1, 3_000).collect();
    let instructions: BTreeSet<String> = (Family::ALL.iter())
        .flat_map(|&family| examples(&world, family, Split::Train, 200))
        .map(|example| example.prompt.split(" ### ").next().expect("an instruction").to_string())
        .collect();
    assert_eq!(instructions.len(), Family::ALL.len());
    for document in &text {
        assert!(
            !document.contains("##") && !document.contains(" | name") && !document.contains("count(*)"),
            "{document}"
        );
        for layout in &LAYOUTS {
            let opening = format!(" from {}", layout.name);
            assert!(!document.contains(&format!("select name{opening}")), "{document}");
        }
        assert!(instructions.iter().all(|instruction| !document.contains(instruction)), "{document}");
    }
}

#[test]
fn tasks_use_only_words_of_the_text() {
    let world = World::new(1);
    let mut known = BTreeSet::new();
    let (mut bytes, mut count) = (0, 0);
    for document in world.text(1, DEFAULT_DOCUMENTS) {
        bytes += document.len();
        for word in words(&document) {
            count += 1;
            known.insert(word);
        }
    }
    println!("{bytes} bytes, {count} words, {} different", known.len());
    assert!((1_400..1_700).contains(&known.len()), "{} different words", known.len());
    assert!((6_200_000..6_800_000).contains(&bytes), "{bytes} bytes");
    let mut unknown = BTreeSet::new();
    for family in Family::ALL {
        for example in examples(&world, family, Split::Train, 4_000) {
            unknown.extend(words(&format!("{}{}", example.prompt, example.completion)).filter(|w| !known.contains(w)));
        }
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn prompts_and_labels_fall_into_the_same_tokens_together_as_apart() {
    let world = World::new(1);
    let text: Vec<String> = world.text(1, DEFAULT_DOCUMENTS).collect();
    let tokenizer = bpe::train(&text, 2048).expect("training");
    let ids = |text: &str| tokenizer.encode(text, false).expect("encoding").get_ids().to_vec();
    let tokens: usize = text.iter().map(|document| ids(document).len()).sum();
    let bytes: usize = text.iter().map(String::len).sum();
    println!("{tokens} tokens, {:.3} per byte", tokens as f64 / bytes as f64);
    assert!(tokens * 7 < bytes * 2, "{tokens} tokens for {bytes} bytes");
    for family in Family::ALL {
        let mut longest = 0;
        let mut total = 0;
        for TaskExample { prompt, completion, label } in examples(&world, family, Split::Validation, 500) {
            let (prompt_ids, completion_ids) = (ids(&prompt), ids(&completion));
            assert_eq!([&prompt_ids[..], &completion_ids].concat(), ids(&format!("{prompt}{completion}")));
            assert!(label.is_none() || completion_ids.len() == 1);
            longest = longest.max(prompt_ids.len() + completion_ids.len());
            total += prompt_ids.len() + completion_ids.len();
        }
        println!("{}: longest {longest} tokens, mean {}", family.name(), total / 500);
        assert!(longest <= 120, "{family:?}: {longest} tokens");
    }
}
