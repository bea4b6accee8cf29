//! What was probably meant by a name that does not exist.

use strsim::osa_distance;

/// The nearest of the names, if it is near enough to be meant. Letters' case and underscores that are doubled or
/// missing do not count.
pub(super) fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = plain(name);
    let most = (name.len() / 5).clamp(1, 2);
    let distances = names.map(|known| (osa_distance(&name, &plain(known)), known));
    distances.filter(|(distance, _)| *distance <= most).min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

fn plain(name: &str) -> String {
    name.chars().filter(|letter| !matches!(letter, '_' | '.' | '-')).map(|letter| letter.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_near_and_other_names_are_not() {
        let names = ["queue.url", "queue.password", "http.token", "store.url"];
        let near = |name: &str| nearest(name, names.into_iter());
        assert_eq!(near("QUEUE_URL"), Some("queue.url"));
        assert_eq!(near("queue.pasword"), Some("queue.password"));
        assert_eq!(near("http.tokne"), Some("http.token"));
        assert_eq!(near("queue.ulr"), Some("queue.url"));
        for other in ["TOKEN", "URL", "WORKERS", "PROFILE", "queue"] {
            assert_eq!(near(other), None, "{other}");
        }
    }
}
