//! The items of a HEIF file (ISO/IEC 23008-12): pictures, their parts and metadata, with properties and references.

use std::{borrow::Cow, collections::HashMap};

use super::boxes::{BoxContent, Boxes, FourLetters, IsoBox, name};
use crate::image::pixels::CodecError;

/// The most items that a file may have. A grid has up to 65,536 tiles, and as many may hold its alpha.
const MOST_ITEMS: usize = 150_000;

/// The most bytes of the box that describes the items; the largest part of real ones is a color profile.
const MOST_DESCRIPTION: usize = 32 << 20;

pub(super) struct HeifItems<'a> {
    file: &'a [u8],
    /// Data that are kept beside the description.
    inner: &'a [u8],
    pub primary: u32,
    items: HashMap<u32, HeifItem>,
    properties: Vec<IsoBox<'a>>,
    references: Vec<ItemReference>,
    /// The auxiliary pictures of each item.
    auxiliaries: HashMap<u32, Vec<u32>>,
}

#[derive(Debug, Default)]
struct HeifItem {
    kind: FourLetters,
    hidden: bool,
    /// Positions in the list of properties, from 1; whether a reader must know the property.
    properties: Vec<(u16, bool)>,
    place: Option<ItemPlace>,
}

#[derive(Debug)]
struct ItemPlace {
    /// 0: in the file; 1: beside the description; 2: in other items.
    method: u16,
    /// Positions and lengths.
    extents: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct ItemReference {
    kind: FourLetters,
    from: u32,
    to: Vec<u32>,
}

impl<'a> HeifItems<'a> {
    /// Reads the content of the box `meta`.
    pub fn read(file: &'a [u8], meta: &'a [u8]) -> Result<Self, CodecError> {
        if meta.len() > MOST_DESCRIPTION {
            return Err(CodecError::Unsupported(format!("a description of {} MiB", meta.len() >> 20)));
        }
        let mut found = Self {
            file,
            inner: &[],
            primary: 0,
            items: HashMap::new(),
            properties: Vec::new(),
            references: Vec::new(),
            auxiliaries: HashMap::new(),
        };
        let mut meta = BoxContent::of(meta);
        meta.version()?;
        let children = Boxes::of(meta.rest).collect::<Result<Vec<_>, _>>()?;
        // Their order is free, and the others need the items.
        for child in children.iter().filter(|child| child.kind == *b"iinf") {
            found.read_kinds(child.content)?;
        }
        let mut has_primary = false;
        for child in &children {
            match &child.kind {
                b"pitm" => {
                    let mut fields = BoxContent::of(child.content);
                    let (version, _) = fields.version()?;
                    found.primary = fields.item(version > 0)?;
                    has_primary = true;
                }
                b"iloc" => found.read_places(child.content)?,
                b"iref" => found.read_references(child.content)?,
                b"idat" => found.inner = child.content,
                b"iprp" => found.read_properties(child.content)?,
                _ => {}
            }
        }
        if !has_primary || !found.items.contains_key(&found.primary) {
            return Err(CodecError::Damaged("it does not say which of its pictures is the main one".to_owned()));
        }
        for reference in found.references.iter().filter(|reference| reference.kind == *b"auxl") {
            for to in &reference.to {
                found.auxiliaries.entry(*to).or_default().push(reference.from);
            }
        }
        Ok(found)
    }

    fn read_kinds(&mut self, content: &[u8]) -> Result<(), CodecError> {
        let mut fields = BoxContent::of(content);
        let (version, _) = fields.version()?;
        fields.item(version > 0)?;
        for entry in Boxes::of(fields.rest) {
            let mut entry = BoxContent::of(entry?.content);
            let (version, flags) = entry.version()?;
            if !matches!(version, 2 | 3) {
                continue;
            }
            let id = entry.item(version == 3)?;
            entry.u16()?;
            let item = HeifItem { kind: entry.letters()?, hidden: flags & 1 != 0, ..HeifItem::default() };
            self.items.insert(id, item);
            if self.items.len() > MOST_ITEMS {
                return Err(CodecError::Unsupported(format!("more than {MOST_ITEMS} items")));
            }
        }
        Ok(())
    }

