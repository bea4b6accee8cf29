//! Writes to stdout and stderr. A closed pipe (`acetate jobs list | head`) is not an error.

use std::io::{BufRead, ErrorKind, Write};

use serde::Serialize;

use super::Failure;
use crate::job::JobError;

/// Prints one or more lines of a result.
pub fn line(text: &str) -> Result<(), Failure> {
    written(writeln!(std::io::stdout().lock(), "{}", printable(text)))
}

/// Prints text for another program.
pub fn verbatim(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    written(stdout.write_all(text).and_then(|()| stdout.flush()))
}

fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Error(JobError::storage("stdout", format!("cannot write: {error}"))))
        }
        _ => Ok(()),
    }
}

pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| JobError::storage("stdout", error.to_string()))?;
    line(&escaped(&text))
}

/// JSON escapes only some of the characters that must not reach the terminal. The others occur only in its strings.
fn escaped(json: &str) -> String {
    let escape = |c: char| match is_printable(c) {
        true => c.to_string(),
        false => format!("\\u{:04x}", u32::from(c)),
    };
    if json.chars().all(is_printable) { json.to_owned() } else { json.chars().map(escape).collect() }
}

/// Prints a line for people on stderr: progress and errors.
pub fn error(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", printable(text));
}

/// Captions, prompts and file names come from others: their control characters must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Whether a character only stands for itself: no control character but the end of a line, and none that changes the
/// direction of the text after it.
fn is_printable(c: char) -> bool {
    const DIRECTIONS: [std::ops::RangeInclusive<char>; 2] = ['\u{202a}'..='\u{202e}', '\u{2066}'..='\u{2069}'];
    c == '\n' || !c.is_control() && !DIRECTIONS.iter().any(|range| range.contains(&c))
}

/// The beginning of a text that someone else wrote, in one line of at most so many characters.
pub fn excerpt(text: &str, most: usize) -> String {
    let mut rest = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    let start: String = rest.by_ref().take(most).collect();
    if rest.next().is_none() { start } else { format!("{start}...") }
}

/// Prints a table with columns as wide as their longest cell; the last column is not padded.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let print = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        line(padded.join("  ").trim_end())
    };
    print(header.to_vec())?;
    rows.iter().try_for_each(|row| print(row.iter().map(String::as_str).collect()))
}

/// Asks on the terminal whether to do something that is hard to undo; only `y` and `yes` mean so.
pub fn confirmed(question: &str) -> bool {
    error(&format!("{question} [y/N]"));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// `1 job`, `12 jobs`.
pub fn count(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// `812 B`, `1.4 MB`.
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 { format!("{value:.1} {}", units[unit]) } else { format!("{value:.0} {}", units[unit]) }
}

/// `0.8 s`, `2 min 5 s`, `1 h 3 min`.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_safe_for_a_terminal() {
        let hostile = "a\u{1b}[31m\u{9b}2J\u{7f}\u{202e}b\u{2066}\r\tc";
        let shown = printable(hostile);
        assert_eq!(shown.replace(char::REPLACEMENT_CHARACTER, "?"), "a?[31m?2J??b???c");
        // As JSON, it is still the same text.
        let json = escaped(&serde_json::to_string(&[hostile]).unwrap());
        assert!(json.is_ascii() && json.chars().all(is_printable), "{json}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&json).unwrap()[0], hostile);
        assert_eq!(excerpt("one\nid  two\r\n", 20), "one id  two  ");
        assert_eq!(excerpt("äöü", 2), "äö...");
        assert_eq!(excerpt("äö", 2), "äö");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([size(12), size(1_440), size(999_600), size(57_000_000_000)], ["12 B", "1.4 kB", "1.0 MB", "57 GB"]);
        assert_eq!([duration(0.84), duration(125.0), duration(3780.0)], ["0.8 s", "2 min 5 s", "1 h 3 min"]);
    }
}
