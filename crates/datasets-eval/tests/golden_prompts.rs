//! Golden prompts (the authors' forms on real rows): recognised by a `cases.json` whose entries have `task`, `raw`,
//! `text` and `ids`. A row's prompt and label are compared as strings, then the row goes through a file in the task's own
//! layout and the reader, whose tokens have to be the golden ids.

use std::collections::BTreeMap;

use serde_json::Value;
use statetune_datasets_eval::tasks::glue::GlueTask;
use statetune_datasets_eval::{Pool, Split, Tokenizer, load};

#[path = "../../../tests/support/golden_folders.rs"]
mod golden_folders;
mod support;

use golden_folders::{folders_with, json};

/// The cases of every prompts folder.
fn cases() -> Vec<Value> {
    let lists = folders_with("cases.json").into_iter().map(|folder| json(&folder.join("cases.json")));
    let prompts = lists.filter(|list| ["task", "raw", "text", "ids"].iter().all(|key| list[0].get(key).is_some()));
    prompts.flat_map(|list| list.as_array().expect("a list of cases").clone()).collect()
}

/// The tokenizer of the golden ids: `STATETUNE_TOKENIZER`, else the one in the shared data if that is there.
fn gpt_neox() -> Option<Tokenizer> {
    let folder = support::workspace().join("../shared/data/tokenizer");
    let usual =
        ["tokenizer.json", "20B_tokenizer.json"].map(|name| folder.join(name)).into_iter().find(|file| file.is_file());
    let given = std::env::var_os("STATETUNE_TOKENIZER").map(|file| support::workspace().join(file));
    let file = given.or(usual);
    if file.is_none() {
        println!("golden prompts: no tokenizer in {}: ids are not compared", folder.display());
    }
    file.map(|file| Tokenizer::open(&file).unwrap_or_else(|error| panic!("{error}")))
}

fn string<'a>(case: &'a Value, group: &str, key: &str) -> &'a str {
    // A prefix may be null: none.
    case[group][key].as_str().unwrap_or("")
}

fn ids(case: &Value, parts: &[&str]) -> Vec<u32> {
    let parts = parts.iter().flat_map(|part| case["ids"][part].as_array().expect("a list of ids"));
    parts.map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn prompt(case: &Value) -> String {
    string(case, "text", "prefix").to_owned() + string(case, "text", "input")
}

fn class(case: &Value) -> usize {
    case["raw"]["label"].as_u64().expect("a label") as usize
}

/// Prompt and label from the fields of the row.
fn compare_strings(task: &GlueTask, case: &Value) {
    let fields: Vec<&str> = task.fields.iter().map(|field| case["raw"][field].as_str().expect("a text")).collect();
    assert_eq!(task.prompt(&fields), prompt(case), "prompt of {}", task.name);
    assert_eq!(task.answer(class(case)), string(case, "text", "label"), "label of {}", task.name);
}

/// A file of the cases in one of the task's layouts.
fn tsv(task: &GlueTask, layout: &[&str], cases: &[&Value]) -> String {
    let header = task.has_header.then(|| layout.join("\t"));
    let rows = cases.iter().map(|case| {
        let values = layout.iter().map(|column| match task.columns.iter().position(|name| name == column) {
            Some(index) => string(case, "raw", task.fields[index]),
            None if *column == task.label_column => task.labels[class(case)],
            None => "x",
        });
        values.collect::<Vec<&str>>().join("\t")
    });
    header.into_iter().chain(rows).map(|line| line + "\n").collect()
}

/// The examples that the reader makes of the cases; their ids where the tokenizer is that of the golden ids.
fn compare_examples(task: &GlueTask, layout: &[&str], cases: &[&Value], gpt_neox: Option<&Tokenizer>) {
    let folder = support::folder();
    let config = support::glue(task.name, support::file(&folder, "train.tsv", tsv(task, layout, cases)));
    let tokenizer = gpt_neox.unwrap_or(&support::TOKENIZER);
    let dataset = load(&config, Split::Train, tokenizer, &Pool::new(2).unwrap(), None).unwrap();
    assert_eq!(dataset.examples.len(), cases.len(), "rows of {}", task.name);
    for (example, case) in dataset.examples.iter().zip(cases) {
        assert_eq!(example.class, Some(class(case)), "class of {}", task.name);
        let (input, label) = example.tokens.split_at(example.labelled_from);
        if gpt_neox.is_some() {
            assert_eq!(input, ids(case, &["prefix", "input"]), "input ids of {}", task.name);
            assert_eq!(label, ids(case, &["label"]), "label ids of {}", task.name);
        } else {
            assert_eq!(input, tokenizer.encode(&prompt(case)).unwrap(), "input of {}", task.name);
            assert_eq!(label, tokenizer.encode(string(case, "text", "label")).unwrap(), "label of {}", task.name);
        }
    }
}

#[test]
fn golden_prompts() {
    let cases = cases();
    let mut by_task: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for case in &cases {
        by_task.entry(case["task"].as_str().expect("a task")).or_default().push(case);
    }
    let gpt_neox = gpt_neox();
    let mut count = 0;
    for (name, cases) in by_task {
        let Some(task) = name.strip_prefix("glue_") else {
            println!("not yet: prompts {name}");
            continue;
        };
        let task = GlueTask::named(task).unwrap();
        cases.iter().for_each(|case| compare_strings(task, case));
        task.layouts.iter().for_each(|layout| compare_examples(task, layout, &cases, gpt_neox.as_ref()));
        count += cases.len();
    }
    assert!(cases.is_empty() || count > 0, "no prompt cases of GLUE under {}", golden_folders::root().display());
    golden_folders::count("prompts", count);
}
