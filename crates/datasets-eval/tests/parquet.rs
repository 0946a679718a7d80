//! The Parquet reader: every sort of column becomes what JSON with the same values becomes, damaged files are refused, and
//! the families and running text are read by the file's ending.

use std::sync::Arc;

use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType,
    Int32Type, Int64Type,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use statetune_datasets_eval::{
    CorpusConfig, DataConfig, DataError, Format, OnBadRow, Pool, Split, TemplateLanguage, load_corpus,
};

mod support;

use support::{TOKENIZER, fails, file, folder, message, of_format, pairs, read, texts};

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

/// A file of one group of rows, whose columns `columns` writes.
fn parquet(schema: &str, compression: Compression, columns: impl FnOnce(&mut Group<'_>)) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    columns(&mut group);
    group.close().unwrap();
    writer.into_inner().unwrap()
}

/// Writes the next column: the values that are there, and where it can be absent or repeated, definition and repetition
/// levels.
fn column<T: DataType>(group: &mut Group<'_>, values: &[T::T], definition: &[i16], repetition: &[i16]) {
    let levels = |levels: &[i16]| (!levels.is_empty()).then(|| levels.to_vec());
    let mut writer = group.next_column().unwrap().unwrap();
    let (definition, repetition) = (levels(definition), levels(repetition));
    writer.typed::<T>().write_batch(values, definition.as_deref(), repetition.as_deref()).unwrap();
    writer.close().unwrap();
}

fn strings(group: &mut Group<'_>, texts: &[&str], definition: &[i16], repetition: &[i16]) {
    let texts: Vec<ByteArray> = texts.iter().map(|&text| text.into()).collect();
    column::<ByteArrayType>(group, &texts, definition, repetition);
}

/// Two columns of text.
fn two_texts(names: [&str; 2], rows: &[[&str; 2]]) -> Vec<u8> {
    let schema = format!("message m {{ required binary {} (UTF8); required binary {} (UTF8); }}", names[0], names[1]);
    parquet(&schema, Compression::SNAPPY, |group| {
        for i in [0, 1] {
            strings(group, &rows.iter().map(|row| row[i]).collect::<Vec<_>>(), &[], &[]);
        }
    })
}

const SCHEMA: &str = "message rows {
    optional binary text (UTF8);
    required int32 small;
    required int64 large (UINT_64);
    required float short;
    required double long;
    required boolean truth;
    optional group words (LIST) { repeated group list { optional binary element (UTF8); } }
    optional group pair { required int64 a; optional binary b (UTF8); }
    optional group scores (MAP) { repeated group key_value { required binary key (UTF8); required int32 value; } }
    required binary raw;
    required int32 day (DATE);
    required int64 moment (TIMESTAMP_MILLIS);
    required int32 price (DECIMAL(5, 2));
}";

/// Three rows, with everything that can be absent absent in the second.
fn rows(compression: Compression) -> Vec<u8> {
    parquet(SCHEMA, compression, |group| {
        strings(group, &["ü", "c\"d"], &[1, 0, 1], &[]);
        column::<Int32Type>(group, &[-1, 0, i32::MAX], &[], &[]);
        column::<Int64Type>(group, &[-1, 0, 7], &[], &[]);
        column::<FloatType>(group, &[0.1, f32::NAN, 2.0], &[], &[]);
        column::<DoubleType>(group, &[1e300, -0.25, f64::INFINITY], &[], &[]);
        column::<BoolType>(group, &[true, false, true], &[], &[]);
        strings(group, &["x", "y"], &[3, 3, 2, 0, 1], &[0, 1, 1, 0, 0]);
        column::<Int64Type>(group, &[5, 6], &[1, 0, 1], &[]);
        strings(group, &["b"], &[2, 0, 1], &[]);
        strings(group, &["k", "l"], &[2, 2, 0, 1], &[0, 1, 0, 0]);
        column::<Int32Type>(group, &[1, 2], &[2, 2, 0, 1], &[0, 1, 0, 0]);
        strings(group, &["r", "", "ß"], &[], &[]);
        column::<Int32Type>(group, &[0, 1, 19_000], &[], &[]);
        column::<Int64Type>(group, &[0, 1, 86_400_000], &[], &[]);
        column::<Int32Type>(group, &[150, -1, 99_999], &[], &[]);
    })
}

/// The same as JSON lines.
const JSON: &str = r#"{"text": "ü", "small": -1, "large": 18446744073709551615, "short": 0.1, "long": 1e300, "truth": true, "words": ["x", "y", null], "pair": {"a": 5, "b": "b"}, "scores": {"k": 1, "l": 2}, "raw": "r", "day": "1970-01-01", "moment": "1970-01-01 00:00:00.000 +00:00", "price": "1.50"}
{"text": null, "small": 0, "large": 0, "short": null, "long": -0.25, "truth": false, "words": null, "pair": null, "scores": null, "raw": "", "day": "1970-01-02", "moment": "1970-01-01 00:00:00.001 +00:00", "price": "-0.01"}
{"text": "c\"d", "small": 2147483647, "large": 7, "short": 2.0, "long": null, "truth": true, "words": [], "pair": {"a": 6, "b": null}, "scores": {}, "raw": "ß", "day": "2022-01-08", "moment": "1970-01-02 00:00:00.000 +00:00", "price": "999.99"}
"#;

