//! `statetune eval` and `statetune compare` as they are typed: what is kept of an evaluation, that it is repeatable, what is
//! marked and what is not, rows that cannot be used, and what is refused.

mod support;

use std::fs;

use serde_json::Value;
use support::{Fixture, RECORDS, copy, tree};

/// `run.toml` on the generation data, its short run finished in `out`.
fn trained() -> Fixture {
    let fixture = Fixture::new();
    let text = fixture.read("run.toml");
    let (start, end) = (text.find("[data]").expect("a section"), text.find("[[methods]]").expect("methods"));
    let text = format!("{}{RECORDS}\n{}[evaluation]\nmax_new_tokens = 12\n", &text[..start], &text[end..]);
    fixture.write("run.toml", text.replace("metric = \"accuracy\"\n", ""));
    fixture.run(&["train", "run.toml", "--quiet"]).well();
    fixture
}

fn eval(fixture: &Fixture, arguments: &[&str]) -> Value {
    fixture.run(&[&["eval", "out", "--json", "--quiet"], arguments].concat()).well().json()
}

fn lines(fixture: &Fixture, folder: &str) -> Vec<Value> {
    let text = fixture.read(&format!("{folder}/predictions.jsonl"));
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn metric<'v>(found: &'v Value, key: &str) -> &'v Value {
    let metrics = found["metrics"].as_array().expect("metrics");
    metrics.iter().find(|metric| metric["key"] == key).unwrap_or_else(|| panic!("no {key} in {found:#}"))
}

#[test]
fn answers_are_kept_with_their_scores_and_come_again() {
    let fixture = trained();
    let found = eval(&fixture, &[]);
    assert_eq!((&found["name"], &found["folder"]), (&"best".into(), &"out/evaluations/best".into()));
    let keys: Vec<&Value> = found["metrics"].as_array().expect("metrics").iter().map(|metric| &metric["key"]).collect();
    assert_eq!(keys, ["exact_match", "bleu", "rougeL", "loss", "perplexity"]);
    for metric in found["metrics"].as_array().expect("metrics") {
        let at = |key: &str| metric[key].as_f64().expect("a number");
        assert!(at("low") <= at("median") && at("median") <= at("high") && metric["examples"] == 12, "{metric}");
    }
    let (loss, mean) = (metric(&found, "loss"), found["evaluation"]["loss"].as_f64().expect("a loss"));
    assert!((loss["value"].as_f64().expect("a number") - mean).abs() < 1e-9, "{loss} {mean}");
    assert!(loss["low"].as_f64() < Some(mean) && Some(mean) < loss["high"].as_f64(), "{loss}");
    // A line for each row, which says what was asked and what is right.
    let lines = lines(&fixture, "out/evaluations/best");
    let rows = fixture.read("records-validation.jsonl");
    assert_eq!(lines.len(), 12);
    for (index, (line, row)) in lines.iter().zip(rows.lines()).enumerate() {
        let row: Value = serde_json::from_str(row).expect("a row");
        assert_eq!((line["row"].as_u64(), line["line"].as_u64()), (Some(index as u64), Some(index as u64 + 1)));
        assert_eq!((&line["prompt"], &line["references"][0]), (&row["prompt"], &row["completion"]));
        assert!(line["prediction"].is_string() && line["tokens"].as_u64().expect("a number") <= 12, "{line}");
        for key in ["exact_match", "bleu", "rougeL"] {
            assert!(line["scores"][key].is_number(), "{line}");
        }
    }
    // Losses weigh tokens, scores of texts do not.
    let mean = lines.iter().map(|line| line["scores"]["rougeL"].as_f64().expect("a number")).sum::<f64>() / 12.0;
    assert!((metric(&found, "rougeL")["value"].as_f64().expect("a number") - mean).abs() < 1e-12);
    // The same again takes its place, byte for byte, on any number of threads; other settings have a place of their own.
    let before = fixture.tree("out/evaluations");
    assert_eq!(eval(&fixture, &["--set", "device.threads=1"]), found);
    assert_eq!(fixture.tree("out/evaluations"), before);
    let seeded = eval(&fixture, &["--set", "evaluation.seed=9"]);
    assert_eq!(seeded["folder"], "out/evaluations/best-2");
    let (one, two) = (metric(&found, "loss"), metric(&seeded, "loss"));
    assert!(one["value"] == two["value"] && one["low"] != two["low"], "{one} {two}");
    assert_eq!(fixture.tree("out/evaluations/best"), tree(&fixture.path("out/evaluations/best")));
    // What is scored later is no part of the run: it can be gone on with.
    fixture.run(&["train", "run.toml", "--quiet", "--resume", "--set", "evaluation.beams=2"]).well();
}

