//! Parquet files: columns with addresses, or with the pictures themselves, as Hugging Face's datasets have them.

use std::{collections::HashMap, fs::File, path::Path, sync::Arc};

use parquet::{
    basic::{ConvertedType, LogicalType, TimeUnit},
    errors::ParquetError,
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row as Record, reader::RowIter},
    schema::types::Type,
};
use serde_json::{Value, json};

use super::{
    Fields, Row, RowForm, RowPicture, columns::may_be_a_picture, json::LARGEST_EXACT, listed,
    pictures::begins_like_one, reading::Sink, text::read_error,
};
use crate::job::JobError;

/// The number of values that are decoded at a time. They may be pictures.
const BATCH: usize = 16;

/// Reads all rows of a file. Returns false when no more rows are wanted.
pub fn read(path: &Path, sink: &mut Sink) -> Result<bool, JobError> {
    let file = File::open(path).map_err(|error| read_error(path, error))?;
    let reader = SerializedFileReader::new(file).map_err(|error| explain(path, &error))?;
    let schema = reader.metadata().file_metadata().schema();
    let (columns, nanoseconds, downloaded) = (readable(schema), in_nanoseconds(schema), downloaded(schema));
    let rows = RowIter::from_file(columns, &reader).map_err(|error| explain(path, &error))?.with_batch_size(BATCH);
    for (index, record) in rows.enumerate() {
        let record = record.map_err(|error| explain(path, &error))?;
        let number = index as u64 + 1;
        let place = format!("{}, row {number}", path.display());
        let is_missing =
            |column: &String| record.get_column_iter().any(|(name, field)| name == column && *field == Field::Null);
        if downloaded.as_ref().is_some_and(is_missing) {
            sink.leave_out(|tally| tally.add("rows whose download failed"));
            continue;
        }
        let (fields, pictures) = take_apart(record, &nanoseconds);
        if !sink.push(Row { pictures, ..Row::new(number, place, Ok(fields), RowForm::Typed) }) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The columns without those that the reader would crash at; nothing if there are none of these.
fn readable(schema: &Type) -> Option<Type> {
    fn is_readable(field: &Type) -> bool {
        match field {
            Type::PrimitiveType { basic_info, .. } => basic_info.converted_type() != ConvertedType::INTERVAL,
            Type::GroupType { fields, .. } => fields.iter().all(|field| is_readable(field)),
        }
    }
    let fields: Vec<_> = schema.get_fields().iter().filter(|field| is_readable(field)).cloned().collect();
    if fields.len() == schema.get_fields().len() {
        return None;
    }
    Type::group_type_builder(schema.name()).with_fields(fields).build().ok()
}

/// The column with the pictures that img2dataset has downloaded; nothing in other files. A row without a picture there
/// still has its address.
fn downloaded(schema: &Type) -> Option<String> {
    let fields = schema.get_fields();
    let has = |name: &str| fields.iter().any(|field| field.name() == name);
    let is_picture = |field: &&Arc<Type>| listed::is_picture(field.name()) && field.is_primitive();
    let column = fields.iter().find(is_picture)?;
    (has("key") && has("status") && has("url")).then(|| column.name().to_owned())
}

/// The names of its columns; nothing if the file cannot be read, which reading it tells.
pub fn columns(path: &Path) -> Option<Vec<String>> {
    let reader = SerializedFileReader::new(File::open(path).ok()?).ok()?;
    let fields = reader.metadata().file_metadata().schema().get_fields();
    Some(fields.iter().map(|field| field.name().to_owned()).collect())
}

/// Whether a file has a column of pictures, by its schema: bytes that are no text.
pub fn has_pictures(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(reader) = SerializedFileReader::new(file) else { return false };
    let schema = reader.metadata().file_metadata().schema_descr();
    schema.columns().iter().any(|column| {
        column.physical_type() == parquet::basic::Type::BYTE_ARRAY
            && column.logical_type_ref().is_none()
            && column.converted_type() == parquet::basic::ConvertedType::NONE
    })
}

/// Whether a file has a column of pictures as Hugging Face's datasets writes it, `{bytes, path}`.
pub fn has_image_structs(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let Ok(reader) = SerializedFileReader::new(file) else { return false };
    let has = |field: &Type, name: &str| field.get_fields().iter().any(|field| field.name() == name);
    let columns = reader.metadata().file_metadata().schema().get_fields();
    columns.iter().any(|column| column.is_group() && has(column, "bytes") && has(column, "path"))
}

/// Makes a date or a time of microseconds.
type FromMicros = fn(i64) -> Field;

/// The columns with dates and times in nanoseconds, as pandas writes them, which the reader takes for numbers.
fn in_nanoseconds(schema: &Type) -> HashMap<String, FromMicros> {
    let of = |field: &Arc<Type>| {
        let make: FromMicros = match field.get_basic_info().logical_type_ref()? {
            LogicalType::Timestamp(time) if time.unit == TimeUnit::NANOS => Field::TimestampMicros,
            LogicalType::Time(time) if time.unit == TimeUnit::NANOS => Field::TimeMicros,
            _ => return None,
        };
        Some((field.name().to_owned(), make))
    };
    schema.get_fields().iter().filter_map(of).collect()
}

fn take_apart(record: Record, nanoseconds: &HashMap<String, FromMicros>) -> (Fields, Vec<RowPicture>) {
    let (mut fields, mut pictures) = (Fields::new(), Vec::new());
    for (column, field) in record.into_columns() {
        let field = match (field, nanoseconds.get(&column)) {
            (Field::Long(time), Some(make)) => make(time.div_euclid(1000)),
            (field, _) => field,
        };
        match field {
            // What is missing is said where it is looked for.
            Field::Null if may_be_a_picture(&column) => drop(fields.insert(column, Value::Null)),
            Field::Null => {}
            Field::Bytes(bytes) => match text(bytes.data()) {
                // Some programs do not say that a column is text.
                Some(text) => drop(fields.insert(column, json!(text))),
                None => pictures.push(RowPicture { column, name: String::new(), bytes: bytes.data().to_vec() }),
            },
            Field::Group(group) => match (picture(&group), image_path(&group)) {
                (Some((bytes, name)), _) => pictures.push(RowPicture { column, name, bytes }),
                (None, Some(path)) => drop(fields.insert(column, path)),
                (None, None) => drop(fields.insert(column, group_value(group))),
            },
            Field::ListInternal(list) if list.elements().iter().any(|item| picture_of(item).is_some()) => {
                // One that is missing keeps its place, and is refused there.
                let items = list.elements().iter().map(|item| picture_of(item).unwrap_or_default()).enumerate();
                let item = |(index, (bytes, name))| RowPicture { column: format!("{column}.{index}"), name, bytes };
                match list.len() {
                    1 => pictures.extend(items.map(|one| RowPicture { column: column.clone(), ..item(one) })),
                    _ => pictures.extend(items.map(item)),
                }
            }
            Field::ListInternal(list) => {
                let path = |item: &Field| match item {
                    Field::Group(group) => image_path(group),
                    _ => None,
                };
                let paths: Option<Vec<Value>> = list.elements().iter().map(path).collect();
                let paths = paths.filter(|paths| !paths.is_empty()).map(Value::Array);
                drop(fields.insert(column, paths.unwrap_or_else(|| value(Field::ListInternal(list)))));
            }
            other => drop(fields.insert(column, value(other))),
        }
    }
    (fields, pictures)
}

/// Bytes that are a text.
fn text(bytes: &[u8]) -> Option<&str> {
    let is_text = |text: &&str| !text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace());
    std::str::from_utf8(bytes).ok().filter(is_text)
}

/// A picture in a list.
fn picture_of(field: &Field) -> Option<(Vec<u8>, String)> {
    match field {
        Field::Group(group) => picture(group),
        Field::Bytes(bytes) if begins_like_one(bytes.data()) => Some((bytes.data().to_vec(), String::new())),
        _ => None,
    }
}

/// A field of a struct; the order does not matter, and there may be others.
fn field_of<'a>(group: &'a Record, name: &str) -> Option<&'a Field> {
    group.get_column_iter().find(|(known, _)| *known == name).map(|(_, field)| field)
}

