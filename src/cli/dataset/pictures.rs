//! The pictures inside a row: which of them the job is about, and which one is its mask.

use super::{RowPicture, columns::may_be_a_picture, listed};
use crate::job::{JobError, JobKind};

/// What a job takes of the pictures of its row.
pub struct WantedPictures<'a> {
    pub kind: JobKind,
    /// The columns that `--column` names as its pictures.
    pub named: Vec<&'a str>,
    /// The column that `--column` names as its mask.
    pub mask: Option<&'a str>,
    /// The row has the address of a picture.
    pub has_picture: bool,
    /// The row has the address of a mask.
    pub has_mask: bool,
}

#[derive(Debug, Default, PartialEq)]
pub struct ChosenPictures {
    pub pictures: Vec<RowPicture>,
    pub mask: Option<RowPicture>,
}

impl RowPicture {
    /// Whether it is of this column: `images` has `images.0`, `images.1`, ...
    pub fn is_of(&self, column: &str) -> bool {
        self.column == column || base(&self.column) == Some(column)
    }

    /// Whether its column is called so; files in archives have an extension, too: `mask.png`.
    pub fn is_called(&self, name: &str) -> bool {
        let is_file = |(stem, ending): (&str, &str)| stem == name && listed::is_picture(ending);
        self.is_of(name) || self.column.rsplit_once('.').is_some_and(is_file)
    }

    /// Whether it is the picture of its row, whatever the other columns say: by its name, or as a file of an archive.
    pub fn is_of_its_row(&self, is_file: bool) -> bool {
        let is_called_so = || ["image", "images", "input"].iter().any(|name| self.is_called(name));
        if is_file { !self.is_called("mask") } else { is_called_so() }
    }

    /// Whether these bytes are a picture, by their first ones, the name of the column, or the file's.
    fn looks_like_one(&self) -> bool {
        may_be_a_picture(&self.column)
            || ["image", "images", "input", "mask"].iter().any(|name| self.is_called(name))
            || listed::is_picture(&self.column.to_ascii_lowercase())
            || !self.name.is_empty() && listed::why_not(&self.name).is_none()
            || begins_like_one(&self.bytes)
    }
}

/// `images` of `images.1`.
pub fn base(column: &str) -> Option<&str> {
    let (list, index) = column.rsplit_once('.')?;
    index.parse::<usize>().is_ok().then_some(list)
}

/// Whether bytes begin as those of a picture.
pub fn begins_like_one(bytes: &[u8]) -> bool {
    const ISO_MEDIA: &[u8] = b"ftyp";
    const JPEG_XL: [&[u8]; 2] = [b"\xff\x0a", b"\0\0\0\x0cJXL \r\n"];
    image::guess_format(bytes).is_ok()
        || bytes.get(4..8) == Some(ISO_MEDIA)
        || JPEG_XL.iter().any(|start| bytes.starts_with(start))
}

/// Whether a job may have several pictures.
fn takes_several(kind: JobKind) -> bool {
    matches!(kind, JobKind::Composite | JobKind::Edit)
}

/// The pictures that `--column` names, those of `image` or `images`, or those of the only column; and the mask.
pub fn choose(mut pictures: Vec<RowPicture>, wanted: &WantedPictures<'_>) -> Result<ChosenPictures, JobError> {
    let is_named = |picture: &RowPicture| wanted.named.iter().chain(&wanted.mask).any(|name| picture.is_of(name));
    // Hashes and embeddings are bytes, too.
    pictures.retain(|picture| is_named(picture) || picture.looks_like_one());
    let takes_mask = matches!(wanted.kind, JobKind::Edit | JobKind::Workflow) && !wanted.has_mask;
    let mut masks = match wanted.mask {
        Some(name) => take(&mut pictures, |picture| picture.is_of(name)),
        None if takes_mask => take(&mut pictures, |picture| {
            picture.is_called("mask") && !wanted.named.iter().any(|name| picture.is_of(name))
        }),
        None => Vec::new(),
    };
    if masks.len() > 1 {
        return Err(several("mask", &masks));
    }
    let known = || ["image", "images"].into_iter().find(|name| pictures.iter().any(|one| one.is_called(name)));
    let chosen: Vec<RowPicture> = if !wanted.named.is_empty() {
        wanted.named.iter().flat_map(|name| take(&mut pictures, |picture| picture.is_of(name))).collect()
    } else if wanted.has_picture || pictures.is_empty() {
        Vec::new()
    } else if let Some(name) = known() {
        take(&mut pictures, |picture| picture.is_called(name))
    } else {
        let column = |picture: &RowPicture| base(&picture.column).unwrap_or(&picture.column).to_owned();
        let first = column(&pictures[0]);
        if pictures.iter().any(|picture| column(picture) != first) {
            return Err(several("image", &pictures));
        }
        pictures
    };
    let twice = chosen.iter().enumerate().any(|(at, one)| chosen[..at].iter().any(|other| other.column == one.column));
    if twice || chosen.len() > 1 && !takes_several(wanted.kind) {
        return Err(several("image", &chosen));
    }
    Ok(ChosenPictures { pictures: chosen, mask: masks.pop() })
}

