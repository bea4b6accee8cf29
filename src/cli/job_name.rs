//! A job as a person names it: its id, the beginning of the id, or `last`.

use std::str::FromStr;

use crate::{
    app::Submitter,
    job::{JobError, JobId},
};

const LAST: &str = "last";
/// A shorter beginning is more likely a mistake.
const SHORTEST: usize = 4;
const UUID: usize = 36;
/// How many jobs a message lists.
const SHOWN: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobName {
    Id(JobId),
    /// In lower case.
    Beginning(String),
    /// The job that was submitted last.
    Last,
}

impl JobName {
    /// The id of the job. Only a name that is not a whole id is looked up.
    pub async fn id(&self, submitter: &Submitter) -> Result<JobId, JobError> {
        match self {
            Self::Id(id) => Ok(*id),
            Self::Last => submitter
                .jobs
                .last_job()
                .await?
                .ok_or_else(|| JobError::invalid("id", "there are no jobs, so none is the last one")),
            Self::Beginning(beginning) => {
                let found = submitter.jobs.jobs_starting_with(beginning, SHOWN).await?;
                match found.as_slice() {
                    [id] => Ok(*id),
                    [] => {
                        let reason = format!(
                            "there is no job whose id begins with {beginning}; `acetate jobs list` shows all jobs"
                        );
                        Err(JobError::invalid("id", reason))
                    }
                    several => {
                        let ids: Vec<_> = several.iter().map(JobId::to_string).collect();
                        let reason = format!(
                            "several jobs begin with {beginning}: {}, ...; give more of the id",
                            ids.join(", ")
                        );
                        Err(JobError::invalid("id", reason))
                    }
                }
            }
        }
    }
}

impl FromStr for JobName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case(LAST) {
            return Ok(Self::Last);
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let plain = text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
        if plain && (SHORTEST..UUID).contains(&text.len()) {
            return Ok(Self::Beginning(text.to_ascii_lowercase()));
        }
        Err(format!(
            "`{text}` is not the id of a job, a UUID such as 018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e21, nor its first \
             {SHORTEST} or more characters, nor `{LAST}`"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let id = JobId::new();
        assert_eq!(id.to_string().parse(), Ok(JobName::Id(id)));
        assert_eq!("last".parse(), Ok(JobName::Last));
        for beginning in ["018f", "018F2b6e-7C", "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e2"] {
            assert_eq!(beginning.parse(), Ok(JobName::Beginning(beginning.to_ascii_lowercase())));
        }
        for wrong in ["", "018", "latest", "018f2b6e7", "-018f", "018g", "018f2b6e-7c1d-7a44-9f10-6a3d5b8c9e211"] {
            assert!(wrong.parse::<JobName>().is_err(), "{wrong}");
        }
    }
}