fn path_in(group: &Record) -> Option<String> {
    match field_of(group, "path")? {
        Field::Str(path) => Some(path.clone()),
        Field::Bytes(path) => text(path.data()).map(str::to_owned),
        _ => None,
    }
}

/// The picture of a struct `{bytes, path}`.
fn picture(group: &Record) -> Option<(Vec<u8>, String)> {
    let Field::Bytes(bytes) = field_of(group, "bytes")? else { return None };
    let path = path_in(group).filter(|path| !path.chars().any(char::is_control));
    Some((bytes.data().to_vec(), path.unwrap_or_default()))
}

/// The path of a struct `{bytes, path}` without bytes; without a path, too, it is missing.
fn image_path(group: &Record) -> Option<Value> {
    let Field::Null = field_of(group, "bytes")? else { return None };
    field_of(group, "path")?;
    Some(path_in(group).map_or(Value::Null, Value::String))
}

fn group_value(group: Record) -> Value {
    Value::Object(group.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect())
}

fn value(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => json!(value),
        Field::Byte(value) => json!(value),
        Field::Short(value) => json!(value),
        Field::Int(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::UByte(value) => json!(value),
        Field::UShort(value) => json!(value),
        Field::UInt(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Float16(value) => float(value.to_f64()),
        Field::Float(value) => float(value.into()),
        Field::Double(value) => float(value),
        Field::Str(text) => json!(text),
        Field::Bytes(bytes) => match text(bytes.data()) {
            Some(text) => json!(text),
            None => json!(format!("({} bytes)", bytes.len())),
        },
        Field::Group(group) => group_value(group),
        Field::ListInternal(list) => Value::Array(list.elements().iter().cloned().map(value).collect()),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| match value(key.clone()) {
                Value::String(key) => (key, value(field.clone())),
                key => (key.to_string(), value(field.clone())),
            };
            Value::Object(map.entries().iter().map(entry).collect())
        }
        // Dates, times and decimals as people read them; the reader crashes at what no calendar has.
        Field::Date(days) if !DAYS.contains(&days.into()) => json!(days),
        Field::TimeMillis(time) if !(0..DAY_MS).contains(&time.into()) => json!(time),
        Field::TimeMicros(time) if !(0..DAY_MS * 1000).contains(&time) => json!(time),
        Field::TimestampMillis(time) if !DAYS.contains(&time.div_euclid(DAY_MS)) => json!(time),
        Field::TimestampMicros(time) if !DAYS.contains(&time.div_euclid(DAY_MS * 1000)) => json!(time),
        other => json!(other.to_string()),
    }
}

