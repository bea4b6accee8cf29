//! Lists the objects under a prefix.

use super::{S3Client, S3Error};
use crate::store::location::S3Location;

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
