//! The columns of an export and their types, which are the same in all shards.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value, json};

use super::{
    rows::{ExportedRow, FROM, LATER, LAYER_INFO, OWN, PAGE, PICTURES, REUSED_FROM, VARIANT, foreign},
    shape::JsonShape,
};
use crate::{
    app::Submitter,
    job::{BatchId, JobError, JobKind},
};

/// The type of a column of the dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    Bool,
    Int,
    /// Whole numbers from 0 on, some of them above those of 64 bits with a sign.
    Unsigned,
    Float,
    Text,
    /// Objects and lists; in Parquet the text of their JSON.
    Json,
    /// Values of different types: texts, or the text of their JSON.
    Mixed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub kind: ColumnType,
    /// The types inside lists and objects. Absent in exports that an earlier version began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<JsonShape>,
}

impl Column {
    fn plain(name: &str, kind: ColumnType) -> Self {
        Self { name: name.to_owned(), kind, shape: None }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultColumns {
    /// The columns of pictures, in the order of [`PICTURES`].
    pub pictures: Vec<String>,
    /// `layer_info`, if there are layers, `variant`, `reused_from`, `from_job` and so on, if there are layers, and the
    /// columns of the dataset, in the order in which they are first seen.
    pub foreign: Vec<Column>,
}

impl ResultColumns {
    /// The columns of all rows of a batch.
    pub async fn of_batch(submitter: &Submitter, batch: &BatchId) -> Result<Self, JobError> {
        let jobs = &submitter.jobs;
        let (mut observed, mut cursor) = (ObservedColumns::default(), jobs.dataset_cursor(batch).await?);
        loop {
            let page = jobs.dataset_rows(batch, &mut cursor, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for meta in page.iter().filter_map(|row| row.meta.as_ref()) {
                foreign(meta).for_each(|(name, value)| observed.add(name, value));
            }
        }
        let kinds = jobs.batch_kinds(batch).await?;
        let is_there = |name: &&str| kinds.iter().any(|kind| pictures_of(*kind).contains(name));
        let pictures = PICTURES.into_iter().filter(is_there).map(str::to_owned).collect();
        let mut columns = Self { pictures, foreign: observed.into_columns() };
        let has_layers = columns.pictures.iter().any(|name| name == "layers");
        let [job, layer, variant] = FROM;
        let info = has_layers.then_some((LAYER_INFO, ColumnType::Json));
        let from = [(job, ColumnType::Text), (layer, ColumnType::Int), (variant, ColumnType::Int)];
        let own = info.into_iter().chain([(VARIANT, ColumnType::Int), (REUSED_FROM, ColumnType::Text)]);
        let own = own.chain(from.into_iter().filter(|_| has_layers));
        columns.foreign.splice(0..0, own.map(|(name, kind)| Column::plain(name, kind)));
        Ok(columns)
    }

    /// The same columns for JSON, where readers take no whole numbers above those of 64 bits with a sign: they are
    /// texts.
    pub fn for_json(mut self) -> Self {
        for column in self.foreign.iter_mut().filter(|column| column.kind == ColumnType::Unsigned) {
            column.kind = ColumnType::Mixed;
        }
        self
    }

    fn has(&self, name: &str) -> bool {
        self.foreign.iter().any(|column| column.name == name)
    }

    /// The variants of a row that are exported: an export that an earlier version began has the first one of each job.
    pub fn variants_of(&self, item: &ExportedRow) -> Vec<Option<u32>> {
        let most = if self.has(VARIANT) { usize::MAX } else { 1 };
        item.variants().into_iter().take(most).collect()
    }

    /// Gives a row all columns, with values of their types: readers of JSON take the types from the first rows.
    pub fn fit(&self, record: &mut Map<String, Value>) {
        // An export that an earlier version began is without them.
        for name in LATER.into_iter().filter(|name| !self.has(name)) {
            record.remove(name);
        }
        // A missing value needs no column.
        record.retain(|name, value| !value.is_null() || OWN.contains(&name.as_str()) || self.has(name));
        for Column { name, kind, .. } in &self.foreign {
            let value = record.entry(name.as_str()).or_insert(Value::Null);
            match (kind, &value) {
                (ColumnType::Float, Value::Number(number)) if !is_wide(number) => *value = json!(number.as_f64()),
                (ColumnType::Mixed, Value::Null | Value::String(_)) => {}
                (ColumnType::Mixed, other) => *value = Value::String(other.to_string()),
                _ => {}
            }
        }
    }

    /// Gives a row the columns of its pictures, without pictures: readers want a list in each row, or nothing in none.
    /// `one` and `list` follow the names of columns.
    pub fn begin_pictures(&self, record: &mut Map<String, Value>, one: &str, list: &str) {
        for name in &self.pictures {
            let (end, nothing) = if is_list(name) { (list, json!([])) } else { (one, Value::Null) };
            record.insert(format!("{name}{end}"), nothing);
        }
    }

    /// Refuses a row that does not fit, because earlier shards are written. `as_text`: lists and objects are written as
    /// the text of their JSON, so that their parts do not matter.
    pub fn check(&self, item: &ExportedRow, record: &Map<String, Value>, as_text: bool) -> Result<(), JobError> {
        let refuse = |reason: String| {
            let reason = format!("{}: {reason}; export the batch to another folder", item.place());
            Err(JobError::invalid("--out", reason))
        };
        for name in pictures_of(item.job.request.task.kind()) {
            if !self.pictures.iter().any(|known| known == name) {
                return refuse(format!("has the pictures `{name}`, and the export was begun without that column"));
            }
        }
        for (name, value) in record.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
            // After `fit`, so that a float is one.
            let Some(kind) = kind_of(value) else { continue };
            match self.foreign.iter().find(|column| column.name == *name) {
                Some(column)
                    if both(column.kind, kind) == column.kind
                        && is_exact(column.kind, value)
                        && (as_text || have_one_shape(column, value)) => {}
                Some(_) => return refuse(format!("`{name}` has another type than in the shards that are written")),
                None => return refuse(format!("has the column `{name}`, and the export was begun without it")),
            }
        }
        Ok(())
    }
}

/// What the rows of a batch have in the columns of its dataset.
#[derive(Default)]
struct ObservedColumns {
    /// In the order in which they are first seen; without a type as long as all values are missing.
    kinds: Vec<(String, Option<ColumnType>)>,
    /// Of the columns with lists or objects.
    shapes: HashMap<String, JsonShape>,
    /// Of the columns with numbers.
    numbers: HashMap<String, SeenNumbers>,
}

impl ObservedColumns {
    fn add(&mut self, name: String, value: &Value) {
        let mut kind = kind_of(value);
        if value.is_number() {
            self.numbers.entry(name.clone()).or_default().see(value);
        }
        if kind == Some(ColumnType::Json) {
            let known = self.shapes.remove(&name).unwrap_or(JsonShape::Missing);
            match JsonShape::of(value).and_then(|shape| known.and(shape)) {
                Some(shape) if !has_unsigned(value) => drop(self.shapes.insert(name.clone(), shape)),
                _ => kind = Some(ColumnType::Mixed),
            }
        }
        match self.kinds.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => {
                *known = match (*known, kind) {
                    (Some(known), Some(kind)) => Some(both(known, kind)),
                    (known, kind) => known.or(kind),
                }
            }
            None => self.kinds.push((name, kind)),
        }
    }

    /// A column without any value becomes one of texts, which takes whatever later rows have.
    fn into_columns(self) -> Vec<Column> {
        let Self { kinds, mut shapes, numbers } = self;
        let column = |(name, kind): (String, Option<ColumnType>)| {
            let kind = match (kind, numbers.get(&name)) {
                // A type that has all of them exactly; otherwise they are texts.
                (Some(ColumnType::Int | ColumnType::Unsigned | ColumnType::Float), Some(seen)) => seen.kind(),
                (kind, _) => kind.unwrap_or(ColumnType::Mixed),
            };
            let shape = if kind == ColumnType::Json { shapes.remove(&name) } else { None };
            Column { name, kind, shape }
        };
        kinds.into_iter().map(column).collect()
    }
}

/// Whether the parts of a list or an object have the types that they have in the rows before.
fn have_one_shape(column: &Column, value: &Value) -> bool {
    match &column.shape {
        Some(known) => JsonShape::of(value).and_then(|shape| known.clone().and(shape)).is_some(),
        None => true,
    }
}

/// Whether a column of pictures has a list in each row.
pub fn is_list(name: &str) -> bool {
    matches!(name, "layers" | "edited_layers")
}

/// The columns of pictures that a job of this kind has.
fn pictures_of(kind: JobKind) -> &'static [&'static str] {
    match kind {
        JobKind::Decompose => &["regenerated", "layers"],
        JobKind::Edit => &["edited"],
        JobKind::Composite => &["composite"],
        JobKind::Workflow => &["regenerated", "layers", "edited_layers", "composite"],
    }
}

