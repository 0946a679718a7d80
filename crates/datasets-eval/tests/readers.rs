//! What the readers make of good files, told as text: JSON lines, CSV, the layouts of GLUE, running text; and what the
//! configuration says of limits, ends and labels. Bad rows are in `bad_rows`, the golden prompts in `golden_prompts`.

use proptest::prelude::*;
use statetune_datasets_eval::tasks::glue::{GlueTask, TASKS};
use statetune_datasets_eval::{Counts, DataConfig, DataError, Dataset, Format, OnTooLong, Pool, Split, load};

mod support;

use support::{
    TOKENIZER, TOKENIZER_JSON, classes, fails, file, folder, glue, message, of_format, pairs, read, reads, texts,
};

const END: &str = "<|endoftext|>";

/// A prompt, and a completion with the token that ends it.
fn ended((prompt, completion): (&str, &str)) -> (String, String) {
    (prompt.into(), completion.to_owned() + END)
}

fn templates(config: DataConfig, prompt: &str, completion: &str) -> DataConfig {
    let (prompt, completion) = (Some(prompt.into()), Some(completion.into()));
    DataConfig { prompt_field: None, completion_field: None, prompt, completion, ..config }
}

// JSON lines

#[test]
fn json_fields() {
    let rows = concat!(
        "\u{feff}{\"prompt\": \"größer \\u00fc\\n###\", \"completion\": \"ja, \\\"日本\\\"\", \"more\": [1, null]}\r\n",
        "\r\n  \n",
        "{\"completion\": true, \"id\": {\"a\": 1}, \"prompt\": -1.5}\r\n",
        "{\"prompt\": \"\u{2028}\", \"completion\": 7}",
    );
    let folder = folder();
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows));
    let expected = [("größer ü\n###", "ja, \"日本\""), ("-1.5", "true"), ("\u{2028}", "7")];
    reads(&config, &expected.map(ended));
}

#[test]
fn json_templates() {
    let folder = folder();
    let rows = "{\"a b\": \"1{x}\", \"c\": \"2\"}\n{\"c\": \"}\", \"a b\": 3}\n";
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows));
    let config = templates(config, "{{{a b}}}: {c}{c}###", "{c}{{}}");
    reads(&config, &[("{1{x}}: 22###", "2{}<|endoftext|>"), ("{3}: }}###", "}{}<|endoftext|>")]);
}

#[test]
fn json_classes() {
    let folder = folder();
    let rows = "{\"prompt\": \"x\", \"label\": 1}\n{\"prompt\": \"y\", \"label\": \"0\"}\n";
    let config = classes(Format::Jsonl, file(&folder, "rows.jsonl", rows), &["0", "1"]);
    reads(&config, &[("x", "1"), ("y", "0")]);
    let dataset = read(&config).unwrap();
    let found: Vec<Option<usize>> = dataset.examples.iter().map(|example| example.class).collect();
    assert_eq!(found, [Some(1), Some(0)]);
    let names: Vec<&str> = dataset.classes.iter().map(|class| class.name.as_str()).collect();
    assert_eq!(names, ["0", "1"]);
    assert!(dataset.classes.iter().all(|class| TOKENIZER.token(&class.name) == Some(class.token)));
}

// CSV

#[test]
fn csv_fields_with_quotes_and_line_ends() {
    let rows = concat!(
        "\u{feff}id,completion,\"prompt\"\r\n",
        "1,\"two\r\nlines, \"\"quoted\"\"\",größer\r\n",
        "\r\n",
        "2,,\"\"\"\"\r\n",
        "3,\"\n\",\" a \"",
    );
    let folder = folder();
    let config = templates(pairs(Format::Csv, file(&folder, "rows.csv", rows)), "{prompt}", "<{completion}>");
    let expected = [("größer", "<two\r\nlines, \"quoted\">"), ("\"", "<>"), (" a ", "<\n>")];
    reads(&config, &expected.map(ended));
}

