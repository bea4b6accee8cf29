//! Reads `queue.url`: one broker, or several nodes of one cluster, which are tried in turn.

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};

use crate::job::{JobError, percent_decoded};

const FORM: &str = "write amqp://user:password@host:5672/vhost, with commas between several hosts";
const ESCAPES: &str = "write special characters of the user, the password and the virtual host as %XX: / is %2F, \
                       @ is %40, # is %23, ? is %3F, : is %3A, % is %25";

/// The nodes that `url` names: `amqp://user:password@host:5672/vhost`, with commas between hosts, or between whole
/// addresses. An error never shows the address, because it may contain a password.
pub(super) fn parse(url: &str) -> Result<Vec<AMQPUri>, JobError> {
    let mut nodes = Vec::new();
    for address in addresses(url) {
        nodes.extend(nodes_of(address)?);
    }
    Ok(nodes)
}

/// `host:port`, as it is shown.
pub(super) fn host_and_port(node: &AMQPUri) -> String {
    format!("{}:{}", node.authority.host, node.authority.port)
}

pub(super) fn is_tls(node: &AMQPUri) -> bool {
    node.scheme == AMQPScheme::AMQPS
}

/// A client certificate logs in where the address has no user, unless the address says otherwise.
pub(super) fn log_in_by_certificate(url: &str, nodes: &mut [AMQPUri]) {
    if !url.contains('@') {
        for node in nodes {
            node.query.auth_mechanism.get_or_insert(SASLMechanism::External);
        }
    }
}

fn wrong(reason: &str, advice: &str) -> JobError {
    JobError::invalid("queue.url", format!("{reason}; {advice}"))
}

/// A comma separates addresses only where another one begins, because it also separates the hosts of one address.
fn addresses(url: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = url.trim();
    let begins = |text: &str| text.starts_with("amqp://") || text.starts_with("amqps://");
    loop {
        let next = rest.match_indices(',').find(|(at, _)| begins(rest[at + 1..].trim_start()));
        let Some((at, _)) = next else {
            found.push(rest);
            return found;
        };
        found.push(rest[..at].trim_end());
        rest = rest[at + 1..].trim_start();
    }
}

fn nodes_of(address: &str) -> Result<Vec<AMQPUri>, JobError> {
    let Some((scheme @ ("amqp" | "amqps"), rest)) = address.split_once("://") else {
        return Err(wrong("does not start with amqp:// or amqps://", FORM));
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // With one of these raw in a password, the rest of the password would be read as the host.
    if authority.matches('@').count() > 1 || path.contains(['@', '#']) {
        return Err(wrong("has a raw / ? # or @ before the host or in the virtual host", ESCAPES));
    }
    let (login, hosts) = authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
    let path_only = path.split('?').next().unwrap_or(path);
    if [login.unwrap_or_default(), path_only].iter().any(|text| percent_decoded(text).is_none()) {
        return Err(wrong("has a % that is not followed by two hexadecimal digits, or is not UTF-8", ESCAPES));
    }
    check_parameters(path.split_once('?').map_or("", |(_, query)| query))?;
    let login = login.map(|login| format!("{login}@")).unwrap_or_default();
    let node = |host: &str| node(host.trim(), |host| format!("{scheme}://{login}{host}{path}"));
    hosts.split(',').map(node).collect()
}

/// lapin ignores what it does not know, and names no parameter.
fn check_parameters(query: &str) -> Result<(), JobError> {
    const KNOWN: &str = "heartbeat, connection_timeout, channel_max, frame_max and auth_mechanism";
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let most = match name {
            "heartbeat" | "channel_max" => u64::from(u16::MAX),
            "frame_max" => u64::from(u32::MAX),
            "connection_timeout" => u64::MAX,
            "auth_mechanism" => {
                value.parse::<SASLMechanism>().map_err(|_| {
                    let reason = "the parameter auth_mechanism is not a mechanism";
                    wrong(reason, "plain, external, amqplain and rabbit-cr-demo exist")
                })?;
                continue;
            }
            _ => {
                // It may be a part of a password.
                let is_name = name.len() < 40 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                let name =
                    if is_name { format!("the unknown parameter `{name}`") } else { "an unknown parameter".to_owned() };
                return Err(wrong(&format!("has {name}"), &format!("{KNOWN} exist")));
            }
        };
        if value.parse::<u64>().ok().is_none_or(|value| value > most) {
            let what = format!("the parameter {name} is not a whole number up to {most}");
            return Err(wrong(&what, "write for instance ?heartbeat=30"));
        }
    }
    Ok(())
}

