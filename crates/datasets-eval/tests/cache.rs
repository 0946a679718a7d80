//! The cache of tokens: it is read where every input is the same, missed where one is not, made anew where the file is
//! damaged, and safe to be written by several at once. That an entry was read shows in tokens that were put into it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;

use sha2::{Digest, Sha256};
use statetune_datasets_eval::{
    DataConfig, DataError, Dataset, Format, Loss, OnBadRow, OnTooLong, Pool, Preset, Split, TemplateLanguage,
    Tokenizer, load,
};
use tempfile::TempDir;

mod support;

use support::{TOKENIZER, TOKENIZER_JSON, classes, file, folder, message, of_format, pairs, read};

/// Magic, version, key and checksum; the checksum is the last 32 bytes of it.
const HEADER: usize = 8 + 4 + 32 + 32;

/// Rows that serve every format: their texts, a document, a class.
fn rows(count: usize) -> String {
    let row = |index: usize| {
        let (prompt, completion) = (format!("What is after {index}?"), (index + 1).to_string());
        let (text, label) = (format!("After {index} comes {completion}."), (index % 2).to_string());
        serde_json::json!({ "prompt": prompt, "completion": completion, "text": text, "label": label })
    };
    (0..count).map(|index| row(index).to_string() + "\n").collect()
}

#[track_caller]
fn cached_with(config: &DataConfig, tokenizer: &Tokenizer, cache: &Path) -> Dataset {
    let dataset = load(config, Split::Train, tokenizer, &Pool::new(2).unwrap(), Some(cache));
    dataset.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn cached(config: &DataConfig, cache: &Path) -> Dataset {
    cached_with(config, &TOKENIZER, cache)
}

/// Everything in the cache's folder.
fn files(cache: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cache).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The only file there.
#[track_caller]
fn entry(cache: &Path) -> PathBuf {
    let files = files(cache);
    assert!(files.len() == 1 && files[0].extension().is_some_and(|extension| extension == "tokens"), "{files:?}");
    files[0].clone()
}

/// Replaces the payload of an entry, its checksum being right.
fn put(entry: &Path, payload: &[u8]) {
    let mut bytes = std::fs::read(entry).unwrap();
    bytes.truncate(HEADER - 32);
    bytes.extend(Sha256::digest(payload));
    bytes.extend(payload);
    std::fs::write(entry, bytes).unwrap();
}

fn encoded(dataset: &Dataset) -> Vec<u8> {
    bincode::encode_to_vec(dataset, bincode::config::standard()).unwrap()
}

/// A data set that no reader makes of the rows, put into the cache's only entry.
fn tampered(cache: &Path, mut dataset: Dataset) -> Dataset {
    dataset.examples.iter_mut().for_each(|example| example.tokens[0] = 3);
    put(&entry(cache), &encoded(&dataset));
    dataset
}

/// Checks that the cache holds this data set and nothing else, such as files of unfinished writers.
#[track_caller]
fn whole(cache: &Path, dataset: &Dataset) {
    assert_eq!(std::fs::read(entry(cache)).unwrap()[HEADER..], encoded(dataset));
}

struct Case {
    folder: TempDir,
    config: DataConfig,
    cache: PathBuf,
    dataset: Dataset,
}

/// Rows that have been read once.
fn case() -> Case {
    let folder = folder();
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows(50)));
    let cache = folder.path().join("made/by the cache");
    let dataset = cached(&config, &cache);
    assert_eq!(dataset, read(&config).unwrap(), "what is cached is what is read");
    Case { folder, config, cache, dataset }
}

#[test]
fn the_second_load_reads_the_cache() {
    let Case { folder: _folder, config, cache, dataset } = case();
    let entry = entry(&cache);
    let (first, time) = (std::fs::read(&entry).unwrap(), std::fs::metadata(&entry).unwrap().modified().unwrap());
    assert_eq!(cached(&config, &cache), dataset);
    assert_eq!(std::fs::read(&entry).unwrap(), first);
    assert_eq!(std::fs::metadata(&entry).unwrap().modified().unwrap(), time, "written twice");
    let tampered = tampered(&cache, dataset.clone());
    assert_ne!(tampered, dataset);
    assert_eq!(cached(&config, &cache), tampered);
    assert_eq!(read(&config).unwrap(), dataset, "no cache was to be used");
}

#[test]
fn a_file_that_moved_is_the_same_data() {
    let Case { folder, config, cache, dataset } = case();
    let tampered = tampered(&cache, dataset);
    let moved = DataConfig { train: Some(file(&folder, "elsewhere.JSONL", rows(50))), ..config };
    assert_eq!(cached(&moved, &cache), tampered);
}

