//! Parquet as Hugging Face's datasets writes it: a picture is a struct `{bytes, path}`, and the schema's metadata says
//! that it is one, so that readers show it.

use std::{fs::File, io::BufWriter, path::Path, sync::Arc};

use parquet::{
    basic::{Compression, ConvertedType, LogicalType, Repetition, Type as Physical, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    schema::types::{ColumnPath, Type, TypePtr},
};
use serde_json::{Map, Value, json};

use super::{
    columns::{Column, ColumnType, ResultColumns, is_list},
    sample::SamplePicture,
};
use crate::{job::JobError, store::io_error};

/// A group of rows is written when its pictures have so many bytes; readers load whole groups.
const GROUP: usize = 32 << 20;
const ROWS_IN_GROUP: usize = 1000;

pub struct ParquetFile {
    writer: SerializedFileWriter<BufWriter<File>>,
    columns: ResultColumns,
    rows: Vec<ParquetRow>,
    bytes: usize,
}

struct ParquetRow {
    record: Map<String, Value>,
    /// Column, path, bytes.
    pictures: Vec<(&'static str, String, ByteArray)>,
}

/// What can go wrong, before the file is named.
#[derive(Debug)]
pub struct WriteError(ParquetError);

impl WriteError {
    pub fn at(self, path: &Path) -> JobError {
        match self.0 {
            ParquetError::External(source) => match source.downcast::<std::io::Error>() {
                Ok(error) => io_error(path, "write the file", *error),
                Err(source) => JobError::storage(path.display().to_string(), format!("cannot write it: {source}")),
            },
            error => JobError::storage(path.display().to_string(), format!("cannot write it: {error}")),
        }
    }
}

impl From<ParquetError> for WriteError {
    fn from(error: ParquetError) -> Self {
        Self(error)
    }
}

impl ParquetFile {
    pub fn begin(file: File, columns: ResultColumns) -> Result<Self, WriteError> {
        let features = json!({ "info": { "features": features(&columns) } }).to_string();
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::None)
            .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), features)]));
        for name in &columns.pictures {
            let path = if is_list(name) {
                vec![name.as_str(), "list", "element", "bytes"]
            } else {
                vec![name.as_str(), "bytes"]
            };
            let path = ColumnPath::from(path.into_iter().map(str::to_owned).collect::<Vec<_>>());
            // PNGs do not get smaller.
            properties = properties
                .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(path, false);
        }
        let schema = schema(&columns)?;
        let writer = SerializedFileWriter::new(BufWriter::new(file), schema, Arc::new(properties.build()))?;
        Ok(Self { writer, columns, rows: Vec::new(), bytes: 0 })
    }

    /// Takes the bytes of the pictures.
    pub fn add(
        &mut self,
        record: &Map<String, Value>,
        key: &str,
        pictures: &mut [SamplePicture],
    ) -> Result<(), WriteError> {
        let picture = |picture: &mut SamplePicture| {
            let bytes = ByteArray::from(std::mem::take(&mut picture.bytes));
            (picture.column, format!("{key}.{}", picture.ending), bytes)
        };
        let pictures: Vec<_> = pictures.iter_mut().map(picture).collect();
        self.bytes += pictures.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>();
        self.rows.push(ParquetRow { record: record.clone(), pictures });
        if self.bytes >= GROUP || self.rows.len() >= ROWS_IN_GROUP { self.write_group() } else { Ok(()) }
    }

    pub fn finish(mut self) -> Result<(), WriteError> {
        self.write_group()?;
        let file = self.writer.into_inner()?;
        file.into_inner().map_err(|error| ParquetError::External(Box::new(error.into_error())))?;
        Ok(())
    }

    fn write_group(&mut self) -> Result<(), WriteError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows.is_empty() {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        let value = |name: &'static str| rows.iter().map(move |row| row.record.get(name));
        ints(&mut group, value("row"))?;
        texts(&mut group, value("id"))?;
        texts(&mut group, value("kind"))?;
        let inputs: Vec<Vec<ByteArray>> = value("input").map(list).collect();
        lists(&mut group, 3, &inputs)?;
        texts(&mut group, value("prompt"))?;
        texts(&mut group, value("caption"))?;
        ints(&mut group, value("seed"))?;
        for name in &self.columns.pictures {
            let of = |row: &ParquetRow, part: fn(&(&'static str, String, ByteArray)) -> ByteArray| -> Vec<ByteArray> {
                row.pictures.iter().filter(|(column, ..)| column == name).map(part).collect()
            };
            let bytes: Vec<_> = rows.iter().map(|row| of(row, |picture| picture.2.clone())).collect();
            let paths: Vec<_> = rows.iter().map(|row| of(row, |picture| picture.1.as_bytes().into())).collect();
            for values in [bytes, paths] {
                if is_list(name) {
                    lists(&mut group, 4, &values)?;
                } else {
                    let values = values.into_iter().map(|mut values| values.pop());
                    write::<ByteArrayType>(&mut group, 2, values)?;
                }
            }
        }
        for Column { name, kind, .. } in &self.columns.foreign {
            let values = rows.iter().map(|row| row.record.get(name));
            match kind {
                ColumnType::Bool => write::<BoolType>(&mut group, 1, values.map(|value| value?.as_bool()))?,
                ColumnType::Int => ints(&mut group, values)?,
                // The same bits, which the schema says are without a sign.
                ColumnType::Unsigned => {
                    write::<Int64Type>(&mut group, 1, values.map(|value| Some(value?.as_u64()?.cast_signed())))?;
                }
                ColumnType::Float => write::<DoubleType>(&mut group, 1, values.map(|value| value?.as_f64()))?,
                ColumnType::Text => texts(&mut group, values)?,
                ColumnType::Mixed => texts(&mut group, values)?,
                ColumnType::Json => {
                    let text = |value: &Value| value.to_string().into_bytes().into();
                    let values = values.map(|value| value.filter(|value| !value.is_null()).map(text));
                    write::<ByteArrayType>(&mut group, 1, values)?;
                }
            }
        }
        group.close()?;
        Ok(())
    }
}

