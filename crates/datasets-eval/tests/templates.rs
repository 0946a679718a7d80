//! What a configuration makes of rows that have no form of their own: Jinja, lists of references, chats, JSON lists, what is
//! learnt; and what is said of templates and rows that do not fit.

use serde_json::json;
use statetune_datasets_eval::{
    DataConfig, DataError, Dataset, Format, Loss, Pool, Result, Split, TemplateLanguage, Tokenizer, load,
};
use tempfile::TempDir;

mod support;

use support::{TOKENIZER, TOKENIZER_JSON, fails, file, folder, message, of_format, pairs, read, reads, texts};

fn some(text: &str) -> Option<String> {
    Some(text.into())
}

/// Rows in a file with Jinja templates.
fn jinja(folder: &TempDir, rows: &[serde_json::Value], prompt: &str, completion: &str) -> DataConfig {
    let rows: String = rows.iter().map(|row| row.to_string() + "\n").collect();
    let config = of_format(Format::Jsonl, file(folder, "rows.jsonl", rows));
    DataConfig { templates: TemplateLanguage::Jinja, prompt: some(prompt), completion: some(completion), ..config }
}

fn validation(config: &DataConfig) -> Result<Dataset> {
    let config = DataConfig { validation: config.train.clone(), ..config.clone() };
    load(&config, Split::Validation, &TOKENIZER, &Pool::new(2).unwrap(), None)
}

#[test]
fn jinja_reaches_all_of_a_row() {
    let folder = folder();
    let row = json!({ "name": " Ann ", "a b": 1.5, "list": [{ "x": "<&>" }, { "x": "ü" }], "map": { "z": 1, "a": 2 }, "none": null });
    let prompt = "{# told to nobody #}{{ name|trim }}:\n{% for item in list %}{{ item.x }}{% if not loop.last %}, {% endif %}{% endfor %} {{ row['a b'] }} {% for key, value in map|items %}{{ key }}{{ value }}{% endfor %}{{ none is none }}{{ nothing is defined }}\n";
    let config = jinja(&folder, &[row], prompt, "{{ '{{' }}{{ name }}");
    reads(&config, &[("Ann:\n<&>, ü 1.5 z1a2TrueFalse\n", "{{ Ann <|endoftext|>")]);
}

#[test]
fn jinja_over_a_table() {
    let folder = folder();
    let config = of_format(Format::Csv, file(&folder, "rows.csv", "mr,ref\n\"a[b], c[d]\",x\n"));
    let prompt = some("{{ mr|replace('[', ' = ')|replace(']', '') }}###");
    reads(
        &DataConfig { templates: TemplateLanguage::Jinja, prompt, completion_field: some("ref"), ..config },
        &[("a = b, c = d###", "x<|endoftext|>")],
    );
}

#[test]
fn jinja_names_the_line_of_the_template_and_the_row() {
    let folder = folder();
    let good = json!({ "question": "a", "more": { "x": 1 }, "none": null });
    let bad = |prompt: &str, expected: &str| {
        let lacking = json!({ "question": "a", "more": { }, "none": null });
        let found = message(&fails(&jinja(&folder, &[good.clone(), lacking], prompt, "x")), &folder);
        assert_eq!(found, format!("{expected}; correct the row or the template"));
    };
    bad("\n\n{{ more.x }}", "rows.jsonl:2: prompt, line 3: undefined value");
    bad(
        "{{ question }}\n{{ qestion }}",
        "rows.jsonl:1: prompt, line 2: undefined value; the row has no `qestion` (did you mean `question`?)",
    );
    bad(
        "{% if qestion %}a{% endif %}",
        "rows.jsonl:1: prompt, line 1: undefined value; the row has no `qestion` (did you mean `question`?)",
    );
    bad("{{ none }}", "rows.jsonl:1: prompt, line 1: invalid operation: null is to be written");
    let endless = fails(&jinja(
        &folder,
        std::slice::from_ref(&good),
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}",
        "x",
    ));
    assert!(matches!(endless, DataError::Render { line: 1, .. }), "{endless}");
    for (prompt, line) in [("a\n{% for %}", 2), ("{{ a", 1), ("{{ a|no_such }}", 1)] {
        let error = fails(&jinja(&folder, std::slice::from_ref(&good), prompt, "x"));
        match &error {
            DataError::Jinja { name, line: found, .. } => {
                assert_eq!((name.as_str(), *found), ("prompt", line), "{error}")
            }
            DataError::Render { name, template_line, .. } => {
                assert_eq!((name.as_str(), *template_line), ("prompt", line))
            }
            other => panic!("{other}"),
        }
        assert!(error.to_string().contains(&format!("prompt, line {line}: ")), "{error}");
    }
}

