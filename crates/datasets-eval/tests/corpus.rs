//! Text for pretraining: documents end to end, every token a target once, files of each kind, compressed or not; what is
//! wrong with a file is said with its place.

use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::sync::atomic::{AtomicUsize, Ordering};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use statetune_datasets_eval::world::World;
use statetune_datasets_eval::{
    CorpusConfig, DataError, Dataset, END_OF_TEXT, Format, Pool, Result, Split, load_corpus,
};

mod support;

use support::{TOKENIZER, file, folder, message};

fn corpus(train: &[PathBuf], length: usize) -> CorpusConfig {
    CorpusConfig { train: train.to_vec(), length, ..CorpusConfig::default() }
}

fn read_with(config: &CorpusConfig, threads: usize, cache: Option<&Path>) -> Result<Dataset> {
    load_corpus(config, Split::Train, &TOKENIZER, &Pool::new(threads).unwrap(), cache, &|_, _| {})
}

fn read(config: &CorpusConfig) -> Dataset {
    read_with(config, 2, None).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn fails(config: &CorpusConfig) -> DataError {
    read_with(config, 2, None).expect_err("an error")
}

fn documents(count: usize) -> Vec<String> {
    World::new(1).text(3, count).collect()
}

fn json_lines(documents: &[String], field: &str) -> String {
    documents.iter().map(|document| serde_json::json!({"id": 1, field: document}).to_string() + "\n").collect()
}

/// The documents' tokens, each with the end after it.
fn stream(documents: &[String]) -> Vec<u32> {
    let end = TOKENIZER.token(END_OF_TEXT).unwrap();
    documents.iter().flat_map(|document| [TOKENIZER.encode(document).unwrap(), vec![end]].concat()).collect()
}

#[test]
fn documents_are_joined_and_every_token_is_a_target_once() {
    let folder = folder();
    let documents = documents(20);
    let whole = stream(&documents);
    let path = file(&folder, "a.jsonl", json_lines(&documents, "text"));
    for length in [1, 2, 7, 64, whole.len() - 1] {
        let dataset = read(&corpus(from_ref(&path), length));
        let rows = &dataset.examples;
        assert_eq!(rows[0].tokens[0], whole[0]);
        let targets: Vec<u32> = rows.iter().flat_map(|row| row.tokens[row.labelled_from..].to_vec()).collect();
        assert_eq!(targets, whole[1..], "rows of {length}");
        let (last, full) = rows.split_last().unwrap();
        assert!(full.iter().all(|row| row.tokens.len() == length + 1), "full rows of {length}");
        assert!((2..=length + 1).contains(&last.tokens.len()));
        assert!(rows.iter().zip(0..).all(|(row, id)| row.id == id && row.labelled_from == 1 && row.class.is_none()));
        assert!(rows.windows(2).all(|pair| pair[0].tokens.last() == pair[1].tokens.first()), "rows share a token");
        assert_eq!((dataset.counts.rows, dataset.counts.kept), (20, rows.len()));
    }
    assert_eq!(
        read_with(&corpus(from_ref(&path), 7), 1, None).unwrap(),
        read(&corpus(from_ref(&path), 7)),
        "one thread"
    );
}

#[test]
fn every_kind_of_file_gives_the_same_tokens() {
    let folder = folder();
    let documents = documents(6);
    let lines = json_lines(&documents, "text");
    let compress = |text: &str| compress_to_vec(text.as_bytes(), CompressionLevel::Fastest);
    let expected = read(&corpus(&[file(&folder, "a.jsonl", &lines)], 32));
    // Frames one after the other, as `zstd` appends, and one to be passed over.
    let half = lines.len() / 2;
    let half = half + lines[half..].find('\n').unwrap() + 1;
    let skipped = [&0x184D_2A50u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"abc"].concat();
    let frames = [compress(&lines[..half]), skipped, compress(&lines[half..])].concat();
    let field = CorpusConfig { text_field: "content".into(), ..CorpusConfig::default() };
    let written = documents.join(END_OF_TEXT);
    for (name, content, config) in [
        ("a.jsonl.zst", compress(&lines), CorpusConfig::default()),
        ("b.JSONL.ZST", frames, CorpusConfig::default()),
        ("c.jsonl", json_lines(&documents, "content").into_bytes(), field),
        ("d.txt", written.clone().into_bytes(), CorpusConfig::default()),
        ("e.txt.zst", compress(&written), CorpusConfig::default()),
    ] {
        let found = read(&CorpusConfig { train: vec![file(&folder, name, content)], length: 32, ..config });
        assert_eq!(found, expected, "{name}");
    }
    let (first, second) = documents.split_at(2);
    let parts = [file(&folder, "1.txt", first.join(END_OF_TEXT)), file(&folder, "2.jsonl", json_lines(second, "text"))];
    assert_eq!(read(&corpus(&parts, 32)), expected, "two files");
    let limited = CorpusConfig { limit: Some(2), ..corpus(&[folder.path().join("a.jsonl")], 32) };
    assert_eq!(read(&limited), read(&corpus(&parts[..1], 32)), "the first two documents");
}

/// Data to fine-tune on may be compressed too.
#[test]
fn examples_come_from_compressed_files() {
    let folder = folder();
    let lines = json_lines(&documents(6), "text");
    let plain = support::of_format(Format::Text, file(&folder, "a.jsonl", &lines));
    let packed = compress_to_vec(lines.as_bytes(), CompressionLevel::Fastest);
    let compressed = support::of_format(Format::Text, file(&folder, "a.jsonl.zst", packed));
    assert_eq!(support::read(&compressed).unwrap(), support::read(&plain).unwrap());
}

#[test]
fn the_end_of_a_document_is_what_is_configured() {
    let folder = folder();
    let documents = documents(3);
    let path = file(&folder, "a.jsonl", json_lines(&documents, "text"));
    let tokens = |end: Option<&str>| -> Vec<u32> {
        let config = CorpusConfig { end_of_text: end.map(str::to_owned), ..corpus(from_ref(&path), 16) };
        let rows = read(&config).examples;
        rows[..1].iter().map(|row| row.tokens[0]).chain(rows.iter().flat_map(|row| row.tokens[1..].to_vec())).collect()
    };
    let bare: Vec<u32> = documents.iter().flat_map(|document| TOKENIZER.encode(document).unwrap()).collect();
    assert_eq!(tokens(Some("")), bare);
    assert_eq!(tokens(Some(END_OF_TEXT)), stream(&documents));
    let unknown = CorpusConfig { end_of_text: Some("<eos>".into()), ..corpus(from_ref(&path), 16) };
    assert!(fails(&unknown).to_string().contains("a token of the tokenizer, or \"\" for none, found \"<eos>\""));
}

#[test]
fn tokens_come_from_the_cache_only_for_the_same_text_and_settings() {
    let folder = folder();
    let cache = folder.path().join("cache");
    let entries = || std::fs::read_dir(&cache).unwrap().count();
    let documents = documents(5);
    let config = corpus(&[file(&folder, "a.jsonl", json_lines(&documents, "text"))], 32);
    let first = read_with(&config, 2, Some(&cache)).unwrap();
    let tokenised = AtomicUsize::new(0);
    let watch = |_: usize, _: usize| _ = tokenised.fetch_add(1, Ordering::Relaxed);
    let pool = Pool::new(2).unwrap();
    let again = load_corpus(&config, Split::Train, &TOKENIZER, &pool, Some(&cache), &watch).unwrap();
    assert_eq!((again, entries(), tokenised.load(Ordering::Relaxed)), (first.clone(), 1, 0));
    let uncached = load_corpus(&config, Split::Train, &TOKENIZER, &pool, None, &watch).unwrap();
    assert!(uncached == first && tokenised.load(Ordering::Relaxed) > 0);
    let other = read_with(&CorpusConfig { length: 31, ..config.clone() }, 2, Some(&cache)).unwrap();
    assert!(other != first && entries() == 2);
    std::fs::write(&config.train[0], json_lines(&documents[1..], "text")).unwrap();
    let changed = read_with(&config, 2, Some(&cache)).unwrap();
    assert!(changed != first && entries() == 3);
    assert_eq!(changed, read(&config));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let folder = folder();
    let good = json_lines(&documents(2), "text");
    let compressed = compress_to_vec(good.as_bytes(), CompressionLevel::Fastest);
    let mut damaged = compressed.clone();
    let at = damaged.len() / 2;
    damaged[at] ^= 0x40;
    for (name, content, length, parts) in [
        ("a.jsonl", format!("{good}{{\"text\": 7").into_bytes(), 8, &["a.jsonl:3", "JSON"][..]),
        (
            "b.jsonl",
            format!("{good}{{\"txt\": \"x\"}}\n").into_bytes(),
            8,
            &["b.jsonl:3", "`text`", "did you mean `txt`"],
        ),
        ("c.jsonl", format!("{good}\n{{\"text\": \"\"}}\n").into_bytes(), 8, &["c.jsonl:4", "no tokens", "remove it"]),
        ("d.txt", b"short".to_vec(), 100, &["d.txt", "fewer than the 101 of one row", "lower data.length"]),
        ("e.txt", vec![0xff, 0xfe], 8, &["e.txt:1", "UTF-8"]),
        ("f.txt.zst", b"no frame at all".to_vec(), 8, &["f.txt.zst", "a whole file of the zstd program"]),
        ("g.jsonl.zst", compressed[..compressed.len() - 9].to_vec(), 8, &["g.jsonl.zst", "a whole file"]),
        ("h.jsonl.zst", damaged, 8, &["h.jsonl.zst", "a whole file"]),
    ] {
        let error = message(&fails(&corpus(&[file(&folder, name, content)], length)), &folder);
        assert!(parts.iter().all(|part| error.contains(part)), "{name}: {error}");
    }
    let missing = message(&fails(&corpus(&[folder.path().join("absent.txt")], 8)), &folder);
    assert!(missing.contains("absent.txt") && missing.contains("readable file"), "{missing}");
    let none = load_corpus(&corpus(&[], 8), Split::Train, &TOKENIZER, &Pool::new(1).unwrap(), None, &|_, _| {});
    assert!(none.unwrap_err().to_string().contains("train: expected the path of a file"));
}
