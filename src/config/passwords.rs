//! `queue.password` and `status.password`: passwords beside their addresses, so that they need no percent-encoding and
//! can be in files of their own.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Config, Secret};

/// Puts the passwords into the addresses. The error names the setting at fault, and no part of an address.
pub(super) fn apply(config: &mut Config) -> Result<(), (&'static str, String)> {
    let Config { queue, status, .. } = config;
    if let Some(password) = &queue.password {
        let url = queue.url.as_ref().ok_or(("queue.password", "is set, and queue.url is empty".to_owned()))?;
        let url = in_each(url.reveal(), password).map_err(|reason| ("queue.password", reason))?;
        queue.url = Some(Secret::from(url));
    }
    if let Some(password) = &status.password {
        let url = status.url.as_ref().ok_or(("status.password", "is set, and status.url is empty".to_owned()))?;
        if !url.reveal().starts_with("postgres") {
            return Err(("status.password", "is only for postgres:// addresses in status.url".to_owned()));
        }
        let with = inserted(url.reveal(), password).map_err(|reason| ("status.password", reason))?;
        status.url = Some(Secret::from(with));
        // A second address may have a password of its own.
        if let Some(listen) = &status.listen_url
            && let Ok(with) = inserted(listen.reveal(), password)
        {
            status.listen_url = Some(Secret::from(with));
        }
    }
    Ok(())
}

/// In several whole addresses, which commas separate.
fn in_each(urls: &str, password: &Secret) -> Result<String, String> {
    let begins =
        |at: usize| ["amqp://", "amqps://"].iter().any(|scheme| urls[at + 1..].trim_start().starts_with(scheme));
    let mut written = Vec::new();
    let mut start = 0;
    for (at, _) in urls.match_indices(',').filter(|(at, _)| begins(*at)) {
        written.push(inserted(urls[start..at].trim(), password)?);
        start = at + 1;
    }
    written.push(inserted(urls[start..].trim(), password)?);
    Ok(written.join(","))
}

fn inserted(url: &str, password: &Secret) -> Result<String, String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err("has no address to belong to; write scheme://user@host".to_owned());
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((user, _)) = rest[..end].rsplit_once('@').filter(|(user, _)| !user.is_empty()) else {
        return Err(format!("needs a user in the address; write {scheme}://user@host"));
    };
    if user.contains(':') {
        return Err("is given, and the address has a password, too; keep one of the two".to_owned());
    }
    let password = utf8_percent_encode(password.reveal(), NON_ALPHANUMERIC);
    Ok(format!("{scheme}://{user}:{password}{}", &rest[user.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_need_no_escapes() {
        let password = Secret::from("p@ss$w/rd".to_owned());
        for (url, wanted) in [
            ("amqp://me@h/v", "amqp://me:p%40ss%24w%2Frd@h/v"),
            ("amqp://me@a,b:1/v", "amqp://me:p%40ss%24w%2Frd@a,b:1/v"),
            ("amqp://me@a, amqps://you@b", "amqp://me:p%40ss%24w%2Frd@a,amqps://you:p%40ss%24w%2Frd@b"),
            ("postgres://me@h/db?x=a@b", "postgres://me:p%40ss%24w%2Frd@h/db?x=a@b"),
        ] {
            assert_eq!(in_each(url, &password).unwrap(), wanted);
        }
        for (url, reason) in
            [("amqp://me:hunter2@h", "has a password, too"), ("amqp://h", "needs a user"), ("me@h", "no address")]
        {
            let said = in_each(url, &password).unwrap_err();
            assert!(said.contains(reason) && !said.contains("hunter2"), "{said}");
        }
    }
}
