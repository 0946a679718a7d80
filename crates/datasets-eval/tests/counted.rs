//! Rows that cannot be used, counted: the others are read, the bad ones named with file and line, and what is not about one
//! row still ends the reading.

use statetune_datasets_eval::{DataConfig, DataError, Dataset, Format, OnBadRow, Pool, Split, load};

mod support;

use support::{TOKENIZER, classes, fails, file, folder, glue, of_format, pairs, read, texts};

fn counting(config: DataConfig) -> DataConfig {
    DataConfig { on_bad_row: OnBadRow::Count, ..config }
}

/// Reads and compares the prompts that are left, and the places of the others.
#[track_caller]
fn leaves(config: DataConfig, prompts: &[&str], bad: &[&str]) {
    assert!(matches!(read(&config), Err(error) if !matches!(error, DataError::Empty { .. })), "nothing is bad");
    let dataset = read(&counting(config)).unwrap_or_else(|error| panic!("{error}"));
    let found: Vec<String> = texts(&dataset).into_iter().map(|(prompt, _)| prompt).collect();
    assert_eq!(found, prompts);
    assert_eq!((dataset.counts.bad, dataset.bad_rows.len()), (bad.len(), bad.len()), "{:?}", dataset.bad_rows);
    for (row, place) in dataset.bad_rows.iter().zip(bad) {
        assert!(row.contains(place), "{row}: expected {place}");
    }
}

#[test]
fn json_lines() {
    let folder = folder();
    let rows = b"{\"prompt\": \"a\", \"completion\": 1}\nno json\n[1]\n{\"prompt\": \"b\"}\n{\"prompt\": [], \"completion\": 1}\n{\"prompt\": \"\xff\", \"completion\": 1}\n{\"prompt\": \"c\", \"completion\": \"\"}\n{\"prompt\": \"d\", \"completion\": 1}\n";
    let config = pairs(Format::Jsonl, file(&folder, "rows.jsonl", rows));
    let places = [
        "rows.jsonl:2: ",
        "rows.jsonl:3: ",
        "rows.jsonl:6: expected UTF-8",
        "rows.jsonl:4: ",
        "rows.jsonl:5: ",
        "rows.jsonl:7: the completion",
    ];
    leaves(config.clone(), &["a", "d"], &places);
    let dataset = read(&counting(config)).unwrap();
    assert_eq!((dataset.counts.rows, dataset.counts.kept), (8, 2));
    assert_eq!(dataset.examples.iter().map(|example| example.id).collect::<Vec<_>>(), [0, 7], "places in the file");
}

#[test]
fn tables() {
    let folder = folder();
    let csv = b"prompt,completion\na,1\nb\n\"c\n\xff\",1\n\"d\n\",1\ne,5\" nail\nf,1\n";
    let config = pairs(Format::Csv, file(&folder, "rows.csv", csv));
    leaves(config, &["a", "d\n", "f"], &["rows.csv:3: expected 2", "rows.csv:5: expected UTF-8", "rows.csv:8: "]);
    let labels = file(&folder, "labels.csv", "prompt,label\na,0\nb,2\nc,1\n");
    leaves(classes(Format::Csv, labels, &["0", "1"]), &["a", "c"], &["labels.csv:3: "]);
    let tsv = b"sentence\tlabel\na\t1\nb\nc\t7\n\xff\t1\n";
    let dataset = read(&counting(glue("sst2", file(&folder, "rows.tsv", tsv)))).unwrap();
    assert_eq!((dataset.counts.kept, dataset.counts.bad), (1, 3));
}

#[test]
fn running_text() {
    let folder = folder();
    let plain = of_format(Format::Text, file(&folder, "a.txt", b"a b\n\nc\n\xff d\n\ne f\n"));
    let dataset = read(&counting(plain)).unwrap();
    assert_eq!((dataset.counts.rows, dataset.counts.kept, dataset.counts.bad), (3, 2, 1));
    assert!(dataset.bad_rows[0].contains("a.txt:4: expected UTF-8"), "{:?}", dataset.bad_rows);
    let lines = of_format(Format::Text, file(&folder, "a.jsonl", "{\"text\": \"a b\"}\n{}\n{\"text\": \"\"}\n"));
    let dataset = read(&counting(lines)).unwrap();
    assert_eq!((dataset.counts.kept, dataset.counts.bad), (1, 2));
}

#[test]
fn bytes_behind_the_limit_are_not_read() {
    let folder = folder();
    let csv = file(&folder, "rows.csv", b"prompt,completion\na,1\n\xff,1\n");
    let dataset = read(&counting(DataConfig { limit: Some(1), ..pairs(Format::Csv, csv) })).unwrap();
    assert_eq!((dataset.counts.rows, dataset.counts.bad), (1, 0));
}

#[test]
fn what_is_not_about_one_row_ends_the_reading() {
    let folder = folder();
    let list = counting(pairs(Format::Json, file(&folder, "rows.json", "[{\"prompt\": \"a\", \"completion\": 1}, x]")));
    assert!(matches!(fails(&list), DataError::Row { .. }), "what follows a mistake in a list is not known");
    let header = counting(pairs(Format::Csv, file(&folder, "rows.csv", b"prompt,completion,\xff\na,1,1\n")));
    assert!(matches!(fails(&header), DataError::Row { line: 1, .. }));
    let missing = counting(pairs(Format::Jsonl, folder.path().join("none")));
    assert!(matches!(fails(&missing), DataError::Io { .. }));
    let all = counting(pairs(Format::Jsonl, file(&folder, "rows.jsonl", "x\ny\n")));
    let error = fails(&all).to_string();
    assert!(error.contains("2 rows read") && error.contains("some that cannot be used (the first: "), "{error}");
}

#[test]
fn the_first_are_named_and_all_counted_whatever_the_threads() {
    let folder = folder();
    let rows: String = (0..300).map(|row| if row % 3 == 1 { ",y\n" } else { "x,y\n" }).collect();
    let config = counting(pairs(Format::Csv, file(&folder, "rows.csv", format!("prompt,completion\n{rows}"))));
    let made =
        [1, 2, 7].map(|threads| load(&config, Split::Train, &TOKENIZER, &Pool::new(threads).unwrap(), None).unwrap());
    assert_eq!((made[0].counts.bad, made[0].bad_rows.len()), (100, Dataset::BAD_ROWS));
    assert!(made[0].bad_rows[1].contains("rows.csv:6: the prompt"), "{:?}", made[0].bad_rows);
    assert!(made[0] == made[1] && made[0] == made[2]);
}

#[test]
fn an_item_goes_with_its_row() {
    let folder = folder();
    let rows = file(
        &folder,
        "rows.jsonl",
        "{\"prompt\": \"a\", \"completion\": \"\"}\n{\"prompt\": \"b\", \"completion\": \"x\"}\n",
    );
    let config = counting(pairs(Format::Jsonl, rows));
    let config = DataConfig { validation: config.train.clone(), ..config };
    let dataset = load(&config, Split::Validation, &TOKENIZER, &Pool::new(1).unwrap(), None).unwrap();
    assert_eq!(dataset.items.iter().map(|item| (item.row, item.line)).collect::<Vec<_>>(), [(1, 2)]);
}