#[test]
fn every_change_of_the_configuration_misses() {
    let Case { folder: _folder, config, cache, dataset } = case();
    tampered(&cache, dataset);
    let train = || config.train.clone().unwrap();
    let text = |value: &str| Some(value.to_owned());
    let jinja = |prompt: &str, references: Option<String>| DataConfig {
        templates: TemplateLanguage::Jinja,
        prompt: text(prompt),
        prompt_field: None,
        completion_field: references.is_none().then(|| "completion".into()),
        references,
        ..config.clone()
    };
    let changed = [
        ("max_tokens", DataConfig { max_tokens: 64, ..config.clone() }),
        ("on_too_long", DataConfig { on_too_long: OnTooLong::Error, ..config.clone() }),
        ("limit", DataConfig { limit: Some(50), ..config.clone() }),
        ("end_of_text", DataConfig { end_of_text: text(""), ..config.clone() }),
        ("prompt", DataConfig { prompt: text("{prompt}"), prompt_field: None, ..config.clone() }),
        ("another prompt", DataConfig { prompt: text("{prompt}#"), prompt_field: None, ..config.clone() }),
        ("prompt_field", DataConfig { prompt_field: text("text"), ..config.clone() }),
        ("completion", DataConfig { completion: text("{completion}"), completion_field: None, ..config.clone() }),
        ("completion_field", DataConfig { completion_field: text("text"), ..config.clone() }),
        ("labels", classes(Format::Jsonl, train(), &["0", "1"])),
        ("labels in another order", classes(Format::Jsonl, train(), &["1", "0"])),
        ("more labels", classes(Format::Jsonl, train(), &["0", "1", "2"])),
        ("format", of_format(Format::Text, train())),
        ("on_bad_row", DataConfig { on_bad_row: OnBadRow::Count, ..config.clone() }),
        ("loss", DataConfig { loss: Loss::All, ..config.clone() }),
        ("group_references", DataConfig { group_references: true, ..config.clone() }),
        ("a Jinja template", jinja("{{ prompt }}", None)),
        ("another Jinja template", jinja("{{ prompt }}#", None)),
        ("references", jinja("{{ prompt }}", text("[completion]"))),
        ("other references", jinja("{{ prompt }}", text("[completion, text]"))),
        (
            "the language of a template",
            DataConfig { prompt: text("{{ prompt }}"), prompt_field: None, ..config.clone() },
        ),
    ];
    for (index, (change, config)) in changed.iter().enumerate() {
        assert_eq!(cached(config, &cache), read(config).unwrap(), "{change}");
        assert_eq!(files(&cache).len(), index + 2, "{change} has an entry of its own");
    }
}

#[test]
fn every_change_of_the_inputs_misses() {
    let Case { folder, config, cache, dataset } = case();
    tampered(&cache, dataset.clone());
    // The data, in the same place.
    file(&folder, "rows.jsonl", rows(50).replace("after 49", "after 94"));
    assert_eq!(cached(&config, &cache), read(&config).unwrap());
    assert_eq!(files(&cache).len(), 2);
    // The tokenizer, by its content.
    file(&folder, "rows.jsonl", rows(50));
    let other = support::tokenizer(&TOKENIZER_JSON.replace("<|endoftext|>", "<|stop|>"));
    let expected = load(&config, Split::Train, &other, &Pool::new(1).unwrap(), None).unwrap();
    assert_ne!(expected, dataset);
    assert_eq!(cached_with(&config, &other, &cache), expected);
    assert_eq!(files(&cache).len(), 3);
}

#[test]
fn the_presets_have_entries_of_their_own() {
    let folder = folder();
    let cache = folder.path().join("cache");
    let clean = of_format(Format::Samsum, file(&folder, "rows.csv", "dialogue,summary\na ,b \n"));
    let paper = DataConfig { preset: Preset::Paper, ..clean.clone() };
    assert_ne!(cached(&clean, &cache), cached(&paper, &cache));
    assert_eq!(cached(&clean, &cache), read(&clean).unwrap());
}

#[test]
fn a_validation_split_of_the_same_file_misses() {
    let Case { folder: _folder, config, cache, dataset } = case();
    let config = DataConfig { validation: config.train.clone(), ..config };
    let load =
        |cache: Option<&Path>| load(&config, Split::Validation, &TOKENIZER, &Pool::new(2).unwrap(), cache).unwrap();
    assert_eq!(load(Some(&cache)), load(None));
    assert_eq!((load(Some(&cache)).items.len(), dataset.items.len()), (50, 0), "the second is read from the cache");
    assert_eq!(cached(&config, &cache), dataset);
}

