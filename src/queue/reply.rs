//! Where the sender of a message wants its answer: the properties `reply_to` and `correlation_id`.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::job::{TraceContext, percent_decoded};

/// A queue that gets the event of the job's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    pub queue: String,
    /// Returned as it was sent, so that the sender knows which of its messages is answered.
    pub correlation_id: Option<String>,
}

/// An answer to send.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    pub to: ReplyTo,
    /// The event's name, such as `job.succeeded`.
    pub name: String,
    /// The event, JSON.
    pub body: Vec<u8>,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

impl ReplyTo {
    /// What every address in a row begins with; no webhook does.
    pub const SCHEME: &str = "amqp-reply:";

    /// The address that is kept with the job until it ends.
    pub fn to_address(&self) -> String {
        let escaped = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let correlation = self.correlation_id.as_deref().map(|id| format!("?{}", escaped(id))).unwrap_or_default();
        format!("{}{}{correlation}", Self::SCHEME, escaped(&self.queue))
    }

    /// Reads what [`ReplyTo::to_address`] wrote.
    pub fn from_address(address: &str) -> Option<Self> {
        let rest = address.strip_prefix(Self::SCHEME)?;
        let (queue, correlation_id) = match rest.split_once('?') {
            Some((queue, id)) => (queue, Some(percent_decoded(id)?)),
            None => (rest, None),
        };
        Some(Self { queue: percent_decoded(queue)?, correlation_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for (queue, correlation_id) in
            [("amq.rabbitmq.reply-to.g1h2AA==.x/y+z", Some("a?b&c=ä %41")), ("answers", None), ("a b", Some(""))]
        {
            let reply = ReplyTo { queue: queue.to_owned(), correlation_id: correlation_id.map(str::to_owned) };
            assert_eq!(ReplyTo::from_address(&reply.to_address()), Some(reply));
        }
        assert_eq!(ReplyTo::from_address("https://pictures.example/hook"), None);
    }
}