type RowGroupWriter<'a> = SerializedRowGroupWriter<'a, BufWriter<File>>;

/// The next column, which has one value or none in each row. `level`: that of a value that is there.
fn write<T: DataType>(
    group: &mut RowGroupWriter<'_>,
    level: i16,
    values: impl Iterator<Item = Option<T::T>>,
) -> Result<(), ParquetError> {
    let (mut there, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(if value.is_some() { level } else { 0 });
        there.extend(value);
    }
    let mut column = next(group)?;
    column.typed::<T>().write_batch(&there, Some(&levels), None)?;
    column.close()
}

/// The next column, which has a list in each row. `level`: that of a value.
fn lists(group: &mut RowGroupWriter<'_>, level: i16, rows: &[Vec<ByteArray>]) -> Result<(), ParquetError> {
    /// That of an empty list.
    const EMPTY: i16 = 1;
    let (mut values, mut levels, mut repeats) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        if row.is_empty() {
            levels.push(EMPTY);
            repeats.push(0);
        }
        for (index, value) in row.iter().enumerate() {
            levels.push(level);
            repeats.push(i16::from(index > 0));
            values.push(value.clone());
        }
    }
    let mut column = next(group)?;
    column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), Some(&repeats))?;
    column.close()
}

fn ints<'a>(
    group: &mut RowGroupWriter<'_>,
    values: impl Iterator<Item = Option<&'a Value>>,
) -> Result<(), ParquetError> {
    write::<Int64Type>(group, 1, values.map(|value| value?.as_i64()))
}

fn texts<'a>(
    group: &mut RowGroupWriter<'_>,
    values: impl Iterator<Item = Option<&'a Value>>,
) -> Result<(), ParquetError> {
    write::<ByteArrayType>(group, 1, values.map(|value| Some(value?.as_str()?.into())))
}

fn list(value: Option<&Value>) -> Vec<ByteArray> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(ByteArray::from).collect()
}