#[test]
fn every_change_of_other_files_misses() {
    let folder = folder();
    let cache = folder.path().join("cache");
    // The schemas of Spider, in the same place; its databases.
    let tables = |column: &str| {
        serde_json::json!([{
            "db_id": "d", "table_names_original": ["t"], "column_names_original": [[-1, "*"], [0, column]],
            "column_types": ["text", "text"], "foreign_keys": [], "primary_keys": [],
        }])
        .to_string()
    };
    let rows = serde_json::json!([{ "question": "q", "query": "select 1", "db_id": "d" }]).to_string();
    let databases = folder.path().join("database");
    std::fs::create_dir_all(databases.join("d")).unwrap();
    let database = file(&folder, "database/d/d.sqlite", "");
    let config = DataConfig {
        tables: Some(file(&folder, "tables.json", tables("a"))),
        databases: Some(databases),
        on_bad_row: OnBadRow::Count,
        ..of_format(Format::Spider, file(&folder, "rows.json", rows))
    };
    let first = cached(&config, &cache);
    file(&folder, "tables.json", tables("b"));
    assert_ne!(cached(&config, &cache), first);
    assert_eq!(cached(&config, &cache), read(&config).unwrap());
    let validation = DataConfig { validation: config.train.clone(), ..config };
    let load_validation = || load(&validation, Split::Validation, &TOKENIZER, &Pool::new(1).unwrap(), Some(&cache));
    assert_eq!(load_validation().unwrap().items.len(), 1);
    std::fs::remove_file(database).unwrap();
    assert!(matches!(load_validation(), Err(DataError::Empty { .. })), "read from the cache with a database gone");
    // The chat template, and the tokens beside it.
    let chats =
        serde_json::json!({ "talk": [{ "role": "user", "content": "a" }, { "role": "assistant", "content": "b" }] });
    let template =
        file(&folder, "chat.json", r#"{"chat_template": "{% for m in messages %}{{ m.content }}#{% endfor %}"}"#);
    let config = DataConfig {
        messages_field: Some("talk".into()),
        chat_template: Some(template),
        ..of_format(Format::Jsonl, file(&folder, "chats.jsonl", chats.to_string()))
    };
    let first = cached(&config, &cache);
    for changed in [
        r#"{"chat_template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "eos_token": "?"}"#,
        r#"{"chat_template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "eos_token": "!"}"#,
    ] {
        file(&folder, "chat.json", changed);
        assert_ne!(cached(&config, &cache), first);
        assert_eq!(cached(&config, &cache), read(&config).unwrap(), "{changed}");
    }
}

#[test]
fn items_and_bad_rows_come_back() {
    let folder = folder();
    let cache = folder.path().join("cache");
    let file = file(&folder, "rows.jsonl", rows(3) + "no row\n");
    let config =
        DataConfig { validation: Some(file.clone()), on_bad_row: OnBadRow::Count, ..pairs(Format::Jsonl, file) };
    let load =
        |cache: Option<&Path>| load(&config, Split::Validation, &TOKENIZER, &Pool::new(1).unwrap(), cache).unwrap();
    let dataset = load(None);
    assert_eq!((dataset.items.len(), dataset.counts.bad, dataset.bad_rows.len()), (3, 1, 1));
    load(Some(&cache));
    whole(&cache, &dataset);
    assert_eq!(load(Some(&cache)), dataset);
}

#[test]
fn an_entry_of_the_version_before_is_made_anew() {
    let case = case();
    remade(&case, "version 1", |entry| {
        let mut bytes = std::fs::read(entry).unwrap();
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        std::fs::write(entry, bytes).unwrap();
    });
}

#[test]
fn the_same_text_under_another_extension_misses() {
    let folder = folder();
    let cache = folder.path().join("cache");
    let plain = of_format(Format::Text, file(&folder, "rows.txt", rows(5)));
    let lines = of_format(Format::Text, file(&folder, "rows.jsonl", rows(5)));
    assert_ne!(cached(&plain, &cache), cached(&lines, &cache));
    assert_eq!(files(&cache).len(), 2);
}

/// Spoils the entry, and expects the next load to make it anew.
#[track_caller]
fn remade(case: &Case, what: &str, spoil: impl FnOnce(&Path)) {
    let entry = entry(&case.cache);
    let whole = std::fs::read(&entry).unwrap();
    spoil(&entry);
    assert_ne!(std::fs::read(&entry).unwrap(), whole, "{what}: nothing is spoilt");
    assert_eq!(cached(&case.config, &case.cache), case.dataset, "{what}");
    assert_eq!(std::fs::read(&entry).unwrap(), whole, "{what}: made anew");
}

#[test]
fn damaged_entries_are_made_anew() {
    let case = case();
    let whole = std::fs::read(entry(&case.cache)).unwrap();
    for length in [0, 1, 11, HEADER - 1, HEADER, HEADER + 1, whole.len() / 2, whole.len() - 1] {
        remade(&case, &format!("cut to {length} bytes"), |entry| std::fs::write(entry, &whole[..length]).unwrap());
    }
    for at in [0, 8, 12, 43, 44, HEADER - 1, HEADER, HEADER + 3, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        remade(&case, &format!("a bit of byte {at}"), |entry| std::fs::write(entry, bytes).unwrap());
    }
    remade(&case, "a byte too many", |entry| std::fs::write(entry, [&whole[..], &[0]].concat()).unwrap());
}

#[test]
fn entries_with_a_right_checksum_of_something_else_are_made_anew() {
    let case = case();
    remade(&case, "no data set", |entry| put(entry, b"\xff\xff\xff"));
    remade(&case, "nothing", |entry| put(entry, b""));
    let payload = [encoded(&case.dataset), vec![0]].concat();
    remade(&case, "a data set and more", |entry| put(entry, &payload));
    let longer = DataConfig { max_tokens: 64, ..case.config.clone() };
    let elsewhere = case.folder.path().join("another");
    cached(&longer, &elsewhere);
    let other = self::entry(&elsewhere);
    remade(&case, "another configuration's entry", |entry| {
        std::fs::copy(other, entry).unwrap();
    });
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = folder();
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows(300)));
    let made = [1, 2, 7].map(|threads| {
        let cache = folder.path().join(threads.to_string());
        let dataset = load(&config, Split::Train, &TOKENIZER, &Pool::new(threads).unwrap(), Some(&cache)).unwrap();
        let entry = entry(&cache);
        (dataset, entry.file_name().unwrap().to_owned(), std::fs::read(entry).unwrap())
    });
    assert_eq!(made[0], made[1]);
    assert_eq!(made[0], made[2]);
}

