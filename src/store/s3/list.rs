//! Lists the objects under a prefix, and deletes many objects.

use aws_sdk_s3::types::{Delete, EncodingType, ObjectIdentifier};
use percent_encoding::percent_decode_str;

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
        .of(&folder.bucket)
        .await
        .list_objects_v2()
        .bucket(&folder.bucket)
        .prefix(&folder.key)
        // A key may have characters that XML cannot carry; one of them would make the whole page unreadable.
        .encoding_type(EncodingType::Url)
        .set_continuation_token(from.map(str::to_owned))
        .set_request_payer(client.payer(&folder.bucket))
        .send()
        .await
        .map_err(S3Error::of)?;
    let is_encoded = answer.encoding_type() == Some(&EncodingType::Url);
    let mut objects = Vec::with_capacity(answer.contents().len());
    for object in answer.contents() {
        let Some(key) = object.key() else { continue };
        let key = if is_encoded { decoded(key) } else { key.to_owned() };
        if key.ends_with('/') {
            continue;
        }
        let location = S3Location { bucket: folder.bucket.clone(), key };
        objects.push((location, object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default()));
    }
    let next = answer.next_continuation_token().filter(|_| answer.is_truncated() == Some(true)).map(str::to_owned);
    Ok(ObjectPage { objects, next })
}

/// A key of a list with `encoding-type=url`, where a space is `+` and a plus sign `%2B`.
fn decoded(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// Deletes objects of one bucket; missing ones count as deleted.
pub(super) async fn delete(client: &S3Client, bucket: &str, keys: &[String]) -> Result<(), S3Error> {
    if client.settings().checksums == Checksums::Required {
        // S3 requires a checksum for deleting many objects.
        for key in keys {
            let request = client.of(bucket).await.delete_object().bucket(bucket).key(key);
            request.set_request_payer(client.payer(bucket)).send().await.map_err(S3Error::of)?;
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
        let request = client.of(bucket).await.delete_objects().bucket(bucket).delete(batch);
        let answer = request.set_request_payer(client.payer(bucket)).send().await.map_err(S3Error::of)?;
        if let Some(error) = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
            let (key, code) = (error.key().unwrap_or("?"), error.code().unwrap_or("?"));
            let message = format!("{key}: {code} {}", error.message().unwrap_or_default());
            return Err(if code == "AccessDenied" { S3Error::Denied(message) } else { S3Error::Unavailable(message) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_encoded_lists_are_decoded() {
        for (listed, key) in [
            ("a+b.png", "a b.png"),
            ("a%20b.png", "a b.png"),
            ("a%2Bb%2525.png", "a+b%25.png"),
            ("a%01%09%0A.png", "a\u{1}\t\n.png"),
            ("%E9%9B%AA/%C3%A4.png", "雪/ä.png"),
        ] {
            assert_eq!(decoded(listed), key);
        }
    }
}