/// Takes some out, in their order.
fn take(pictures: &mut Vec<RowPicture>, is_wanted: impl Fn(&RowPicture) -> bool) -> Vec<RowPicture> {
    let (taken, left) = std::mem::take(pictures).into_iter().partition(is_wanted);
    *pictures = left;
    taken
}

/// The error of a row with several pictures for one field.
fn several(field: &str, pictures: &[RowPicture]) -> JobError {
    for (at, one) in pictures.iter().enumerate() {
        if let Some(other) = pictures[..at].iter().find(|other| other.column == one.column) {
            let reason = format!(
                "the row has two files with the extension `{}`, {} and {}; give them different ones, such as `a.{0}` \
                 and `b.{0}`",
                one.column, other.name, one.name
            );
            return JobError::invalid("input", reason);
        }
    }
    let columns: Vec<_> = pictures.iter().map(|picture| format!("`{}`", picture.column)).collect();
    let reason = format!(
        "the row has several pictures, {}; choose one with --column {field}={}",
        columns.join(", "),
        pictures[0].column
    );
    JobError::invalid("input", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn chosen(kind: JobKind, named: &[&str], mask: Option<&str>, columns: &[&str]) -> Result<String, String> {
        let picture = |column: &&str| RowPicture {
            column: (*column).to_owned(),
            name: String::new(),
            bytes: if column.contains("hash") { vec![0xff, 0xfe] } else { PNG.to_vec() },
        };
        let wanted = WantedPictures { kind, named: named.to_vec(), mask, has_picture: false, has_mask: false };
        let chosen = choose(columns.iter().map(picture).collect(), &wanted).map_err(|error| error.to_string())?;
        let columns: Vec<_> = chosen.pictures.into_iter().map(|picture| picture.column).collect();
        Ok(format!("{} | {}", columns.join(" "), chosen.mask.map_or_else(String::new, |mask| mask.column)))
    }

    #[test]
    fn pictures_masks_and_lists_are_told_apart() {
        use JobKind::{Composite, Decompose, Edit};
        for (kind, named, mask, columns, wanted) in [
            (Edit, &[][..], None, &["image", "mask"][..], "image | mask"),
            (Edit, &[], None, &["mask.png", "image.png"], "image.png | mask.png"),
            (Edit, &["photo"], Some("area"), &["area", "photo", "other"], "photo | area"),
            (Edit, &["mask"], None, &["mask", "image"], "mask | "),
            (Edit, &[], None, &["images.0", "images.1", "mask"], "images.0 images.1 | mask"),
            (Decompose, &[], None, &["image.png", "mask.png"], "image.png | "),
            (Decompose, &["images.1"], None, &["images.0", "images.1"], "images.1 | "),
            (Composite, &[], None, &["photos.0", "photos.1", "phash"], "photos.0 photos.1 | "),
            (Composite, &["front", "back"], None, &["back", "front"], "front back | "),
            (Composite, &["photos"], None, &["photos.0", "photos.1", "x"], "photos.0 photos.1 | "),
            (Composite, &[], None, &["phash"], " | "),
            (Composite, &["phash"], None, &["phash"], "phash | "),
        ] {
            assert_eq!(chosen(kind, named, mask, columns).as_deref(), Ok(wanted), "{kind} {named:?} {columns:?}");
        }
        for (kind, columns, wanted) in [
            (
                Decompose,
                &["images.0", "images.1"][..],
                "several pictures, `images.0`, `images.1`; choose one with --column image=images.0",
            ),
            (Composite, &["a.png", "b.png"], "choose one with --column image=a.png"),
            (Composite, &["input.png", "target.png"], "choose one with --column image=input.png"),
            (Composite, &["png", "png"], "two files with the extension `png`"),
            (Edit, &["jpg", "mask.png", "mask.jpg"], "choose one with --column mask=mask.png"),
        ] {
            let error = chosen(kind, &[], None, columns).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