#[test]
fn csv_fields_and_classes() {
    let folder = folder();
    let rows = "prompt,completion,label\nx,{y},0\nz,ü,1\n";
    let rows = file(&folder, "rows.csv", rows);
    reads(&pairs(Format::Csv, rows.clone()), &[("x", "{y}<|endoftext|>"), ("z", "ü<|endoftext|>")]);
    reads(&classes(Format::Csv, rows, &["1", "0"]), &[("x", "0"), ("z", "1")]);
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('"', "\"\""))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn csv_values_come_back(
        rows in prop::collection::vec(("[a,\"\r\n é]{1,8}", "[a,\"\r\n日{}]{1,8}"), 1..5),
        crlf: bool,
    ) {
        let end = if crlf { "\r\n" } else { "\n" };
        let lines = rows.iter().map(|(prompt, completion)| quoted(prompt) + "," + &quoted(completion) + end);
        let folder = folder();
        let table = format!("prompt,completion{end}") + &lines.collect::<String>();
        let config = pairs(Format::Csv, file(&folder, "rows.csv", table));
        let config = DataConfig { end_of_text: Some("".into()), ..config };
        prop_assert_eq!(texts(&read(&config).unwrap()), rows);
    }

    #[test]
    fn templates_come_back(parts in prop::collection::vec((".{0,5}", "[^{}]{1,5}", ".{0,5}"), 1..4)) {
        let mut row = serde_json::Map::new();
        let mut template = String::from("#");
        for (text, name, value) in &parts {
            row.insert(name.clone(), value.clone().into());
            template += &(text.replace('{', "{{").replace('}', "}}") + "{" + name + "}");
        }
        let rendered = |(text, name, _): &(String, String, String)| text.clone() + row[name].as_str().unwrap();
        let expected = String::from("#") + &parts.iter().map(rendered).collect::<String>();
        let folder = folder();
        let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", serde_json::to_string(&row).unwrap()));
        let config = DataConfig { end_of_text: Some("".into()), ..templates(config, &template, "{{}}") };
        prop_assert_eq!(texts(&read(&config).unwrap()), [(expected, "{}".to_owned())]);
    }
}

// GLUE

/// A task, a file of it, and of each row what stands behind the instruction and its class.
type Layout = (&'static str, &'static str, &'static [(&'static str, usize)]);