#[test]
fn how_answers_are_made_and_where_they_end() {
    let fixture = trained();
    eval(&fixture, &["--out", "plain"]);
    let plain = lines(&fixture, "plain");
    let text = |line: &Value| line["prediction"].as_str().expect("a text").to_owned();
    let long = plain.iter().map(&text).find(|text| text.chars().count() > 6).expect("an answer");
    // A piece from its middle, of one character or of several tokens.
    let piece: String = long.chars().skip(3).take(3).collect();
    for stop in [&piece[..1.max(piece.chars().next().map_or(1, char::len_utf8))], &piece[..]] {
        let folder = format!("cut-{}", stop.len());
        let setting = format!("evaluation.stop=[{}]", Value::from(stop));
        eval(&fixture, &["--out", &folder, "--set", &setting]);
        for (cut, whole) in lines(&fixture, &folder).iter().zip(&plain) {
            // White space around an answer is gone, so compare what is left of it.
            let expected = text(whole).split(stop).next().unwrap_or_default().trim().to_owned();
            assert!(text(cut) == expected && !text(cut).contains(stop), "{stop:?}: {cut} {whole}");
        }
        let ended = |lines: &[Value]| lines.iter().filter(|line| line["ended"] == true).count();
        assert!(ended(&lines(&fixture, &folder)) > ended(&plain));
    }
    // One beam that has no minimum to keep to is the greedy answer; several come to more.
    let answers = |folder: &str, settings: &[&str]| {
        let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", *setting]).collect();
        eval(&fixture, &[&["--out", folder][..], &settings].concat());
        lines(&fixture, folder)
    };
    assert!(answers("beams", &["evaluation.beams=3"]).iter().all(|line| line["tokens"].as_u64() <= Some(12)));
    let least = answers("least", &["evaluation.min_new_tokens=12"]);
    assert!(least.iter().all(|line| line["tokens"] == 12), "{least:?}");
    let drawn = |folder, seed: &str| answers(folder, &["evaluation.temperature=1.5", seed]);
    let (one, same, other) =
        (drawn("a", "evaluation.seed=1"), drawn("b", "evaluation.seed=1"), drawn("c", "evaluation.seed=2"));
    assert!(one == same && one != other);
    // Nothing is generated where nothing asks for it.
    let found = eval(&fixture, &["--out", "loss", "--set", "evaluation.metrics=[]"]);
    let keys: Vec<&Value> = found["metrics"].as_array().expect("metrics").iter().map(|metric| &metric["key"]).collect();
    assert_eq!(keys, ["loss", "perplexity"]);
    assert!(lines(&fixture, "loss").iter().all(|line| line["prediction"].is_null()));
    let few = eval(&fixture, &["--out", "few", "--set", "evaluation.limit=5"]);
    assert_eq!((lines(&fixture, "few").len(), &few["evaluation"]["examples"]), (5, &5.into()));
}