// Several references

#[test]
fn references_are_examples_each_and_one_item() {
    let folder = folder();
    let row =
        |texts: serde_json::Value| json!({ "triples": [["A", "r", "B"]], "lexes": texts, "deep": { "texts": texts } });
    let rows = [row(json!(["one", "two"])), row(json!(["three"]))];
    for expression in ["lexes", "deep.texts", "row['lexes'] | list"] {
        let config = jinja(&folder, &rows, "{{ triples[0]|join(' ') }}###", "x");
        let config = DataConfig { completion: None, references: some(expression), ..config };
        let expected =
            [("A r B###", "one<|endoftext|>"), ("A r B###", "two<|endoftext|>"), ("A r B###", "three<|endoftext|>")];
        reads(&config, &expected);
        let found = validation(&config).unwrap();
        assert_eq!(
            found.items.iter().map(|item| (item.row, item.references.len())).collect::<Vec<_>>(),
            [(0, 2), (1, 1)]
        );
    }
    let objects = [json!({ "p": "a", "lexes": [{ "lex": "one", "id": 1 }, { "lex": "two" }] })];
    let config = jinja(&folder, &objects, "{{ p }}", "x");
    let config = DataConfig { completion: None, references: some("lexes | map(attribute='lex')"), ..config };
    reads(&config, &[("a", "one<|endoftext|>"), ("a", "two<|endoftext|>")]);
}

#[test]
fn references_that_are_none() {
    let folder = folder();
    let with = |expression: &str| {
        let row = json!({ "p": "a", "text": "one", "empty": [], "mixed": ["a", 1], "none": null });
        let config = jinja(&folder, &[row], "{{ p }}", "x");
        message(&fails(&DataConfig { completion: None, references: some(expression), ..config }), &folder)
    };
    let expected = "rows.jsonl:1: field `references` should be a list of texts, at least one, found ";
    let advice = "; correct the row or the expression";
    assert_eq!(with("text"), format!("{expected}a string{advice}"));
    assert_eq!(with("empty"), format!("{expected}an empty list{advice}"));
    assert_eq!(with("mixed"), format!("{expected}a number in the list{advice}"));
    assert_eq!(with("none"), format!("{expected}null{advice}"));
    let near = "the row has no `txt` (did you mean `text`?)";
    assert!(with("txt").contains(near), "{}", with("txt"));
    assert!(with("text |").starts_with("references, line 1: syntax error"), "{}", with("text |"));
}

#[test]
fn rows_with_one_prompt_are_one_item_where_asked() {
    let folder = folder();
    let rows = "prompt,completion\na,1\nb,2\na,3\n";
    let config = pairs(Format::Csv, file(&folder, "rows.csv", rows));
    let items = |config: &DataConfig| {
        let dataset = validation(config).unwrap();
        assert_eq!(dataset.examples.len(), 3);
        dataset.items.iter().map(|item| (item.row, item.references.concat())).collect::<Vec<_>>()
    };
    let expected = |texts: &[(u64, &str)]| texts.iter().map(|&(row, text)| (row, text.to_owned())).collect::<Vec<_>>();
    assert_eq!(items(&config), expected(&[(0, "1"), (1, "2"), (2, "3")]));
    assert_eq!(items(&DataConfig { group_references: true, ..config }), expected(&[(0, "13"), (1, "2")]));
}

// What is learnt

