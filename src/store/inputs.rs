//! The inputs of a request, from a file, S3 or the web: checked against the rules, then read under a cap.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use super::{
    Listing, S3Client,
    allow::AllowList,
    blocking::blocking,
    errors::input_error,
    location::{Location, S3Location},
    s3,
};
use crate::{
    egress::{self, WebAddress, WebLimits},
    job::JobError,
};

/// Who chose the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The local user, who can read everything that acetate can read.
    Local,
    /// Anyone who can submit a job.
    Submitted,
}

/// Clones share connections.
#[derive(Debug, Clone)]
pub struct InputReader {
    client: S3Client,
    /// Absent: everything is allowed.
    allowed: Option<AllowList>,
    /// Absent: nothing is read from the web.
    web: Option<WebLimits>,
}

impl InputReader {
    pub(super) fn new(client: S3Client, allowed: Option<AllowList>, web: Option<WebLimits>) -> Self {
        Self { client, allowed, web }
    }

    pub(super) fn of_local_user(&self) -> Self {
        Self { allowed: None, ..self.clone() }
    }

    /// Reads a picture of at most `cap` bytes.
    ///
    /// # Errors
    /// Errors that the submitter can correct have the class `invalid`: an address that is malformed, not allowed or
    /// missing, or a picture that is too large. Temporary errors are transient.
    pub async fn read(&self, url: &str, cap: u64) -> Result<Vec<u8>, JobError> {
        let location = Location::parse("input", url)?;
        let inputs = self.clone();
        match location {
            // Resolving a path may wait for a disk.
            Location::File(ref path) => {
                let path = path.clone();
                blocking(move || inputs.allow(&location).and_then(|()| read_file(&path, cap))).await
            }
            Location::S3(ref object) => {
                self.allow(&location)?;
                self.read_object(object, cap).await
            }
            Location::Web(ref address) => {
                self.allow(&location)?;
                let (address, limits) = (address.clone(), self.web.clone().unwrap_or_default());
                blocking(move || {
                    let allow = |address: &WebAddress| inputs.allow(&Location::Web(address.clone()));
                    egress::read(address, cap, &limits, &allow)
                })
                .await
            }
        }
    }

    /// Whether a request may use this address, without checking that it exists.
    pub fn check(&self, url: &str) -> Result<(), JobError> {
        self.allow(&Location::parse("input", url)?)
    }

    /// Lists a folder or a prefix recursively, page by page.
    pub fn list(&self, url: &str) -> Result<Listing, JobError> {
        let folder = Location::parse("input", url)?.as_folder();
        self.allow(&folder)?;
        match folder {
            Location::File(path) => Ok(Listing::of_folder(path)),
            Location::S3(prefix) => Ok(Listing::of_prefix(self.client.clone(), prefix)),
            Location::Web(address) => Err(JobError::invalid(
                "input",
                format!("{address}: web addresses cannot be listed; give a folder or s3://"),
            )),
        }
    }

    fn allow(&self, location: &Location) -> Result<(), JobError> {
        if let Location::Web(address) = location {
            let Some(web) = &self.web else { return Err(Self::no_web(location)) };
            web.check_host(address)?;
        }
        self.allowed.as_ref().map_or(Ok(()), |list| list.check(location))
    }

    fn no_web(location: &Location) -> JobError {
        let reason = "inputs from the web are disabled (store.http_inputs); set ACETATE__STORE__HTTP_INPUTS=true for the \
                      workers and here, or copy the picture into the object store";
        JobError::InputForbidden { input: location.to_string(), reason: reason.to_owned() }
    }

    async fn read_object(&self, object: &S3Location, cap: u64) -> Result<Vec<u8>, JobError> {
        if object.key.is_empty() || object.key.ends_with('/') {
            return Err(JobError::invalid("input", format!("{object} is a folder; give the address of a picture")));
        }
        s3::read(&self.client, object, cap)
            .await
            .map_err(|failure| failure.for_input(&object.to_string(), cap, &self.client))
    }
}

/// Checks that this user may read a file, so that nobody else's permission is used for it later. A file that is not
/// there yet may be.
pub fn check_readable(url: &str) -> Result<(), JobError> {
    match Location::parse("input", url)? {
        // Opening a pipe would wait for a writer.
        Location::File(path) if !path.is_file() => Ok(()),
        Location::File(path) => match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Err(input_error(&path.display().to_string(), error))
            }
            _ => Ok(()),
        },
        Location::S3(_) | Location::Web(_) => Ok(()),
    }
}

/// The name of an input for messages: a path as a path, an address without its secrets.
pub fn input_name(url: &str) -> String {
    Location::parse("input", url).map_or_else(|_| "input".to_owned(), |location| location.to_string())
}

fn read_file(path: &Path, cap: u64) -> Result<Vec<u8>, JobError> {
    let name = path.display().to_string();
    let failed = |error: std::io::Error| input_error(&name, error);
    // Checked before opening, because opening a pipe would wait for a writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(JobError::InvalidImage { input: name, reason: "is not a file; give a picture".to_owned() });
    }
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(cap)).unwrap_or_default());
    file.take(cap + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > cap {
        let reason = format!("{} bytes; at most {cap} are allowed (image.max_bytes)", metadata.len());
        return Err(JobError::ImageTooLarge { input: name, reason });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{S3Settings, file_url};

    #[tokio::test]
    async fn files_are_read_under_a_cap_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = InputReader::new(S3Client::new(S3Settings::default()), None, None);
        let picture = folder.path().join("in.png");
        fs::write(&picture, [0; 10]).unwrap();
        assert_eq!(inputs.read(&file_url(&picture), 10).await.unwrap().len(), 10);
        assert_eq!(inputs.read(&file_url(&picture), 9).await.unwrap_err().code(), "image_too_large");
        let missing = inputs.read(&file_url(&folder.path().join("no.png")), 9).await.unwrap_err();
        assert!(missing.code() == "input_not_found" && missing.to_string().contains("no.png"), "{missing}");
        assert_eq!(inputs.read(&file_url(folder.path()), 9).await.unwrap_err().code(), "invalid_image");
        assert_eq!(inputs.read("s3://in/folder/", 9).await.unwrap_err().code(), "invalid_request");
        let web = inputs.read("https://example.org/x.png?sig=s3cret", 9).await.unwrap_err();
        assert!(web.code() == "input_forbidden" && web.to_string().contains("store.http_inputs"), "{web}");
        assert!(!web.to_string().contains("s3cret"), "{web}");
    }
}