/// Every column in the prompt.
fn all_columns(format: Format, path: std::path::PathBuf) -> DataConfig {
    let names = ["text", "small", "large", "short", "long", "truth", "words", "pair", "scores", "raw", "day", "moment"];
    let prompt: String = names.iter().map(|name| format!("{{{{ {name} | tojson }}}};")).collect();
    DataConfig {
        templates: TemplateLanguage::Jinja,
        prompt: Some(prompt),
        completion: Some("{{ price | tojson }}".into()),
        ..of_format(format, path)
    }
}

#[test]
fn every_sort_of_column_is_what_json_has() {
    let folder = folder();
    let expected = read(&all_columns(Format::Jsonl, file(&folder, "rows.jsonl", JSON))).unwrap();
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let gzip = Compression::GZIP(Default::default());
    for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip, Compression::LZ4_RAW, zstd] {
        let config = all_columns(Format::Parquet, file(&folder, "rows.parquet", rows(compression)));
        let found = read(&config).unwrap();
        assert_eq!(texts(&found), texts(&expected), "{compression:?}");
        let limited = DataConfig { limit: Some(2), ..config };
        assert_eq!(texts(&read(&limited).unwrap()), texts(&expected)[..2]);
    }
}

#[test]
fn families_and_running_text_go_by_the_ending() {
    let folder = folder();
    let bytes = two_texts(["dialogue", "summary"], &[["A: hi", "A greets."], ["B: no", "B refuses."]]);
    let json = r#"[{"dialogue": "A: hi", "summary": "A greets."}, {"dialogue": "B: no", "summary": "B refuses."}]"#;
    let [found, expected] = [file(&folder, "s.parquet", &bytes), file(&folder, "s.json", json)]
        .map(|path| texts(&read(&of_format(Format::Samsum, path)).unwrap()));
    assert_eq!(found, expected);

    let bytes = two_texts(["text", "story"], &[["One day it rained.", "x"], ["The sun came out.", "y"]]);
    let json =
        "{\"text\": \"One day it rained.\", \"story\": \"x\"}\n{\"text\": \"The sun came out.\", \"story\": \"y\"}\n";
    let paths = [file(&folder, "t.parquet", &bytes), file(&folder, "t.jsonl", json)];
    let [found, expected] = paths.clone().map(|path| texts(&read(&of_format(Format::Text, path)).unwrap()));
    assert_eq!(found, expected);
    let [found, expected] = paths.map(|path| {
        let config =
            CorpusConfig { train: vec![path], length: 2, text_field: "story".into(), ..CorpusConfig::default() };
        load_corpus(&config, Split::Train, &TOKENIZER, &Pool::new(1).unwrap(), None, &|_, _| {}).unwrap().examples
    });
    assert_eq!(found, expected);
}

#[test]
fn bad_rows_are_named_and_counted() {
    let folder = folder();
    let schema =
        "message m { required binary prompt (UTF8); optional binary completion; required fixed_len_byte_array(2) id; }";
    let bytes = parquet(schema, Compression::SNAPPY, |group| {
        strings(group, &["a", "b", "c"], &[], &[]);
        column::<ByteArrayType>(group, &[b"x".to_vec().into(), b"\xff".to_vec().into()], &[1, 1, 0], &[]);
        let ids = ["11", "22", "33"].map(|id| FixedLenByteArray::from(ByteArray::from(id)));
        column::<FixedLenByteArrayType>(group, &ids, &[], &[]);
    });
    let config = pairs(Format::Parquet, file(&folder, "bad.parquet", bytes));
    assert_eq!(
        message(&fails(&config), &folder),
        "bad.parquet:2: field `completion` should be text or UTF-8 bytes, found bytes that are not UTF-8; leave the column \
         out of the file, or write it as text"
    );
    let counted = read(&DataConfig { on_bad_row: OnBadRow::Count, ..config.clone() }).unwrap();
    assert_eq!((counted.counts.rows, counted.counts.kept, counted.counts.bad), (3, 1, 2));
    assert!(counted.bad_rows[1].contains("bad.parquet:3") && counted.bad_rows[1].contains("null"), "{counted:?}");
    let config = DataConfig { completion_field: Some("completed".into()), limit: Some(1), ..config };
    assert!(message(&fails(&config), &folder).contains("did you mean `completion`?"));
}

#[test]
fn what_cannot_be_read_is_refused() {
    let folder = folder();
    let schema =
        "message m { required binary prompt (UTF8); required fixed_len_byte_array(12) completion (INTERVAL); }";
    let bytes = parquet(schema, Compression::UNCOMPRESSED, |group| {
        strings(group, &["a"], &[], &[]);
        let interval = FixedLenByteArray::from(ByteArray::from(vec![0; 12]));
        column::<FixedLenByteArrayType>(group, &[interval], &[], &[]);
    });
    let config = pairs(Format::Parquet, file(&folder, "i.parquet", bytes));
    assert!(message(&fails(&config), &folder).contains("completion: INTERVAL"), "{}", fails(&config));

    let whole = rows(Compression::SNAPPY);
    for length in [0, 3, 12, whole.len() / 2, whole.len() - 1] {
        let config = all_columns(Format::Parquet, file(&folder, "cut.parquet", &whole[..length]));
        let error = fails(&config);
        assert!(matches!(error, DataError::Io { .. }), "{length}: {error}");
        assert!(message(&error, &folder).ends_with("Snappy, Zstandard, gzip or LZ4"), "{error}");
    }
}

/// Any byte may be wrong: then the rows are others, or there is an error.
#[test]
fn damage_is_no_panic() {
    let folder = folder();
    let whole = rows(Compression::SNAPPY);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x95;
        let path = file(&folder, "damaged.parquet", bytes);
        let _ = read(&all_columns(Format::Parquet, path));
    }
}