#[test]
fn the_loss_on_everything() {
    let folder = folder();
    let config = pairs(Format::Csv, file(&folder, "rows.csv", "prompt,completion\na few words,more\n"));
    let completion = read(&config).unwrap().examples.remove(0);
    let all = read(&DataConfig { loss: Loss::All, ..config }).unwrap().examples.remove(0);
    assert_eq!((completion.labelled_from, all.labelled_from), (TOKENIZER.encode("a few words").unwrap().len(), 1));
    assert!(completion.labelled_from > 1);
    assert_eq!(all.tokens, completion.tokens);
}

// JSON lists

#[test]
fn json_lists_and_lists_under_a_key() {
    let folder = folder();
    let rows = "[{\"prompt\": \"a\", \"completion\": 1},\n\n{\"prompt\": \"b\", \"completion\": true}]";
    let config = pairs(Format::Json, file(&folder, "rows.json", rows));
    reads(&config, &[("a", "1<|endoftext|>"), ("b", "true<|endoftext|>")]);
    reads(&DataConfig { limit: Some(1), ..config.clone() }, &[("a", "1<|endoftext|>")]);
    assert_eq!(validation(&config).unwrap().items[1].line, 3);
    let inside = file(&folder, "data.json", format!("{{\"version\": [1], \"data\": {rows}}}"));
    let config = DataConfig { rows_key: some("data"), ..pairs(Format::Json, inside) };
    reads(&config, &[("a", "1<|endoftext|>"), ("b", "true<|endoftext|>")]);
    let error = message(&fails(&DataConfig { rows_key: some("dat"), ..config }), &folder);
    assert_eq!(error, "data.json:1: there is no field `dat` (did you mean `data`?); found `version`, `data`");
}

// Chats

const CHATML: &str = "{%- for message in messages %}\n    {{- '<|' + message.role + '|>' + message['content'].strip() + eos_token }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|assistant|>' }}\n{%- endif %}\n";

/// A folder with a tokenizer that has settings beside it.
fn with_template(settings: serde_json::Value) -> (TempDir, Tokenizer) {
    let folder = folder();
    file(&folder, "tokenizer_config.json", settings.to_string());
    let tokenizer = Tokenizer::open(&file(&folder, "tokenizer.json", TOKENIZER_JSON.as_str())).unwrap();
    (folder, tokenizer)
}

fn message_of(role: &str, content: &str) -> serde_json::Value {
    json!({ "role": role, "content": content })
}

fn talk() -> serde_json::Value {
    json!([
        message_of("system", "Be kind."),
        message_of("user", "Hi "),
        message_of("assistant", "Hello."),
        message_of("user", "Who?"),
        message_of("assistant", " Me. ")
    ])
}

fn chat(folder: &TempDir, messages: serde_json::Value) -> DataConfig {
    let rows = file(folder, "chat.jsonl", json!({ "messages": messages }).to_string() + "\n");
    DataConfig { messages_field: some("messages"), ..of_format(Format::Jsonl, rows) }
}

fn load_chat(config: &DataConfig, tokenizer: &Tokenizer, split: Split) -> Result<Dataset> {
    let config = DataConfig { validation: config.train.clone(), ..config.clone() };
    load(&config, split, tokenizer, &Pool::new(1).unwrap(), None)
}

#[test]
fn every_answer_of_a_chat_is_learnt() {
    let settings = json!({ "chat_template": CHATML, "eos_token": { "content": "<|endoftext|>" }, "bos_token": null });
    let (folder, tokenizer) = with_template(settings);
    let config = chat(&folder, talk());
    let dataset = load_chat(&config, &tokenizer, Split::Validation).unwrap();
    let end = "<|endoftext|>";
    let first = format!("<|system|>Be kind.{end}<|user|>Hi{end}<|assistant|>");
    let second = format!("{first}Hello.{end}<|user|>Who?{end}<|assistant|>");
    assert_eq!(texts(&dataset), [(first, format!("Hello.{end}")), (second.clone(), format!("Me.{end}"))]);
    assert_eq!(dataset.items.len(), 1);
    assert_eq!(TOKENIZER.decode(&dataset.items[0].prompt, true).unwrap(), second);
    assert_eq!(dataset.items[0].references, [" Me. "]);
    // The loss on everything: the whole conversation, once.
    let all = load_chat(&DataConfig { loss: Loss::All, ..config }, &tokenizer, Split::Train).unwrap();
    assert_eq!((all.examples.len(), all.examples[0].labelled_from), (1, 1));
    assert_eq!(TOKENIZER.decode(&all.examples[0].tokens, true).unwrap(), second + "Me." + end);
}