fn node(host: &str, whole: impl Fn(&str) -> String) -> Result<AMQPUri, JobError> {
    if host.is_empty() {
        return Err(wrong("names an empty host", FORM));
    }
    // lapin's parser accepts only names and IPv4 addresses as hosts, and silently uses the local host for others.
    let ipv6 = host.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _)| address);
    let mut uri: AMQPUri = whole(host).parse().map_err(|reason: String| {
        // The parser's reason for an address that it cannot read at all is the address.
        if reason.contains("://") { wrong("is not an address", FORM) } else { wrong(&reason, ESCAPES) }
    })?;
    if let Some(address) = ipv6 {
        uri.authority.host = address.to_owned();
    }
    // By the specification, `amqp://host/` is a virtual host with an empty name, but users mean the default one.
    if uri.vhost.is_empty() {
        uri.vhost = "/".to_owned();
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Vec<String> {
        let nodes = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        nodes.iter().map(|node| format!("{} {}", host_and_port(node), node.vhost)).collect()
    }

    #[test]
    fn addresses_are_understood() {
        for (url, nodes) in [
            ("amqp://host", &["host:5672 /"][..]),
            ("amqp://host:99/", &["host:99 /"]),
            ("amqp://u:p%40@host/a%2Fb", &["host:5672 a/b"]),
            ("amqps://u:p@10.0.0.1/v", &["10.0.0.1:5671 v"]),
            ("amqp://u:p@[::1]:99/v", &["::1:99 v"]),
            ("amqp://u:p@a,b:5673,[::1]/v?heartbeat=5", &["a:5672 v", "b:5673 v", "::1:5672 v"]),
            ("amqp://u:p@a/v, amqps://u:q@b/w", &["a:5672 v", "b:5671 w"]),
        ] {
            assert_eq!(read(url), nodes, "{url}");
        }
        let nodes = parse("amqp://%C3%A4:p%2F%25w%23%3F@a,b/%C3%A4").unwrap();
        for node in nodes {
            let login = node.authority.userinfo;
            assert_eq!((login.username.as_str(), login.password.as_str(), node.vhost.as_str()), ("ä", "p/%w#?", "ä"));
        }
    }

    #[test]
    fn wrong_addresses_name_the_setting_and_no_password() {
        for (url, reason) in [
            ("http://u:s3cret@host", "does not start with"),
            ("u:s3cret@host", "does not start with"),
            ("amqp:s3cret", "does not start with"),
            ("amqp://u:s3cret@host:port", "%2F"),
            ("amqp://u:s3cret@:1", "queue.url"),
            ("amqp://u:s3cret@a,,b", "empty host"),
            ("amqp://u:s3cret/x@host/v", "%2F"),
            ("amqp://u:s3cret?x@host/v", "%3F"),
            ("amqp://u:s3cret#x@host/v", "%23"),
            ("amqp://brk@u:s3cret@s/s3cret:w#?%@host", "%40"),
            ("amqp://u:s3cret%w@host/v", "%25"),
            ("amqp://u:s3cret%ff@host/v", "UTF-8"),
            ("amqp://u:s3cret/5@host", "%2F"),
            ("amqp://u:s3cret@host/v?heartbeat=abc", "parameter heartbeat is not a whole number up to 65535"),
            ("amqp://u:s3cret@host/v?heartbeat", "parameter heartbeat"),
            ("amqp://u:s3cret@host/v?heartbeat=5&channel_max=-1", "parameter channel_max"),
            ("amqp://u:s3cret@host/v?hartbeat=5", "unknown parameter `hartbeat`; heartbeat, "),
            ("amqp://u:s3cret@host/v?auth_mechanism=none", "parameter auth_mechanism"),
        ] {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.starts_with("queue.url: ") && error.contains(reason), "{url}: {error}");
            assert!(!error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_certificate_logs_in_only_without_a_user() {
        for (url, mechanism) in [
            ("amqps://host/v", Some(SASLMechanism::External)),
            ("amqps://u:p@host/v", None),
            ("amqps://host/v?auth_mechanism=plain", Some(SASLMechanism::Plain)),
        ] {
            let mut nodes = parse(url).unwrap();
            log_in_by_certificate(url, &mut nodes);
            assert_eq!(nodes[0].query.auth_mechanism, mechanism, "{url}");
        }
    }
}
