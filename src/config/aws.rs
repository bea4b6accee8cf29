//! AWS's own variables and files, only to say what is missing in them. The S3 client reads them itself.

use std::path::{Path, PathBuf};

use super::Environment;

/// Why there may be no usable credentials; none if what is set looks complete.
pub(super) fn credentials_hint(
    environment: &Environment,
    read_file: impl Fn(&Path) -> Option<String>,
) -> Option<String> {
    let is_set = |name: &str| environment.get(name).is_some();
    let files = AwsFiles::of(environment, read_file);
    if let Some(profile) = environment.get("AWS_PROFILE") {
        if files.profiles.contains(&profile) {
            return None;
        }
        let there = match files.profiles.is_empty() {
            true => "there are no profiles".to_owned(),
            false => format!("the profiles are {}", files.profiles.join(", ")),
        };
        return Some(format!("AWS_PROFILE names `{profile}`, which is not in {}; {there}", files.places));
    }
    match (is_set("AWS_ACCESS_KEY_ID"), is_set("AWS_SECRET_ACCESS_KEY")) {
        (true, false) => return Some("AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not".to_owned()),
        (false, true) => return Some("AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not".to_owned()),
        (true, true) => return None,
        (false, false) => {}
    }
    match (is_set("AWS_WEB_IDENTITY_TOKEN_FILE"), is_set("AWS_ROLE_ARN")) {
        (true, false) => return Some("AWS_WEB_IDENTITY_TOKEN_FILE is set, and AWS_ROLE_ARN is not".to_owned()),
        (true, true) => return None,
        (false, _) => {}
    }
    let has_source = is_set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        || is_set("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        || files.profiles.iter().any(|profile| profile == "default");
    (!has_source).then(|| {
        format!(
            "nothing was found in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, the profile default of {}, \
             AWS_WEB_IDENTITY_TOKEN_FILE, or the metadata of a container or instance; for a public bucket, set \
             store.buckets = [\"NAME anonymous=true\"]",
            files.places
        )
    })
}

struct AwsFiles {
    /// For messages.
    places: String,
    profiles: Vec<String>,
}

impl AwsFiles {
    fn of(environment: &Environment, read_file: impl Fn(&Path) -> Option<String>) -> Self {
        let place = |variable: &str, name: &str| {
            let usual = || environment.home().map(|home| home.join(".aws").join(name));
            environment.get(variable).map(PathBuf::from).or_else(usual)
        };
        let config = place("AWS_CONFIG_FILE", "config");
        let credentials = place("AWS_SHARED_CREDENTIALS_FILE", "credentials");
        let mut profiles: Vec<String> = Vec::new();
        for path in [&config, &credentials].into_iter().flatten() {
            let text = read_file(path).unwrap_or_default();
            for profile in
                text.lines().filter_map(section).filter(|profile| !profiles.contains(profile)).collect::<Vec<_>>()
            {
                profiles.push(profile);
            }
        }
        let places: Vec<_> =
            [config, credentials].into_iter().flatten().map(|path| path.display().to_string()).collect();
        Self { places: places.join(" or "), profiles }
    }
}

/// The profile of a line `[profile x]`, as in `config`, or `[x]`, as in `credentials`.
fn section(line: &str) -> Option<String> {
    let name = line.trim().strip_prefix('[')?.split_once(']')?.0.trim();
    if name.starts_with("sso-session ") || name.starts_with("services ") {
        return None;
    }
    Some(name.strip_prefix("profile ").unwrap_or(name).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint<const N: usize>(pairs: [(&str, &str); N]) -> Option<String> {
        let file = |path: &Path| match path.to_str()? {
            "/h/.aws/config" => Some("[default]\nregion = x\n[ profile work ]\n[sso-session corp]\n".to_owned()),
            "/h/.aws/credentials" => Some("[old]\naws_access_key_id = AKIA\n".to_owned()),
            _ => None,
        };
        let mut all = vec![("HOME", "/h")];
        all.extend(pairs);
        let environment = Environment::from_list(&all);
        credentials_hint(&environment, file)
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(hint([]), None, "the default profile may have some");
        assert_eq!(hint([("AWS_PROFILE", "work")]), None);
        assert_eq!(hint([("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "s3cret")]), None);
        let cases = [
            (
                hint([("AWS_PROFILE", "wrok")]),
                "AWS_PROFILE names `wrok`, which is not in /h/.aws/config or /h/.aws/credentials; the profiles are default, work, old",
            ),
            (hint([("AWS_ACCESS_KEY_ID", "AKIA")]), "AWS_SECRET_ACCESS_KEY is not"),
            (hint([("AWS_SECRET_ACCESS_KEY", "s3cret")]), "AWS_ACCESS_KEY_ID is not"),
            (hint([("AWS_WEB_IDENTITY_TOKEN_FILE", "/t")]), "AWS_ROLE_ARN is not"),
            (hint([("AWS_CONFIG_FILE", "/no"), ("AWS_SHARED_CREDENTIALS_FILE", "/no")]), "nothing was found"),
        ];
        for (found, wanted) in cases {
            let found = found.unwrap();
            assert!(found.contains(wanted) && !found.contains("s3cret"), "{found}");
        }
    }
}