/// Every layout known: the official ones and those of published subsets.
const LAYOUTS: [Layout; 11] = [
    (
        "cola", // no header; quotes are characters
        "gj04\t1\t\tThe \"boat sank.\ngj04\t0\t*\tBoat the sank.\n",
        &[("The \"boat sank.###", 1), ("Boat the sank.###", 0)],
    ),
    (
        "sst2",
        "sentence\tlabel\n\"a fine film \t1\r\nit 's \"\"dull \t0",
        &[("\"a fine film ###", 1), ("it 's \"\"dull ###", 0)],
    ),
    (
        "mrpc", // a byte-order mark
        "\u{feff}Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said \" no .\tHe did n't\n0\t7\t9\tü\té\n",
        &[("He said \" no .###He did n't###", 1), ("ü###é###", 0)],
    ),
    (
        "rte",
        "index\tsentence1\tsentence2\tlabel\n0\tIt rains.\tIt is wet.\tentailment\n1\tIt rains.\tIt is dry.\tnot_entailment\n",
        &[("It rains.###It is wet.###", 0), ("It rains.###It is dry.###", 1)],
    ),
    (
        "wnli",
        "index\tsentence1\tsentence2\tlabel\n0\tThe drain is full.\tIt is.\t1\n1\tA\tB\t0\n",
        &[("The drain is full.###It is.###", 1), ("A###B###", 0)],
    ),
    (
        "qnli",
        "index\tquestion\tsentence\tlabel\n5\tWho?\t\"He, her.\tentailment\n6\tWhen?\tHere.\tnot_entailment\n",
        &[("Who?###\"He, her.###", 0), ("When?###Here.###", 1)],
    ),
    (
        "qqp",
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tHow so?\tWhy so?\t1\n1\t3\t4\tWho?\t\t0\n",
        &[("How so?###Why so?###", 1), ("Who?######", 0)],
    ),
    ("qqp", "id\tquestion1\tquestion2\tis_duplicate\n0\tHow so?\tWhy so?\t1\n", &[("How so?###Why so?###", 1)]),
    (
        "mnli", // training
        concat!(
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t",
            "sentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n",
            "0\t31\t31n\ttravel\t( a )\t( b )\t(A a)\t(B b)\tIt is so.\tIs it?\tneutral\tneutral\n",
            "1\t32\t32c\ttravel\t( a )\t( b )\t(A a)\t(B b)\tYes.\tNo.\tneutral\tcontradiction\n",
        ),
        &[("It is so.###Is it?###", 1), ("Yes.###No.###", 2)],
    ),
    (
        "mnli", // matched and mismatched validation
        concat!(
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\t",
            "sentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label\n",
            "0\t31\t31e\tslate\t( a )\t( b )\t(A a)\t(B b)\tIt is so.\tIt is.\t",
            "neutral\tneutral\tneutral\tneutral\tneutral\tentailment\n",
        ),
        &[("It is so.###It is.###", 0)],
    ),
    (
        "mnli", // published subset
        "index\tsentence1\tsentence2\tgold_label\n0\tYes.\tNo.\tcontradiction\n1\tA\tA\tentailment\n",
        &[("Yes.###No.###", 2), ("A###A###", 0)],
    ),
];