/// Nothing for a missing value.
fn kind_of(value: &Value) -> Option<ColumnType> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(ColumnType::Bool),
        Value::Number(number) if number.is_i64() => Some(ColumnType::Int),
        Value::Number(number) if number.is_u64() => Some(ColumnType::Unsigned),
        Value::Number(_) => Some(ColumnType::Float),
        Value::String(_) => Some(ColumnType::Text),
        Value::Array(_) | Value::Object(_) => Some(ColumnType::Json),
    }
}

/// The type that has the values of both.
fn both(one: ColumnType, other: ColumnType) -> ColumnType {
    match (one, other) {
        (one, other) if one == other => one,
        (ColumnType::Int, ColumnType::Unsigned) | (ColumnType::Unsigned, ColumnType::Int) => ColumnType::Unsigned,
        (ColumnType::Int | ColumnType::Unsigned, ColumnType::Float)
        | (ColumnType::Float, ColumnType::Int | ColumnType::Unsigned) => ColumnType::Float,
        _ => ColumnType::Mixed,
    }
}

/// What the numbers of a column are like.
#[derive(Debug, Clone, Copy, Default)]
struct SeenNumbers {
    has_negative: bool,
    /// Above those of 64 bits with a sign.
    has_unsigned: bool,
    /// Whole numbers that floats do not tell apart.
    has_wide: bool,
    has_float: bool,
}

