//! Reads Huffman codes of a scan only to see whether they are all there. The values are skipped.

/// How a scan ends before it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A marker, or the end of the file.
    Ended,
    /// Bits that are no code, or too many coefficients.
    Wrong,
}

/// Codes up to this length are found in one step.
const FAST: u32 = 9;

/// A table as of T.81, annex C and F.2.2.3.
#[derive(Clone)]
pub(super) struct Table {
    /// By the next 9 bits: the code's length and its value; length 0 if the code is longer.
    fast: Vec<(u8, u8)>,
    /// By length: the first code that is larger than those of this length, aligned to 16 bits.
    above: [u32; 17],
    /// By length: what to add to a code to get its position in `values`.
    offset: [i32; 17],
    values: Vec<u8>,
}

impl Table {
    /// `counts` has the number of codes of each length from 1 to 16. None if there are fewer values, or more codes than
    /// bits allow.
    pub fn of(counts: &[u8; 16], values: &[u8]) -> Option<Self> {
        let total: usize = counts.iter().map(|count| usize::from(*count)).sum();
        let values = values.get(..total)?.to_vec();
        let (mut fast, mut above, mut offset) = (vec![(0, 0); 1 << FAST], [0; 17], [0; 17]);
        let (mut code, mut position) = (0u32, 0usize);
        for length in 1..=16u32 {
            let count = u32::from(counts[length as usize - 1]);
            offset[length as usize] = position as i32 - code as i32;
            if code + count > 1 << length {
                return None;
            }
            if length <= FAST {
                let span = 1usize << (FAST - length);
                for step in 0..count {
                    let start = ((code + step) as usize) << (FAST - length);
                    fast[start..start + span].fill((length as u8, values[position + step as usize]));
                }
            }
            code += count;
            position += count as usize;
            above[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(Self { fast, above, offset, values })
    }
}

/// The bits of entropy-coded data, up to the next marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    /// The next bits are the highest ones.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0 }
    }

    /// Reads ahead to at least 33 bits, if there are that many: a code and its value.
    #[inline]
    fn fill(&mut self) {
        while self.count <= 48 {
            let Some(byte) = self.bytes.get(self.at).copied() else { return };
            if byte == 0xff {
                // A marker stays where it is; 0xff in the data has a 0 behind it.
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The value of the next code. Leaves enough bits for its 16 bits of value, if they are there.
    #[inline]
    pub fn code(&mut self, table: &Table) -> Result<u8, Stop> {
        if self.count < 33 {
            self.fill();
        }
        let (mut length, mut value) = table.fast[(self.buffer >> (64 - FAST)) as usize];
        if length == 0 {
            let next = (self.buffer >> 48) as u32;
            let found = (FAST + 1..=16).find(|length| next < table.above[*length as usize]);
            let Some(found) = found else { return Err(self.no_code()) };
            let position = (next >> (16 - found)) as i32 + table.offset[found as usize];
            let known = usize::try_from(position).ok().and_then(|position| table.values.get(position));
            let Some(known) = known else { return Err(self.no_code()) };
            (length, value) = (found as u8, *known);
        }
        self.skip(u32::from(length))?;
        Ok(value)
    }

    /// The ones that fill the last byte are no code either.
    fn no_code(&self) -> Stop {
        if self.count < 16 { Stop::Ended } else { Stop::Wrong }
    }

    #[inline]
    pub fn skip(&mut self, bits: u32) -> Result<(), Stop> {
        self.take(bits).map(drop)
    }

    /// At most 16 bits, as a number.
    #[inline]
    pub fn take(&mut self, bits: u32) -> Result<u32, Stop> {
        if self.count < bits {
            self.fill();
            if self.count < bits {
                return Err(Stop::Ended);
            }
        }
        let value = if bits == 0 { 0 } else { (self.buffer >> (64 - bits)) as u32 };
        self.buffer <<= bits;
        self.count -= bits;
        Ok(value)
    }

    /// Goes past the restart marker that must be here, `number` from 0 to 7.
    pub fn restart(&mut self, number: u8) -> Result<(), Stop> {
        // Whole bytes that were read ahead are unused data, which decoders skip too; so the marker is searched.
        let mut at = self.at;
        loop {
            match (self.bytes.get(at), self.bytes.get(at + 1)) {
                (Some(0xff), Some(0xff)) => at += 1,
                (Some(0xff), Some(0)) => at += 2,
                (Some(0xff), Some(marker)) if *marker == 0xd0 + number => break,
                (Some(0xff), Some(_)) | (None, _) | (_, None) => return Err(Stop::Ended),
                (Some(_), Some(_)) => at += 1,
            }
        }
        *self = Self::new(self.bytes, at + 2);
        Ok(())
    }
}
