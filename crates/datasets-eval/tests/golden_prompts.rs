//! Golden prompts (the authors' forms on real rows): recognised by a `cases.json` whose entries have `task`, `raw`,
//! `text` and `ids`. A row's prompt and label are compared as strings, then the row goes through a file in the task's own
//! layout and the reader with `preset = "paper"`, whose tokens have to be the golden ids.

use std::collections::BTreeMap;

use serde_json::{Value, json as object};
use statetune_datasets_eval::tasks::glue::GlueTask;
use statetune_datasets_eval::{DataConfig, Format, Pool, Preset, Split, Tokenizer, load};

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
    let config = DataConfig { preset: Preset::Paper, ..config };
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

/// A JSON file of the cases as the task publishes it.
fn published(task: &str, cases: &[&Value]) -> String {
    let row = |case: &&Value| match task {
        "dart" => object!({ "tripleset": case["raw"]["tripleset"], "annotations": [case["raw"]["annotation"]] }),
        _ => case["raw"].clone(),
    };
    Value::from(cases.iter().map(row).collect::<Vec<_>>()).to_string()
}

/// Spider's own `tables.json` where the shared data is there; else schemas that read as the golden prompts do, in which
/// every foreign key is of a table's first column, as the paper's form does not say which.
fn tables(cases: &[&Value]) -> Value {
    let file = support::workspace().join("../shared/data/spider/tables.json");
    if file.is_file() {
        return json(&file);
    }
    println!("golden prompts: no {}: schemas are made from the prompts", file.display());
    let mut schemas: BTreeMap<&str, Value> = BTreeMap::new();
    for case in cases {
        let input = string(case, "text", "input");
        let text = input.split_once("\\Schema: ").unwrap().1.trim_end_matches("\n###");
        schemas.insert(case["raw"]["db_id"].as_str().unwrap(), schema(case, text));
    }
    schemas.into_values().collect()
}

/// An entry of `tables.json` from the paper's form.
fn schema(case: &Value, text: &str) -> Value {
    let mut tables = Vec::new();
    let (mut names, mut types) = (vec![object!([-1, "*"])], vec!["text"]);
    let (mut foreign, mut primary) = (Vec::new(), Vec::new());
    for (index, table) in text.split(" | ").enumerate() {
        let (name, columns) = table.split_once(": ").unwrap();
        tables.push(name);
        let first = names.len();
        for part in columns.split(" ,  ") {
            if let Some(keys) = part.strip_prefix("foreign: ") {
                foreign.extend(keys.split(" , ").filter(|key| !key.is_empty()).map(|key| (first, key)));
            } else if let Some(keys) = part.strip_prefix("primary: ") {
                primary.extend(keys.split(" , ").filter(|key| !key.is_empty()).map(|key| (index, key)));
            } else {
                let (column, kind) = part.rsplit_once(' ').unwrap();
                names.push(object!([index, column]));
                types.push(kind);
            }
        }
    }
    let column = |table: usize, name: &str| names.iter().position(|known| *known == object!([table, name])).unwrap();
    let refers = |(from, key): &(usize, &str)| {
        let (name, table) = key.split_once(" from ").unwrap();
        object!([from, column(tables.iter().position(|known| *known == table).unwrap(), name)])
    };
    object!({
        "db_id": case["raw"]["db_id"], "table_names_original": tables, "column_names_original": names,
        "column_types": types, "foreign_keys": foreign.iter().map(refers).collect::<Vec<_>>(),
        "primary_keys": primary.iter().map(|&(table, name)| column(table, name)).collect::<Vec<_>>(),
    })
}

/// The cases of a task whose answers are written, through a file of its form and its reader.
fn compare_written(task: &str, cases: &[&Value], gpt_neox: Option<&Tokenizer>) {
    let folder = support::folder();
    let format = serde_json::from_value(Value::from(task)).unwrap();
    let mut config = support::of_format(format, support::file(&folder, "rows.json", published(task, cases)));
    (config.preset, config.max_tokens) = (Preset::Paper, 4096);
    config.validation = config.train.clone();
    if format == Format::Spider {
        config.tables = Some(support::file(&folder, "tables.json", tables(cases).to_string()));
    }
    let tokenizer = gpt_neox.unwrap_or(&support::TOKENIZER);
    let dataset = load(&config, Split::Validation, tokenizer, &Pool::new(2).unwrap(), None).unwrap();
    assert_eq!((dataset.examples.len(), dataset.items.len()), (cases.len(), cases.len()), "rows of {task}");
    for ((example, item), case) in dataset.examples.iter().zip(&dataset.items).zip(cases) {
        let (input, label) = example.tokens.split_at(example.labelled_from);
        let text = |tokens: &[u32]| tokenizer.decode(tokens, true).unwrap();
        assert_eq!(text(input), prompt(case), "prompt of {task}");
        assert_eq!(text(label), string(case, "text", "label"), "label of {task}");
        if gpt_neox.is_some() {
            assert_eq!(input, ids(case, &["prefix", "input"]), "input ids of {task}");
            assert_eq!(label, ids(case, &["label"]), "label ids of {task}");
        }
        assert_eq!(item.prompt, input, "prompt of an item of {task}");
        let raw = &case["raw"];
        let reference =
            [&raw["annotation"]["text"], &raw["summary"], &raw["query"]].into_iter().find_map(Value::as_str);
        assert_eq!(item.references, [reference.unwrap()], "reference of {task}");
        assert_eq!(item.database.as_deref(), raw["db_id"].as_str(), "database of {task}");
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
        match name.strip_prefix("glue_") {
            Some(task) => {
                let task = GlueTask::named(task).unwrap();
                cases.iter().for_each(|case| compare_strings(task, case));
                task.layouts.iter().for_each(|layout| compare_examples(task, layout, &cases, gpt_neox.as_ref()));
            }
            None => compare_written(name, &cases, gpt_neox.as_ref()),
        }
        count += cases.len();
    }
    assert!(cases.is_empty() || count > 0, "no prompt cases under {}", golden_folders::root().display());
    golden_folders::count("prompts", count);
}
