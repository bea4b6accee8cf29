//! Deletes what many jobs have written: several at a time, and with few requests.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::{StreamExt, stream};

use super::{MANIFEST, ObjectKey, Store, s3, stores::Stores};
use crate::job::{Epoch, JobError, JobId, JobObjects};

/// How many jobs are looked at at a time.
const AT_A_TIME: usize = 32;
/// A store that has failed so often, and not answered once, is not asked for the other jobs.
const ENOUGH_FAILURES: usize = 8;

/// What was deleted, and what was not.
#[derive(Debug, Default)]
pub struct Deletion {
    /// The number of objects.
    pub files: u64,
    /// Jobs that still have objects, with the reasons.
    pub failed: HashMap<JobId, JobError>,
    /// Jobs whose prefix could not be looked at, for instance because it is not allowed, and the first reason.
    pub unchecked: Vec<JobId>,
    pub unchecked_reason: Option<JobError>,
}

/// Objects of one job that were found, and those that were deleted along the way.
#[derive(Default)]
struct FoundObjects {
    deleted: u64,
    /// By bucket.
    keys: Vec<(String, Vec<String>)>,
}

/// The keys of everything that the job has written, where that is certain: its only attempt succeeded.
fn known(job: &JobObjects) -> Option<Vec<ObjectKey>> {
    let files = job.files.as_ref().filter(|_| job.epoch == Epoch(1))?;
    let names = files.iter().map(String::as_str).chain([MANIFEST]);
    names.map(|name| ObjectKey::new(job.job, job.epoch, name).ok()).collect()
}

impl Stores {
    /// Deletes the objects of jobs, and nothing that they did not write. Missing objects count as deleted.
    pub async fn delete_results(&self, jobs: &[JobObjects]) -> Deletion {
        let mut deletion = Deletion::default();
        let mut places = Vec::new();
        for job in jobs.iter().filter(|job| job.epoch > Epoch(0)) {
            match self.places(job, &mut deletion) {
                Ok(stores) => places.extend(stores.into_iter().map(|store| (job, store))),
                Err(error) => drop(deletion.failed.insert(job.job, error)),
            }
        }
        let mut waiting: HashSet<JobId> = places.iter().map(|(job, _)| job.job).collect();
        let searches = places.into_iter().map(|(job, store)| async move { (job.job, find_objects(job, &store).await) });
        let searches = searches.collect::<Vec<_>>();
        let mut searches = stream::iter(searches).buffer_unordered(AT_A_TIME);
        let mut answered = false;
        let mut owners: HashMap<String, JobId> = HashMap::new();
        let mut buckets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Some((job, found)) = searches.next().await {
            match found {
                Ok(FoundObjects { deleted, keys }) => {
                    answered = true;
                    waiting.remove(&job);
                    deletion.files += deleted;
                    for (bucket, keys) in keys {
                        owners.extend(keys.iter().map(|key| (key.clone(), job)));
                        buckets.entry(bucket).or_default().extend(keys);
                    }
                }
                Err(error) => {
                    deletion.failed.insert(job, error.clone());
                    if !answered && deletion.failed.len() >= ENOUGH_FAILURES {
                        deletion.failed.extend(waiting.iter().map(|job| (*job, error.clone())));
                        break;
                    }
                }
            }
        }
        drop(searches);
        for (bucket, keys) in buckets {
            let kept = s3::delete(self.client(), &bucket, &keys).await;
            deletion.files += keys.len().saturating_sub(kept.len()) as u64;
            for (key, failure) in kept {
                let error = failure.for_object(&format!("s3://{bucket}/{key}"), 0, self.client());
                match owners.get(&key) {
                    Some(job) => drop(deletion.failed.insert(*job, error)),
                    // A key that was not asked for: nothing certain is known of any job.
                    None => deletion.failed.extend(jobs.iter().map(|job| (job.job, error.clone()))),
                }
            }
        }
        deletion
    }

    /// Where a job may have objects.
    fn places(&self, job: &JobObjects, deletion: &mut Deletion) -> Result<Vec<Store>, JobError> {
        let mut stores = vec![self.at_root(job.root.as_deref())?];
        if job.root.is_none() && !job.prefix.is_empty() {
            match self.results(&job.prefix) {
                Ok(store) if store.root_url() != stores[0].root_url() => stores.push(store),
                Ok(_) => {}
                Err(error) => {
                    deletion.unchecked.push(job.job);
                    deletion.unchecked_reason.get_or_insert(error);
                }
            }
        }
        Ok(stores)
    }
}

/// A folder is emptied at once; objects of S3 are deleted later, together with those of other jobs.
async fn find_objects(job: &JobObjects, store: &Store) -> Result<FoundObjects, JobError> {
    match store {
        Store::Folder(folder) => {
            let last = job.epoch;
            let deleted = folder.delete_epochs(job.job, move |epoch| epoch <= last).await?;
            Ok(FoundObjects { deleted, ..FoundObjects::default() })
        }
        Store::S3(bucket) => {
            let keys = match known(job) {
                Some(keys) => keys.iter().map(|key| bucket.at(key).key).collect(),
                None => bucket.keys_of(job.job, |epoch| epoch <= job.epoch).await?,
            };
            Ok(FoundObjects { keys: vec![(bucket.root().bucket.clone(), keys)], ..FoundObjects::default() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_only_of_a_job_that_succeeded_at_once() {
        let job = JobObjects {
            job: JobId::new(),
            epoch: Epoch(1),
            root: None,
            prefix: String::new(),
            files: Some(vec!["composite.png".to_owned()]),
        };
        let keys: Vec<_> = known(&job).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(keys, ["composite.png", MANIFEST].map(|name| format!("{}/1/{name}", job.job)));
        assert_eq!(known(&JobObjects { epoch: Epoch(2), ..job.clone() }), None);
        assert_eq!(known(&JobObjects { files: None, ..job.clone() }), None);
        assert_eq!(known(&JobObjects { files: Some(vec!["../x".to_owned()]), ..job }), None, "it is listed instead");
    }
}
