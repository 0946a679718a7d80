//! The readers of DART, SAMSum and Spider: what examples and items become of rows, in both prompt forms; their bad rows; the
//! published files where they are there. The paper's form is compared token for token in `golden_prompts`.

use std::path::PathBuf;

use serde_json::json;
use statetune_datasets_eval::{
    DataConfig, DataError, Dataset, Format, OnBadRow, Pool, Preset, Result, Split, Tokenizer, load,
};
use tempfile::TempDir;

mod support;

use support::{TOKENIZER, fails, file, folder, message, of_format, read, reads, texts};

/// The validation split, which is the same file.
fn validation(config: &DataConfig) -> Result<Dataset> {
    let config = DataConfig { validation: config.train.clone(), ..config.clone() };
    load(&config, Split::Validation, &TOKENIZER, &Pool::new(2).unwrap(), None)
}

fn paper(config: &DataConfig) -> DataConfig {
    DataConfig { preset: Preset::Paper, ..config.clone() }
}

/// Row, line, prompt, references, database.
type Told<'a> = (u64, u64, String, Vec<&'a str>, Option<&'a str>);

/// Every item.
fn items(dataset: &Dataset) -> Vec<Told<'_>> {
    dataset
        .items
        .iter()
        .map(|item| {
            let references = item.references.iter().map(String::as_str).collect();
            let prompt = TOKENIZER.decode(&item.prompt, true).unwrap();
            (item.row, item.line, prompt, references, item.database.as_deref())
        })
        .collect()
}

// DART

const DART: &str = r#"[
 {"tripleset": [["A", "IS", "B"], [" C", "HAS", "\"D, E\""]], "subtree_was_extended": true,
  "annotations": [{"source": "x", "text": "A is B. "}, {"source": "y", "text": "B it is."}]},
 {"tripleset": [["F", "IS", "G"]],
  "annotations": [{"source": "x", "text": "F, G."}]}
]"#;

fn dart(folder: &TempDir, content: &str) -> DataConfig {
    of_format(Format::Dart, file(folder, "dart.json", content))
}