fn next<'b>(
    group: &'b mut RowGroupWriter<'_>,
) -> Result<parquet::file::writer::SerializedColumnWriter<'b>, ParquetError> {
    group.next_column()?.ok_or_else(|| ParquetError::General("the schema has too few columns".to_owned()))
}

fn schema(columns: &ResultColumns) -> Result<TypePtr, ParquetError> {
    let mut fields = vec![
        leaf("row", Physical::INT64)?,
        text("id")?,
        text("kind")?,
        list_of("input", text("element")?)?,
        text("prompt")?,
        text("caption")?,
        leaf("seed", Physical::INT64)?,
    ];
    for name in &columns.pictures {
        fields.push(match is_list(name) {
            true => list_of(name, picture("element")?)?,
            false => picture(name)?,
        });
    }
    for Column { name, kind, .. } in &columns.foreign {
        fields.push(match kind {
            ColumnType::Bool => leaf(name, Physical::BOOLEAN)?,
            ColumnType::Int => leaf(name, Physical::INT64)?,
            ColumnType::Unsigned => unsigned(name)?,
            ColumnType::Float => leaf(name, Physical::DOUBLE)?,
            ColumnType::Text | ColumnType::Json | ColumnType::Mixed => text(name)?,
        });
    }
    Ok(Arc::new(Type::group_type_builder("schema").with_fields(fields).build()?))
}

fn leaf(name: &str, physical: Physical) -> Result<TypePtr, ParquetError> {
    Ok(Arc::new(Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL).build()?))
}

fn unsigned(name: &str) -> Result<TypePtr, ParquetError> {
    let builder = Type::primitive_type_builder(name, Physical::INT64).with_repetition(Repetition::OPTIONAL);
    Ok(Arc::new(builder.with_converted_type(ConvertedType::UINT_64).build()?))
}

fn text(name: &str) -> Result<TypePtr, ParquetError> {
    let builder = Type::primitive_type_builder(name, Physical::BYTE_ARRAY).with_repetition(Repetition::OPTIONAL);
    Ok(Arc::new(builder.with_logical_type(Some(LogicalType::String)).build()?))
}

fn picture(name: &str) -> Result<TypePtr, ParquetError> {
    let fields = vec![leaf("bytes", Physical::BYTE_ARRAY)?, text("path")?];
    let builder = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
    Ok(Arc::new(builder.with_fields(fields).build()?))
}

fn list_of(name: &str, element: TypePtr) -> Result<TypePtr, ParquetError> {
    let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED).with_fields(vec![element]);
    let builder = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
    let builder = builder.with_logical_type(Some(LogicalType::List));
    Ok(Arc::new(builder.with_fields(vec![Arc::new(list.build()?)]).build()?))
}

/// The types of the columns in the words of Hugging Face's datasets.
fn features(columns: &ResultColumns) -> Value {
    let value = |dtype: &str| json!({ "dtype": dtype, "_type": "Value" });
    let list = |feature: Value| json!({ "feature": feature, "_type": "Sequence" });
    let image = || json!({ "_type": "Image" });
    let mut features = Map::new();
    for (name, dtype) in [("row", "int64"), ("id", "string"), ("kind", "string")] {
        features.insert(name.to_owned(), value(dtype));
    }
    features.insert("input".to_owned(), list(value("string")));
    for (name, dtype) in [("prompt", "string"), ("caption", "string"), ("seed", "int64")] {
        features.insert(name.to_owned(), value(dtype));
    }
    for name in &columns.pictures {
        features.insert(name.clone(), if is_list(name) { list(image()) } else { image() });
    }
    for Column { name, kind, .. } in &columns.foreign {
        let dtype = match kind {
            ColumnType::Bool => "bool",
            ColumnType::Int => "int64",
            ColumnType::Unsigned => "uint64",
            ColumnType::Float => "float64",
            ColumnType::Text | ColumnType::Json | ColumnType::Mixed => "string",
        };
        features.insert(name.clone(), value(dtype));
    }
    Value::Object(features)
}