#[test]
fn where_a_chat_template_comes_from() {
    let text = |config: &DataConfig, tokenizer: &Tokenizer| {
        texts(&load_chat(config, tokenizer, Split::Train).unwrap())[0].0.clone()
    };
    let named = json!([{ "name": "tool_use", "template": "x" }, { "name": "default", "template": CHATML }]);
    let (folder, tokenizer) = with_template(json!({ "chat_template": named, "eos_token": "#" }));
    let config = chat(&folder, talk());
    assert_eq!(text(&config, &tokenizer), "<|system|>Be kind.#<|user|>Hi#<|assistant|>");
    // A file of its own comes before, and the tokens stay.
    let plain =
        "{% for message in messages %}\n{{ message.content }}{{ eos_token }}\n{% endfor %}\n{% if tools %}x{% endif %}";
    let beside = file(&folder, "chat_template.jinja", plain);
    assert_eq!(text(&config, &tokenizer), "Be kind.#\nHi #\n");
    std::fs::rename(beside, folder.path().join("other.jinja")).unwrap();
    let other = DataConfig { chat_template: Some(folder.path().join("other.jinja")), ..config.clone() };
    assert_eq!(text(&other, &tokenizer), "Be kind.#\nHi #\n");
    let elsewhere = file(&folder, "mine.json", json!({ "chat_template": CHATML, "eos_token": "!" }).to_string());
    let mine = DataConfig { chat_template: Some(elsewhere), ..config.clone() };
    assert_eq!(text(&mine, &tokenizer), "<|system|>Be kind.!<|user|>Hi!<|assistant|>");
    file(&folder, "tokenizer_config.json", "{}");
    let error = load_chat(&config, &tokenizer, Split::Train).unwrap_err();
    assert!(matches!(error, DataError::Config { key: "chat_template", .. }), "{error}");
}

#[test]
fn chats_that_are_none() {
    let settings = json!({ "chat_template": CHATML, "eos_token": "#" });
    let (folder, tokenizer) = with_template(settings);
    let error =
        |messages| message(&load_chat(&chat(&folder, messages), &tokenizer, Split::Train).unwrap_err(), &folder);
    let field = "chat.jsonl:1: field `messages` should be";
    let advice = "write messages as objects with `role` and `content`";
    assert_eq!(error(json!("x")), format!("{field} a list of messages, found a string; {advice}"));
    assert_eq!(
        error(json!([{ "content": "x" }])),
        format!("{field} a list of messages, found null as `role` of message 1; {advice}")
    );
    assert_eq!(
        error(json!([message_of("user", "x"), { "role": "assistant", "content": [] }])),
        format!("{field} a list of messages, found a list as `content` of message 2; {advice}")
    );
    assert_eq!(
        error(json!([message_of("user", "x")])),
        format!("{field} a message of the role `assistant`, found 1 of other roles; remove the row")
    );
    let with = |template: &str| {
        file(&folder, "chat_template.jinja", template);
        error(talk())
    };
    let refused = with(
        "{% for message in messages %}{% if message.role == 'system' %}\n{{ raise_exception('no system') }}{% endif %}{% endfor %}",
    );
    assert_eq!(
        refused,
        "chat.jsonl:1: chat_template, line 2: invalid operation: no system; correct the row or the template"
    );
    let last = with("{{ messages[-1].content }}");
    assert!(last.contains("found another text before message 3 than without it"), "{last}");
    assert!(with("{{ bos_token }}").contains("undefined value"), "{}", with("{{ bos_token }}"));
    assert!(with("{% for %}").starts_with("chat_template, line 1: syntax error"), "{}", with("{% for %}"));
}
