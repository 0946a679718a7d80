//! What the readers say of files and configurations they cannot use: where it is, what was expected, what was found and
//! what to do. Messages are compared whole, except for what the system or another library says in them.

use statetune_datasets_eval::{
    DataConfig, DataError, Format, Loss, Pool, Preset, Split, TemplateLanguage, Tokenizer, load,
};

mod support;

use support::{TOKENIZER, TOKENIZER_JSON, classes, fails, file, folder, glue, message, of_format, pairs};

/// The message that reading a file of this name and content ends in.
#[track_caller]
fn refusal(name: &str, content: impl AsRef<[u8]>, config: impl Fn(std::path::PathBuf) -> DataConfig) -> String {
    let folder = folder();
    message(&fails(&config(file(&folder, name, content))), &folder)
}

#[track_caller]
fn refused_json(content: &str, expected: &str) {
    assert_eq!(refusal("rows.jsonl", content, |file| pairs(Format::Jsonl, file)), expected);
}

#[track_caller]
fn refused_csv(content: &str, expected: &str) {
    assert_eq!(refusal("rows.csv", content, |file| pairs(Format::Csv, file)), expected);
}

#[track_caller]
fn refused_glue(task: &str, content: &str, expected: &str) {
    assert_eq!(refusal("train.tsv", content, |file| glue(task, file)), expected);
}

const GOOD: &str = "{\"prompt\": \"x\", \"completion\": \"y\"}\n";

// Files

#[test]
fn a_missing_file() {
    let folder = folder();
    let error = fails(&pairs(Format::Jsonl, folder.path().join("none.jsonl")));
    assert!(matches!(error, DataError::Io { .. }));
    let message = message(&error, &folder);
    assert!(
        message.starts_with("none.jsonl: ") && message.ends_with("; give the path of a readable file"),
        "{message}"
    );
}

#[test]
fn bytes_that_are_not_utf8() {
    let refused = |content: &[u8], line: usize, byte: &str| {
        let advice = "convert the file to UTF-8, and decompress it if it is compressed";
        for format in [Format::Jsonl, Format::Csv, Format::Text] {
            let config = |file| match format {
                Format::Text => of_format(format, file),
                _ => pairs(format, file),
            };
            let expected = format!("rows:{line}: expected UTF-8 text, found byte {byte}; {advice}");
            assert_eq!(refusal("rows", content, config), expected);
        }
    };
    refused(b"prompt,completion\nx,y\ngr\xf6\xdfer,z\n", 3, "0xf6");
    refused(b"\xef\xbb\xbfa\nb\xe2\x82", 2, "0xe2");
    refused(b"\xff\xfep\0r\0", 1, "0xff");
    refused(b"\x1f\x8b\x08\0", 1, "0x8b");
}

#[test]
fn no_rows() {
    let advice = "0 rows read, 0 longer than max_tokens = 512; give a file with rows or raise max_tokens";
    for content in ["", "\n \r\n", "\u{feff}"] {
        refused_json(content, &format!("rows.jsonl: no examples: {advice}"));
    }
    for content in ["", "prompt,completion", "prompt,completion\r\n\r\n"] {
        refused_csv(content, &format!("rows.csv: no examples: {advice}"));
    }
    let expected = format!("train.tsv: no examples: {}", advice.replace("512", "4096"));
    refused_glue("cola", "", &expected);
    refused_glue("sst2", "sentence\tlabel\n", &expected);
    assert_eq!(
        refusal("text.txt", "\n\n", |file| of_format(Format::Text, file)),
        format!("text.txt: no examples: {advice}")
    );
}

#[test]
fn rows_that_are_all_too_long() {
    let config = |file| DataConfig { max_tokens: 2, ..pairs(Format::Jsonl, file) };
    let advice = "1 rows read, 1 longer than max_tokens = 2; give a file with rows or raise max_tokens";
    assert_eq!(refusal("rows.jsonl", GOOD, config), format!("rows.jsonl: no examples: {advice}"));
}

// JSON lines

#[test]
fn lines_that_are_no_json_objects() {
    let refused = |line: &str, found: &str| {
        let advice = "write each row as an object on a line of its own";
        let expected = format!("rows.jsonl:3: expected one JSON object, found {found}; {advice}");
        refused_json(&format!("{GOOD}\n{line}\n{GOOD}"), &expected);
    };
    refused("[\"x\", \"y\"]", "a list");
    refused("\"x\"", "a string");
    refused("12", "a number");
    refused("null", "null");
    refused("true", "a boolean");
    refused("{\"prompt\": \"x\"", "invalid JSON (EOF while parsing an object at column 14)");
    refused("{\"prompt\": x}", "invalid JSON (expected value at column 12)");
    refused("{} {}", "invalid JSON (trailing characters at column 4)");
}