    fn read_places(&mut self, content: &[u8]) -> Result<(), CodecError> {
        let mut fields = BoxContent::of(content);
        let (version, _) = fields.version()?;
        let (first, second) = (fields.u8()?, fields.u8()?);
        let index_size = if version == 0 { 0 } else { second & 15 };
        let [offset_size, length_size, base_size, index_size] =
            [first >> 4, first & 15, second >> 4, index_size].map(usize::from);
        if [offset_size, length_size, base_size, index_size].iter().any(|size| *size > 8) {
            return Err(CodecError::Damaged("its positions have an impossible size".to_owned()));
        }
        for _ in 0..fields.item(version > 1)? {
            let id = fields.item(version > 1)?;
            let method = if version == 0 { 0 } else { fields.u16()? & 15 };
            // Data in another file.
            let elsewhere = fields.u16()? != 0;
            let base = fields.number(base_size)?;
            let count = fields.u16()?;
            let mut extents = Vec::new();
            for _ in 0..count {
                fields.number(index_size)?;
                extents.push((base.saturating_add(fields.number(offset_size)?), fields.number(length_size)?));
                // Extents without fields would take no bytes of the file.
                if offset_size + length_size == 0 {
                    break;
                }
            }
            if let Some(item) = self.items.get_mut(&id).filter(|_| !elsewhere) {
                item.place = Some(ItemPlace { method, extents });
            }
        }
        Ok(())
    }

    fn read_references(&mut self, content: &[u8]) -> Result<(), CodecError> {
        let mut fields = BoxContent::of(content);
        let (version, _) = fields.version()?;
        for reference in Boxes::of(fields.rest) {
            let IsoBox { kind, content } = reference?;
            let mut fields = BoxContent::of(content);
            let from = fields.item(version > 0)?;
            let to = (0..fields.u16()?).map(|_| fields.item(version > 0)).collect::<Result<_, _>>()?;
            self.references.push(ItemReference { kind, from, to });
        }
        Ok(())
    }

    fn read_properties(&mut self, content: &'a [u8]) -> Result<(), CodecError> {
        for child in Boxes::of(content) {
            let IsoBox { kind, content } = child?;
            if kind == *b"ipco" {
                self.properties = Boxes::of(content).collect::<Result<_, _>>()?;
            }
            if kind != *b"ipma" {
                continue;
            }
            let mut fields = BoxContent::of(content);
            let (version, flags) = fields.version()?;
            for _ in 0..fields.u32()? {
                let id = fields.item(version > 0)?;
                let mut listed = Vec::new();
                for _ in 0..fields.u8()? {
                    let long = flags & 1 != 0;
                    let (value, essential) = if long { (fields.u16()?, 0x8000) } else { (fields.u8()?.into(), 0x80) };
                    listed.push((value & (essential - 1), value & essential != 0));
                }
                if let Some(item) = self.items.get_mut(&id).filter(|item| item.properties.is_empty()) {
                    item.properties = listed;
                }
            }
        }
        Ok(())
    }

    /// Bytes.
    pub fn file_size(&self) -> usize {
        self.file.len()
    }

    pub fn kind(&self, id: u32) -> Result<FourLetters, CodecError> {
        let item = self.items.get(&id).ok_or_else(|| CodecError::Damaged(format!("it has no item {id}")))?;
        Ok(item.kind)
    }

    /// An item's properties in their order, and whether a reader must know them.
    pub fn properties(&self, id: u32) -> impl Iterator<Item = (IsoBox<'a>, bool)> {
        let listed = self.items.get(&id).map(|item| item.properties.as_slice()).unwrap_or_default();
        listed.iter().filter_map(|(index, essential)| {
            let property = self.properties.get(usize::from(*index).checked_sub(1)?)?;
            Some((*property, *essential))
        })
    }

    /// The content of a property.
    pub fn property(&self, id: u32, kind: &FourLetters) -> Option<&'a [u8]> {
        self.properties(id).find(|(property, _)| property.kind == *kind).map(|(property, _)| property.content)
    }