#[test]
fn each_adapter_is_evaluated_beside_the_base_and_compared() {
    let fixture = trained();
    copy(&fixture.path("out/best"), &fixture.path("twin"));
    let arguments = ["--each", "--adapter", "tuned=out", "--adapter", "twin"];
    let found = eval(&fixture, &arguments);
    let names: Vec<&Value> =
        found["evaluations"].as_array().expect("a list").iter().map(|evaluation| &evaluation["name"]).collect();
    assert_eq!(names, ["base", "tuned", "twin"]);
    for (index, name) in ["base", "tuned", "twin"].iter().enumerate() {
        assert_eq!(found["evaluations"][index]["folder"], format!("out/evaluations/{name}"));
        assert_eq!(lines(&fixture, &format!("out/evaluations/{name}")).len(), 12);
    }
    // How many prompts are answered at once is nothing to the results: the same folders hold the same.
    let one = eval(&fixture, &[&arguments[..], &["--set", "evaluation.sequences=1"]].concat());
    assert_eq!(one["evaluations"], found["evaluations"]);
    // Each is what it is alone.
    let alone = eval(&fixture, &["--base", "--out", "alone"]);
    assert_eq!(alone["metrics"], found["evaluations"][0]["metrics"]);
    // Training lowers the loss beyond chance; a twin is no better than what it is of.
    let compared = |arguments: &[&str]| fixture.run(&[&["compare", "--json"], arguments].concat()).well().json();
    let verdicts = |compared: &Value, key: &str| -> Vec<Option<i64>> {
        let rows = compared["rows"].as_array().expect("rows");
        let row = rows.iter().find(|row| row["key"] == key).unwrap_or_else(|| panic!("no {key} in {compared:#}"));
        let cells = row["cells"].as_array().expect("cells").iter();
        cells.map(|cell| cell["difference"]["verdict"].as_i64()).collect()
    };
    let all = compared(&["out"]);
    assert_eq!(all["names"], serde_json::json!(["out/base", "out/tuned", "out/twin"]));
    assert_eq!(all["rows"], found["comparison"]["rows"]);
    assert_eq!(verdicts(&all, "loss"), [None, Some(1), Some(1)]);
    let twins = compared(&["out/evaluations/tuned", "out/evaluations/twin"]);
    for row in twins["rows"].as_array().expect("rows") {
        let difference = &row["cells"][1]["difference"];
        assert_eq!((&difference["value"], &difference["verdict"]), (&0.0.into(), &0.into()), "{row}");
    }
    assert_eq!(verdicts(&compared(&["out/evaluations/tuned", "out/evaluations/base"]), "loss"), [None, Some(-1)]);
    let table = fixture.run(&["compare", "before=out/evaluations/base", "after=out/evaluations/tuned"]).well().stdout;
    let of_loss = table.lines().find(|line| line.starts_with("| loss |")).expect("a row");
    assert!(table.starts_with("| | before | after |\n") && of_loss.ends_with("↑ |"), "{table}");
    assert!(table.contains("↓ worse than before"), "{table}");
}

#[test]
fn classes_have_intervals_and_lines_too() {
    let fixture = Fixture::new();
    let base = fixture.run(&["eval", "run.toml", "--base", "--json", "--quiet"]).well().json();
    let keys: Vec<&Value> = base["metrics"].as_array().expect("metrics").iter().map(|metric| &metric["key"]).collect();
    assert_eq!(keys, ["accuracy", "f1", "matthews", "label_accuracy", "loss", "perplexity"]);
    let scores = &base["evaluation"]["classification"];
    for (key, place) in [
        ("accuracy", "/over_all_vocabulary/accuracy"),
        ("f1", "/over_all_vocabulary/f1"),
        ("matthews", "/over_all_vocabulary/matthews"),
        ("label_accuracy", "/over_labels/accuracy"),
    ] {
        assert_eq!(Some(&metric(&base, key)["value"]), scores.pointer(place), "{key}");
    }
    let lines = lines(&fixture, "out/evaluations/base");
    let right = lines.iter().filter(|line| line["of_labels"] == line["references"][0]).count();
    assert_eq!((lines.len(), right as f64 / 24.0), (24, scores["over_labels"]["accuracy"].as_f64().expect("a share")));
    let rows = fixture.read("validation.jsonl");
    let first: Value = serde_json::from_str(rows.lines().next().expect("a row")).expect("JSON");
    let label = first["label"].as_u64().expect("a number").to_string();
    assert_eq!((&lines[0]["prompt"], &lines[0]["references"][0]), (&first["prompt"], &label.into()));
}