#[test]
fn json_rows_without_a_field() {
    let found = "there is no field `completion` (did you mean `completions`?); found `prompt`, `completions`";
    let row = "{\"prompt\": \"x\", \"completions\": \"y\"}\n";
    refused_json(&(GOOD.to_owned() + row), &format!("rows.jsonl:2: {found}"));
    refused_json("{\"p\": \"x\"}", "rows.jsonl:1: there is no field `completion`; found `p`");
    refused_json("{}", "rows.jsonl:1: there is no field `completion`; found no fields");
    let text = refusal("text.jsonl", "{\"text\": \"x y\"}\n{\"Text\": \"x\"}\n", |file| of_format(Format::Text, file));
    assert_eq!(text, "text.jsonl:2: there is no field `text` (did you mean `Text`?); found `Text`");
}

#[test]
fn json_values_of_the_wrong_type() {
    for (value, found) in [("[\"y\"]", "a list"), ("{}", "an object"), ("null", "null")] {
        let row = format!("{{\"prompt\": \"x\", \"completion\": {value}}}");
        let expected = "field `completion` should be text, a number or a boolean";
        refused_json(
            &(GOOD.to_owned() + &row),
            &format!("rows.jsonl:2: {expected}, found {found}; write its text into the row"),
        );
    }
}

// CSV

#[test]
fn csv_rows_of_another_width() {
    let refused = |line: usize, content: &str, found: usize| {
        let advice = "quote fields that hold commas or line ends";
        refused_csv(content, &format!("rows.csv:{line}: expected 2 fields, found {found}; {advice}"));
    };
    refused(3, "prompt,completion\nx,y\nx\n", 1);
    refused(3, "prompt,completion\nx,y\nx,y,z\nx,y\n", 3);
    refused(4, "prompt,completion\n\"x\n\",y\nx", 1);
    refused(3, "prompt,completion\r\nx,y\r\nx\r\n", 1);
    refused(6, "\nprompt,completion\r\n\r\n\nx,y\n\"\n\"\n", 1);
}

#[test]
fn csv_rows_without_a_field() {
    let expected = "rows.csv:2: there is no field `completion` (did you mean `complet`?); found `Prompt`, `complet`";
    refused_csv("Prompt,complet\r\nx,y\r\n", expected);
    refused_csv("completion,\"a,b\"\nx,y\n", "rows.csv:2: there is no field `prompt`; found `completion`, `a,b`");
}

#[test]
fn csv_quotes_out_of_place() {
    let refused = |line: usize, content: &str| {
        let expected = "expected fields without quotes, or quoted with those inside written twice";
        let found = "a quote out of place, or none to close one";
        let advice = "correct the quotes; is the file cut short?";
        refused_csv(content, &format!("rows.csv:{line}: {expected}, found {found}; {advice}"));
    };
    refused(3, "prompt,completion\nx,y\nx,\"y\n");
    refused(3, "prompt,completion\r\nx,y\r\n\"x,y\r\nx,y\r\n");
    refused(2, "prompt,completion\n\"x,1\n\"y\",2\nz,3\n"); // two rows in one
    refused(2, "prompt,completion\nx,5\" nail\nx,y\n");
    refused(2, "prompt,completion\nx,5\" nail\n");
    refused(2, "prompt,completion\nx, \"y\"\nx,y\n");
    refused(3, "prompt,completion\nx,y\nx,\"y\"z\nx,y\n");
    refused(1, "\"prompt,completion\nx,y\n");
    refused(1, "prompt,comp\"letion\nx,y\n");
}

// GLUE

#[test]
fn glue_rows_of_another_width() {
    let advice = "correct or remove the row; a field cannot hold a tab";
    let refused = |task: &str, content: &str, line: usize, expected: usize, found: usize| {
        let width = format!("expected {expected} fields, found {found}");
        refused_glue(task, content, &format!("train.tsv:{line}: {width}; {advice}"));
    };
    refused("sst2", "sentence\tlabel\nfine \t1\n\ndull\n", 4, 2, 1);
    refused("sst2", "sentence\tlabel\r\nfine\t \t1\r\n", 2, 2, 3);
    refused("cola", "gj04\t1\tIt is.\n", 1, 4, 3);
}

