//! A writer that never fails before its end.
//!
//! If the ZIP writer is dropped after an error, it tries to finish the archive and prints to stderr that it could not.
//! So this writer hides errors from it: it keeps the first one, discards everything after it, and returns the error at
//! the end.

use std::io::{self, ErrorKind, Seek, SeekFrom, Write};

pub(super) struct Steady<W> {
    out: W,
    /// The position of the next byte.
    at: u64,
    end: u64,
    error: Option<io::Error>,
}

impl<W: Write + Seek> Steady<W> {
    /// `out` must be at its start.
    pub fn new(out: W) -> Self {
        Self { out, at: 0, end: 0, error: None }
    }

    pub fn into_inner(self) -> io::Result<W> {
        self.error.map_or(Ok(self.out), Err)
    }

    fn keep(&mut self, result: io::Result<()>) {
        if let Err(error) = result {
            self.error.get_or_insert(error);
        }
    }
}

impl<W: Write + Seek> Write for Steady<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = bytes.len();
        if self.error.is_none() {
            match self.out.write(bytes) {
                Ok(0) if !bytes.is_empty() => self.keep(Err(ErrorKind::WriteZero.into())),
                Ok(written) => taken = written,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => self.keep(Err(error)),
            }
        }
        self.at += taken as u64;
        self.end = self.end.max(self.at);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.error.is_none() {
            let flushed = self.out.flush();
            self.keep(flushed);
        }
        Ok(())
    }
}

impl<W: Write + Seek> Seek for Steady<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        let target = target.ok_or(ErrorKind::InvalidInput)?;
        if self.error.is_none() && target != self.at {
            let moved = self.out.seek(SeekFrom::Start(target)).map(drop);
            self.keep(moved);
        }
        self.at = target;
        Ok(target)
    }
}
