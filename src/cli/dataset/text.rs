//! Opens manifests: text in UTF-8, with or without a byte order mark, also compressed with gzip.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read},
    path::Path,
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;

use crate::{job::JobError, store::io_error};

/// The text of a manifest.
pub type Text = Box<dyn BufRead>;

const BUFFER: usize = 64 << 10;
/// The maximum size of a row, in MiB. Without it, a quote that is not closed would bring the rest of the file into
/// memory.
const LONGEST_ROW_MIB: usize = 16;
const LONGEST_ROW: usize = LONGEST_ROW_MIB << 20;

/// Opens a manifest without its byte order mark. A file that is no UTF-8 text is refused with what to do: `advice`.
pub fn open(path: &Path, advice: &str) -> Result<Text, JobError> {
    let failed = |error| read_error(path, error);
    let mut file = BufReader::with_capacity(BUFFER, File::open(path).map_err(failed)?);
    let mut text: Text = match file.fill_buf().map_err(failed)? {
        [0x1f, 0x8b, ..] => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(file))),
        _ => Box::new(file),
    };
    let start = text.fill_buf().map_err(failed)?;
    let refuse = |what: &str| Err(JobError::invalid("--from", format!("{}: {what}; {advice}", path.display())));
    let plain = |byte: u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    match start {
        [0xef, 0xbb, 0xbf, ..] => text.consume(3),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => return refuse("is UTF-16, which Excel calls \"Unicode text\""),
        [0, byte, ..] | [byte, 0, ..] if plain(*byte) => return refuse("is UTF-16"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return refuse("is compressed with zstd; decompress it first"),
        [b'B', b'Z', b'h', ..] => return refuse("is compressed with bzip2; decompress it first"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return refuse("is compressed with xz; decompress it first"),
        [b'P', b'K', 3, 4, ..] => return refuse("is an Excel workbook or another archive"),
        [b'P', b'A', b'R', b'1', ..] => {
            return Err(JobError::invalid("--from", format!("{}: is Parquet; name it .parquet", path.display())));
        }
        _ => {}
    }
    Ok(text)
}

/// The error of a file that cannot be read to its end.
pub fn read_error(path: &Path, error: std::io::Error) -> JobError {
    let reason = match error.kind() {
        ErrorKind::NotFound => return JobError::InputNotFound { input: path.display().to_string() },
        ErrorKind::UnexpectedEof => "ends too early: the file is incomplete; copy or download it again".to_owned(),
        ErrorKind::FileTooLarge => format!(
            "a row has more than {LONGEST_ROW_MIB} MiB; a quote or a bracket may not be closed, or lines may not end as \
             they should"
        ),
        // What a decompressor says about damage.
        ErrorKind::InvalidInput | ErrorKind::InvalidData => "is damaged; copy or download it again".to_owned(),
        _ => return io_error(path, "read it", error),
    };
    JobError::invalid("--from", format!("{}: {reason}", path.display()))
}

/// The error of a file that cannot be read beyond a row.
pub fn row_error(path: &Path, number: u64, error: std::io::Error) -> JobError {
    match read_error(path, error) {
        JobError::InvalidRequest { field, reason } => {
            let name = path.display().to_string();
            let reason =
                reason.strip_prefix(&name).map_or(reason.clone(), |rest| format!("{name}, row {number}{rest}"));
            JobError::InvalidRequest { field, reason }
        }
        error => error,
    }
}

/// How reading a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    Whole,
    /// It was left out, because it is longer than a row may be.
    TooLong,
    /// There is none.
    End,
}

/// Reads the next line, with its end.
pub fn read_line(text: &mut Text, line: &mut Vec<u8>) -> std::io::Result<Line> {
    line.clear();
    let mut is_too_long = false;
    loop {
        let piece = text.fill_buf()?;
        let end = piece.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let used = end.unwrap_or(piece.len());
        is_too_long |= line.len() + used > LONGEST_ROW;
        let is_over = end.is_some() || used == 0;
        if is_too_long {
            line.clear();
        } else {
            line.extend_from_slice(&piece[..used]);
        }
        text.consume(used);
        if is_over {
            return Ok(match (is_too_long, line.is_empty()) {
                (true, _) => Line::TooLong,
                (false, true) => Line::End,
                (false, false) => Line::Whole,
            });
        }
    }
}