#[test]
fn columns_of_no_layout() {
    let advice = "give the task's own file or use format = \"csv\"";
    let refused = |task: &str, content: &str, expected: &str, found: &str| {
        let columns = format!("columns of {task} should be {expected}, found {found}");
        refused_glue(task, content, &format!("train.tsv:1: {columns}; {advice}"));
    };
    refused("sst2", "label\tsentence\n1\tfine\n", "sentence, label", "`label`, `sentence`");
    refused("sst2", "fine \t1\n", "sentence, label", "`fine `, `1`");
    refused("sst2", "", "sentence, label", "no fields");
    refused(
        "rte",
        "index\tsentence1\tsentence2\n0\ta\tb\n",
        "index, sentence1, sentence2, label",
        "`index`, `sentence1`, `sentence2`",
    );
    let both = "id, qid1, qid2, question1, question2, is_duplicate; or id, question1, question2, is_duplicate";
    refused("qqp", "id,question1,question2,is_duplicate\n", both, "`id,question1,question2,is_duplicate`");
}

#[test]
fn labels_that_are_none() {
    let advice = "correct the row or the labels";
    let found = |line: usize, field: &str, labels: &str, value: &str| {
        format!("train.tsv:{line}: field `{field}` should be one of {labels}, found `{value}`; {advice}")
    };
    refused_glue("sst2", "sentence\tlabel\na\t1\nb\t2\n", &found(3, "label", "`0`, `1`", "2"));
    let rows = "index\tsentence1\tsentence2\tgold_label\n0\ta\tb\t-\n";
    refused_glue("mnli", rows, &found(2, "gold_label", "`entailment`, `neutral`, `contradiction`", "-"));
    // The columns of two tasks are the same, their labels are not.
    let rows = "index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n";
    refused_glue("wnli", rows, &found(2, "label", "`0`, `1`", "entailment"));
    let config = |file| classes(Format::Csv, file, &["0", "1"]);
    let refusal = refusal("train.tsv", "prompt,label\nx,1\ny, 1\n", config);
    assert_eq!(refusal, found(3, "label", "`0`, `1`", " 1"));
}

// Rows without tokens

#[test]
fn rows_without_tokens() {
    let csv = "prompt,completion\nx,y\n";
    let prompt = "the prompt has no tokens; the model needs a token to start from; correct the row";
    refused_csv(&format!("{csv},y\n"), &format!("rows.csv:3: {prompt}"));
    let completion = "the completion has no tokens; there is nothing to learn from it; correct or remove the row";
    refused_csv(&format!("{csv}\"\n\",\n"), &format!("rows.csv:3: {completion}"));
    let config = |file| DataConfig { end_of_text: Some("".into()), ..of_format(Format::Text, file) };
    let document = "the document after its first has no tokens; there is nothing to predict in it; remove it";
    assert_eq!(refusal("text.txt", "x y\n\nx\n", config), format!("text.txt:3: {document}"));
    let empty = refusal("text.jsonl", "{\"text\": \"\"}\n", |file| of_format(Format::Text, file));
    assert_eq!(empty, "text.jsonl:1: the document has no tokens; remove it");
}

#[test]
fn the_first_bad_row_is_named_whatever_the_timing() {
    let folder = folder();
    let rows: String = (0..400).map(|row| if row % 50 == 37 { ",y\n" } else { "x,y\n" }).collect();
    let config = pairs(Format::Csv, file(&folder, "rows.csv", format!("prompt,completion\n{rows}")));
    for threads in [1, 2, 7] {
        let error = load(&config, Split::Train, &TOKENIZER, &Pool::new(threads).unwrap(), None).unwrap_err();
        assert!(matches!(error, DataError::NoTokens { line: 39, .. }), "{threads} threads: {error}");
    }
}

// Configurations

#[test]
fn templates_with_broken_braces() {
    for (template, problem, at) in [
        ("a {b", "`{` without `}`", 2),
        ("ü}", "`}` without `{`", 2),
        ("x{}", "`{}` names no field", 1),
        ("{a{b}}", "`{` without `}`", 0),
    ] {
        let advice = "a field is written {name}, a brace itself {{ or }}";
        let expected = format!("template `{template}`: {problem} at byte {at}; {advice}");
        let given = || Some(template.to_owned());
        let prompt = |file| DataConfig { prompt: given(), prompt_field: None, ..pairs(Format::Jsonl, file) };
        let completion =
            |file| DataConfig { completion: given(), completion_field: None, ..pairs(Format::Jsonl, file) };
        assert_eq!(refusal("rows.jsonl", GOOD, prompt), expected);
        assert_eq!(refusal("rows.jsonl", GOOD, completion), expected);
    }
}

