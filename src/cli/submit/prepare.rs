//! Turns a row of a dataset into a request that workers may accept.

use serde_json::Value;

use super::row::{RowDefaults, check_addresses};
use crate::{
    app::Submitter,
    cli::dataset::{Base, ChosenPictures, ColumnMapping, Fields, Row, RowForm, RowPicture, Split, resolve},
    image::{self, DecodeLimits},
    job::{InputRef, JobError, JobRequest},
};

/// A row that can be submitted.
pub struct Ready {
    pub request: JobRequest,
    /// The row has chosen its id.
    pub has_own_id: bool,
    pub number: u64,
    pub place: String,
    /// The columns that are carried through to the results.
    pub meta: Fields,
    /// The columns that are parameters because they are called so.
    pub taken: Vec<String>,
    /// Pictures that go into the store; the request has their addresses there.
    pub pictures: Vec<StoredPicture>,
    /// The columns, if they are wanted for the file of rejected rows.
    pub original: Option<Fields>,
}

/// A picture that was inside a row.
pub struct StoredPicture {
    pub ending: &'static str,
    pub bytes: Vec<u8>,
    /// Its address in the store.
    pub url: String,
}

/// What is the same for all rows.
pub struct Preparation<'a> {
    pub submitter: &'a Submitter,
    pub defaults: &'a RowDefaults,
    pub columns: &'a ColumnMapping,
    /// Relative paths start here.
    pub base: Base<'a>,
    /// The limits of pictures.
    pub limits: DecodeLimits,
    /// Local inputs go into the store first.
    pub upload: bool,
    /// Jobs may take the results of equal ones.
    pub reuse: bool,
    /// Rejected rows are written down.
    pub keep_original: bool,
}

/// A row that cannot be submitted.
pub struct Refused {
    pub number: u64,
    pub place: String,
    pub error: JobError,
    pub original: Option<Fields>,
}

impl Preparation<'_> {
    pub fn row(&self, row: Row) -> Result<Ready, Box<Refused>> {
        let Row { number, place, fields, form, pictures, folder } = row;
        let original = fields.as_ref().ok().filter(|_| self.keep_original).cloned();
        let base = match (form, folder.as_deref()) {
            (RowForm::Archived, _) => Base::Nowhere,
            (RowForm::Texts | RowForm::Typed, Some(folder)) => Base::Folder(folder),
            (RowForm::Texts | RowForm::Typed, None) => self.base,
        };
        let parts = fields.and_then(|fields| self.columns.split(fields, form, pictures));
        let made = parts.and_then(|mut parts| {
            let (meta, taken) = (std::mem::take(&mut parts.meta), std::mem::take(&mut parts.taken));
            let texts: Vec<_> =
                taken.iter().filter(|name| parts.job.get(*name).is_some_and(Value::is_string)).cloned().collect();
            match self.request(number, parts, base) {
                Ok((request, has_own_id, pictures)) => Ok(Ready {
                    request,
                    has_own_id,
                    number,
                    place: place.clone(),
                    meta,
                    taken,
                    pictures,
                    original: None,
                }),
                Err(error) => Err(with_remedy(error, &texts)),
            }
        });
        match made {
            Ok(ready) => Ok(Ready { original, ..ready }),
            Err(error) => Err(Box::new(Refused { number, place, error, original })),
        }
    }

    fn request(
        &self,
        number: u64,
        parts: Split,
        base: Base<'_>,
    ) -> Result<(JobRequest, bool, Vec<StoredPicture>), JobError> {
        let Split { mut job, chosen: ChosenPictures { pictures, mask }, instead, .. } = parts;
        // Before the row's own pictures, which are in the store.
        resolve(&mut job, base).map_err(|error| match &instead {
            Some((used, other)) => or_another_column(&error, used, other),
            None => error,
        })?;
        let mut name = None;
        let mut stored = Vec::new();
        let mut store = |RowPicture { name: path, bytes, .. }: RowPicture| -> Result<(String, String), JobError> {
            let shown = if path.is_empty() { format!("{number:06}") } else { path };
            let ending = image::probe(&shown, &bytes, &self.limits)?.ending;
            let url = self.submitter.picture_url(ending, &bytes)?;
            stored.push(StoredPicture { ending, bytes, url: url.clone() });
            Ok((shown, url))
        };
        let mut urls = Vec::new();
        for picture in pictures {
            let (shown, url) = store(picture)?;
            name.get_or_insert(shown);
            urls.push(url);
        }
        match urls.as_slice() {
            [] => {}
            [url] => drop(job.insert("image".to_owned(), url.as_str().into())),
            several => drop(job.insert("images".to_owned(), several.into())),
        }
        if let Some(mask) = mask {
            job.insert("mask".to_owned(), store(mask)?.1.into());
        }
        let has_own_id = job.get("id").is_some_and(|id| !id.is_null());
        let request = self.defaults.request(number, job, name.as_deref())?;
        check_addresses(&request)?;
        if self.reuse {
            request.check_reuse()?;
        }
        self.submitter.check_allowed(&request, self.upload)?;
        Ok((request, has_own_id, stored))
    }
}

/// The error of a parameter that is a text, with what to do if its column is about something else. `texts`: such
/// columns.
fn with_remedy(error: JobError, texts: &[String]) -> JobError {
    let JobError::InvalidRequest { field, reason } = error else { return error };
    let name = field.strip_prefix("params.").unwrap_or(&field);
    let name = name.split(['.', '[']).next().unwrap_or(name);
    let reason = match texts.iter().any(|text| text == name) {
        true => format!("{reason}; if the column `{name}` is about something else, --drop-column {name} ignores it"),
        false => reason,
    };
    JobError::InvalidRequest { field, reason }
}

/// The error of a text that is no picture, with another column that has one.
fn or_another_column(error: &JobError, used: &str, other: &str) -> JobError {
    let advice = format!("if the picture is in the column `{other}`, give --column image={other}");
    match error {
        JobError::InvalidRequest { field, reason } => JobError::invalid(field, format!("{reason}; {advice}")),
        error => JobError::invalid(used, format!("{error}; {advice}")),
    }
}

/// Puts the pictures of rows into the store; returns an error or nothing for each row.
pub async fn put_into_store(submitter: &Submitter, rows: &mut [Ready]) -> Result<Vec<Option<JobError>>, JobError> {
    let with_pictures = rows.iter_mut().enumerate().flat_map(|(row, ready)| {
        ready.pictures.iter_mut().map(move |picture| (row, (picture.ending, std::mem::take(&mut picture.bytes))))
    });
    let (places, pictures): (Vec<_>, Vec<_>) = with_pictures.unzip();
    let mut errors = vec![None; rows.len()];
    for (row, put) in places.into_iter().zip(submitter.put_pictures(pictures).await?) {
        errors[row] = errors[row].take().or(put.err());
    }
    Ok(errors)
}

/// Copies local inputs into the store, and names them there. Pictures of the row itself are there already.
pub async fn upload(submitter: &Submitter, ready: &mut Ready) -> Result<(), JobError> {
    for input in ready.request.inputs.with_mask_mut() {
        if let InputRef::Url(url) = input
            && url.starts_with("file://")
            && !ready.pictures.iter().any(|picture| picture.url == *url)
        {
            *url = submitter.upload(url).await?;
        }
    }
    Ok(())
}