#[test]
fn dart_makes_an_example_of_each_annotation_and_an_item_of_each_set() {
    let folder = folder();
    let config = dart(&folder, DART);
    let start = "Generate text for the following RDF triples:\n";
    let (first, second) = (format!("{start}A : IS : B |  C : HAS : \"D, E\"###"), format!("{start}F : IS : G###"));
    let expected =
        |whole: &'static str| [(&first, whole), (&first, "B it is.<|endoftext|>"), (&second, "F, G.<|endoftext|>")];
    reads(&config, &expected("A is B.<|endoftext|>"));
    reads(&paper(&config), &expected("A is B. <|endoftext|>"));
    let dataset = validation(&config).unwrap();
    let found = items(&dataset);
    assert_eq!(found[0], (0, 2, first.clone(), vec!["A is B. ", "B it is."], None));
    assert_eq!(found[1], (1, 4, second.clone(), vec!["F, G."], None));
    assert_eq!(dataset.examples.iter().map(|example| example.row()).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!(dataset.examples.iter().map(|example| example.id).collect::<Vec<_>>(), [0, 1 << 32, 1]);
    let train = read(&config).unwrap();
    assert_eq!((train.examples, train.items), (dataset.examples, Vec::new()));
}

#[test]
fn an_instruction_has_tokens_of_its_own() {
    let folder = folder();
    let row = json!([{ "tripleset": [["A", "IS", "B"]], "annotations": [{ "text": "C" }] }]);
    let config = dart(&folder, &row.to_string());
    // A tokenizer to which every text is one word.
    let words = json!({ "?": 0, "Generate text for the following RDF triples:\n": 1, "A : IS : B###": 2, "C": 3 });
    let tokenizer = json!({ "version": "1.0", "added_tokens": [], "model": { "type": "WordLevel", "unk_token": "?", "vocab": words } });
    let tokenizer = support::tokenizer(&tokenizer.to_string());
    let dataset = load(&config, Split::Train, &tokenizer, &Pool::new(1).unwrap(), None).unwrap();
    assert_eq!((&dataset.examples[0].tokens[..], dataset.examples[0].labelled_from), (&[1, 2, 3][..], 2));
}

#[test]
fn dart_rows_of_another_form() {
    let good = json!([["A", "IS", "B"]]);
    let text = json!([{ "text": "A" }]);
    let refused = |row: serde_json::Value, expected: &str| {
        let folder = folder();
        let content = format!("[\n{},\n{row}]", json!({ "tripleset": good, "annotations": text }));
        let found = message(&fails(&dart(&folder, &content)), &folder);
        assert!(found.starts_with(&format!("dart.json:3: {expected}")), "{found}");
    };
    let triples = "field `tripleset` should be triples of texts, at least one, found ";
    refused(json!({ "tripleset": "A", "annotations": text }), &format!("{triples}a string; "));
    refused(json!({ "tripleset": [], "annotations": text }), &format!("{triples}an empty list; "));
    refused(
        json!({ "tripleset": [["A", "B"]], "annotations": text }),
        &format!("{triples}2 texts of 2 values as triple 1; "),
    );
    refused(
        json!({ "tripleset": [["A", "B", 1]], "annotations": text }),
        &format!("{triples}2 texts of 3 values as triple 1; "),
    );
    refused(
        json!({ "tripleset": [["A", "B", "C"], 1], "annotations": text }),
        &format!("{triples}a number as triple 2; "),
    );
    let annotations = "field `annotations` should be annotations with a text each, at least one, found ";
    refused(json!({ "tripleset": good, "annotations": {} }), &format!("{annotations}an object; "));
    refused(json!({ "tripleset": good, "annotations": [] }), &format!("{annotations}none; "));
    refused(
        json!({ "tripleset": good, "annotations": [{ "text": null }] }),
        &format!("{annotations}null in annotation 1; "),
    );
    refused(
        json!({ "tripleset": good, "annotation": text }),
        "there is no field `annotations` (did you mean `annotation`?); found `tripleset`, `annotation`",
    );
}

#[test]
fn a_set_keeps_its_good_annotations() {
    let folder = folder();
    let content = DART.replace("\"B it is.\"", "null");
    let config = dart(&folder, &content);
    assert!(matches!(fails(&config), DataError::Value { line: 2, .. }));
    let dataset = validation(&DataConfig { on_bad_row: OnBadRow::Count, ..config }).unwrap();
    assert_eq!((dataset.counts.rows, dataset.counts.kept, dataset.counts.bad), (2, 2, 1));
    assert!(dataset.bad_rows[0].contains("null in annotation 2"), "{:?}", dataset.bad_rows);
    assert_eq!(dataset.items[0].references, ["A is B. "]);
}

// SAMSum

#[test]
fn samsum_in_every_form_of_file() {
    let rows = [("A: Hi\r\nB: Hi ", "They meet. "), ("C: \"No\"", "C objects.")];
    let object = |(dialogue, summary): (&str, &str)| json!({ "id": "1", "dialogue": dialogue, "summary": summary });
    let objects = rows.map(object);
    let csv: String =
        rows.map(|(dialogue, summary)| format!("1,\"{}\",{summary}\n", dialogue.replace('"', "\"\""))).concat();
    let folder = folder();
    let files = [
        file(&folder, "a.csv", format!("id,dialogue,summary\n{csv}")),
        file(&folder, "a.json", json!(objects).to_string()),
        file(&folder, "a.jsonl", objects.map(|row| row.to_string() + "\n").concat()),
    ];
    for train in files {
        let config = of_format(Format::Samsum, train);
        let clean = [("A: Hi\nB: Hi###", "They meet.<|endoftext|>"), ("C: \"No\"###", "C objects.<|endoftext|>")];
        reads(&config, &clean);
        let theirs = [("A: Hi\r\nB: Hi ###", "They meet. <|endoftext|>"), ("C: \"No\"###", "C objects.<|endoftext|>")];
        reads(&paper(&config), &theirs);
        let dataset = validation(&config).unwrap();
        assert_eq!(
            dataset.items.iter().map(|item| &item.references[0]).collect::<Vec<_>>(),
            ["They meet. ", "C objects."]
        );
    }
}

// Spider

const TABLES: &str = r#"[{"db_id": "shop", "table_names_original": ["Sold", "Item"], "table_names": ["sold", "item"],
    "column_names_original": [[-1, "*"], [0, "ItemId"], [1, "Id"], [1, "Name"]],
    "column_types": ["text", "number", "number", "text"], "foreign_keys": [[1, 2]], "primary_keys": [2]}]"#;