/// The message for a configuration that differs from a good one.
fn misconfigured(format: Format, change: impl FnOnce(&mut DataConfig)) -> String {
    let folder = folder();
    let rows = file(&folder, "rows", GOOD);
    let mut config = match format {
        Format::Glue => glue("sst2", rows),
        Format::Text | Format::Dart | Format::Samsum => of_format(format, rows),
        Format::Spider => DataConfig { tables: Some("tables.json".into()), ..of_format(format, rows) },
        Format::Jsonl | Format::Json | Format::Csv | Format::Parquet => pairs(format, rows),
    };
    change(&mut config);
    fails(&config).to_string()
}

fn some(value: &str) -> Option<String> {
    Some(value.into())
}

#[test]
fn sizes_files_and_names() {
    let of = |change: fn(&mut DataConfig)| misconfigured(Format::Jsonl, change);
    let expected = "data configuration: max_tokens: expected at least 2 (a token and the one after it), found 1";
    assert_eq!(of(|config| config.max_tokens = 1), expected);
    assert_eq!(
        of(|config| config.limit = Some(0)),
        "data configuration: limit: expected at least 1, or no limit, found 0"
    );
    assert_eq!(
        of(|config| config.train = None),
        "data configuration: train: expected the path of a file, found nothing"
    );
    let expected =
        "data configuration: end_of_text: expected a token of the tokenizer, or \"\" for none, found \"</s>\"";
    assert_eq!(of(|config| config.end_of_text = some("</s>")), expected);
    let expected = "data configuration: task: expected the name of a GLUE task, found nothing";
    assert_eq!(misconfigured(Format::Glue, |config| config.task = None), expected);
    let expected = "data configuration: tables: expected the path of Spider's tables.json, found nothing";
    assert_eq!(misconfigured(Format::Spider, |config| config.tables = None), expected);
    let tasks = "cola, mnli, mrpc, qnli, qqp, rte, sst2, wnli";
    let expected = format!("data configuration: task: expected one of {tasks}, found \"SST-3\" (did you mean `sst2`?)");
    assert_eq!(misconfigured(Format::Glue, |config| config.task = some("SST-3")), expected);
}

#[test]
fn a_validation_file_that_is_not_given() {
    let folder = folder();
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", GOOD));
    let error = load(&config, Split::Validation, &TOKENIZER, &Pool::new(1).unwrap(), None).unwrap_err();
    assert_eq!(error.to_string(), "data configuration: validation: expected the path of a file, found nothing");
}

#[test]
fn prompts_and_completions_given_once() {
    let of = |change: fn(&mut DataConfig)| misconfigured(Format::Csv, change);
    let prompt = "data configuration: prompt: expected one of `prompt`, `prompt_field`, found";
    assert_eq!(of(|config| config.prompt_field = None), format!("{prompt} none"));
    assert_eq!(of(|config| config.prompt = some("{a}")), format!("{prompt} several"));
    let completion = "data configuration: completion: expected one of `completion`, `completion_field`, `references`, `label_field`, found";
    assert_eq!(of(|config| config.completion_field = None), format!("{completion} none"));
    assert_eq!(of(|config| config.completion = some("{a}")), format!("{completion} several"));
    assert_eq!(of(|config| config.label_field = some("label")), format!("{completion} several"));
    let labels = "data configuration: labels: expected";
    let found = of(|config| config.labels = vec!["0".into(), "1".into()]);
    assert_eq!(found, format!("{labels} to come with a `label_field`, found [\"0\", \"1\"]"));
    let found = of(|config| (config.completion_field, config.label_field) = (None, some("label")));
    assert_eq!(found, format!("{labels} at least two classes, as `label_field` is given, found []"));
}