#[test]
fn rows_that_cannot_be_used_are_counted_or_end_it() {
    let fixture = trained();
    let good = fixture.read("records-validation.jsonl");
    let mut rows = good.into_bytes();
    rows.extend(b"{\"prompt\": \"a\"\n{\"prompt\": \"a\"}\n{\"prompt\": \"\xff\", \"completion\": \"b\"}\n");
    fixture.write("records-validation.jsonl", &rows);
    let found = eval(&fixture, &[]);
    assert_eq!((&found["counts"]["bad"], lines(&fixture, "out/evaluations/best").len()), (&3.into(), 12));
    let text = fixture.run(&["eval", "out", "--quiet"]).well().stdout;
    assert!(text.contains("3 rows cannot be used and were left out:"), "{text}");
    for (line, what) in [(13, "expected one JSON object"), (14, "no field `completion`"), (15, "expected UTF-8")] {
        let place = format!("records-validation.jsonl:{line}: ");
        let told = text.lines().find(|told| told.contains(&place)).unwrap_or_else(|| panic!("no {place} in {text}"));
        assert!(told.contains(what), "{told}");
    }
    let stop = ["eval", "out", "--set", "evaluation.on_bad_row=stop"];
    fixture.run(&stop).refused(&["records-validation.jsonl:15: expected UTF-8"]);
    // Training stops by default.
    fixture.run(&["train", "run.toml", "--set", "output.folder=new"]).refused(&["records-validation.jsonl:15"]);
    // Of classes a label that is none.
    let classes = Fixture::new();
    let labels = classes.read("validation.jsonl") + "{\"prompt\": \"a\", \"label\": \"7\"}\n";
    classes.write("validation.jsonl", labels);
    let found = classes.run(&["eval", "run.toml", "--base", "--json", "--quiet"]).well().json();
    let told = found["counts"]["bad_rows"][0].as_str().expect("a message");
    assert!(told.contains("validation.jsonl:25: field `label` should be one of `0`, `1`, found `7`"), "{told}");
}

/// A database of one table with 300 rows, and questions about it, in the layout of Spider.
fn with_spider(fixture: &Fixture, queries: &[(&str, &str)]) {
    fs::create_dir_all(fixture.path("database/pets")).expect("a folder");
    let database = rusqlite::Connection::open(fixture.path("database/pets/pets.sqlite")).expect("a database");
    database.execute_batch("CREATE TABLE Pet (id INTEGER, kind TEXT)").expect("a table");
    for id in 0..300 {
        database.execute("INSERT INTO Pet VALUES (?1, 'cat')", [id]).expect("a row");
    }
    fixture.write(
        "tables.json",
        r#"[{"db_id": "pets", "table_names_original": ["Pet"],
             "column_names_original": [[-1, "*"], [0, "id"], [0, "kind"]],
             "column_types": ["text", "number", "text"], "primary_keys": [], "foreign_keys": []},
            {"db_id": "lost", "table_names_original": ["Pet"],
             "column_names_original": [[-1, "*"], [0, "id"]],
             "column_types": ["text", "number"], "primary_keys": [], "foreign_keys": []}]"#,
    );
    let row = |(database, query): &(&str, &str)| {
        serde_json::json!({"question": "How many?", "query": query, "db_id": database}).to_string()
    };
    let rows: Vec<String> = queries.iter().map(row).collect();
    fixture.write("dev.json", format!("[\n{}\n]\n", rows.join(",\n")));
    fixture.write(
        "spider.toml",
        "[model]\npath = \"model\"\n[data]\nformat = \"spider\"\nvalidation = \"dev.json\"\ntables = \"tables.json\"\n\
         databases = \"database\"\n[evaluation]\nmax_new_tokens = 8\n[device]\nthreads = 1\n[output]\nfolder = \"sql\"\n",
    );
}