const DAY_MS: i64 = 86_400_000;
/// From the year 0 to the year 9999, in days since 1970.
const DAYS: std::ops::RangeInclusive<i64> = -719_528..=2_932_896;

/// Whole numbers as such: pandas makes floats of a column with gaps. What JSON does not have is missing.
fn float(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < LARGEST_EXACT {
        return json!(value as i64);
    }
    json!(value)
}

fn explain(path: &Path, error: &ParquetError) -> JobError {
    let reason = match error {
        _ if error.to_string().to_ascii_lowercase().contains("encrypt") => "is encrypted; decrypt it first".to_owned(),
        ParquetError::NYI(what) => format!("uses a feature of Parquet that acetate does not know ({what})"),
        ParquetError::EOF(_) => "ends too early: the file is incomplete; copy or download it again".to_owned(),
        ParquetError::General(what) if what.contains("Disabled feature") => {
            format!("uses a compression that acetate does not know ({what}); write it with snappy, zstd, gzip or lz4")
        }
        other => format!("is not a Parquet file, or damaged ({other}); copy or download it again"),
    };
    JobError::invalid("--from", format!("{}: {reason}", path.display()))
}

#[cfg(test)]
pub mod tests {
    use parquet::{
        basic::{Compression, ZstdLevel},
        data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };

    use super::*;
    use crate::cli::dataset::reading::collect;

    /// Bytes, path and caption.
    type Example<'a> = (&'a [u8], &'a str, &'a str);
    type Get = fn(&Example<'_>) -> Vec<u8>;

    /// Writes pictures with their paths, captions and scores, as the hub has them.
    pub fn write(path: &Path, rows: &[Example<'_>], compression: Compression) {
        let schema = "message schema {
            optional group image { optional binary bytes; optional binary path (UTF8); }
            optional binary text (UTF8);
            required double steps;
            required int64 width;
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let texts = |get: Get| -> Vec<ByteArray> { rows.iter().map(|row| ByteArray::from(get(row))).collect() };
        let columns: [(Get, i16); 3] =
            [(|row| row.0.to_vec(), 2), (|row| row.1.as_bytes().to_vec(), 2), (|row| row.2.as_bytes().to_vec(), 1)];
        for (get, level) in columns {
            let mut column = group.next_column().unwrap().unwrap();
            let levels = vec![level; rows.len()];
            column.typed::<ByteArrayType>().write_batch(&texts(get), Some(&levels), None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&vec![7.0; rows.len()], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let widths: Vec<i64> = (0..rows.len() as i64).collect();
        column.typed::<Int64Type>().write_batch(&widths, None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn pictures_texts_and_numbers_come_out_whatever_the_compression() {
        let folder = tempfile::tempdir().unwrap();
        let picture = b"\x89PNG\r\n\x1a\n\xff\xfe".as_slice();
        let rows: Vec<_> = (0..40).map(|_| (picture, "a/b.png", "a cat")).collect();
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
            Compression::GZIP(Default::default()),
            Compression::LZ4_RAW,
        ] {
            let path = folder.path().join("x.parquet");
            write(&path, &rows, compression);
            assert!(has_pictures(&path));
            let found = collect(|sink| read(&path, sink).map(drop)).unwrap();
            assert_eq!(found.len(), 40);
            let row = &found[39];
            assert!(row.place.ends_with("x.parquet, row 40"), "{}", row.place);
            let fields = row.fields.as_ref().unwrap();
            assert_eq!(*fields, json!({"text": "a cat", "steps": 7, "width": 39}).as_object().unwrap().clone());
            let wanted = RowPicture { column: "image".to_owned(), name: "a/b.png".to_owned(), bytes: picture.to_vec() };
            assert_eq!(row.pictures, [wanted]);
        }
    }

    #[test]
    fn times_in_nanoseconds_are_times() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let schema = "message schema {
            required binary url (UTF8);
            optional int64 made (TIMESTAMP(NANOS, true));
            required int64 time (TIME(NANOS, false));
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut writer = SerializedFileWriter::new(File::create(&path).unwrap(), schema, Default::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&[ByteArray::from("a.png")], None, None).unwrap();
        column.close().unwrap();
        for (value, levels) in [(1_700_000_000_123_456_789, Some(&[1][..])), (3_600_000_000_000, None)] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&[value], levels, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        writer.close().unwrap();
        let rows = collect(|sink| read(&path, sink).map(drop)).unwrap();
        let fields = rows[0].fields.as_ref().unwrap();
        assert_eq!(fields["made"], "2023-11-14 22:13:20.123456 +00:00");
        assert_eq!(fields["time"], "01:00:00.000000");
    }

    #[test]
    fn damaged_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        write(&path, &[(b"\xff", "a.png", "x")], Compression::SNAPPY);
        let whole = std::fs::read(&path).unwrap();
        for bytes in [&whole[..whole.len() / 2], b"", b"PAR1 and something else"] {
            std::fs::write(&path, bytes).unwrap();
            let error = collect(|sink| read(&path, sink).map(drop)).unwrap_err().to_string();
            assert!(error.contains("x.parquet: ") && error.contains("copy or download it again"), "{error}");
        }
    }
}