    /// The items to which an item refers, in their order.
    pub fn referred(&self, from: u32, kind: &FourLetters) -> &[u32] {
        let found = self.references.iter().find(|reference| reference.from == from && reference.kind == *kind);
        found.map(|reference| reference.to.as_slice()).unwrap_or_default()
    }

    /// The auxiliary pictures of an item: alpha, depth and others.
    pub fn auxiliaries(&self, of: u32) -> &[u32] {
        self.auxiliaries.get(&of).map(Vec::as_slice).unwrap_or_default()
    }

    /// The EXIF block that describes an item.
    pub fn exif(&self, id: u32) -> Option<Cow<'a, [u8]>> {
        let describes = |reference: &&ItemReference| reference.kind == *b"cdsc" && reference.to.contains(&id);
        let mut described = self.references.iter().filter(describes).map(|reference| reference.from);
        let exif = described.find(|from| self.kind(*from).is_ok_and(|kind| kind == *b"Exif"))?;
        let data = self.data(exif).ok()?;
        // Where the TIFF structure begins, behind this number.
        let start = (BoxContent::of(&data).u32().ok()? as usize).checked_add(4)?;
        match data {
            Cow::Borrowed(data) => data.get(start..).map(Cow::Borrowed),
            Cow::Owned(data) => data.get(start..).map(|rest| Cow::Owned(rest.to_vec())),
        }
    }

    /// The number of pictures that are not parts, previews or auxiliaries of others.
    pub fn pictures(&self) -> usize {
        let mut parts: Vec<u32> = Vec::new();
        for reference in &self.references {
            match &reference.kind {
                b"dimg" => parts.extend(&reference.to),
                b"thmb" | b"auxl" => parts.push(reference.from),
                _ => {}
            }
        }
        parts.sort_unstable();
        let coded = |kind: &FourLetters| matches!(kind, b"av01" | b"hvc1" | b"hev1" | b"grid" | b"iden" | b"iovl");
        let alone = |id: &u32, item: &HeifItem| {
            *id == self.primary || coded(&item.kind) && !item.hidden && parts.binary_search(id).is_err()
        };
        self.items.iter().filter(|(id, item)| alone(id, item)).count()
    }

    /// The data of an item.
    pub fn data(&self, id: u32) -> Result<Cow<'a, [u8]>, CodecError> {
        let place = self.items.get(&id).and_then(|item| item.place.as_ref());
        let place = place.ok_or_else(|| CodecError::Damaged(format!("its item {id} has no data")))?;
        let all = match place.method {
            0 => self.file,
            1 => self.inner,
            _ => return Err(CodecError::Unsupported("items made of parts of other items".to_owned())),
        };
        let part = |(start, length): (u64, u64)| {
            let start = usize::try_from(start).map_err(|_| CodecError::CutShort)?;
            let from = all.get(start..).ok_or(CodecError::CutShort)?;
            let length = usize::try_from(length).map_err(|_| CodecError::CutShort)?;
            // Without a length, up to the end.
            from.get(..if length == 0 { from.len() } else { length }).ok_or(CodecError::CutShort)
        };
        if let [extent] = place.extents[..] {
            return part(extent).map(Cow::Borrowed);
        }
        let mut joined = Vec::new();
        for extent in &place.extents {
            joined.extend_from_slice(part(*extent)?);
            if joined.len() > self.file.len() {
                return Err(CodecError::Damaged(format!("the parts of its item {id} overlap")));
            }
        }
        Ok(Cow::Owned(joined))
    }
}

/// The four letters of the item's kind, in words.
pub(super) fn coding_name(kind: FourLetters) -> String {
    match &kind {
        b"avc1" => "H.264 coding".to_owned(),
        b"vvc1" => "H.266 coding".to_owned(),
        b"jpeg" => "a JPEG inside".to_owned(),
        b"j2k1" => "JPEG 2000 coding".to_owned(),
        b"unci" => "uncompressed pixels".to_owned(),
        b"iovl" => "pictures laid over each other".to_owned(),
        b"tmap" => "a picture with a gain map as the main one".to_owned(),
        b"lhv1" => "several layers".to_owned(),
        _ => format!("the coding {}", name(kind)),
    }
}
