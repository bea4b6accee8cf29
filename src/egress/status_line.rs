//! Remembers the status of a response that the HTTP client then refuses, for instance because of its many headers: a
//! webhook call has arrived all the same.

use std::sync::{
    Arc,
    atomic::{AtomicU16, Ordering},
};

use ureq::{
    Error,
    unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport},
};

/// The status of the last response; 0 if there was none.
#[derive(Debug, Clone, Default)]
pub(super) struct StatusLine(Arc<AtomicU16>);

impl StatusLine {
    pub(super) fn status(&self) -> Option<u16> {
        Some(self.0.load(Ordering::Relaxed)).filter(|status| *status != 0)
    }
}

/// To be the last in a chain of connectors, where the text is no longer encrypted.
impl<In: Transport> Connector<In> for StatusLine {
    type Out = StatusLineStream<In>;

    fn connect(&self, _: &ConnectionDetails, chained: Option<In>) -> Result<Option<StatusLineStream<In>>, Error> {
        Ok(chained.map(|inner| StatusLineStream { inner, line: self.clone() }))
    }
}

#[derive(Debug)]
pub(super) struct StatusLineStream<In> {
    inner: In,
    line: StatusLine,
}

impl<In: Transport> Transport for StatusLineStream<In> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let more = self.inner.await_input(timeout);
        if let Some(status) = status(self.inner.buffers().input()) {
            self.line.0.store(status, Ordering::Relaxed);
        }
        more
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// The status at the beginning of a response. An interim one (1xx) is followed by another.
fn status(text: &[u8]) -> Option<u16> {
    let rest = text.strip_prefix(b"HTTP/1.")?;
    let digits = rest.get(2..5).filter(|_| rest.get(1) == Some(&b' '))?;
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (status >= 200).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_a_response_has_a_status() {
        assert_eq!(status(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.0 500\r\n"), Some(500));
        for other in [&b""[..], b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n", b"x: HTTP/1.1 204", b"HTTP/1.1 abc"] {
            assert_eq!(status(other), None);
        }
    }
}
