//! Rows from Parquet, the column format that most data sets of the Hugging Face hub are stored in: each becomes the row
//! that a JSON file with the same values gives. A row's number in the file, from 1, stands for its line.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{ConvertedType, Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::ColumnDescriptor;
use serde_json::{Map, Number, Value};

use super::row::{Parsed, Row};
use crate::{DataError, Result};

/// The first `limit` rows.
///
/// Integers and floating-point numbers become numbers, those of 32 and 16 bits with the fewest digits that tell them apart;
/// NaN and the infinities null. Bytes become text if they are UTF-8; decimals, dates and times become text; structs become
/// objects, maps too.
///
/// # Errors
/// The file is damaged or no Parquet file, compressed by Brotli, encrypted, or has a column of intervals.
pub(super) fn parquet_rows(bytes: Vec<u8>, file: &Path, limit: usize) -> Result<Vec<Parsed>> {
    // The library panics where the levels of damaged columns do not fit the schema.
    let rows = std::panic::catch_unwind(|| read(bytes, file, limit));
    rows.unwrap_or_else(|_| Err(refused(file, "its columns do not fit together")))
}

fn read(bytes: Vec<u8>, file: &Path, limit: usize) -> Result<Vec<Parsed>> {
    let failed = |error: ParquetError| refused(file, &error.to_string());
    let reader = SerializedFileReader::new(Bytes::from(bytes)).map_err(failed)?;
    let schema = reader.metadata().file_metadata().schema_descr();
    if let Some(column) = schema.columns().iter().find(|column| !is_known(column)) {
        let (expected, found) =
            ("columns of texts, numbers, booleans, dates, lists and structs", column.converted_type());
        return Err(DataError::Columns {
            file: file.into(),
            task: "a Parquet file".into(),
            expected: expected.into(),
            found: vec![format!("{}: {found}", column.path().string())],
        });
    }
    let names: Arc<[String]> = schema.root_schema().get_fields().iter().map(|field| field.name().to_owned()).collect();
    let mut rows = Vec::new();
    for (index, row) in reader.get_row_iter(None).map_err(failed)?.take(limit).enumerate() {
        let line = index + 1;
        let values = row.map_err(failed)?.into_columns().into_iter().map(|(name, field)| {
            value(field).map_err(|found| DataError::Value {
                file: file.into(),
                line,
                field: name,
                expected: "text or UTF-8 bytes".into(),
                found: found.into(),
                hint: "leave the column out of the file, or write it as text",
            })
        });
        let row = values.collect::<Result<_>>().map(|values| Row { line, names: names.clone(), values });
        rows.push(Parsed { line, last_line: line, row });
    }
    Ok(rows)
}

/// Whether the library can make a value of a column's type; it panics at others.
fn is_known(column: &ColumnDescriptor) -> bool {
    use ConvertedType as C;
    let converted = column.converted_type();
    match column.physical_type() {
        Type::BOOLEAN | Type::INT96 | Type::FLOAT | Type::DOUBLE => true,
        Type::INT32 => matches!(
            converted,
            C::NONE
                | C::INT_8
                | C::INT_16
                | C::INT_32
                | C::UINT_8
                | C::UINT_16
                | C::UINT_32
                | C::DATE
                | C::TIME_MILLIS
                | C::DECIMAL
        ),
        Type::INT64 => matches!(
            converted,
            C::NONE | C::INT_64 | C::UINT_64 | C::TIME_MICROS | C::TIMESTAMP_MILLIS | C::TIMESTAMP_MICROS | C::DECIMAL
        ),
        Type::BYTE_ARRAY => matches!(converted, C::NONE | C::UTF8 | C::ENUM | C::JSON | C::BSON | C::DECIMAL),
        Type::FIXED_LEN_BYTE_ARRAY => matches!(converted, C::NONE | C::DECIMAL),
    }
}

/// A value as JSON has it, or what it is instead.
fn value(field: Field) -> Result<Value, &'static str> {
    let number = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    // By way of its text, since 0.1 of 32 bits is 0.10000000149011612 of 64.
    let short = |text: String| text.parse().map_or(Value::Null, number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(truth) => truth.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) => number.into(),
        Field::Long(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => short(number.to_string()),
        Field::Float(number) => short(number.to_string()),
        Field::Double(double) => number(double),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).map_err(|_| "bytes that are not UTF-8")?.into(),
        Field::Group(row) => {
            let values = row.into_columns().into_iter().map(|(name, field)| Ok::<_, &str>((name, value(field)?)));
            Value::Object(values.collect::<Result<Map<_, _>, _>>()?)
        }
        Field::ListInternal(list) => {
            let values = list.elements().iter().cloned().map(value);
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let key = |field: &Field| match field {
                Field::Str(text) => text.clone(),
                other => other.to_string(),
            };
            let values = map.entries().iter().map(|(name, field)| Ok::<_, &str>((key(name), value(field.clone())?)));
            Value::Object(values.collect::<Result<Map<_, _>, _>>()?)
        }
        time_or_decimal => time_or_decimal.to_string().into(),
    })
}

fn refused(file: &Path, reason: &str) -> DataError {
    let source = std::io::Error::other(reason.to_owned());
    DataError::Io {
        file: file.into(),
        source,
        hint: "give a whole Parquet file, compressed by Snappy, Zstandard, gzip or LZ4",
    }
}
