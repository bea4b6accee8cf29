//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): the trace that a job belongs to.
//!
//! It is data that came with a request and goes on with every message about its job. Nothing here needs a tracing
//! library.

use tracing::debug;

/// The most members of a `tracestate`.
const MOST_MEMBERS: usize = 32;
/// A `tracestate` that is longer is cut at its end, as the standard suggests.
const LONGEST_STATE: usize = 512;
const LONGEST_KEY: usize = 256;
const LONGEST_VALUE: usize = 256;
/// The longest parts of a key with an `@`.
const LONGEST_TENANT: usize = 241;
const LONGEST_SYSTEM: usize = 14;

/// A valid `traceparent`, and the `tracestate` that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// Of version 00: `00-<32 hex>-<16 hex>-<2 hex>`.
    traceparent: String,
    tracestate: Option<String>,
}

impl TraceContext {
    /// Reads the two values by the standard's grammar. Without a valid `traceparent` there is no context; a
    /// `tracestate` that is not valid is left out. `source` says in the debug log where they came from.
    pub fn read(source: &str, traceparent: Option<&str>, tracestate: Option<&str>) -> Option<Self> {
        let given = traceparent?;
        let Some(traceparent) = parent(given.trim_matches([' ', '\t'])) else {
            debug!(traceparent = shown(given), "{source}: the traceparent is not valid and is ignored");
            return None;
        };
        let tracestate = match tracestate.map(state) {
            None => None,
            Some(Some(state)) => Some(state).filter(|state| !state.is_empty()),
            Some(None) => {
                debug!(tracestate = tracestate.map(shown), "{source}: the tracestate is not valid and is ignored");
                None
            }
        };
        Some(Self { traceparent, tracestate })
    }

    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        &self.traceparent[3..35]
    }

    /// The span that this context names: 16 hexadecimal digits.
    pub fn span_id(&self) -> &str {
        &self.traceparent[36..52]
    }

    /// Bit 0: the span is recorded.
    pub fn flags(&self) -> u8 {
        u8::from_str_radix(&self.traceparent[53..], 16).unwrap_or_default()
    }
}

/// The `traceparent` as version 00 writes it. A later version may have more fields after those of version 00.
fn parent(text: &str) -> Option<String> {
    if !text.is_ascii() || text.len() < 55 {
        return None;
    }
    let (fields, rest) = text.split_at(55);
    let [version, trace, span, flags] = <[&str; 4]>::try_from(fields.split('-').collect::<Vec<_>>()).ok()?;
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, digits| is_hex(text, digits) && text.bytes().any(|byte| byte != b'0');
    let known = version == "00";
    let ends = if known { rest.is_empty() } else { rest.is_empty() || rest.starts_with('-') };
    let valid =
        is_hex(version, 2) && version != "ff" && is_id(trace, 32) && is_id(span, 16) && is_hex(flags, 2) && ends;
    if !valid {
        return None;
    }
    // Only these two flags are defined; of a later version, the others mean something that this one does not know.
    let flags = u8::from_str_radix(flags, 16).ok()?;
    let flags = if known { flags } else { flags & 0b11 };
    Some(format!("00-{trace}-{span}-{flags:02x}"))
}

/// The members of a `tracestate`, without spaces around them and without empty ones.
fn state(text: &str) -> Option<String> {
    let members: Vec<_> =
        text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()).collect();
    if members.len() > MOST_MEMBERS || !members.iter().all(|member| is_member(member)) {
        return None;
    }
    let mut kept = String::new();
    for member in members {
        if kept.len() + 1 + member.len() > LONGEST_STATE {
            break;
        }
        if !kept.is_empty() {
            kept.push(',');
        }
        kept.push_str(member);
    }
    Some(kept)
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let value_fits = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    is_key(key) && (1..=LONGEST_VALUE).contains(&value.len()) && value.bytes().all(value_fits)
}

fn is_key(key: &str) -> bool {
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    let is_part = |part: &str, longest: usize| {
        (1..=longest).contains(&part.len()) && part.as_bytes()[0].is_ascii_alphanumeric() && part.bytes().all(fits)
    };
    match key.split_once('@') {
        Some((tenant, system)) => is_part(tenant, LONGEST_TENANT) && is_part(system, LONGEST_SYSTEM),
        None => is_part(key, LONGEST_KEY),
    }
}

/// The beginning of something that anyone may have sent.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(traceparent: &str, tracestate: Option<&str>) -> Option<TraceContext> {
        TraceContext::read("test", Some(traceparent), tracestate)
    }

    #[test]
    fn a_traceparent_is_read_by_the_grammar() {
        let context = read(PARENT, None).unwrap();
        assert_eq!(context.traceparent(), PARENT);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((context.span_id(), context.flags(), context.tracestate()), ("00f067aa0ba902b7", 1, None));
        assert_eq!(read(&format!(" {PARENT}\t"), None), Some(context.clone()));
        // A later version is read as version 00, and passed on as that.
        let later = PARENT.replacen("00", "cc", 1);
        assert_eq!(read(&later, None), Some(context.clone()));
        assert_eq!(read(&format!("{later}-what-the-future-brings"), None), Some(context.clone()));
        assert_eq!(read(&later.replace("-01", "-ff"), None).unwrap().flags(), 3);
        assert_eq!(TraceContext::read("test", None, Some("a=b")), None);
        for wrong in [
            "",
            "nonsense",
            "00-short-00f067aa0ba902b7-01",
            &PARENT.to_uppercase(),
            &PARENT.replace('-', "_"),
            &PARENT[..54],
            &format!("{PARENT}-00"),
            &format!("{later}."),
            &PARENT.replacen("00", "ff", 1),
            &PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &PARENT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &PARENT.replace("00f067aa0ba902b7", "00f067aa0ba902bg"),
            &PARENT.replace("-01", "-0x"),
            &PARENT.replace("-01", "-é"),
        ] {
            assert_eq!(read(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn a_tracestate_is_kept_or_left_out() {
        let state = |text: &str| read(PARENT, Some(text)).unwrap().tracestate;
        for (text, kept) in [
            ("a=1", "a=1"),
            (" rojo=00f067aa0ba902b7 ,\tcongo=t61rcWkgMzE ,", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
            ("0a_-*/=! x~", "0a_-*/=! x~"),
            ("tenant1@vendor=x", "tenant1@vendor=x"),
        ] {
            assert_eq!(state(text).as_deref(), Some(kept), "{text}");
        }
        let many = |count: usize| (0..count).map(|number| format!("k{number}=v")).collect::<Vec<_>>().join(",");
        assert_eq!(state(&many(32)), Some(many(32)));
        for wrong in [
            "",
            ",",
            "a",
            "A=1",
            "=1",
            "a=",
            "a=b=c",
            "a=ä",
            "a=\u{1}",
            "a@b@c=1",
            "a@=1",
            "_a=1",
            &format!("a={}", "x".repeat(257)),
            &format!("{}=1", "x".repeat(257)),
            &format!("a@{}=1", "x".repeat(15)),
            &many(33),
        ] {
            assert_eq!(state(wrong), None, "{wrong}");
        }
        let long = |count: usize| (0..count).map(|number| format!("k{number}={}", "v".repeat(97))).collect::<Vec<_>>();
        assert_eq!(state(&long(9).join(",")), Some(long(5).join(",")));
    }
}