/// The error of a line that is too long.
pub fn too_long() -> JobError {
    JobError::invalid("row", format!("has more than {LONGEST_ROW_MIB} MiB; lines may not end as they should"))
}

/// A text in which a row may have only so many bytes.
pub struct RowLimit {
    text: Text,
    left: Rc<Cell<usize>>,
}

/// Tells a [`RowLimit`] that the next row begins.
#[derive(Clone)]
pub struct RowStart(Rc<Cell<usize>>);

impl RowLimit {
    pub fn of(text: Text) -> (Self, RowStart) {
        let left = Rc::new(Cell::new(LONGEST_ROW));
        (Self { text, left: left.clone() }, RowStart(left))
    }
}

impl RowStart {
    pub fn next_row(&self) {
        self.0.set(LONGEST_ROW);
    }
}

impl Read for RowLimit {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let read = self.text.read(to)?;
        match self.left.get().checked_sub(read) {
            Some(left) => {
                self.left.set(left);
                Ok(read)
            }
            None => Err(ErrorKind::FileTooLarge.into()),
        }
    }
}

/// A text whose line ends are remembered until their rows are read.
pub struct CountedLines<R> {
    text: R,
    at: u64,
    last: u8,
    lines: RowLines,
}

/// Tells in which line a row begins. Its reader counts `\r\n` as the end of a line before the `\n`, and empty lines as
/// parts of the row behind them.
#[derive(Clone)]
pub struct RowLines(Rc<RefCell<LineEnds>>);

struct LineEnds {
    /// The line at the first of the ends.
    line: u64,
    /// The places of `\r` and `\n`, and whether a line ends there.
    ends: VecDeque<(u64, bool)>,
}

impl<R: Read> CountedLines<R> {
    /// `first`: the number of the first line.
    pub fn of(text: R, first: u64) -> (Self, RowLines) {
        let lines = RowLines(Rc::new(RefCell::new(LineEnds { line: first, ends: VecDeque::new() })));
        (Self { text, at: 0, last: 0, lines: lines.clone() }, lines)
    }
}

impl<R: Read> Read for CountedLines<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let read = self.text.read(to)?;
        let mut lines = self.lines.0.borrow_mut();
        for byte in &to[..read] {
            if matches!(byte, b'\r' | b'\n') {
                lines.ends.push_back((self.at, (self.last, *byte) != (b'\r', b'\n')));
            }
            self.last = *byte;
            self.at += 1;
        }
        Ok(read)
    }
}

impl RowLines {
    /// The line of a row, by the place where the one before it ended. Rows have to come in their order.
    pub fn of_row(&self, place: u64) -> u64 {
        let mut lines = self.0.borrow_mut();
        let mut place = place;
        while let Some((end, is_line)) = lines.ends.front().copied().filter(|(end, _)| *end <= place) {
            lines.ends.pop_front();
            lines.line += u64::from(is_line);
            // Empty lines in front of the row.
            place += u64::from(end == place);
        }
        lines.line
    }
}

/// The first line of a text, with quoted line ends, and the text from its beginning.
pub fn peek_line(path: &Path, mut text: Text) -> Result<(Vec<u8>, Text), JobError> {
    let mut head = Vec::new();
    let (mut quoted, mut ended) = (false, false);
    while !ended && head.len() < 16 * BUFFER {
        let piece = text.fill_buf().map_err(|error| read_error(path, error))?;
        if piece.is_empty() {
            break;
        }
        let mut used = 0;
        for byte in piece {
            used += 1;
            head.push(*byte);
            quoted ^= *byte == b'"';
            if *byte == b'\n' && !quoted {
                ended = true;
                break;
            }
        }
        text.consume(used);
    }
    let line = head.clone();
    Ok((line, Box::new(BufReader::new(std::io::Cursor::new(head).chain(text)))))
}
