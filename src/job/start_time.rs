//! When a job may start at the earliest.

use std::{str::FromStr, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use super::JobError;

/// The longest time from now. A longer one is a slip.
const LONGEST: Duration = Duration::from_secs(3660 * 24 * 3600);

const FORMS: &str = "give RFC 3339 such as 2026-12-01T18:00:00Z, or a time from now such as +90m, +2h or +1d12h";

/// A time that a person writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTime {
    At(Timestamp),
    /// This long from now.
    In(Duration),
}

impl StartTime {
    /// `now`: by the clock that decides, which is the database's.
    pub fn from(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::In(duration) => now.checked_add(duration).unwrap_or(Timestamp::MAX),
        }
    }
}

impl FromStr for StartTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        match trimmed.strip_prefix('+') {
            Some(rest) => from_now(rest).map(Self::In).map_err(|reason| format!("`{text}` {reason}; {FORMS}")),
            None => rfc3339(trimmed).map(Self::At).map_err(|reason| format!("`{text}` {reason}; {FORMS}")),
        }
    }
}

/// The time in a field of a message or request; null is no time. A time from now is refused there, because a message
/// may arrive late and twice.
pub fn time_from_value(field: &str, value: &Value) -> Result<Option<Timestamp>, JobError> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        other => {
            let reason = format!("{other} is not a text with an RFC 3339 time such as \"2026-12-01T18:00:00Z\"");
            return Err(JobError::invalid(field, reason));
        }
    };
    match rfc3339(text) {
        Ok(at) => Ok(Some(at)),
        Err(reason) => {
            let reason = format!("`{text}` {reason}; give RFC 3339 such as 2026-12-01T18:00:00Z");
            Err(JobError::invalid(field, reason))
        }
    }
}

const TOO_LONG: &str = "is more than ten years from now";

fn rfc3339(text: &str) -> Result<Timestamp, &'static str> {
    let now = Timestamp::now();
    match text.parse::<Timestamp>() {
        Ok(at) if at.duration_since(now).unsigned_abs() > LONGEST && at > now => Err(TOO_LONG),
        Ok(at) => Ok(at),
        // The last hours of the year 9999 have no timestamp in every time zone.
        Err(_) if text.starts_with("9999-12-3") => Err(TOO_LONG),
        Err(_) if text.parse::<jiff::civil::DateTime>().is_ok() => Err("has no offset from UTC, such as Z or +02:00"),
        Err(_) => Err("is not a time"),
    }
}

/// `2h`, `90m` or `1d12h`.
fn from_now(text: &str) -> Result<Duration, &'static str> {
    let (mut total, mut number) = (0u64, String::new());
    let too_long = TOO_LONG;
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            number.push(letter);
            continue;
        }
        let seconds: u64 = match letter {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            _ => return Err("has a unit other than s, m, h and d"),
        };
        if number.is_empty() {
            return Err("has a unit without a number");
        }
        let count: u64 = number.parse().map_err(|_| too_long)?;
        total = count.checked_mul(seconds).and_then(|more| total.checked_add(more)).ok_or(too_long)?;
        number.clear();
    }
    if !number.is_empty() || text.is_empty() {
        return Err("has no unit (s, m, h or d) at its end");
    }
    let duration = Duration::from_secs(total);
    if duration > LONGEST { Err(too_long) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_absolute_or_from_now() {
        let now: Timestamp = "2026-11-28T10:00:00Z".parse().unwrap();
        for (text, at) in [
            ("2026-12-01T18:00:00Z", "2026-12-01T18:00:00Z"),
            ("2026-12-01T18:00:00+02:00", "2026-12-01T16:00:00Z"),
            ("2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
            ("+2h", "2026-11-28T12:00:00Z"),
            (" +90m ", "2026-11-28T11:30:00Z"),
            ("+1d12h", "2026-11-29T22:00:00Z"),
            ("+0s", "2026-11-28T10:00:00Z"),
        ] {
            assert_eq!(text.parse::<StartTime>().unwrap().from(now), at.parse::<Timestamp>().unwrap(), "{text}");
        }
    }

    #[test]
    fn wrong_times_say_what_is_wrong_and_what_would_be_right() {
        for (text, reason) in [
            ("tomorrow", "is not a time"),
            ("2h", "is not a time"),
            ("", "is not a time"),
            ("2026-12-01T18:00:00", "has no offset from UTC, such as Z or +02:00"),
            ("2026-12-01", "has no offset"),
            ("2026-13-01T18:00:00Z", "is not a time"),
            ("+", "has no unit"),
            ("+2", "has no unit (s, m, h or d) at its end"),
            ("+2h30", "has no unit"),
            ("+2w", "has a unit other than s, m, h and d"),
            ("+h", "has a unit without a number"),
            ("+-2h", "has a unit other"),
            ("9999-12-31T23:59:59Z", "is more than ten years from now"),
            ("9999-01-01T00:00:00Z", "is more than ten years from now"),
            ("+9999999d", "is more than ten years from now"),
            ("+99999999999999999999d", "is more than ten years from now"),
        ] {
            let error = text.parse::<StartTime>().unwrap_err();
            assert!(error.starts_with(&format!("`{text}` {reason}")) && error.ends_with(FORMS), "{error}");
        }
    }

    #[test]
    fn a_message_has_an_absolute_time_or_none() {
        let read = |value| time_from_value("not_before", &value).map_err(|error| error.to_string());
        assert_eq!(read(json!(null)), Ok(None));
        assert_eq!(read(json!("2026-12-01T18:00:00Z")), Ok("2026-12-01T18:00:00Z".parse().ok()));
        for (value, reason) in [
            (json!("+2h"), "not_before: `+2h` is not a time; give RFC 3339"),
            (json!(1_764_612_000), "not_before: 1764612000 is not a text with an RFC 3339 time"),
            (json!("2026-12-01T18:00:00"), "has no offset from UTC"),
            (json!("9999-12-31T23:59:59Z"), "not_before: `9999-12-31T23:59:59Z` is more than ten years from now"),
        ] {
            let error = read(value).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