impl SeenNumbers {
    fn see(&mut self, value: &Value) {
        let Value::Number(number) = value else { return };
        self.has_negative |= number.as_i64().is_some_and(i64::is_negative);
        self.has_unsigned |= number.is_u64() && !number.is_i64();
        self.has_wide |= is_wide(number);
        self.has_float |= number.is_f64();
    }

    fn kind(self) -> ColumnType {
        match self {
            Self { has_float: true, has_wide: true, .. } => ColumnType::Mixed,
            Self { has_float: true, .. } => ColumnType::Float,
            Self { has_unsigned: true, has_negative: true, .. } => ColumnType::Mixed,
            Self { has_unsigned: true, .. } => ColumnType::Unsigned,
            _ => ColumnType::Int,
        }
    }
}

/// Whether a list or an object has whole numbers above those of 64 bits with a sign.
fn has_unsigned(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_u64() && !number.is_i64(),
        Value::Array(items) => items.iter().any(has_unsigned),
        Value::Object(fields) => fields.values().any(has_unsigned),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// Whether a float does not tell this whole number from its neighbors.
fn is_wide(number: &Number) -> bool {
    const LARGEST_EXACT: u64 = 1 << 53;
    let size = number.as_i64().map(i64::unsigned_abs).or(number.as_u64());
    size.is_some_and(|size| size > LARGEST_EXACT)
}

/// Whether a column of this type has exactly this value.
fn is_exact(kind: ColumnType, value: &Value) -> bool {
    match (kind, value) {
        (ColumnType::Float, Value::Number(number)) => !is_wide(number),
        (ColumnType::Unsigned, Value::Number(number)) => number.is_u64(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_the_type_that_all_its_values_fit() {
        assert_eq!(both(ColumnType::Int, ColumnType::Float), ColumnType::Float);
        assert_eq!(both(ColumnType::Text, ColumnType::Int), ColumnType::Mixed);
        assert_eq!(both(ColumnType::Json, ColumnType::Json), ColumnType::Json);
        assert_eq!(both(ColumnType::Bool, ColumnType::Bool), ColumnType::Bool);
        assert_eq!(kind_of(&serde_json::json!(u64::MAX)), Some(ColumnType::Unsigned));
        let kind = |values: Value| {
            let mut seen = SeenNumbers::default();
            values.as_array().unwrap().iter().for_each(|value| seen.see(value));
            seen.kind()
        };
        assert_eq!(kind(json!([1, -1, i64::MAX, null])), ColumnType::Int);
        assert_eq!(kind(json!([1, u64::MAX])), ColumnType::Unsigned);
        assert_eq!(kind(json!([-1, u64::MAX])), ColumnType::Mixed);
        assert_eq!(kind(json!([1, 0.5])), ColumnType::Float);
        assert_eq!(kind(json!([i64::MAX, 0.5])), ColumnType::Mixed);
        for (kind, value) in [(ColumnType::Float, json!(i64::MAX)), (ColumnType::Unsigned, json!(-1))] {
            assert!(!is_exact(kind, &value));
        }
        assert_eq!(kind_of(&Value::Null), None);
    }

    #[test]
    fn a_row_has_all_columns_with_values_of_their_types() {
        let foreign = vec![
            Column::plain("score", ColumnType::Float),
            Column::plain("tag", ColumnType::Mixed),
            Column::plain("note", ColumnType::Text),
        ];
        let columns = ResultColumns { pictures: Vec::new(), foreign };
        // The export was begun without `later`, and here it has no value.
        let mut record = json!({ "row": 1, "score": 2, "tag": [1], "later": null }).as_object().unwrap().clone();
        columns.fit(&mut record);
        assert_eq!(json!(record).to_string(), r#"{"note":null,"row":1,"score":2.0,"tag":"[1]"}"#);
    }

    #[test]
    fn every_column_of_the_rows_has_a_type() {
        let mut observed = ObservedColumns::default();
        for row in [
            json!({ "empty": null, "late": null, "box": { "x": null } }),
            json!({ "empty": null, "late": 1, "box": { "x": 1 } }),
        ] {
            row.as_object().unwrap().iter().for_each(|(name, value)| observed.add(name.clone(), value));
        }
        let columns = observed.into_columns();
        let kind = |name: &str| columns.iter().find(|column| column.name == name).unwrap().kind;
        assert_eq!((kind("empty"), kind("late"), kind("box")), (ColumnType::Mixed, ColumnType::Int, ColumnType::Json));
        let known = columns.iter().find(|column| column.name == "box").unwrap();
        assert!(have_one_shape(known, &json!({ "x": 2.5, "y": "new" })));
        assert!(!have_one_shape(known, &json!({ "x": "text" })));
    }
}