#[test]
fn queries_are_run_and_bad_golds_named() {
    let fixture = Fixture::new();
    let endless = "SELECT count(*) FROM Pet AS a JOIN Pet AS b JOIN Pet AS c JOIN Pet AS d";
    with_spider(
        &fixture,
        &[
            ("pets", "SELECT count(*) FROM Pet"),
            ("pets", "SELEKT id"),
            ("pets", endless),
            ("lost", "SELECT id FROM Pet"),
            ("pets", "SELECT kind FROM Pet WHERE id = 3 ORDER BY id"),
        ],
    );
    let found = fixture.run(&["eval", "spider.toml", "--base", "--json", "--quiet"]).well().json();
    // The row without a database is none; of four asked, two golds are of no use.
    let bad = found["counts"]["bad_rows"].as_array().expect("messages");
    assert!(bad.len() == 1 && bad[0].as_str().expect("a message").contains("dev.json:5: field `db_id`"), "{bad:?}");
    let golds = found["counts"]["bad_golds"].as_array().expect("messages");
    let told: Vec<&str> = golds.iter().filter_map(Value::as_str).collect();
    assert!(told.len() == 2 && told[0].starts_with("dev.json:3: gold query") && told[0].contains("SELEKT"), "{told:?}");
    assert!(
        told[1].starts_with("dev.json:4: gold query") && told[1].contains("ended at the limit of steps"),
        "{told:?}"
    );
    for key in ["exact_set_match", "execution", "strict_execution", "runs"] {
        assert_eq!(metric(&found, key)["examples"], 2, "{key}");
        assert_eq!(metric(&found, &format!("{key}.easy"))["examples"], 1, "{key}");
    }
    let lines = lines(&fixture, "sql/evaluations/base");
    assert_eq!(lines.len(), 4);
    assert!(lines[0]["scores"]["runs"] == 0 && lines[0]["hardness"] == "easy" && lines[0]["bad_gold"].is_null());
    assert!(lines[1]["bad_gold"].as_str().expect("a reason").contains("SELEKT") && lines[1]["hardness"].is_null());
    assert!(lines[0]["failure"].is_string(), "what a random model writes does not run: {}", lines[0]);
    assert_eq!(lines[0]["database"], "pets");
    let text = fixture.run(&["eval", "spider.toml", "--base", "--quiet"]).well().stdout;
    assert!(text.contains("2 gold queries cannot be used") && text.contains("queries that run, easy"), "{text}");
    // Or the first ends it.
    let stop = ["eval", "spider.toml", "--base", "--set", "evaluation.on_bad_row=stop"];
    fixture.run(&stop).refused(&["dev.json:5: field `db_id`", "`lost`"]);
    fixture.edit("dev.json", "\"db_id\":\"lost\"", "\"db_id\":\"pets\"");
    fixture.run(&stop).refused(&["dev.json:3: field `gold query`", "SELEKT", "count such examples"]);
}