#[test]
fn glue_layouts() {
    for (name, content, rows) in LAYOUTS {
        let folder = folder();
        let config = glue(name, file(&folder, "train.tsv", content));
        let instruction = GlueTask::named(name).unwrap().instruction;
        let expected: Vec<(String, String)> =
            rows.iter().map(|(prompt, class)| (format!("{instruction}{prompt}"), class.to_string())).collect();
        reads(&config, &expected);
        let found: Vec<Option<usize>> = read(&config).unwrap().examples.iter().map(|example| example.class).collect();
        assert_eq!(found, rows.iter().map(|row| Some(row.1)).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn glue_layouts_are_all_covered() {
    for task in &TASKS {
        assert_eq!(LAYOUTS.iter().filter(|layout| layout.0 == task.name).count(), task.layouts.len(), "{}", task.name);
    }
}

#[test]
fn glue_names_as_the_papers_write_them() {
    let folder = folder();
    let rows = file(&folder, "train.tsv", "sentence\tlabel\nfine \t1\n");
    assert_eq!(read(&glue("SST-2", rows.clone())).unwrap(), read(&glue("sst2", rows)).unwrap());
}

/// Task, file under `shared/data/glue`, rows as published (or as chosen, for subsets).
const PUBLISHED: [(&str, &str, usize); 17] = [
    ("cola", "CoLA/train.tsv", 8_551),
    ("cola", "CoLA/dev.tsv", 1_043),
    ("sst2", "SST-2/train.tsv", 67_349),
    ("sst2", "SST-2/dev.tsv", 872),
    ("rte", "RTE/train.tsv", 2_490),
    ("rte", "RTE/dev.tsv", 277),
    ("wnli", "WNLI/train.tsv", 635),
    ("wnli", "WNLI/dev.tsv", 71),
    ("mrpc", "MRPC/train.tsv", 3_668),
    ("mrpc", "MRPC/dev.tsv", 408),
    ("mrpc", "MRPC/msr_paraphrase_test.txt", 1_725),
    ("qnli", "QNLI/train_subset2000.tsv", 2_000),
    ("qnli", "QNLI/dev.tsv", 5_463),
    ("mnli", "MNLI/train_subset3000.tsv", 3_000),
    ("mnli", "MNLI/dev_subset7469.tsv", 7_469),
    ("qqp", "QQP/train_subset2000.tsv", 2_000),
    ("qqp", "QQP/dev_subset7600.tsv", 7_600),
];

/// Splits at spaces and knows nothing but the answers: published files are large, and only rows are counted.
const WORDS: &str = r#"{
    "version": "1.0", "added_tokens": [], "pre_tokenizer": { "type": "WhitespaceSplit" },
    "model": { "type": "WordLevel", "unk_token": "?", "vocab": { "?": 0, "0": 1, "1": 2, "2": 3 } }
}"#;

/// A folder of the shared data, if it is there.
fn published(name: &str) -> Option<std::path::PathBuf> {
    let folder = support::workspace().join("../shared/data").join(name);
    if !folder.is_dir() {
        println!("readers: no {}: the published files were left out", folder.display());
    }
    Some(folder).filter(|folder| folder.is_dir())
}

fn read_words(config: &DataConfig) -> Dataset {
    let dataset = load(config, Split::Train, &support::tokenizer(WORDS), &Pool::new(2).unwrap(), None);
    dataset.unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn glue_as_published() {
    let Some(root) = published("glue") else { return };
    for (task, name, rows) in PUBLISHED {
        let dataset = read_words(&glue(task, root.join(name)));
        assert_eq!((dataset.counts.rows, dataset.counts.kept), (rows, rows), "{name}");
        for class in 0..GlueTask::named(task).unwrap().labels.len() {
            assert!(dataset.examples.iter().any(|example| example.class == Some(class)), "{name} has no class {class}");
        }
    }
}

#[test]
fn dialogues_as_published() {
    let Some(root) = published("samsum") else { return };
    for (name, rows) in [("train.csv", 14_731), ("validation.csv", 818), ("test.csv", 819)] {
        let config = DataConfig { max_tokens: 4096, ..of_format(Format::Csv, root.join(name)) };
        let dataset = read_words(&templates(config, "{dialogue} ###", "{summary} ."));
        assert_eq!((dataset.counts.rows, dataset.counts.kept), (rows, rows), "{name}");
    }
}

// Running text

fn tokens(text: &str) -> Vec<u32> {
    TOKENIZER.encode(text).unwrap()
}

/// Documents of a data set in windows: a document begins where a window does not begin with the last token before it.
fn rejoined(dataset: &Dataset) -> Vec<Vec<u32>> {
    let mut documents: Vec<Vec<u32>> = Vec::new();
    for example in &dataset.examples {
        match documents.last_mut() {
            Some(document) if document.last() != Some(&0) => {
                assert_eq!(document.last(), example.tokens.first(), "neighbours share a token");
                document.extend(&example.tokens[1..]);
            }
            _ => documents.push(example.tokens.clone()),
        }
    }
    documents
}

#[test]
fn text_documents_and_windows() {
    let folder = folder();
    let documents = ["The harbour of the island\nlies to the south.", "Größer", "  A third\ttext, 日本."];
    let text =
        format!("\u{feff}\r\n{}\n\n \t\n{}\r\n\r\n{}", documents[0].replace('\n', "\r\n"), documents[1], documents[2]);
    let lines: String =
        documents.iter().map(|document| serde_json::json!({ "text": document }).to_string() + "\n").collect();
    let plain = of_format(Format::Text, file(&folder, "text.txt", text));
    let json = of_format(Format::Text, file(&folder, "text.JSONL", lines));
    let expected = documents.map(|document| [tokens(document), vec![0]].concat());
    for max_tokens in [2, 3, 7, 512] {
        let dataset = read(&DataConfig { max_tokens, ..plain.clone() }).unwrap();
        assert_eq!(rejoined(&dataset), expected, "windows of {max_tokens}");
        assert_eq!(dataset, read(&DataConfig { max_tokens, ..json.clone() }).unwrap());
        assert!(dataset.examples.iter().all(|example| (2..=max_tokens).contains(&example.tokens.len())));
        assert!(dataset.examples.iter().enumerate().all(|(id, example)| example.id == id as u64));
        assert!(dataset.examples.iter().all(|example| example.labelled_from == 1 && example.class.is_none()));
        let longest = expected.iter().map(Vec::len).max().unwrap();
        let counts = Counts { rows: 3, kept: dataset.examples.len(), max_tokens: longest, ..Counts::default() };
        assert_eq!(dataset.counts, counts);
    }
}

// Limits, ends and labels

#[test]
fn limits_count_rows_of_the_file() {
    let folder = folder();
    let rows = "prompt,completion\na,1\n\nb,2\nc,\"unread\n";
    let two = DataConfig { limit: Some(2), ..pairs(Format::Csv, file(&folder, "rows.csv", rows)) };
    reads(&two, &[("a", "1<|endoftext|>"), ("b", "2<|endoftext|>")]);
    let rows = "{\"prompt\": \"a\", \"completion\": \"1\"}\n\n{\"prompt\": \"b\", \"completion\": \"2\"}\nunread\n";
    let two = DataConfig { limit: Some(2), ..pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows)) };
    reads(&two, &[("a", "1<|endoftext|>"), ("b", "2<|endoftext|>")]);
    let rows = "sentence\tlabel\na\t1\nunread\n";
    let one = DataConfig { limit: Some(1), ..glue("sst2", file(&folder, "rows.tsv", rows)) };
    assert_eq!(read(&one).unwrap().counts.rows, 1);
    let text = DataConfig { limit: Some(2), ..of_format(Format::Text, file(&folder, "text.txt", "a\nb\n\nc\n\nd\n")) };
    reads(&text, &[("a", "\nb<|endoftext|>"), ("c", "<|endoftext|>")]);
}

fn long_and_short(folder: &tempfile::TempDir) -> DataConfig {
    let long = "12345 ".repeat(9);
    pairs(Format::Csv, file(folder, "rows.csv", format!("prompt,completion\na,1\n\"{long}\n\",2\nb,3\n{long},4\n")))
}

#[test]
fn long_rows_are_dropped_and_counted() {
    let folder = folder();
    let all = read(&long_and_short(&folder)).unwrap();
    let dataset = read(&DataConfig { max_tokens: 3, ..long_and_short(&folder) }).unwrap();
    let kept: Vec<_> = all.examples.iter().filter(|example| example.tokens.len() <= 3).cloned().collect();
    assert_eq!(kept.iter().map(|example| example.id).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(dataset.examples, kept);
    let counts = Counts { kept: 2, too_long: 2, ..all.counts };
    assert_eq!((dataset.counts, all.counts.too_long), (counts, 0));
    let first = read(&DataConfig { max_tokens: 3, limit: Some(2), ..long_and_short(&folder) }).unwrap();
    assert_eq!((first.counts.rows, first.counts.kept), (2, 1));
}

#[test]
fn long_rows_fail_where_asked() {
    let folder = folder();
    let found = read(&long_and_short(&folder)).unwrap().examples[1].tokens.len();
    let config = DataConfig { max_tokens: 3, on_too_long: OnTooLong::Error, ..long_and_short(&folder) };
    let advice = "raise max_tokens or set on_too_long = \"drop\" (counted, never cut)";
    let expected = format!("rows.csv:3: {found} tokens, more than max_tokens = 3; {advice}");
    assert_eq!(message(&fails(&config), &folder), expected);
    assert!(read(&DataConfig { max_tokens: 512, ..config }).is_ok());
}

#[test]
fn the_end_of_a_text() {
    let folder = folder();
    let rows = file(&folder, "rows.csv", "prompt,completion,label\nx,y,0\nx,y<|endoftext|>,1\n");
    let config = pairs(Format::Csv, rows.clone());
    let ended_by = |end: &str| DataConfig { end_of_text: Some(end.into()), ..config.clone() };
    reads(&config, &[("x", "y<|endoftext|>"), ("x", "y<|endoftext|>")]);
    reads(&ended_by(END), &[("x", "y<|endoftext|>"), ("x", "y<|endoftext|>")]);
    reads(&ended_by(""), &[("x", "y"), ("x", "y<|endoftext|>")]);
    reads(&ended_by("."), &[("x", "y."), ("x", "y<|endoftext|>.")]);
    reads(&classes(Format::Csv, rows, &["0", "1"]), &[("x", "0"), ("x", "1")]);
    let text = of_format(Format::Text, file(&folder, "text.txt", "x\n\ny<|endoftext|>\n"));
    reads(&text, &[("x", "<|endoftext|>"), ("y", "<|endoftext|>")]);
}

#[test]
fn a_tokenizer_without_the_usual_end() {
    let folder = folder();
    let config = pairs(Format::Csv, file(&folder, "rows.csv", "prompt,completion\nx,y\n"));
    let other = support::tokenizer(&TOKENIZER_JSON.replace(END, "<|stop|>"));
    let tokens = |config: &DataConfig| {
        let dataset = load(config, Split::Train, &other, &Pool::new(1).unwrap(), None);
        dataset.map(|dataset| dataset.examples[0].tokens[1..].to_vec())
    };
    let y = other.token("y").unwrap();
    assert_eq!(tokens(&config).unwrap(), [y]);
    assert_eq!(tokens(&DataConfig { end_of_text: Some("<|stop|>".into()), ..config.clone() }).unwrap(), [y, 0]);
    let error = tokens(&DataConfig { end_of_text: Some(END.into()), ..config }).unwrap_err();
    assert!(matches!(error, DataError::Config { key: "end_of_text", .. }), "{error}");
}

#[test]
fn prompt_and_completion_are_encoded_each_on_its_own() {
    let folder = folder();
    let dataset = read(&pairs(Format::Csv, file(&folder, "rows.csv", "prompt,completion\nth,e\n"))).unwrap();
    let apart = [tokens("th"), tokens("e"), vec![0]].concat();
    assert_ne!(apart, tokens("the<|endoftext|>"), "a text whose tokens lie across the seam");
    assert_eq!((&dataset.examples[0].tokens, dataset.examples[0].labelled_from), (&apart, tokens("th").len()));
    assert_eq!(dataset.lengths(), [apart.len() - 1]);
}

#[test]
fn a_saved_truncation_or_padding_is_not_applied() {
    let mut json: serde_json::Value = serde_json::from_str(&TOKENIZER_JSON).unwrap();
    json["truncation"] =
        serde_json::json!({ "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = serde_json::json!({
        "strategy": { "Fixed": 64 }, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": END,
    });
    let text = "A text of more tokens than two and fewer than sixty-four.";
    assert_eq!(support::tokenizer(&json.to_string()).encode(text).unwrap(), tokens(text));
}

#[test]
fn labels_are_one_token_each_and_differ() {
    let folder = folder();
    let rows = file(&folder, "rows.csv", "prompt,label\nx,0\n");
    let error = |labels: &[&str]| fails(&classes(Format::Csv, rows.clone(), labels)).to_string();
    let split = |label: &str, found: usize| {
        let advice = "rename it in `labels` to something that is a single token (a digit, for one)";
        format!("label `{label}` is {found} tokens of this tokenizer, expected one; {advice}")
    };
    assert_eq!(error(&["0", "0 and more"]), split("0 and more", tokens("0 and more").len()));
    assert_eq!(error(&["0", ""]), split("", 0));
    let same =
        format!("labels `0` and `0` are the same token {}; every class needs a token of its own", tokens("0")[0]);
    assert_eq!(error(&["0", "1", "0"]), same);
}