#[test]
fn nothing_is_cached_of_a_load_that_fails() {
    let folder = folder();
    let cache = folder.path().join("cache");
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows(5) + "{}\n"));
    assert!(load(&config, Split::Train, &TOKENIZER, &Pool::new(1).unwrap(), Some(&cache)).is_err());
    assert!(!cache.exists());
}

#[test]
fn a_cache_that_cannot_be_written_fails() {
    let folder = folder();
    let cache = file(&folder, "cache", "a file, not a folder");
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows(5)));
    let error = load(&config, Split::Train, &TOKENIZER, &Pool::new(1).unwrap(), Some(&cache)).unwrap_err();
    assert!(matches!(error, DataError::Io { .. }));
    let message = message(&error, &folder);
    let advice = "; the token cache could not be written; free space, give another cache folder, or go without one";
    assert!(message.starts_with("cache/") && message.ends_with(advice), "{message}");
}

#[test]
fn threads_may_write_the_same_entry() {
    let folder = folder();
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows(300)));
    let expected = read(&config).unwrap();
    for round in 0..8 {
        let cache = folder.path().join(format!("cache {round}"));
        let start = Barrier::new(4);
        let writer = || {
            start.wait();
            assert_eq!(cached(&config, &cache), expected);
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(writer);
            }
        });
        whole(&cache, &expected);
    }
}

/// Where the writers of [`processes_may_write_the_same_entry`] are told the folder of the cache.
const CACHE: &str = "STATETUNE_TEST_CACHE";

/// One of those writers; alone, it fills a folder of its own.
#[test]
fn one_process_writes_an_entry() {
    let folder = folder();
    let cache = std::env::var_os(CACHE).map_or(folder.path().join("cache"), PathBuf::from);
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows(2000)));
    assert_eq!(cached(&config, &cache), read(&config).unwrap());
}

#[test]
fn processes_may_write_the_same_entry() {
    let folder = folder();
    let cache = folder.path().join("cache");
    let start = |_| {
        let mut writer = Command::new(std::env::current_exe().unwrap());
        writer.args(["--exact", "one_process_writes_an_entry"]).env(CACHE, &cache).stdout(Stdio::null());
        writer.spawn().unwrap()
    };
    let writers: Vec<_> = (0..3).map(start).collect();
    for mut writer in writers {
        assert!(writer.wait().unwrap().success());
    }
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows(2000)));
    let dataset = cached(&config, &cache);
    assert_eq!(dataset, read(&config).unwrap());
    whole(&cache, &dataset);
}