#[test]
fn evaluations_that_do_not_compare_are_refused() {
    let fixture = trained();
    eval(&fixture, &["--out", "all"]);
    eval(&fixture, &["--out", "few", "--set", "evaluation.limit=5"]);
    let rows = fixture.read("records-validation.jsonl");
    fixture.write("other.jsonl", rows.replacen("\"completion\":\"", "\"completion\":\"x", 1));
    eval(&fixture, &["--out", "other", "--set", "data.validation=other.jsonl"]);
    let refused = |arguments: &[&str], parts: &[&str]| {
        let outcome = fixture.run(&[&["compare"], arguments].concat()).refused(parts);
        assert!(outcome.stdout.is_empty(), "{}", outcome.stdout);
    };
    let different = "evaluations of different data do not compare";
    let parts = ["`a` is of 12 rows of records-validation.jsonl", "`b` is of 5 rows", "evaluation.limit"];
    refused(&["a=all", "b=few"], &[&[different], &parts[..]].concat());
    refused(&["a=all", "b=other"], &[different, "`b` is of 12 rows of other.jsonl"]);
    refused(&["all"], &["there is only one evaluation, `best`"]);
    refused(&["all", "few"], &["are both called `best`", "NAME=PATH"]);
    refused(&["all", "model"], &["model holds no evaluation", "statetune eval"]);
    refused(&["all", "absent"], &["cannot read absent"]);
    refused(&["all", "a="], &["`a=`: expected PATH or NAME=PATH"]);
    // Other prompts are other tokens: answers compare, losses do not.
    let prompt = ["--set", "data.prompt=Say: {prompt}", "--out", "prompt"];
    fixture.edit("out/config.toml", "prompt_field = \"prompt\"\n", "prompt = \"{prompt}\"\n");
    eval(&fixture, &prompt);
    let table = fixture.run(&["compare", "a=all", "b=prompt"]).well().stdout;
    assert!(table.contains("loss of `b` and `a`: not compared, since the tokens are others"), "{table}");
    assert!(!table.contains("ROUGE-L of `b`"), "{table}");
    // Damaged files.
    let whole = fixture.read("all/evaluation.json");
    fixture.write("all/evaluation.json", whole.replacen("\"version\": 1", "\"version\": 7", 1));
    refused(&["a=all", "b=few"], &["all/evaluation.json", "version 7"]);
    fixture.write("all/evaluation.json", &whole);
    let statistics = fixture.read("all/statistics.jsonl");
    fixture.write("all/statistics.jsonl", &statistics[..statistics.len() / 2]);
    refused(&["a=all", "b=few"], &["all/statistics.jsonl", "evaluate again"]);
    fixture.write("all/statistics.jsonl", statistics.lines().next().expect("a line"));
    refused(&["a=all", "b=few"], &["all/statistics.jsonl", "expected 5 lines", "found 1"]);
}

#[test]
fn mistakes_of_an_evaluation_are_named_before_it_begins() {
    let fixture = trained();
    let refused = |arguments: &[&str], parts: &[&str]| {
        fixture.run(&[&["eval", "out"], arguments].concat()).refused(parts);
        assert!(!fixture.path("out/evaluations").exists(), "{arguments:?}");
    };
    let set = |setting: &str, parts: &[&str]| refused(&["--set", setting], parts);
    set("evaluation.metrics=[\"rogueL\"]", &["unknown metric `rogueL`", "did you mean `rougeL`"]);
    set("evaluation.metrics=[\"accuracy\"]", &["`accuracy` is of classes, and this data has written answers"]);
    set("evaluation.max_tokens=3", &["unknown field `max_tokens`"]);
    set("evaluation.wordnt=\"x\"", &["did you mean `wordnet`"]);
    set("evaluation.on_bad_row=skip", &["unknown variant `skip`"]);
    set("evaluation.samples=0", &["`evaluation.samples` must be at least 1"]);
    let wordnet = ["--set", "evaluation.metrics=[\"meteor\"]", "--set", "evaluation.wordnet=absent"];
    refused(&wordnet, &["absent"]);
    refused(&["--each", "--adapter", "base=out/best"], &["`base` is the base model", "NAME=PATH"]);
    refused(&["--out", "model"], &["model exists and is not empty"]);
    refused(&["--each", "--base"], &["--each", "--base"]);
    fixture.write("file", "in the way");
    refused(&["--out", "file/x"], &["file"]);
    // A tokenizer that has nothing to end a text with.
    fixture.edit("model/tokenizer.json", "<|endoftext|>", "<|other|>");
    set("evaluation.beams=2", &["`evaluation.beams`", "need a token that ends a text"]);
}
