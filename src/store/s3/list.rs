//! Lists the objects under a prefix, and deletes many objects.

use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{Checksums, S3Client, S3Error};
use crate::store::location::S3Location;

/// The maximum number of keys in one delete request to S3.
const KEYS_AT_ONCE: usize = 1000;

/// Some of the objects under a prefix.
pub(in crate::store) struct ObjectPage {
    pub objects: Vec<(S3Location, u64)>,
    /// The start of the next page; absent on the last page.
    pub next: Option<String>,
}

/// One page, in the order of the keys; a folder marker (a key that ends with `/`) is not included.
pub(in crate::store) async fn list_page(
    client: &S3Client,
    folder: &S3Location,
    from: Option<&str>,
) -> Result<ObjectPage, S3Error> {
    let answer = client
        .get()
        .await
        .list_objects_v2()
        .bucket(&folder.bucket)
        .prefix(&folder.key)
        .set_continuation_token(from.map(str::to_owned))
        .send()
        .await
        .map_err(S3Error::of)?;
    let mut objects = Vec::with_capacity(answer.contents().len());
    for object in answer.contents() {
        let Some(key) = object.key().filter(|key| !key.ends_with('/')) else { continue };
        let location = S3Location { bucket: folder.bucket.clone(), key: key.to_owned() };
        objects.push((location, object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default()));
    }
    let next = answer.next_continuation_token().filter(|_| answer.is_truncated() == Some(true)).map(str::to_owned);
    Ok(ObjectPage { objects, next })
}

/// Deletes objects of one bucket; missing ones count as deleted.
pub(super) async fn delete(client: &S3Client, bucket: &str, keys: &[String]) -> Result<(), S3Error> {
    if client.settings().checksums == Checksums::Required {
        // S3 requires a checksum for deleting many objects.
        for key in keys {
            client.get().await.delete_object().bucket(bucket).key(key).send().await.map_err(S3Error::of)?;
        }
        return Ok(());
    }
    for keys in keys.chunks(KEYS_AT_ONCE) {
        let mut batch = Delete::builder().quiet(true);
        for key in keys {
            let object = ObjectIdentifier::builder().key(key).build();
            batch = batch.objects(object.map_err(|error| S3Error::Refused(error.to_string()))?);
        }
        let batch = batch.build().map_err(|error| S3Error::Refused(error.to_string()))?;
        let answer =
            client.get().await.delete_objects().bucket(bucket).delete(batch).send().await.map_err(S3Error::of)?;
        if let Some(error) = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
            let (key, code) = (error.key().unwrap_or("?"), error.code().unwrap_or("?"));
            let message = format!("{key}: {code} {}", error.message().unwrap_or_default());
            return Err(if code == "AccessDenied" { S3Error::Denied(message) } else { S3Error::Unavailable(message) });
        }
    }
    Ok(())
}
