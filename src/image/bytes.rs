//! Numbers at positions of a file, in its byte order. Nothing panics: a position outside the file is `None`.

#[derive(Debug, Clone, Copy)]
pub(super) struct EndianReader<'a> {
    all: &'a [u8],
    pub little: bool,
}

impl<'a> EndianReader<'a> {
    /// The byte order is the first two bytes, as in TIFF and EXIF.
    pub fn of_tiff(all: &'a [u8]) -> Option<Self> {
        match all.get(..2)? {
            b"II" => Some(Self { all, little: true }),
            b"MM" => Some(Self { all, little: false }),
            _ => None,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn bytes(&self, at: usize, count: usize) -> Option<&'a [u8]> {
        self.all.get(at..at.checked_add(count)?)
    }

    pub fn u8(&self, at: usize) -> Option<u8> {
        self.all.get(at).copied()
    }

    pub fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes(at, 2)?.try_into().ok()?;
        Some(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    pub fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes(at, 4)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    pub fn u64(&self, at: usize) -> Option<u64> {
        let bytes = self.bytes(at, 8)?.try_into().ok()?;
        Some(if self.little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    }
}
