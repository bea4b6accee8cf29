//! Lists the objects under a prefix.

use aws_sdk_s3::types::EncodingType;
use jiff::Timestamp;
use percent_encoding::percent_decode_str;

use super::{S3Client, S3Error};
use crate::store::location::S3Location;

/// An object of a list.
pub(in crate::store) struct ListedObject {
    pub location: S3Location,
    /// Bytes.
    pub size: u64,
    pub modified: Option<Timestamp>,
}

/// Some of the objects under a prefix.
pub(in crate::store) struct ObjectPage {
    pub objects: Vec<ListedObject>,
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
        objects.push(ListedObject {
            location,
            size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or_default(),
            modified: object.last_modified().and_then(|time| Timestamp::from_second(time.secs()).ok()),
        });
    }
    let next = next_page(answer.is_truncated() == Some(true), answer.next_continuation_token(), from)?;
    Ok(ObjectPage { objects, next })
}

/// The start of the next page. Half of a list must not be taken for the whole, nor one page be read without end.
fn next_page(is_truncated: bool, next: Option<&str>, from: Option<&str>) -> Result<Option<String>, S3Error> {
    match next.filter(|token| !token.is_empty()) {
        _ if !is_truncated => Ok(None),
        None => Err(S3Error::Refused(
            "it ends a list in the middle without saying where it goes on; it may not know ListObjectsV2".to_owned(),
        )),
        Some(token) if Some(token) == from => {
            Err(S3Error::Refused("it gives the same page of a list again and again".to_owned()))
        }
        Some(token) => Ok(Some(token.to_owned())),
    }
}

/// A key of a list with `encoding-type=url`, where a space is `+` and a plus sign `%2B`.
fn decoded(key: &str) -> String {
    percent_decode_str(&key.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_goes_on_or_ends_or_is_an_error() {
        assert_eq!(next_page(false, None, None), Ok(None));
        assert_eq!(next_page(false, Some("b"), Some("a")), Ok(None));
        assert_eq!(next_page(true, Some("b"), Some("a")), Ok(Some("b".to_owned())));
        for (next, from) in [(None, None), (Some(""), None), (None, Some("a")), (Some("a"), Some("a"))] {
            assert!(matches!(next_page(true, next, from), Err(S3Error::Refused(_))), "{next:?} after {from:?}");
        }
    }

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
