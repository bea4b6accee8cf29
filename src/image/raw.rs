//! Recognizes camera raws. Most are TIFF files whose first picture is only a thumbnail.

use super::bytes::EndianReader;

const MAKE: u16 = 0x010f;
const PHOTOMETRIC: u16 = 0x0106;
const COMPRESSION: u16 = 0x0103;
const SUB_FOLDERS: u16 = 0x014a;
const DNG_VERSION: u16 = 0xc612;
/// How a raw's samples are arranged: a color filter array, or linear.
const CFA: u32 = 32803;
const LINEAR_RAW: u32 = 34892;
/// The pattern of a color filter array.
const CFA_PATTERN: u16 = 0x828e;
/// Compressions that only cameras use: Nikon, Sony, Pentax and Samsung, Kodak.
const CAMERA_COMPRESSIONS: [u32; 7] = [34713, 32767, 65535, 32769, 32770, 65000, 262];

const MOST_ENTRIES: usize = 4096;
const MOST_FOLDERS: usize = 64;

/// The raw's name, if it is one.
pub(super) fn recognize(bytes: &[u8]) -> Option<&'static str> {
    const SIGNATURES: [(usize, &[u8], &str); 10] = [
        (0, b"FUJIFILMCCD-RAW", "Fujifilm (RAF)"),
        (0, b"IIRO", "Olympus (ORF)"),
        (0, b"IIRS", "Olympus (ORF)"),
        (0, b"MMOR", "Olympus (ORF)"),
        (0, b"IIU\0", "Panasonic (RW2)"),
        (0, b"FOVb", "Sigma (X3F)"),
        (0, b"\0MRM", "Minolta (MRW)"),
        (6, b"HEAPCCDR", "Canon (CRW)"),
        (8, b"CR\x02", "Canon (CR2)"),
        (4, b"ftypcrx ", "Canon (CR3)"),
    ];
    let starts = |(at, magic, _): &&(usize, &[u8], &str)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, _, name)) = SIGNATURES.iter().find(starts) {
        return Some(name);
    }
    let reader = EndianReader::of_tiff(bytes).filter(|reader| reader.u16(2) == Some(42))?;
    let folders = folders(&reader);
    if folders.iter().any(|folder| folder.has(DNG_VERSION)) {
        return Some("Adobe (DNG)");
    }
    let raw = folders.iter().any(|folder| {
        matches!(folder.number(PHOTOMETRIC), Some(CFA | LINEAR_RAW))
            || folder.has(CFA_PATTERN) && folder.has(COMPRESSION)
            || folder.number(COMPRESSION).is_some_and(|how| CAMERA_COMPRESSIONS.contains(&how)) && folder.is_camera()
    });
    let make = folders.iter().find_map(|folder| folder.make()).unwrap_or_default();
    raw.then(|| {
        const MAKERS: [(&str, &str); 10] = [
            ("NIKON", "Nikon (NEF)"),
            ("SONY", "Sony (ARW)"),
            ("CANON", "Canon (CR2)"),
            ("PENTAX", "Pentax (PEF)"),
            ("RICOH", "Pentax (PEF)"),
            ("SAMSUNG", "Samsung (SRW)"),
            ("HASSELBLAD", "Hasselblad (3FR)"),
            ("PHASE ONE", "Phase One (IIQ)"),
            ("KODAK", "Kodak (DCR)"),
            ("LEICA", "Leica (RWL)"),
        ];
        MAKERS.iter().find(|(maker, _)| make.starts_with(maker)).map_or("an unknown maker", |(_, name)| name)
    })
}

#[derive(Clone, Copy)]
struct RawIfd<'a> {
    reader: EndianReader<'a>,
    at: usize,
    count: usize,
}

/// The folders of the file and those inside them. A file with loops has its folders at most [`MOST_FOLDERS`] times.
fn folders<'a>(reader: &EndianReader<'a>) -> Vec<RawIfd<'a>> {
    let mut open: Vec<u32> = reader.u32(4).into_iter().collect();
    let mut found: Vec<RawIfd<'a>> = Vec::new();
    while let Some(at) = open.pop().filter(|_| found.len() < MOST_FOLDERS) {
        let at = at as usize;
        let Some(count) = reader.u16(at).filter(|_| at != 0) else { continue };
        let folder = RawIfd { reader: *reader, at, count: usize::from(count).min(MOST_ENTRIES) };
        if found.iter().any(|known| known.at == at) {
            continue;
        }
        found.push(folder);
        open.extend(reader.u32(at + 2 + 12 * usize::from(count)).filter(|next| *next != 0));
        open.extend(folder.inner());
    }
    found
}

impl RawIfd<'_> {
    fn entry(&self, tag: u16) -> Option<usize> {
        (0..self.count).map(|index| self.at + 2 + 12 * index).find(|at| self.reader.u16(*at) == Some(tag))
    }

    fn has(&self, tag: u16) -> bool {
        self.entry(tag).is_some()
    }

    fn number(&self, tag: u16) -> Option<u32> {
        let entry = self.entry(tag)?;
        match self.reader.u16(entry + 2)? {
            3 => self.reader.u16(entry + 8).map(u32::from),
            _ => self.reader.u32(entry + 8),
        }
    }

    fn is_camera(&self) -> bool {
        self.make().is_some() || self.has(SUB_FOLDERS) || self.has(0x7000)
    }

    fn make(&self) -> Option<String> {
        let entry = self.entry(MAKE)?;
        let count = self.reader.u32(entry + 4)?.min(64) as usize;
        let at = if count <= 4 { entry + 8 } else { self.reader.u32(entry + 8)? as usize };
        Some(String::from_utf8_lossy(self.reader.bytes(at, count)?).to_uppercase())
    }

    fn inner(&self) -> Vec<u32> {
        let Some(entry) = self.entry(SUB_FOLDERS) else { return Vec::new() };
        let count = self.reader.u32(entry + 4).unwrap_or(0).min(16) as usize;
        let start = if count == 1 { Some(entry + 8) } else { self.reader.u32(entry + 8).map(|at| at as usize) };
        let Some(start) = start else { return Vec::new() };
        (0..count).filter_map(|index| self.reader.u32(start.checked_add(4 * index)?)).collect()
    }
}
