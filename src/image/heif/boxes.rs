//! The boxes of ISO base media files (ISO/IEC 14496-12): a length, a type and a content, which may be boxes again.

use crate::image::pixels::CodecError;

/// The four letters of a box, an item or a reference.
pub(super) type FourLetters = [u8; 4];

#[derive(Debug, Clone, Copy)]
pub(super) struct IsoBox<'a> {
    pub kind: FourLetters,
    pub content: &'a [u8],
}

/// Reads box after box. After an error there are no more.
#[derive(Debug, Clone)]
pub(super) struct Boxes<'a> {
    rest: &'a [u8],
}

impl<'a> Boxes<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    fn read(&mut self) -> Result<IsoBox<'a>, CodecError> {
        let mut fields = BoxContent::of(std::mem::take(&mut self.rest));
        let start = fields.rest;
        let (length, kind) = (fields.u32()?, fields.letters()?);
        let length = match length {
            // To the end of the file.
            0 => start.len() as u64,
            1 => fields.u64()?,
            length => length.into(),
        };
        let header = start.len() - fields.rest.len();
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length < header {
            return Err(CodecError::Damaged(format!("the box {} has an impossible length", name(kind))));
        }
        let whole = start.get(..length).ok_or(CodecError::CutShort)?;
        self.rest = &start[length..];
        Ok(IsoBox { kind, content: &whole[header..] })
    }
}

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<IsoBox<'a>, CodecError>;

    fn next(&mut self) -> Option<Self::Item> {
        (!self.rest.is_empty()).then(|| self.read())
    }
}

/// The fields of a box, in order. The end of its content is the file's end, too, so what is missing was cut off.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoxContent<'a> {
    pub rest: &'a [u8],
}

impl<'a> BoxContent<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(CodecError::CutShort)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number of up to eight bytes; none are 0.
    pub fn number(&mut self, bytes: usize) -> Result<u64, CodecError> {
        Ok(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    pub fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.take(1)?[0])
    }

    pub fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(self.number(2)? as u16)
    }

    pub fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(self.number(4)? as u32)
    }

    pub fn u64(&mut self) -> Result<u64, CodecError> {
        self.number(8)
    }

    pub fn letters(&mut self) -> Result<FourLetters, CodecError> {
        Ok(self.u32()?.to_be_bytes())
    }

    /// The version and the flags with which many boxes begin.
    pub fn version(&mut self) -> Result<(u8, u32), CodecError> {
        let both = self.u32()?;
        Ok(((both >> 24) as u8, both & 0xff_ffff))
    }

    /// A number of an item: later versions of a box have longer ones.
    pub fn item(&mut self, long: bool) -> Result<u32, CodecError> {
        Ok(self.number(if long { 4 } else { 2 })? as u32)
    }

    /// A text up to its 0, or to the end.
    pub fn text(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| *byte == 0).unwrap_or(self.rest.len());
        let text = &self.rest[..end];
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        text
    }
}

/// As messages show it.
pub(super) fn name(kind: FourLetters) -> String {
    kind.escape_ascii().to_string().trim_end().to_owned()
}
