//! The segments of a JPEG and what they say, without decoding its data.

use std::ops::Range;

/// Markers, ITU-T T.81 table B.1.
pub(super) const DHT: u8 = 0xc4;
pub(super) const SOS: u8 = 0xda;
pub(super) const DRI: u8 = 0xdd;
const EOI: u8 = 0xd9;
const APP0: u8 = 0xe0;
const APP1: u8 = 0xe1;
const APP2: u8 = 0xe2;
const APP14: u8 = 0xee;
const ICC: &[u8] = b"ICC_PROFILE\0";

/// The segments up to the end-of-image marker. Ends early if the file does.
pub(super) struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// One marker and its content, without the length. After a start of scan, entropy-coded data begins at `content.end`.
pub(super) struct Segment {
    pub marker: u8,
    pub content: Range<usize>,
}

impl<'a> Segments<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 2 }
    }
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        loop {
            // In entropy-coded data, 0xff is followed by 0 or a restart marker.
            self.at += self.bytes.get(self.at..)?.iter().position(|byte| *byte == 0xff)?;
            match *self.bytes.get(self.at + 1)? {
                0xff => self.at += 1,
                0x00 | 0x01 | 0xd0..=0xd8 => self.at += 2,
                EOI => return None,
                marker => {
                    let length = u16::from_be_bytes([*self.bytes.get(self.at + 2)?, *self.bytes.get(self.at + 3)?]);
                    let start = self.at + 4;
                    let end = self.at + 2 + usize::from(length.max(2));
                    self.bytes.get(start..end)?;
                    self.at = end;
                    return Some(Segment { marker, content: start..end });
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColorComponent {
    pub id: u8,
    /// Sampling factors: samples per unit of the picture, across and down.
    pub across: u8,
    pub down: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// The marker, which says how it is coded: 0xc0 is baseline, 0xc2 progressive.
    pub marker: u8,
    pub precision: u8,
    pub width: u16,
    pub height: u16,
    pub components: Vec<ColorComponent>,
}

impl FrameHeader {
    /// None if the segment is too short.
    pub fn of(marker: u8, content: &[u8]) -> Option<Self> {
        let [precision, h1, h0, w1, w0, count, rest @ ..] = content else { return None };
        let components: Vec<ColorComponent> = rest
            .chunks_exact(3)
            .take(usize::from(*count))
            .map(|three| ColorComponent { id: three[0], across: three[1] >> 4, down: three[1] & 15 })
            .collect();
        (components.len() == usize::from(*count)).then_some(Self {
            marker,
            precision: *precision,
            width: u16::from_be_bytes([*w1, *w0]),
            height: u16::from_be_bytes([*h1, *h0]),
            components,
        })
    }

    pub fn is_progressive(&self) -> bool {
        self.marker == 0xc2
    }

    /// The largest sampling factors; at least 1.
    pub fn most_sampled(&self) -> (u8, u8) {
        let across = self.components.iter().map(|component| component.across).max().unwrap_or(1);
        let down = self.components.iter().map(|component| component.down).max().unwrap_or(1);
        (across.max(1), down.max(1))
    }
}

/// SOF0 to SOF15, without the three codes that mean something else.
pub(super) fn starts_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc)
}

/// Everything about a JPEG but its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JpegHeader {
    pub(super) frame: FrameHeader,
    /// The first scan has all components.
    pub(super) interleaved: bool,
    pub(super) jfif: bool,
    /// The color transform of Adobe's segment: 0 none, 1 YCbCr, 2 YCCK.
    pub(super) adobe: Option<u8>,
    pub icc: Option<Vec<u8>>,
    /// The first EXIF block, without its prefix.
    pub exif: Option<Range<usize>>,
    /// The XMP packet.
    pub xmp: Option<Range<usize>>,
}

impl JpegHeader {
    /// None if there is no frame. At most `most_profile` bytes of a profile are kept; of a larger one, nothing.
    pub fn read(bytes: &[u8], most_profile: usize) -> Option<Self> {
        let (mut frame, mut interleaved, mut jfif, mut adobe, mut exif, mut xmp) =
            (None, None, false, None, None, None);
        let mut profile: Vec<(u8, &[u8])> = Vec::new();
        for Segment { marker, content } in Segments::of(bytes) {
            let body = &bytes[content.clone()];
            match marker {
                APP0 if body.starts_with(b"JFIF\0") => jfif = true,
                APP1 if body.starts_with(b"Exif\0") && exif.is_none() => exif = Some(content.start + 6..content.end),
                APP1 if body.starts_with(b"http://ns.adobe.com/xap/1.0/") => xmp = Some(content.clone()),
                APP2 if body.starts_with(ICC) && body.len() > ICC.len() + 2 => {
                    profile.push((body[ICC.len()], &body[ICC.len() + 2..]));
                }
                APP14 if body.starts_with(b"Adobe") && body.len() >= 12 => adobe = Some(body[11]),
                SOS if interleaved.is_none() => {
                    let frame: &FrameHeader = frame.as_ref()?;
                    interleaved = Some(body.first().map(|count| usize::from(*count)) == Some(frame.components.len()));
                }
                marker if starts_frame(marker) && frame.is_none() => frame = Some(FrameHeader::of(marker, body)?),
                _ => {}
            }
        }
        profile.sort_by_key(|(number, _)| *number);
        let size: usize = profile.iter().map(|(_, part)| part.len()).sum();
        let icc =
            (size > 0 && size <= most_profile).then(|| profile.iter().flat_map(|(_, part)| *part).copied().collect());
        let exif = exif.filter(|range: &Range<usize>| range.start <= range.end);
        Some(Self { frame: frame?, interleaved: interleaved.unwrap_or(false), jfif, adobe, icc, exif, xmp })
    }
}
