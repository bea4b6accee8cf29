//! The pictures of a folder or a prefix. Hidden files are left out, as other dataset tools do; files that are no
//! pictures, too, and all of them are counted.

use tokio::runtime::Handle;

use super::{Row, reading::Sink};
use crate::{job::JobError, store::InputReader};

/// The extensions of pictures. Decoding checks the content later.
const PICTURES: [&str; 14] =
    ["png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff", "jxl", "avif", "heic", "heif", "hif"];

pub fn read(inputs: &InputReader, url: &str, sink: &mut Sink) -> Result<(), JobError> {
    let runtime = Handle::current();
    let mut pages = inputs.list(url)?;
    let root = format!("{}/", url.trim_end_matches('/'));
    let mut number = 0;
    while let Some(page) = runtime.block_on(pages.next())? {
        for object in page {
            let below = object.url.strip_prefix(&root).unwrap_or(&object.url);
            if let Some(reason) = why_not(below) {
                sink.leave_out(|tally| tally.add(reason));
                continue;
            }
            number += 1;
            if !sink.push(Row::of_picture(number, object.url)) {
                return Ok(());
            }
        }
    }
    sink.leave_out(|tally| tally.add_skipped(pages.skipped()));
    Ok(())
}

/// Why a file is not submitted; `path` is its path below the folder.
pub fn why_not(path: &str) -> Option<String> {
    if let Some(reason) = is_hidden(path) {
        return Some(reason.to_owned());
    }
    let name = path.rsplit('/').next().unwrap_or_default();
    match name.rsplit_once('.') {
        Some((_, ending)) if is_picture(&ending.to_ascii_lowercase()) => None,
        Some((_, ending)) if ending.len() <= 8 => Some(format!(".{}", ending.to_ascii_lowercase())),
        _ => Some("without an extension".to_owned()),
    }
}

/// Whether a path has a part that other programs hide: a dot at its beginning, or what macOS adds to archives.
pub fn is_hidden(path: &str) -> Option<&'static str> {
    if path.split('/').any(|part| part == "__MACOSX") {
        return Some("__MACOSX");
    }
    path.split('/').any(|part| part.starts_with('.')).then_some("hidden")
}

/// Whether this is the extension of a picture, in lower case.
pub fn is_picture(ending: &str) -> bool {
    PICTURES.contains(&ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pictures_are_taken_and_the_others_have_a_reason() {
        for (path, reason) in [
            ("a.png", None),
            ("deep/b.JPG", None),
            ("c.jfif", None),
            ("._a.png", Some("hidden")),
            (".git/x.png", Some("hidden")),
            ("__MACOSX/._a.png", Some("__MACOSX")),
            ("d.HEIC", None),
            ("e.hif", None),
            ("x.DNG", Some(".dng")),
            ("README", Some("without an extension")),
            ("folder/", Some("without an extension")),
        ] {
            assert_eq!(why_not(path).as_deref(), reason, "{path}");
        }
    }
}
