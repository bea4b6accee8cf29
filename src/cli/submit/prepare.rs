//! Turns a row of a dataset into a request that workers may accept.

use super::row::{RowDefaults, check_addresses};
use crate::{
    app::Submitter,
    cli::dataset::{Base, ColumnMapping, Fields, Row, RowPicture, Split, resolve},
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
    /// A picture that goes into the store, with its extension; the request has its address there.
    pub picture: Option<(&'static str, Vec<u8>)>,
    /// The columns, if they are wanted for the file of rejected rows.
    pub original: Option<Fields>,
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
        let Row { number, place, fields, is_table, pictures, folder } = row;
        let original = fields.as_ref().ok().filter(|_| self.keep_original).cloned();
        let base = folder.as_deref().map_or(self.base, Base::Folder);
        let parts = fields.and_then(|fields| self.columns.split(fields, is_table, pictures));
        match parts.and_then(|parts| self.request(number, parts, base)) {
            Ok((request, has_own_id, meta, picture)) => {
                Ok(Ready { request, has_own_id, number, place, meta, picture, original })
            }
            Err(error) => Err(Box::new(Refused { number, place, error, original })),
        }
    }

    #[expect(clippy::type_complexity, reason = "its only caller takes it apart")]
    fn request(
        &self,
        number: u64,
        parts: Split,
        base: Base<'_>,
    ) -> Result<(JobRequest, bool, Fields, Option<(&'static str, Vec<u8>)>), JobError> {
        let Split { mut job, meta, picture } = parts;
        let (mut name, mut stored) = (None, None);
        if let Some(RowPicture { name: path, bytes, .. }) = picture {
            let shown = if path.is_empty() { format!("{number:06}") } else { path };
            let info = image::probe(&shown, &bytes, &self.limits)?;
            job.insert("image".to_owned(), self.submitter.picture_url(info.ending, &bytes)?.into());
            name = Some(shown);
            stored = Some((info.ending, bytes));
        }
        resolve(&mut job, base)?;
        let has_own_id = job.get("id").is_some_and(|id| !id.is_null());
        let request = self.defaults.request(number, job, name.as_deref())?;
        check_addresses(&request)?;
        if self.reuse {
            request.check_reuse()?;
        }
        self.submitter.check_allowed(&request, self.upload)?;
        Ok((request, has_own_id, meta, stored))
    }
}

/// Puts the pictures of rows into the store; returns an error or nothing for each row.
pub async fn put_into_store(submitter: &Submitter, rows: &mut [Ready]) -> Result<Vec<Option<JobError>>, JobError> {
    let with_pictures = rows.iter_mut().enumerate().filter_map(|(row, ready)| Some((row, ready.picture.take()?)));
    let (places, pictures): (Vec<_>, Vec<_>) = with_pictures.unzip();
    let mut errors = vec![None; rows.len()];
    for (row, put) in places.into_iter().zip(submitter.put_pictures(pictures).await?) {
        errors[row] = put.err();
    }
    Ok(errors)
}

/// Copies local inputs into the store, and names them there. `stored`: the picture of the row itself is there already.
pub async fn upload(submitter: &Submitter, ready: &mut Ready, stored: bool) -> Result<(), JobError> {
    for input in ready.request.inputs.with_mask_mut().skip(stored.into()) {
        if let InputRef::Url(url) = input
            && url.starts_with("file://")
        {
            *url = submitter.upload(url).await?;
        }
    }
    Ok(())
}
