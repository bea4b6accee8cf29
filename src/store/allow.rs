//! Decides which addresses a request may name: those below allowed prefixes, matched at `/`, never in the middle of a
//! name.

use std::path::{Path, PathBuf};

use super::location::{Location, S3Location};
use crate::{egress::WebAddress, job::JobError};

/// A list of allowed prefixes.
#[derive(Debug, Clone)]
pub struct AllowList {
    /// The setting of the prefixes, for messages.
    setting: &'static str,
    prefixes: Vec<Location>,
    /// Allowed whatever the setting is.
    always: Vec<Location>,
}

impl AllowList {
    /// Parses the prefixes of a setting; without any, only addresses below `own` are allowed.
    pub fn new(setting: &'static str, prefixes: &[String], own: &Location) -> Result<Self, JobError> {
        let mut prefixes =
            prefixes.iter().map(|url| Location::parse(setting, url)).collect::<Result<Vec<_>, JobError>>()?;
        if prefixes.is_empty() {
            prefixes.push(own.clone());
        }
        Ok(Self { setting, prefixes, always: Vec::new() })
    }

    /// Allows one more prefix, whatever the setting is.
    pub fn and(mut self, prefix: Location) -> Self {
        self.always.push(prefix);
        self
    }

    fn all(&self) -> impl Iterator<Item = &Location> {
        self.prefixes.iter().chain(&self.always)
    }

    /// The first of the prefixes, as an address.
    pub fn first(&self) -> Option<String> {
        self.prefixes.first().map(String::from)
    }

    /// # Errors
    /// [`JobError::InputForbidden`], which names the setting and its value.
    pub fn check(&self, location: &Location) -> Result<(), JobError> {
        let allowed = match location {
            Location::File(path) => self.allows_file(path),
            Location::S3(object) => self.all().any(|prefix| s3_under(prefix, object)),
            Location::Web(address) => self.allows_web(address),
        };
        if allowed { Ok(()) } else { Err(self.forbidden(location)) }
    }

    /// A symbolic link may lead out of an allowed folder, so its target is checked, too.
    fn allows_file(&self, path: &Path) -> bool {
        let under = |path: &Path, of: fn(&Path) -> PathBuf| {
            self.all().any(|prefix| matches!(prefix, Location::File(prefix) if path.starts_with(of(prefix))))
        };
        under(path, Path::to_path_buf) && under(&real(path), real)
    }

    /// `store.http_inputs` enables web addresses; web prefixes in the list restrict them.
    fn allows_web(&self, address: &WebAddress) -> bool {
        let mut named = self.all().filter_map(|prefix| match prefix {
            Location::Web(prefix) => Some(prefix),
            Location::File(_) | Location::S3(_) => None,
        });
        let mut none_named = true;
        named.any(|prefix| {
            none_named = false;
            prefix.origin() == address.origin() && at_boundary(prefix.uri().path(), address.uri().path())
        }) || none_named
    }

    fn forbidden(&self, location: &Location) -> JobError {
        let allowed: Vec<_> = self.prefixes.iter().map(String::from).collect();
        let variable = format!("ACETATE__{}", self.setting.to_uppercase().replace('.', "__"));
        let more = [allowed.clone(), vec![folder_of(location)]].concat().join(",");
        let reason = format!(
            "is not below a prefix in {} ({}); use an address below one, or set {variable}='{more}' for the workers \
             and for what submits",
            self.setting,
            allowed.join(", "),
        );
        JobError::InputForbidden { input: location.to_string(), reason }
    }
}

/// The address of what an object lies in.
fn folder_of(location: &Location) -> String {
    let url = String::from(location);
    let end = url.trim_end_matches('/').rfind('/').unwrap_or_default();
    match url.find("://") {
        Some(scheme) if end > scheme + 3 => url[..end].to_owned(),
        _ => url,
    }
}

fn s3_under(prefix: &Location, object: &S3Location) -> bool {
    matches!(prefix, Location::S3(prefix) if prefix.bucket == object.bucket && at_boundary(&prefix.key, &object.key))
}

/// `a/b` and `a/b/` allow `a/b/c`, and `a/b` also itself; neither allows `a/bc`.
fn at_boundary(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| prefix.is_empty() || prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/'))
}

/// The path with links resolved, as far as it exists.
fn real(path: &Path) -> PathBuf {
    for there in path.ancestors() {
        if let Ok(real) = there.canonicalize() {
            let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file_url;

    fn list(prefixes: &[&str]) -> AllowList {
        let prefixes: Vec<_> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let own = Location::parse("store.url", "s3://own/results").unwrap();
        AllowList::new("store.inputs", &prefixes, &own).unwrap()
    }

    #[test]
    fn prefixes_match_at_slashes() {
        let cases: [(&[&str], &str, bool); 22] = [
            (&["s3://in"], "s3://in/a.png", true),
            (&["s3://in/"], "s3://in/a/b.png", true),
            (&["s3://in"], "s3://inner/a.png", false),
            (&["s3://in/a"], "s3://in/a/b.png", true),
            (&["s3://in/a"], "s3://in/a", true),
            (&["s3://in/a/"], "s3://in/a", false),
            (&["s3://in/a"], "s3://in/ab.png", false),
            (&["s3://in/a/"], "s3://in/b/a/", false),
            (&["s3://other", "s3://in"], "s3://in/x", true),
            (&["s3://in"], "file:///in/x", false),
            (&["file:///srv/in"], "file:///srv/in/x.png", true),
            (&["file:///srv/in"], "file:///srv/inner/x.png", false),
            (&["file:///srv/in"], "file:///srv", false),
            (&["file:///"], "file:///anything", true),
            (&[], "s3://own/results/x.png", true),
            (&[], "s3://own/other/x.png", false),
            (&["https://h/pics"], "https://H:443/pics/x.png", true),
            (&["https://h/pics"], "https://h/picsx.png", false),
            (&["https://h/pics"], "http://h/pics/x.png", false),
            (&["https://h/pics"], "https://h.evil/pics/x.png", false),
            (&["https://h/pics", "https://g"], "https://g/x.png", true),
            (&["s3://in"], "https://anywhere/x.png", true),
        ];
        for (prefixes, url, wanted) in cases {
            let location = Location::parse("input", url).unwrap();
            assert_eq!(list(prefixes).check(&location).is_ok(), wanted, "{prefixes:?} and {url}");
        }
    }

    #[test]
    fn the_message_names_the_setting_and_what_it_allows() {
        let error = list(&["s3://in/a"]).check(&Location::parse("input", "s3://secret/x").unwrap()).unwrap_err();
        assert_eq!(error.code(), "input_forbidden");
        let text = error.to_string();
        assert!(text.starts_with("s3://secret/x: ") && text.contains("store.inputs (s3://in/a)"), "{text}");
        assert!(AllowList::new("store.inputs", &["in".to_owned()], &Location::File("/".into())).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("out"));
        std::fs::create_dir_all(&inside).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        let list = list(&[&file_url(&inside)]);
        let allowed = |path: PathBuf| list.check(&Location::File(path)).is_ok();
        assert!(!allowed(inside.join("link/secret")));
        assert!(!allowed(inside.join("link/new/file")));
        assert!(allowed(inside.join("new/file")));
    }
}
