//! Reads the few EXIF fields that change pixels: the orientation and the color space.

use super::bytes::EndianReader;

const ORIENTATION: u16 = 0x0112;
const EXIF_FOLDER: u16 = 0x8769;
const COLOR_SPACE: u16 = 0xa001;
const INTEROPERABILITY_FOLDER: u16 = 0xa005;
const INTEROPERABILITY_INDEX: u16 = 0x0001;

/// A folder of a camera has a few dozen entries.
const MOST_ENTRIES: u16 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Exif {
    /// From 1 (upright) to 8, if the file has it and it is one of these.
    pub orientation: Option<u8>,
    /// The file says that it is Adobe RGB: by DCF's index `R03`, or by the value 2 that many cameras write.
    pub adobe_rgb: bool,
}

impl Exif {
    /// `block` is a TIFF structure, with or without `Exif\0\0` before it. Anything unreadable is skipped.
    pub fn of(block: &[u8]) -> Self {
        let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
        let Some(reader) = EndianReader::of_tiff(block) else { return Self::default() };
        let mut found = Self::default();
        let Some(first) = reader.u32(4) else { return found };
        let main = ExifIfd { reader, at: first as usize };
        found.orientation = main.short(ORIENTATION).and_then(|value| u8::try_from(value).ok());
        found.orientation = found.orientation.filter(|value| (1..=8).contains(value));
        if let Some(exif) = main.folder(EXIF_FOLDER) {
            let index = exif.folder(INTEROPERABILITY_FOLDER).and_then(|folder| folder.text(INTEROPERABILITY_INDEX));
            found.adobe_rgb = exif.short(COLOR_SPACE) == Some(2) || index == Some(*b"R03\0");
        }
        found
    }
}

/// The orientation in an XMP packet, which some programs write instead of EXIF: `tiff:Orientation="6"`, or as an
/// element.
pub(super) fn xmp_orientation(packet: &[u8]) -> Option<u8> {
    const NAME: &[u8] = b"tiff:Orientation";
    let at = packet.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let value = match packet.get(at..)?.trim_ascii_start() {
        [b'=', rest @ ..] => match rest.trim_ascii_start() {
            [b'"' | b'\'', value @ ..] => value,
            _ => return None,
        },
        [b'>', value @ ..] => value,
        _ => return None,
    };
    match value.trim_ascii_start() {
        [b'0'..=b'9', b'0'..=b'9', ..] => None,
        [digit @ b'1'..=b'8', _, ..] => Some(digit - b'0'),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct ExifIfd<'a> {
    reader: EndianReader<'a>,
    at: usize,
}

impl ExifIfd<'_> {
    /// The position of the entry for `tag`.
    fn entry(&self, tag: u16) -> Option<usize> {
        let count = self.reader.u16(self.at)?.min(MOST_ENTRIES);
        (0..usize::from(count)).map(|index| self.at + 2 + 12 * index).find(|at| self.reader.u16(*at) == Some(tag))
    }

    /// A value of type SHORT, or LONG as some programs write it.
    fn short(&self, tag: u16) -> Option<u32> {
        let entry = self.entry(tag)?;
        match self.reader.u16(entry + 2)? {
            3 => self.reader.u16(entry + 8).map(u32::from),
            4 => self.reader.u32(entry + 8),
            _ => None,
        }
    }

    /// The first four bytes of a text that fits into its entry.
    fn text(&self, tag: u16) -> Option<[u8; 4]> {
        let entry = self.entry(tag)?;
        self.reader.bytes(entry + 8, 4)?.try_into().ok()
    }

    fn folder(&self, tag: u16) -> Option<Self> {
        let entry = self.entry(tag)?;
        Some(Self { reader: self.reader, at: self.reader.u32(entry + 8)? as usize })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of one SHORT or LONG.
    fn entry(tag: u16, kind: u16, value: [u8; 4]) -> Vec<u8> {
        [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &1u32.to_be_bytes(), &value].concat()
    }

    fn block(color_space: u8, index: &[u8; 4]) -> Vec<u8> {
        // Folders at 8, 38 and 68; each has two entries and a link.
        let folder = |entries: [Vec<u8>; 2]| [&[0, 2][..], &entries.concat(), &[0; 4]].concat();
        [
            b"MM\0*\0\0\0\x08".to_vec(),
            folder([entry(ORIENTATION, 3, [0, 6, 0, 0]), entry(EXIF_FOLDER, 4, [0, 0, 0, 38])]),
            folder([entry(COLOR_SPACE, 3, [0, color_space, 0, 0]), entry(INTEROPERABILITY_FOLDER, 4, [0, 0, 0, 68])]),
            folder([entry(INTEROPERABILITY_INDEX, 2, *index), entry(9, 3, [0; 4])]),
        ]
        .concat()
    }

    #[test]
    fn orientation_in_xmp_is_an_attribute_or_an_element() {
        let xmp = |text: &str| xmp_orientation(format!("<rdf:Description {text}</rdf:RDF>").as_bytes());
        for text in [
            "tiff:Orientation=\"6\"/>",
            "tiff:Orientation = '6'/>",
            "><tiff:Orientation>6</tiff:Orientation>",
            "><tiff:Orientation>\n 6\n</tiff:Orientation>",
        ] {
            assert_eq!(xmp(text), Some(6), "{text}");
        }
        for text in ["tiff:Orientation=\"66\"/>", "tiff:Orientation=\"9\"/>", "tiff:Orientation=6", "tiff:Orientation"]
        {
            assert_eq!(xmp(text), None, "{text}");
        }
    }

    #[test]
    fn orientation_and_color_space_are_found_with_and_without_the_prefix() {
        for (space, index, adobe_rgb) in [(1, b"R98\0", false), (2, b"R98\0", true), (255, b"R03\0", true)] {
            let block = block(space, index);
            let wanted = Exif { orientation: Some(6), adobe_rgb };
            assert_eq!(Exif::of(&block), wanted);
            assert_eq!(Exif::of(&[b"Exif\0\0".as_slice(), &block].concat()), wanted);
            for end in 0..block.len() {
                let _ = Exif::of(&block[..end]);
            }
        }
    }
}