fn question(db_id: &str) -> serde_json::Value {
    json!({ "question": "How many Lamps? ", "query": "SELECT count(*)  FROM Item WHERE Name = \"Lamp\";", "db_id": db_id })
}

fn spider(folder: &TempDir, rows: &[serde_json::Value]) -> DataConfig {
    let rows: Vec<String> = rows.iter().map(|row| row.to_string()).collect();
    let train = file(folder, "dev.json", format!("[{}]", rows.join(",\n")));
    let tables = Some(file(folder, "tables.json", TABLES));
    DataConfig { tables, ..of_format(Format::Spider, train) }
}

/// A folder with a database of this name.
fn databases(folder: &TempDir, name: &str) -> Option<PathBuf> {
    let databases = folder.path().join("database");
    std::fs::create_dir_all(databases.join(name)).unwrap();
    std::fs::write(databases.join(name).join(format!("{name}.sqlite")), "").unwrap();
    Some(databases)
}

#[test]
fn spider_in_both_forms() {
    let folder = folder();
    let config = spider(&folder, &[question("shop")]);
    let clean = (
        "Create a sql request for the following question and schema:\nQuestion: How many Lamps?\n\
         Schema: sold: itemid number, foreign: itemid = item.id | item: id number, name text, primary: id\n###",
        "select count(*) from item where name = \"Lamp\"<|endoftext|>",
    );
    reads(&config, &[clean]);
    let theirs = (
        "Create a sql request for the following question and schema:\n###Question: How many Lamps? \\Schema: \
         sold: itemid number ,  foreign: id from item ,  primary:  | item: id number ,  name text ,  foreign:  ,  \
         primary: id\n###",
        "select count(*)  from item where name = \"lamp\";<|endoftext|>",
    );
    reads(&paper(&config), &[theirs]);
    let query = "SELECT count(*)  FROM Item WHERE Name = \"Lamp\";";
    for config in [config.clone(), paper(&config)] {
        let found = validation(&config).unwrap();
        let (row, line, _, references, database) = items(&found).remove(0);
        assert_eq!((row, line, references, database), (0, 1, vec![query], Some("shop")));
    }
}

#[test]
fn databases_that_are_not_there() {
    let folder = folder();
    let config = spider(&folder, &[question("shop"), question("chop")]);
    let advice = "correct the row or the tables";
    let expected = format!("dev.json:2: field `db_id` should be a database of tables.json, found `chop`; {advice}");
    assert_eq!(message(&fails(&config), &folder), expected);
    // A schema without its database serves training, not an evaluation.
    let config = DataConfig { databases: databases(&folder, "other"), ..spider(&folder, &[question("shop")]) };
    assert_eq!(read(&config).unwrap().examples.len(), 1);
    let expected = "dev.json:1: field `db_id` should be a database in database, found `shop`, which has no file \
                    shop/shop.sqlite; add the database or leave the row out";
    assert_eq!(message(&validation(&config).unwrap_err(), &folder), expected);
    databases(&folder, "shop");
    assert_eq!(validation(&config).unwrap().items.len(), 1);
    let none = DataConfig { databases: Some(folder.path().join("none")), ..config };
    assert!(matches!(validation(&none), Err(DataError::Io { .. })));
}

#[test]
fn schemas_that_are_none() {
    let refused = |tables: &str, expected: &str| {
        let folder = folder();
        let config = spider(&folder, &[question("shop")]);
        file(&folder, "tables.json", tables);
        let found = message(&fails(&config), &folder);
        assert!(found.starts_with("tables.json:") && found.contains(expected), "{found}");
    };
    refused("[", "a mistake (EOF");
    refused("[{}]", "missing field `db_id`");
    refused(&TABLES.replace("[[1, 2]]", "[[1, 9]]"), "a key of column 9, which no table has, in `shop`");
    refused(&TABLES.replace("[1, \"Id\"]", "[2, \"Id\"]"), "column `Id` in table 2 of 2");
    let twice = format!("[{0}, {0}]", TABLES.trim_matches(['[', ']']).to_owned() + "]}").replace("]}]}", "]}");
    refused(&twice, "`shop` twice");
}

