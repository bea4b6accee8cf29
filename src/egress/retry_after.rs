//! How long a server wants to be left alone: `Retry-After`, and the hosts that pictures are not asked of meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use ureq::http::{HeaderMap, HeaderName, header};

use super::WebAddress;

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date. A date is compared with the server's own, if it sends one,
/// because its clock may differ from ours.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text(header::RETRY_AFTER)?;
    if !after.is_empty() && after.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(after.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(after).ok()?;
    let now = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
    // A date that has passed means: now.
    Some(until.duration_since(now.unwrap_or_else(SystemTime::now)).unwrap_or_default())
}

/// The hosts that have asked to be left alone, and until when. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct HostPauses(Arc<Mutex<HashMap<Origin, Instant>>>);

/// Scheme, host and port.
type Origin = (bool, String, u16);

impl HostPauses {
    /// The longest time that a host is left alone before it is asked again.
    pub const LONGEST: Duration = Duration::from_secs(3600);

    /// Leaves a host alone; returns for how long.
    pub(super) fn begin(&self, address: &WebAddress, asked: Duration) -> Duration {
        let pause = asked.min(Self::LONGEST);
        let (now, mut pauses) = (Instant::now(), self.lock());
        pauses.retain(|_, until| *until > now);
        let until = pauses.entry(address.origin()).or_insert(now);
        *until = (*until).max(now + pause);
        pause
    }

    /// What is left of a host's pause.
    pub(super) fn left(&self, address: &WebAddress) -> Option<Duration> {
        let until = *self.lock().get(&address.origin())?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// A poisoned lock can be used: no code under it can leave the map inconsistent.
    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_say_when_to_call_again() {
        let asked = |after: &str, date: Option<&str>| {
            let mut headers = HeaderMap::from_iter([(header::RETRY_AFTER, after.parse().unwrap())]);
            if let Some(date) = date {
                headers.insert(header::DATE, date.parse().unwrap());
            }
            retry_after(&headers).map(|pause| pause.as_secs())
        };
        assert_eq!(asked("20", None), Some(20));
        assert_eq!(asked("99999999999999999999999", None), Some(u64::MAX));
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for after in ["Sun, 06 Nov 1994 08:50:07 GMT", "Sunday, 06-Nov-94 08:50:07 GMT", "Sun Nov  6 08:50:07 1994"] {
            assert_eq!(asked(after, date), Some(30), "{after}");
        }
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT", date), Some(0), "it has passed");
        assert_eq!(asked("Sun, 06 Nov 1994 08:00:00 GMT", None), Some(0));
        for nonsense in ["", "soon", "-5", "1.5", "20 s"] {
            assert_eq!(asked(nonsense, None), None, "{nonsense}");
        }
    }

    #[test]
    fn a_host_is_left_alone_for_as_long_as_it_asks_but_not_for_ever() {
        let address = |url: &str| WebAddress::parse("input", url).unwrap();
        let (pauses, host) = (HostPauses::default(), address("https://h/a.png"));
        assert_eq!(pauses.left(&host), None);
        assert_eq!(pauses.begin(&host, Duration::from_secs(60)), Duration::from_secs(60));
        // A shorter one does not end it.
        pauses.begin(&address("https://H:443/b.png"), Duration::from_secs(1));
        assert!(pauses.left(&address("https://h/c.png")).unwrap() > Duration::from_secs(50));
        for other in ["http://h/a.png", "https://h:8443/a.png", "https://i/a.png"] {
            assert_eq!(pauses.left(&address(other)), None, "{other}");
        }
        assert_eq!(pauses.begin(&host, Duration::MAX), HostPauses::LONGEST);
    }
}
