//! Jobs that rows name by the beginning of their ids, or as the last one: `job:last:2`.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

use crate::{
    app::Submitter,
    cli::{
        dataset::{ColumnMapping, Row},
        run::flags::short_name,
    },
    job::{JobError, JobId},
};

/// What the names mean, which stays the same for all rows: each new job is the last one.
#[derive(Default)]
pub struct ShortNames {
    known: Mutex<HashMap<String, Result<JobId, JobError>>>,
}

impl ShortNames {
    /// Writes the whole ids into the pictures of a row, or its error.
    pub async fn write(&self, submitter: &Submitter, columns: &ColumnMapping, row: &mut Row) -> Result<(), JobError> {
        let Ok(fields) = &mut row.fields else { return Ok(()) };
        let mut wrong = None;
        for (column, value) in fields.iter_mut().filter(|(name, _)| columns.may_be_a_picture(name)) {
            let mut texts = Vec::new();
            find(value, &mut texts);
            for text in texts {
                match self.whole(submitter, text).await {
                    Ok(whole) => *text = whole,
                    Err(JobError::InvalidRequest { reason, .. }) => wrong = Some(JobError::invalid(column, reason)),
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some(error) = wrong {
            row.fields = Err(error);
        }
        Ok(())
    }

    /// A cell of a table may have several pictures.
    async fn whole(&self, submitter: &Submitter, text: &str) -> Result<String, JobError> {
        let mut parts: Vec<String> = text.split(' ').map(str::to_owned).collect();
        for part in &mut parts {
            let Some((name, picture)) = short_name(part) else { continue };
            let known = |names: &Self| names.known.lock().unwrap_or_else(PoisonError::into_inner).get(part).cloned();
            let id = match known(self) {
                Some(id) => id,
                None => {
                    let id = name.id(submitter).await;
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(part.clone(), id.clone());
                    id
                }
            };
            *part = format!("job:{}:{picture}", id?);
        }
        Ok(parts.join(" "))
    }
}

/// The texts in a value that begin as pictures of jobs.
fn find<'a>(value: &'a mut Value, texts: &mut Vec<&'a mut String>) {
    match value {
        Value::String(text) if text.starts_with("job:") => texts.push(text),
        Value::Array(items) => items.iter_mut().for_each(|item| find(item, texts)),
        Value::Object(fields) => fields.values_mut().for_each(|field| find(field, texts)),
        _ => {}
    }
}
