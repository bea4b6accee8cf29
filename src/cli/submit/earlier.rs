//! The pictures of earlier jobs that requests name. Workers would refuse those that do not exist, so they are refused
//! before anything is submitted, as over HTTP.

use std::collections::{HashMap, HashSet};

use super::prepare::Ready;
use crate::{
    app::Submitter,
    job::{InputRef, JobError, JobId, JobRequest, JobState},
};

/// The number of jobs in one query.
const PAGE: usize = 500;

/// Takes the rows apart that name pictures of jobs which do not exist.
pub async fn find_earlier(
    submitter: &Submitter,
    rows: Vec<Ready>,
) -> Result<(Vec<Ready>, Vec<(Ready, JobError)>), JobError> {
    let errors = missing(submitter, rows.iter().map(|ready| &ready.request)).await?;
    let (mut there, mut wrong) = (Vec::with_capacity(rows.len()), Vec::new());
    for (ready, error) in rows.into_iter().zip(errors) {
        match error {
            Some(error) => wrong.push((ready, error)),
            None => there.push(ready),
        }
    }
    Ok((there, wrong))
}

/// Why a request names a picture that does not exist, or nothing, for each request. A job that was submitted before is
/// not looked at, so that its command can be repeated.
pub async fn missing<'a>(
    submitter: &Submitter,
    requests: impl Iterator<Item = &'a JobRequest> + Clone,
) -> Result<Vec<Option<JobError>>, JobError> {
    let earlier = |input: &InputRef| match input {
        InputRef::Layer { job, .. } | InputRef::File { job, .. } => Some(*job),
        InputRef::Url(_) => None,
    };
    let named: HashSet<JobId> =
        requests.clone().flat_map(|request| request.inputs.with_mask().filter_map(earlier)).collect();
    if named.is_empty() {
        return Ok(requests.map(|_| None).collect());
    }
    let with_inputs =
        requests.clone().filter(|request| request.inputs.with_mask().any(|input| earlier(input).is_some()));
    let asked: Vec<JobId> = named.into_iter().chain(with_inputs.map(|request| request.id)).collect();
    let mut rows = HashMap::new();
    for page in asked.chunks(PAGE) {
        rows.extend(submitter.jobs.get_many(page).await?.into_iter().map(|row| (row.id(), row)));
    }
    let wrong = |input: &InputRef| match rows.get(&earlier(input)?) {
        None => Some(JobError::no_job(&input)),
        // It may end before this one starts.
        Some(row) if matches!(row.state, JobState::Queued | JobState::Running) => None,
        Some(row) => row.picture(input).err(),
    };
    let first = |request: &JobRequest| match rows.contains_key(&request.id) {
        true => None,
        false => request.inputs.with_mask().find_map(wrong),
    };
    Ok(requests.map(first).collect())
}