// As published

/// Splits at spaces: published files are large, and only rows are counted.
const WORDS: &str = r#"{
    "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "WhitespaceSplit" },
    "model": { "type": "WordLevel", "unk_token": "?", "vocab": { "?": 0 } }
}"#;

fn published(name: &str) -> Option<PathBuf> {
    let folder = support::workspace().join("../shared/data").join(name);
    if !folder.is_dir() {
        println!("families: no {}: the published files were left out", folder.display());
    }
    Some(folder).filter(|folder| folder.is_dir())
}

fn counted(config: DataConfig) -> Dataset {
    let words: Tokenizer = support::tokenizer(WORDS);
    let config = DataConfig { max_tokens: 8192, validation: config.train.clone(), ..config };
    load(&config, Split::Validation, &words, &Pool::new(2).unwrap(), None).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_families_as_published() {
    if let Some(root) = published("dart") {
        let files = [
            ("dart-v1.1.1-full-dev.json", 2_768, 0),
            // One of its annotations has no text.
            ("dart-v1.1.1-full-test.from-xml.json", 5_097, 1),
        ];
        for (name, rows, bad) in files {
            let config = DataConfig { on_bad_row: OnBadRow::Count, ..of_format(Format::Dart, root.join(name)) };
            let dataset = counted(config);
            assert_eq!((dataset.counts.rows, dataset.items.len(), dataset.counts.bad), (rows, rows, bad), "{name}");
            let references: usize = dataset.items.iter().map(|item| item.references.len()).sum();
            assert_eq!(references, dataset.counts.kept, "{name}");
        }
    }
    if let Some(root) = published("samsum") {
        for (name, rows) in [("train.csv", 14_731), ("validation.csv", 818), ("test.csv", 819)] {
            let dataset = counted(of_format(Format::Samsum, root.join(name)));
            assert_eq!((dataset.counts.kept, dataset.items.len()), (rows, rows), "{name}");
        }
    }
    if let Some(root) = published("spider") {
        let tables = Some(root.join("tables.json"));
        for (name, rows) in [("train_spider.json", 7_000), ("dev.json", 1_034)] {
            let dataset = counted(DataConfig { tables: tables.clone(), ..of_format(Format::Spider, root.join(name)) });
            assert_eq!((dataset.counts.kept, dataset.items.len()), (rows, rows), "{name}");
        }
        let databases = Some(root.join("database"));
        let dev = of_format(Format::Spider, root.join("dev.json"));
        assert_eq!(counted(DataConfig { tables, databases, ..dev }).items.len(), 1_034, "with databases");
    }
}

#[test]
fn a_prompt_that_leaves_no_room_is_counted() {
    let folder = folder();
    let config = of_format(
        Format::Samsum,
        file(&folder, "a.csv", "dialogue,summary\na b c d e f g h i j k l m n,x\na,x y z u v w\n"),
    );
    let all = validation(&config).unwrap();
    let lengths: Vec<usize> = all.examples.iter().map(|example| example.tokens.len()).collect();
    let prompts: Vec<usize> = all.items.iter().map(|item| item.prompt.len()).collect();
    assert!(prompts[1] < prompts[0] && prompts[1] < lengths[1] - 3, "{lengths:?} {prompts:?}");
    // The second answer is too long to be scored, but can be asked for.
    let dataset = validation(&DataConfig { max_tokens: prompts[1] + 1, ..config.clone() });
    assert!(matches!(dataset, Err(DataError::Empty { .. })), "{:?}", dataset.map(|dataset| texts(&dataset)));
    let dataset = validation(&DataConfig { max_tokens: prompts[0], ..config }).unwrap();
    assert_eq!((dataset.counts.kept, dataset.counts.too_long, dataset.counts.prompts_too_long), (1, 1, 1));
    assert_eq!(dataset.items.iter().map(|item| item.row).collect::<Vec<_>>(), [1]);
}
