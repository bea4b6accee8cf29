//! Fax compression, ITU-T T.4 and T.6: modified Huffman, group 3 in one and two dimensions, group 4. The code tables
//! are those of the `fax` crate, whose own decoder of group 3 needs end-of-line codes and knows one dimension only.

use std::convert::Infallible;

use fax::{
    BitReader, ByteReader,
    maps::{Mode, black, mode, white},
};

use super::layout::Compression;

/// The positions in a row where the color changes, from white at 0. They rise; the last may be the width.
type ColorChanges = Vec<u16>;

struct FaxRows<I: Iterator<Item = Result<u8, Infallible>>> {
    bits: ByteReader<I>,
    width: u16,
}

/// Decodes rows of one bit per pixel, 1 for black, each padded to a byte. Returns fewer rows if the data end early.
pub(super) fn decode(bytes: &[u8], how: Compression, width: u16, rows: usize) -> Vec<u8> {
    let row_bytes = usize::from(width).div_ceil(8);
    let mut out = Vec::with_capacity(row_bytes * rows);
    // Codes are looked up by more bits than the last ones have.
    let padded = bytes.iter().copied().chain([0; 4]).map(Ok::<u8, Infallible>);
    // Reading from memory cannot fail.
    let Ok(bits) = ByteReader::new(padded);
    let mut reader = FaxRows { bits, width };
    let mut above = ColorChanges::new();
    for _ in 0..rows {
        let row = match how {
            Compression::FaxRuns => {
                let row = reader.one_dimension();
                reader.align();
                row
            }
            Compression::Fax3 { two_dimensional } => {
                reader.end_of_line();
                match two_dimensional && !reader.flag() {
                    true => reader.two_dimensions(&above),
                    false => reader.one_dimension(),
                }
            }
            _ => reader.two_dimensions(&above),
        };
        let Some(row) = row else { break };
        paint(&row, width, &mut out);
        above = row;
    }
    out
}

impl<I: Iterator<Item = Result<u8, Infallible>>> FaxRows<I> {
    /// Skips fill bits and an end-of-line code, 11 zeros and a one, if they are next.
    fn end_of_line(&mut self) {
        // No other code begins with eight zeros.
        while self.bits.peek(8) == Some(0) {
            while self.bits.peek(1) == Some(0) {
                if self.bits.consume(1).is_err() {
                    return;
                }
            }
            if self.bits.consume(1).is_err() {
                return;
            }
        }
    }

    /// The bit after an end-of-line code: the row is in one dimension.
    fn flag(&mut self) -> bool {
        let flag = self.bits.peek(1) == Some(1);
        let _ = self.bits.consume(1);
        flag
    }

    fn align(&mut self) {
        let _ = self.bits.consume(self.bits.bits_to_byte_boundary());
    }

    /// The length of the next run; codes for multiples of 64 are added up.
    fn run(&mut self, is_black: bool) -> Option<u16> {
        let mut sum = 0u16;
        loop {
            let length = if is_black { black::decode(&mut self.bits)? } else { white::decode(&mut self.bits)? };
            sum = sum.checked_add(length)?;
            if length < 64 {
                return Some(sum);
            }
        }
    }

    fn one_dimension(&mut self) -> Option<ColorChanges> {
        let mut row = ColorChanges::new();
        let (mut at, mut is_black) = (0u16, false);
        while at < self.width {
            at = at.saturating_add(self.run(is_black)?).min(self.width);
            push(&mut row, at);
            is_black = !is_black;
        }
        Some(row)
    }

    /// A row by its differences from the one above (T.4, 4.2).
    fn two_dimensions(&mut self, above: &[u16]) -> Option<ColorChanges> {
        let mut row = ColorChanges::new();
        let (mut at, mut is_black, mut first, mut index) = (0u16, false, true, 0usize);
        while at < self.width {
            // b1: the first change above, right of here, to the other color than that of this run; b2: the next one.
            // A code may go back by 3, so the search does as well.
            index = index.saturating_sub(4);
            while above.get(index).is_some_and(|change| *change <= at && !(first && *change == 0)) {
                index += 1;
            }
            let index = index + usize::from((index % 2 == 0) == is_black);
            let b1 = above.get(index).copied().unwrap_or(self.width);
            let b2 = above.get(index + 1).copied().unwrap_or(self.width);
            match mode::decode(&mut self.bits)? {
                Mode::Pass => at = b2,
                Mode::Vertical(by) => {
                    let change = i32::from(b1) + i32::from(by);
                    let change = u16::try_from(change).ok().filter(|change| *change >= at)?.min(self.width);
                    push(&mut row, change);
                    at = change;
                    is_black = !is_black;
                }
                Mode::Horizontal => {
                    let one = at.saturating_add(self.run(is_black)?).min(self.width);
                    let two = one.saturating_add(self.run(!is_black)?).min(self.width);
                    push(&mut row, one);
                    push(&mut row, two);
                    at = two;
                }
                Mode::Extension | Mode::EOF => return None,
            }
            first = false;
        }
        Some(row)
    }
}

/// Two changes at one place are none.
fn push(row: &mut ColorChanges, change: u16) {
    if row.last() == Some(&change) {
        row.pop();
    } else {
        row.push(change);
    }
}

fn paint(changes: &[u16], width: u16, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + usize::from(width).div_ceil(8), 0);
    let row = &mut out[start..];
    for pair in changes.chunks(2) {
        let (from, to) = (pair[0], pair.get(1).copied().unwrap_or(width));
        for at in from..to.min(width) {
            row[usize::from(at) / 8] |= 0x80 >> (at % 8);
        }
    }
}