#[test]
fn keys_that_a_format_does_not_use() {
    type Change = (&'static str, fn(&mut DataConfig));
    let rows: [Change; 6] = [
        ("prompt", |config| config.prompt = some("{a}")),
        ("completion", |config| config.completion = some("{a}")),
        ("prompt_field", |config| config.prompt_field = some("a")),
        ("completion_field", |config| config.completion_field = some("a")),
        ("label_field", |config| config.label_field = some("a")),
        ("labels", |config| config.labels = vec!["0".into()]),
    ];
    let more: [Change; 5] = [
        ("templates", |config| config.templates = TemplateLanguage::Jinja),
        ("references", |config| config.references = some("a")),
        ("group_references", |config| config.group_references = true),
        ("messages_field", |config| config.messages_field = some("a")),
        ("chat_template", |config| config.chat_template = Some("a".into())),
    ];
    let rows = [&rows[..], &more].concat();
    let task: Change = ("task", |config| config.task = some("sst2"));
    let end: Change = ("end_of_text", |config| config.end_of_text = some(""));
    let loss: Change = ("loss", |config| config.loss = Loss::All);
    let key: Change = ("rows_key", |config| config.rows_key = some("a"));
    let preset: Change = ("preset", |config| config.preset = Preset::Paper);
    let spider: [Change; 2] = [
        ("tables", |config| config.tables = Some("a".into())),
        ("databases", |config| config.databases = Some("a".into())),
    ];
    let chat: Change = ("chat_template", |config| config.chat_template = Some("a".into()));
    let unused = [
        (Format::Glue, [&rows[..], &spider, &[end, loss, key]].concat()),
        (Format::Text, [&rows[..], &spider, &[task, preset, loss, key]].concat()),
        (Format::Dart, [&rows[..], &spider, &[task, key]].concat()),
        (Format::Samsum, [&rows[..], &spider, &[task, key]].concat()),
        (Format::Spider, [&rows[..], &[task, key]].concat()),
        (Format::Jsonl, [&spider[..], &[task, preset, key, chat]].concat()),
        (Format::Parquet, [&spider[..], &[task, preset, key, chat]].concat()),
        (Format::Json, [&spider[..], &[task, preset, chat]].concat()),
        (Format::Csv, [&spider[..], &[task, preset, key, chat]].concat()),
    ];
    for (format, changes) in unused {
        for (key, change) in changes {
            let expected =
                format!("data configuration: {key}: expected to be absent: it would not be used here, found a value");
            assert_eq!(misconfigured(format, change), expected);
        }
    }
    let ended_class = |file| DataConfig { end_of_text: some(""), ..classes(Format::Csv, file, &["0", "1"]) };
    assert!(refusal("rows.csv", "prompt,label\nx,0\n", ended_class).contains("end_of_text: expected to be absent"));
    let scored_class = |file| DataConfig { loss: Loss::All, ..classes(Format::Csv, file, &["0", "1"]) };
    assert!(refusal("rows.csv", "prompt,label\nx,0\n", scored_class).contains("loss: expected to be absent"));
    let grouped_class = |file| DataConfig { group_references: true, ..classes(Format::Csv, file, &["0", "1"]) };
    assert!(
        refusal("rows.csv", "prompt,label\nx,0\n", grouped_class).contains("group_references: expected to be absent")
    );
    // Of a chat, whose messages are both.
    let chat = |config: &mut DataConfig| {
        (config.messages_field, config.prompt_field) = (some("messages"), None);
    };
    assert!(misconfigured(Format::Jsonl, chat).contains("completion_field: expected to be absent"));
}

#[test]
fn unknown_keys() {
    let error = serde_json::from_str::<DataConfig>("{\"format\": \"csv\", \"max_token\": 9}").unwrap_err().to_string();
    assert!(error.contains("unknown field `max_token`"), "{error}");
    let error = serde_json::from_str::<DataConfig>("{\"format\": \"tsv\"}").unwrap_err().to_string();
    assert!(
        error.contains(
            "unknown variant `tsv`, expected one of `glue`, `dart`, `samsum`, `spider`, `jsonl`, `json`, `csv`, `parquet`, `text`"
        ),
        "{error}"
    );
}

// Tokenizers

#[test]
fn a_tokenizer_that_is_no_whole_tokenizer() {
    let folder = folder();
    let json = TOKENIZER_JSON.as_bytes();
    for content in [&json[..json.len() / 2], b"{}", b"", b"\xff", GOOD.as_bytes()] {
        let error = Tokenizer::open(&file(&folder, "tokenizer.json", content)).unwrap_err();
        assert!(matches!(error, DataError::Tokenizer { .. }));
        let message = message(&error, &folder);
        let advice = "; give a complete tokenizer.json of the Hugging Face tokenizers library";
        assert!(message.starts_with("tokenizer tokenizer.json: ") && message.ends_with(advice), "{message}");
    }
}

#[test]
fn a_tokenizer_that_is_missing() {
    let folder = folder();
    let error = Tokenizer::open(&folder.path().join("tokenizer.json")).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }));
    let message = message(&error, &folder);
    assert!(
        message.starts_with("tokenizer.json: ") && message.ends_with("; give a readable tokenizer.json"),
        "{message}"
    );
}
