//! The web UI's files, built into the program. `http` serves them and sets the headers.

use rust_embed::{Embed, EmbeddedFile};

/// `src/ui/assets/`, everything in it under its path there.
#[derive(Embed)]
#[folder = "src/ui/assets/"]
struct Assets;

/// A file of the web UI.
pub struct Asset {
    pub bytes: std::borrow::Cow<'static, [u8]>,
    pub media_type: &'static str,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

/// The file at a path such as `canvas.js`. There are no folders and no `..`: a path is a name, and it either matches an
/// embedded file or not.
pub fn asset(path: &str) -> Option<Asset> {
    let EmbeddedFile { data, metadata } = Assets::get(path)?;
    let sha256 = hex::encode(metadata.sha256_hash());
    Some(Asset { bytes: data, media_type: media_type(path), sha256 })
}

/// The names of all files.
pub fn assets() -> impl Iterator<Item = std::borrow::Cow<'static, str>> {
    Assets::iter()
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "json" | "webmanifest" => "application/json",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_type_and_the_page_is_there() {
        assert!(asset("index.html").is_some());
        for name in assets() {
            let asset = asset(&name).unwrap();
            assert_ne!(asset.media_type, "application/octet-stream", "{name}: give its ending a type");
            assert_eq!(asset.sha256.len(), 64);
        }
        for path in ["", "/index.html", "../mod.rs", "nowhere.js"] {
            assert!(asset(path).is_none(), "{path}");
        }
    }
}
