//! The pictures of a command line: files, layers of jobs, and all pictures of folders.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::Path,
    time::UNIX_EPOCH,
};

use super::flags::input;
use crate::{
    cli::{
        Failure,
        dataset::{Tally, why_not},
    },
    job::{InputRef, JobError},
    store::{InputReader, file_url, path_of},
};

/// A picture, and what its result is called.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalPicture {
    pub input: InputRef,
    /// The path of its folder below `--out`.
    pub name: String,
    /// For messages.
    pub shown: String,
    /// Size and time of the last change: another one means another picture.
    pub stamp: String,
}

/// The folders of pictures below `--out`, by the names of their inputs. The same picture may be given several times.
pub type EarlierNames = HashMap<String, VecDeque<String>>;

/// Finds the pictures, in the order of the command line and then by name. `out` is where the results go; pictures below
/// it are earlier results. `earlier`: the folders that pictures have from earlier runs.
pub async fn find(
    inputs: &InputReader,
    images: &[String],
    out: &Path,
    earlier: EarlierNames,
) -> Result<(Vec<LocalPicture>, Tally), Failure> {
    let (mut pictures, mut tally) = (Vec::new(), Tally::default());
    for image in images {
        let path = Path::new(image);
        if !path.is_dir() {
            pictures.push(of_file(image)?);
            continue;
        }
        let folder = path.canonicalize().map_err(|_| JobError::InputNotFound { input: image.clone() })?;
        if folder == out {
            let reason = format!("{} has the pictures; give another folder for the results", out.display());
            return Err(JobError::invalid("--out", reason).into());
        }
        let before = if images.len() > 1 { folder.file_name() } else { None };
        let before = before.map_or_else(String::new, |name| format!("{}/", name.to_string_lossy()));
        let root = format!("{}/", file_url(&folder));
        let results = format!("{}/", file_url(out));
        let mut pages = inputs.list(&root)?;
        while let Some(page) = pages.next().await? {
            for object in page {
                let below = object.url.strip_prefix(&root).unwrap_or(&object.url);
                if object.url.starts_with(&results) {
                    continue;
                }
                if let Some(reason) = why_not(below) {
                    tally.add(reason);
                    continue;
                }
                let path = path_of("input", &object.url)?;
                let shown = path.strip_prefix(&folder).unwrap_or(&path).display().to_string();
                let name = format!("{before}{shown}");
                pictures.push(LocalPicture { stamp: stamp_of(&path), input: InputRef::Url(object.url), name, shown });
            }
        }
        tally.add_skipped(pages.skipped());
    }
    if pictures.is_empty() {
        let why = tally.text().map_or_else(String::new, |text| format!(" ({text})"));
        return Err(JobError::invalid("IMAGE", format!("there are no pictures in {}{why}", images.join(", "))).into());
    }
    name_apart(&mut pictures, earlier);
    Ok((pictures, tally))
}

fn of_file(image: &str) -> Result<LocalPicture, Failure> {
    let input = input(image)?;
    let (name, stamp) = match &input {
        InputRef::Url(url) => {
            let path = path_of("IMAGE", url)?;
            (path.file_name().unwrap_or_default().to_string_lossy().into_owned(), stamp_of(&path))
        }
        InputRef::Layer { job, layer } => (format!("{job}-layer-{layer:02}"), String::new()),
        InputRef::File { job, file } => (format!("{job}-{file}"), String::new()),
    };
    Ok(LocalPicture { input, name, shown: image.to_owned(), stamp })
}

fn stamp_of(path: &Path) -> String {
    let Ok(metadata) = path.metadata() else { return String::new() };
    let changed = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{} {}", metadata.len(), changed.as_nanos())
}

/// Leaves out extensions; pictures that differ only by it keep it: `a-png` and `a-jpg`. So does one that is called as a
/// folder beside it, because that has results of its own. A name has no dot at its end. A picture that has a folder
/// keeps it, so that its result is there once, whatever pictures have come since.
fn name_apart(pictures: &mut [LocalPicture], mut earlier: EarlierNames) {
    let stem = |name: &str| match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() && !stem.ends_with('/') => stem.to_owned(),
        _ => name.to_owned(),
    };
    let mut count = HashMap::<String, u32>::new();
    for picture in pictures.iter() {
        *count.entry(stem(&picture.name)).or_default() += 1;
    }
    let mut folders = HashSet::new();
    for picture in pictures.iter() {
        folders.extend(picture.name.match_indices('/').map(|(at, _)| picture.name[..at].to_owned()));
    }
    let mut taken = HashMap::<String, u32>::new();
    let mut kept = Vec::with_capacity(pictures.len());
    for picture in pictures.iter() {
        let name = earlier.get_mut(&picture.input.name()).and_then(VecDeque::pop_front);
        let name = name.filter(|name| !folders.contains(name) && !taken.contains_key(name));
        taken.extend(name.iter().map(|name| (name.clone(), 1)));
        kept.push(name);
    }
    for (picture, kept) in pictures.iter_mut().zip(kept) {
        if let Some(name) = kept {
            picture.name = name;
            continue;
        }
        let plain = stem(&picture.name);
        let mut name = match count.get(&plain) {
            count if folders.contains(&plain) || count.is_some_and(|count| *count > 1) => {
                format!("{plain}{}", picture.name[plain.len()..].replace('.', "-"))
            }
            _ => plain,
        };
        let times = taken.entry(name.clone()).or_default();
        *times += 1 + u32::from(folders.contains(&name));
        if *times > 1 {
            name = format!("{name}-{times}");
        }
        picture.name = name;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_apart() {
        let picture = |name: &str| LocalPicture {
            input: InputRef::Url(format!("file:///{name}")),
            name: name.to_owned(),
            shown: String::new(),
            stamp: String::new(),
        };
        let mut pictures = [
            "a.png",
            "b/a.png",
            "c.png",
            "c.jpg",
            "d.x.png",
            "e.png",
            "e.png",
            "noend",
            "b.png",
            "b/f.jpg",
            "b/f/g.png",
        ]
        .map(picture);
        let mut with_more = pictures.clone();
        name_apart(&mut pictures, EarlierNames::new());
        let names: Vec<_> = pictures.iter().map(|picture| picture.name.as_str()).collect();
        assert_eq!(
            names,
            ["a", "b/a", "c-png", "c-jpg", "d.x", "e-png", "e-png-2", "noend", "b-png", "b/f-jpg", "b/f/g"]
        );
        // What was there before keeps its folder, if that is not one of pictures by now.
        let names = [("c.jpg", &["c"][..]), ("e.png", &["e", "e-png-2"]), ("b.png", &["b"])];
        let names = names.map(|(name, folders)| {
            (format!("file:///{name}"), folders.iter().map(|folder| (*folder).to_owned()).collect::<VecDeque<_>>())
        });
        name_apart(&mut with_more, EarlierNames::from(names));
        let names: Vec<_> = with_more.iter().map(|picture| picture.name.as_str()).collect();
        assert_eq!(names, ["a", "b/a", "c-png", "c", "d.x", "e", "e-png-2", "noend", "b-png", "b/f-jpg", "b/f/g"]);
    }
}
